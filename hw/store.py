"""The store mover: scratchpad to main memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .align import Packer, piece_layout, word_layout
from .config import Config
from .isa import ErrorCode, Store
from .loops import count_loops
from .ports import (
    EngineSignature,
    ScratchpadReadSignature,
    instruction_layout,
    memory_write_signature,
    scratchpad_latency,
)
from .slices import register_slice

__all__ = ["StoreMover"]

_ADDRESS_BITS = 20  # of a scratchpad word address
_LENGTH_BITS = 20   # of the bytes of a row
_ROWS_AHEAD = 4     # rows whose words are being read while earlier ones are written


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _row_layout(config: Config) -> data.StructLayout:
    """A checked row: `address` and `start` are beat and byte of its destination; `final` ends its
    instruction."""
    return data.StructLayout({
        "address": 32 - _log2(config.memory_bytes_per_beat),
        "start": range(config.memory_bytes_per_beat), "final": 1})


class StoreMover(wiring.Component):
    """Executes STORE (`systolith.hw.isa`).

    Reads run ahead of the writes, across rows and instructions. Data moves at a beat or a word a
    cycle, whichever is less; a row writes each beat that it touches, with a mask.

    A row's addresses are checked before its first word is read. Errors: LENGTH for a count of zero,
    ADDRESS for words outside of the scratchpad or bytes outside of main memory.

    Members
    -------
    engine : In(EngineSignature(instruction_layout(Store)))
        Instructions. `active`: a beat was written.
    read : Out(ScratchpadReadSignature)
    write : Out(memory_write_signature)
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "engine": In(EngineSignature(instruction_layout(Store))),
            "read": Out(ScratchpadReadSignature(config)),
            "write": Out(memory_write_signature(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.rows = rows = _Rows(config)
        m.submodules.words = words = _Words(config)
        m.submodules.packer = packer = Packer(config.rows, config.memory_bytes_per_beat)
        m.submodules.row_queue = row_queue = fifo.SyncFIFOBuffered(
            width=_row_layout(config).size, depth=_ROWS_AHEAD)
        m.submodules.beats = beats = register_slice(config, packer.o.payload.shape())
        m.submodules.writer = writer = _Writer(config)
        wiring.connect(m, wiring.flipped(self.engine.instruction), rows.instruction)
        wiring.connect(m, words.read, wiring.flipped(self.read))
        wiring.connect(m, words.o, packer.i)
        wiring.connect(m, packer.o, beats.i)
        wiring.connect(m, beats.o, writer.beats)
        wiring.connect(m, writer.write, wiring.flipped(self.write))

        # A row goes to the reading side and, with its destination, to the writing side.
        m.submodules.walks = walks = register_slice(config, words.i.payload.shape())
        wiring.connect(m, walks.o, words.i)
        begin = Signal()
        m.d.comb += [
            begin.eq(rows.o.valid & walks.i.ready & row_queue.w_rdy),
            rows.o.ready.eq(walks.i.ready & row_queue.w_rdy),
            walks.i.valid.eq(begin),
            walks.i.payload.eq(rows.o.payload.words),
            row_queue.w_en.eq(begin),
            row_queue.w_data.eq(rows.o.payload.row),
            writer.rows.payload.eq(row_queue.r_data),
            writer.rows.valid.eq(row_queue.r_rdy),
            row_queue.r_en.eq(writer.rows.ready),
        ]

        in_flight = Signal(4)  # instructions that passed all checks and have not retired
        passed = begin & rows.o.payload.row.final
        m.d.sync += self.engine.retire.eq(writer.retire)
        m.d.sync += in_flight.eq(in_flight + passed - self.engine.retire)
        with m.If(in_flight == 0):
            m.d.comb += self.engine.error.eq(rows.error)
        m.d.comb += [
            self.engine.active.eq(self.write.valid & self.write.ready),
            self.engine.stall.eq(~self.engine.active & (rows.busy | (in_flight != 0))),
        ]
        return m


def _words_layout(config: Config) -> data.StructLayout:
    """What is to be read for a row: its first word, its bytes behind the first one, its place in
    the first beat."""
    return data.StructLayout({"address": range(config.scratchpad_words), "reach": _LENGTH_BITS,
                              "start": range(config.memory_bytes_per_beat)})


class _Rows(wiring.Component):
    """Walks instructions row by row and checks each row before it goes out on `o`.

    `error` says what is wrong with the row that does not; `busy`: there is a row.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "instruction": In(stream.Signature(instruction_layout(Store))),
            "o": Out(stream.Signature(data.StructLayout({
                "words": _words_layout(config), "row": _row_layout(config)}))),
            "error": Out(ErrorCode),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        word_bits, beat_bits = _log2(config.rows), _log2(config.memory_bytes_per_beat)
        i = self.instruction.payload

        valid, zero = Signal(), Signal()
        fields = Signal(instruction_layout(Store))  # addresses are the row's
        reach = Signal(_LENGTH_BITS)  # bytes of a row behind its first
        last_word = Signal(_ADDRESS_BITS + 1)
        moves = Signal()  # the row goes to the next stage, or there is none
        row_end, last_plane = count_loops(m, ~valid, moves, {
            "row": (i.rows, i.rows == 1), "plane": (i.planes, i.planes == 1)})
        finished = row_end & last_plane
        m.d.comb += [
            last_word.eq(fields.source + (reach >> word_bits)),
            self.instruction.ready.eq(~valid),
        ]
        # What belongs to no instruction is looked at by nobody, so that whether there is one
        # decides about nothing else.
        with m.If(moves):
            with m.If(valid):
                m.d.sync += [
                    valid.eq(~finished),
                    fields.source.eq(last_word + Mux(
                        row_end, fields.source_plane_step, fields.source_row_step)),
                    fields.destination.eq(fields.destination + Mux(
                        row_end, fields.destination_plane_step, fields.destination_row_step)),
                ]
            with m.Else():
                m.d.sync += [
                    valid.eq(self.instruction.valid),
                    fields.source.eq(i.source), fields.destination.eq(i.destination),
                ]
        with m.If(~valid):
            m.d.sync += [
                *(fields[name].eq(i[name]) for name in (
                    "source_row_step", "source_plane_step",
                    "destination_row_step", "destination_plane_step")),
                reach.eq(i.row_bytes - 1),
                zero.eq((i.row_bytes == 0) | (i.rows == 0) | (i.planes == 0)),
            ]

        there, good, final = Signal(), Signal(), Signal()
        code = Signal(ErrorCode)
        source, destination = Signal(_ADDRESS_BITS), Signal(32)
        checked_reach = Signal(_LENGTH_BITS)
        # Whether the checked row moves on is known late, and goes to each stage by itself.
        moved = good & self.o.ready
        m.d.comb += moves.eq(~(valid & there) | moved)
        outside = fields.destination + reach >= config.memory_size
        if config.scratchpad_words < 1 << _ADDRESS_BITS:  # in the largest one addresses wrap
            outside |= last_word >= config.scratchpad_words
        with m.If(~there | moved):
            m.d.sync += [
                there.eq(valid), good.eq(valid & ~zero & ~outside), final.eq(finished),
                source.eq(fields.source), destination.eq(fields.destination),
                checked_reach.eq(reach),
                code.eq(Mux(zero, ErrorCode.LENGTH,
                            Mux(outside, ErrorCode.ADDRESS, ErrorCode.NONE))),
            ]
        with m.If(there):
            m.d.comb += self.error.eq(code)
        m.d.comb += [
            self.o.valid.eq(good),
            self.o.payload.words.address.eq(source),
            self.o.payload.words.reach.eq(checked_reach),
            self.o.payload.words.start.eq(destination[:beat_bits]),
            self.o.payload.row.address.eq(destination[beat_bits:]),
            self.o.payload.row.start.eq(destination[:beat_bits]),
            self.o.payload.row.final.eq(final),
            self.busy.eq(valid | there),
        ]
        return m


class _Words(wiring.Component):
    """Reads the words of rows and hands them to the packer.

    As scratchpad data cannot be held back, it asks for a word only when a place is free for it.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "i": In(stream.Signature(_words_layout(config))),
            "read": Out(ScratchpadReadSignature(config)),
            "o": Out(stream.Signature(piece_layout(config.rows, config.memory_bytes_per_beat))),
        })

    def elaborate(self, platform):
        m = Module()
        rows = self._config.rows
        word_bits = _log2(rows)
        latency = scratchpad_latency(self._config)
        ahead = latency + 4  # words asked for and not handed on that sustain one a cycle
        piece = data.StructLayout({
            "count": range(rows + 1), "last": 1, "start": self.i.payload.start.shape()})
        m.submodules.queue = queue = fifo.SyncFIFO(width=8 * rows, depth=ahead)
        # What belongs to a word is known before it, and is kept in a queue that takes a cycle
        # longer, out of registers.
        m.submodules.pieces = pieces = fifo.SyncFIFOBuffered(width=piece.size, depth=ahead)
        # The scratchpad's answer, which depends on everybody's requests, ends here.
        m.submodules.requests = requests = register_slice(
            self._config, self.read.request.payload.shape())
        wiring.connect(m, requests.o, wiring.flipped(self.read.request))

        valid = Signal()
        row = Signal(_words_layout(self._config))  # what is left of it
        last = Signal()  # it is a word
        free, any_free = Signal(range(ahead + 1), init=ahead), Signal(init=1)
        asked = Signal()
        delivered, freed = Signal(), Signal()  # the same: the first one is late, the other counts
        m.d.comb += [
            requests.i.valid.eq(valid & any_free),
            requests.i.payload.eq(row.address),
            asked.eq(requests.i.valid & requests.i.ready),
            self.i.ready.eq(~valid | (asked & last)),
        ]
        # Without a row there may be anything here.
        with m.If(~valid | asked):
            with m.If(valid & ~last):
                m.d.sync += [
                    row.address.eq(row.address + 1), row.reach.eq(row.reach - rows),
                    last.eq(row.reach[word_bits:] == 1)]
            with m.Else():
                m.d.sync += [
                    valid.eq(self.i.valid), row.eq(self.i.payload),
                    last.eq(self.i.payload.reach[word_bits:] == 0)]
        m.d.sync += [freed.eq(delivered), free.eq(free - asked + freed),
                     any_free.eq(freed | Mux(asked, free > 1, any_free))]

        # The data arrives `latency` cycles after the request is accepted, its piece long before it.
        arriving = self.read.request.valid & self.read.request.ready
        for stage in range(latency):
            later = Signal(name=f"arriving_{stage}")
            m.d.sync += later.eq(arriving)
            arriving = later
        new_piece, oldest = Signal(piece), piece(pieces.r_data)
        m.d.comb += [
            new_piece.count.eq(Mux(last, row.reach[:word_bits] + 1, rows)),
            new_piece.last.eq(last),
            new_piece.start.eq(row.start),
            pieces.w_data.eq(new_piece),
            pieces.w_en.eq(asked),
            queue.w_data.eq(self.read.data),
            queue.w_en.eq(arriving),
            self.o.valid.eq(queue.r_rdy),
            self.o.payload.data.eq(queue.r_data),
            self.o.payload.offset.eq(0),
            self.o.payload.count.eq(oldest.count),
            self.o.payload.start.eq(oldest.start),
            self.o.payload.last.eq(oldest.last),
            delivered.eq(self.o.valid & self.o.ready),
            queue.r_en.eq(self.o.ready),
            pieces.r_en.eq(delivered),
        ]
        return m


