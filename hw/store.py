"""The store mover: scratchpad to main memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .align import Packer, piece_layout, word_layout
from .compare import exceeds
from .config import Config
from .isa import ErrorCode, Store
from .loops import count_levels
from .ports import (
    EngineSignature,
    ScratchpadReadSignature,
    instruction_layout,
    memory_write_signature,
    scratchpad_latency,
)
from .slices import RegisterSlice

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
        m.submodules.beats = beats = RegisterSlice(packer.o.payload.shape())
        m.submodules.writer = writer = _Writer(config)
        wiring.connect(m, wiring.flipped(self.engine.instruction), rows.instruction)
        wiring.connect(m, words.read, wiring.flipped(self.read))
        wiring.connect(m, words.o, packer.i)
        wiring.connect(m, packer.o, beats.i)
        wiring.connect(m, beats.o, writer.beats)
        wiring.connect(m, writer.write, wiring.flipped(self.write))

        # A row goes to the reading side and, with its destination, to the writing side.
        m.submodules.walks = walks = RegisterSlice(words.i.payload.shape())
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
            row_queue.r_en.eq(writer.rows.ready & writer.rows.valid),
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
    """What is to be read for a row: its first word, its bytes, its place in the first beat."""
    return data.StructLayout({"address": range(config.scratchpad_words), "length": _LENGTH_BITS,
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
        row_number, plane_number = Signal(16), Signal(16)  # from 1 on
        taken, row_end, finished = Signal(), Signal(), Signal()
        extra_words = Signal(_LENGTH_BITS - word_bits)  # of a row, behind its first
        m.d.comb += [
            extra_words.eq((fields.row_bytes - 1) >> word_bits),
            row_end.eq(row_number == fields.rows),
            finished.eq(row_end & (plane_number == fields.planes)),
            self.instruction.ready.eq(~valid),
        ]
        with m.If(taken):
            m.d.sync += [
                valid.eq(~finished),
                fields.source.eq(fields.source + extra_words + Mux(
                    row_end, fields.source_plane_step, fields.source_row_step)),
                fields.destination.eq(fields.destination + Mux(
                    row_end, fields.destination_plane_step, fields.destination_row_step)),
            ]
        accept = Signal()
        m.d.comb += accept.eq(self.instruction.valid & self.instruction.ready)
        count_levels(m, accept, taken, ((row_number, 1, row_end), (plane_number, row_end, 0)))
        with m.If(accept):
            m.d.sync += [
                valid.eq(1), fields.eq(i),
                zero.eq((i.row_bytes == 0) | (i.rows == 0) | (i.planes == 0)),
            ]

        row_valid, final = Signal(), Signal()
        code = Signal(ErrorCode)
        source, destination = Signal(_ADDRESS_BITS), Signal(32)
        length = Signal(_LENGTH_BITS)
        m.d.comb += taken.eq(valid & (~row_valid | (self.o.valid & self.o.ready)))
        outside = exceeds(fields.destination + fields.row_bytes, config.memory_size)
        if config.scratchpad_words < 1 << _ADDRESS_BITS:  # in the largest one addresses wrap
            outside |= fields.source + extra_words >= config.scratchpad_words
        with m.If(taken):
            m.d.sync += [
                row_valid.eq(1), final.eq(finished),
                source.eq(fields.source), destination.eq(fields.destination),
                length.eq(fields.row_bytes),
                code.eq(Mux(zero, ErrorCode.LENGTH,
                            Mux(outside, ErrorCode.ADDRESS, ErrorCode.NONE))),
            ]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += row_valid.eq(0)
        with m.If(row_valid):
            m.d.comb += self.error.eq(code)
        m.d.comb += [
            self.o.valid.eq(row_valid & (code == ErrorCode.NONE)),
            self.o.payload.words.address.eq(source),
            self.o.payload.words.length.eq(length),
            self.o.payload.words.start.eq(destination[:beat_bits]),
            self.o.payload.row.address.eq(destination[beat_bits:]),
            self.o.payload.row.start.eq(destination[:beat_bits]),
            self.o.payload.row.final.eq(final),
            self.busy.eq(valid | row_valid),
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
        latency = scratchpad_latency(self._config)
        ahead = latency + 2  # reads in flight that sustain a word a cycle
        piece = data.StructLayout({
            "count": range(rows + 1), "last": 1, "start": self.i.payload.start.shape()})
        word = data.StructLayout({"data": 8 * rows, "piece": piece})
        m.submodules.queue = queue = fifo.SyncFIFO(width=word.size, depth=ahead)

        valid = Signal()
        row = Signal(_words_layout(self._config))  # what is left of it
        free = Signal(range(ahead + 1), init=ahead)
        asked, last, delivered = Signal(), Signal(), Signal()
        m.d.comb += [
            last.eq(~exceeds(row.length, rows)),
            self.read.request.valid.eq(valid & (free != 0)),
            self.read.request.payload.eq(row.address),
            asked.eq(self.read.request.valid & self.read.request.ready),
            self.i.ready.eq(~valid | (asked & last)),
        ]
        with m.If(asked):
            m.d.sync += [row.address.eq(row.address + 1), row.length.eq(row.length - rows)]
        with m.If(self.i.ready):
            m.d.sync += valid.eq(self.i.valid)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += row.eq(self.i.payload)
        m.d.sync += free.eq(free - asked + delivered)

        # What belongs to the data that arrives later.
        arriving = Signal(piece)
        m.d.comb += [
            arriving.count.eq(Mux(last, row.length, rows)),
            arriving.last.eq(last),
            arriving.start.eq(row.start),
        ]
        arrived = asked
        for stage in range(latency):
            next_arriving = Signal(piece, name=f"arriving_{stage}")
            next_arrived = Signal(name=f"arrived_{stage}")
            m.d.sync += [next_arriving.eq(arriving), next_arrived.eq(arrived)]
            arriving, arrived = next_arriving, next_arrived
        oldest = word(queue.r_data)
        m.d.comb += [
            queue.w_data.eq(Cat(self.read.data, arriving)),
            queue.w_en.eq(arrived),
            self.o.valid.eq(queue.r_rdy),
            self.o.payload.data.eq(oldest.data),
            self.o.payload.offset.eq(0),
            self.o.payload.count.eq(oldest.piece.count),
            self.o.payload.start.eq(oldest.piece.start),
            self.o.payload.last.eq(oldest.piece.last),
            delivered.eq(self.o.valid & self.o.ready),
            queue.r_en.eq(delivered),
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
            self.beats.ready.eq(accepted),
            self.rows.ready.eq(accepted & beat.last),
            self.retire.eq(accepted & beat.last & row.final),
        ]
        with m.If(accepted):
            m.d.sync += [begun.eq(~beat.last), next_address.eq(address + 1)]
        return m