class _Writer(wiring.Component):
    """Writes the packed beats to where the rows say, with masks at their ends.

    `retire` is a pulse an instruction, in the cycle in which its last beat is accepted.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "rows": In(stream.Signature(_row_layout(config))),
            "beats": In(stream.Signature(word_layout(config.memory_bytes_per_beat))),
            "write": Out(memory_write_signature(config)),
            "retire": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat_bytes = self._config.memory_bytes_per_beat
        row, beat = self.rows.payload, self.beats.payload
        begun = Signal()
        next_address = Signal.like(row.address)
        address = Signal.like(row.address)
        accepted = Signal()
        m.d.comb += [
            address.eq(Mux(begun, next_address, row.address)),
            self.write.valid.eq(self.rows.valid & self.beats.valid),
            self.write.payload.address.eq(address << _log2(beat_bytes)),
            self.write.payload.data.eq(beat.data),
            self.write.payload.mask.eq(Cat(
                (begun | (lane >= row.start)) & (lane < beat.count)
                for lane in range(beat_bytes))),
            accepted.eq(self.write.valid & self.write.ready),
            self.beats.ready.eq(self.rows.valid & self.write.ready),
            self.rows.ready.eq(accepted & beat.last),
            self.retire.eq(accepted & beat.last & row.final),
        ]
        with m.If(accepted):
            m.d.sync += [begun.eq(~beat.last), next_address.eq(address + 1)]
        return m
