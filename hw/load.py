"""The load mover: main memory to the on-chip memories, and constant fills of the scratchpad."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .align import Packer, word_layout
from .config import Config
from .isa import LoadTarget
from .load_request import LOAD_LAYOUT, ROW_LAYOUT, LoadRequester, chunk_layout
from .ports import (
    EngineSignature,
    MemoryReadSignature,
    load_write_signature,
    scratchpad_write_signature,
)
from .slices import register_slice

__all__ = ["LOAD_LAYOUT", "LoadMover"]


class LoadMover(wiring.Component):
    """Executes LOAD and FILL (`systolith.hw.isa`).

    Requests run ahead of the data, across rows and instructions, as far as `LOAD_WINDOW_BEATS` and
    `Config.outstanding_reads` allow. Data moves at a beat or a word a cycle, whichever is less;
    each chunk reads the beats that it touches, and a fill writes a word a cycle. Words that are
    wider than `rows` bytes are written in parts of `rows` bytes, narrower ones cost a cycle each.

    Every address is checked before the chunk it belongs to is asked for. Errors: DECODE for a
    target that does not exist, LENGTH for a count of zero, ADDRESS for bytes outside of main memory
    or words outside of the target.

    Members
    -------
    engine : In(EngineSignature(LOAD_LAYOUT))
        Instructions. `active`: a beat was taken or a word of a fill written.
    read : Out(MemoryReadSignature)
    write : Out(scratchpad_write_signature)
        Words for the scratchpad.
    load : Out(load_write_signature)
        Parts of words for the other targets.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "engine": In(EngineSignature(LOAD_LAYOUT)),
            "read": Out(MemoryReadSignature(config)),
            "write": Out(scratchpad_write_signature(config)),
            "load": Out(load_write_signature(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        depth = config.outstanding_reads
        m.submodules.requester = requester = LoadRequester(config)
        m.submodules.pieces = pieces = _Pieces(config)
        m.submodules.packer = packer = Packer(config.memory_bytes_per_beat, config.rows)
        m.submodules.writer = writer = _Writer(config)
        m.submodules.chunk_queue = chunks = fifo.SyncFIFOBuffered(
            width=chunk_layout(config).size, depth=depth)
        # The row that is being written, in the writer, is one of them. When it ends is known late.
        m.submodules.row_queue = rows = fifo.SyncFIFO(width=ROW_LAYOUT.size, depth=depth - 1)
        m.submodules.next_row = next_row = register_slice(config, ROW_LAYOUT)
        wiring.connect(m, next_row.o, writer.rows)
        for queue, source, sink in ((chunks, requester.chunks, pieces.i),
                                    (rows, requester.rows, next_row.i)):
            m.d.comb += [
                queue.w_data.eq(source.payload), queue.w_en.eq(source.valid),
                source.ready.eq(queue.w_rdy),
                sink.payload.eq(queue.r_data), sink.valid.eq(queue.r_rdy),
                queue.r_en.eq(sink.ready),
            ]
        m.submodules.beats = beats = register_slice(config, self.read.data.payload.shape())
        m.submodules.words = words = register_slice(config, packer.o.payload.shape())
        wiring.connect(m, wiring.flipped(self.read.data), beats.i)
        wiring.connect(m, packer.o, words.i)
        beat = Signal()
        m.d.comb += [
            beat.eq(beats.o.valid & beats.o.ready),
            requester.beat.eq(beat),
            packer.i.payload.data.eq(beats.o.payload),
            packer.i.payload.offset.eq(pieces.o.payload.offset),
            packer.i.payload.count.eq(pieces.o.payload.count),
            packer.i.payload.last.eq(pieces.o.payload.last),
            packer.i.valid.eq(pieces.o.valid & beats.o.valid),
            pieces.o.ready.eq(beats.o.valid & packer.i.ready),
            beats.o.ready.eq(pieces.o.valid & packer.i.ready),
        ]
        wiring.connect(m, wiring.flipped(self.engine.instruction), requester.instruction)
        wiring.connect(m, requester.request, wiring.flipped(self.read.request))
        wiring.connect(m, words.o, writer.words)
        wiring.connect(m, writer.write, wiring.flipped(self.write))
        wiring.connect(m, writer.load, wiring.flipped(self.load))

        # Instructions that passed all checks and have not retired. Which one passes is known late,
        # and counted a cycle later.
        passed = Signal()
        counted = Signal(8)
        in_flight = passed | (counted != 0)
        m.d.sync += [
            self.engine.retire.eq(writer.retire),
            passed.eq(requester.passed),
            counted.eq(counted + passed - self.engine.retire),
        ]
        with m.If(~in_flight):
            m.d.comb += self.engine.error.eq(requester.error)
        m.d.comb += [
            self.engine.active.eq(beat | writer.filled),
            self.engine.stall.eq(~self.engine.active & (requester.busy | in_flight)),
        ]
        return m


class _Pieces(wiring.Component):
    """Cuts chunks into beats: which bytes of the next beat belong to the row."""

    def __init__(self, config: Config):
        self._beat = config.memory_bytes_per_beat
        super().__init__({
            "i": In(stream.Signature(chunk_layout(config))),
            "o": Out(stream.Signature(data.StructLayout({
                "offset": range(self._beat), "count": range(self._beat + 1), "last": 1}))),
        })

    def elaborate(self, platform):
        m = Module()
        chunk, piece = self.i.payload, self.o.payload
        begun = Signal()
        remaining = Signal.like(chunk.beats)
        left = Signal.like(chunk.beats)
        offset, end = Signal.like(chunk.offset), Signal.like(chunk.end)
        last_beat = Signal()
        done, advance = Signal(), Signal()
        m.d.comb += [
            left.eq(Mux(begun, remaining, chunk.beats)),
            done.eq(Mux(begun, last_beat, chunk.single)),
            offset.eq(Mux(begun, 0, chunk.offset)),
            end.eq(Mux(done, chunk.end, self._beat - 1)),
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance & done),
        ]
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(self.i.valid), piece.offset.eq(offset),
                piece.count.eq(end - offset + 1), piece.last.eq(done & chunk.last),
                begun.eq(self.i.valid & ~done), remaining.eq(left - 1), last_beat.eq(left == 2),
            ]
        return m


class _Writer(wiring.Component):
    """Writes packed words, or a fill's words, to where the rows say.

    Members: `rows`; `words`, from the packer; `write` to the scratchpad and `load` to the other
    memories; `filled`, a pulse a word of a fill; `retire`, a pulse an instruction, in the cycle in
    which its last word is accepted.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "rows": In(stream.Signature(ROW_LAYOUT)),
            "words": In(stream.Signature(word_layout(config.rows))),
            "write": Out(scratchpad_write_signature(config)),
            "load": Out(load_write_signature(config)),
            "filled": Out(1),
            "retire": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows, word_bytes = config.rows, config.weight_word_bytes
        word = self.words.payload
        parts = {LoadTarget.PARAMETER: config.parameter_word_bytes // rows,
                 LoadTarget.WEIGHT: max(1, word_bytes // rows)}
        cuts = max(1, rows // word_bytes)  # weight words in one of the packer's words

        # What is left of the row, counted where it lies: addresses go to memories that are far
        # away, and have nothing behind their register. What its target means is known with it.
        row = Signal(ROW_LAYOUT)
        to_scratchpad, to_weights = Signal(), Signal()
        held = Signal()
        part = range(max(parts.values()))
        next_part, last_part = Signal(part), Signal(part)
        padding = Signal()  # the row's bytes are written; the rest of its last word is not
        cut = Signal(range(cuts + 1))

        constant = row.is_fill | padding
        packed = Signal(8 * rows)
        for lane in range(rows):
            byte = slice(8 * lane, 8 * lane + 8)
            m.d.comb += packed[byte].eq(
                Mux(constant | (lane >= word.count), row.value, word.data[byte]))

        valid, accepted = Signal(), Signal()
        m.d.comb += [
            valid.eq(held & (constant | self.words.valid)),
            self.write.valid.eq(valid & to_scratchpad),
            self.load.valid.eq(valid & ~to_scratchpad),
            accepted.eq(valid & Mux(to_scratchpad, self.write.ready, self.load.ready)),
            self.write.payload.address.eq(row.address),
            self.write.payload.data.eq(packed),
            self.write.payload.mask.eq(~0),
            self.load.payload.target.eq(row.target),
            self.load.payload.address.eq(row.address),
            self.load.payload.part.eq(next_part),
            self.load.payload.data.eq(packed),
        ]
        word_end = Signal()  # this transfer completes a word of the target
        m.d.comb += word_end.eq(next_part == last_part)
        taken = Signal()  # nothing of the packer's word is left
        m.d.comb += taken.eq(1)
        if cuts > 1:
            with m.If(to_weights):
                m.d.comb += [
                    taken.eq((cut == cuts - 1)
                             | (word.last & ((cut + 1) * word_bytes >= word.count))),
                    self.load.payload.data.eq(packed.word_select(cut, 8 * word_bytes)),
                ]

        row_end = Signal()
        with m.If(row.is_fill):
            m.d.comb += row_end.eq(row.single)
        with m.Else():
            m.d.comb += row_end.eq((padding | (word.last & taken)) & word_end)
        m.d.comb += [
            self.words.ready.eq(accepted & ~constant & taken),
            self.rows.ready.eq(~held | (accepted & row_end)),
            self.filled.eq(accepted & row.is_fill),
            self.retire.eq(accepted & row_end & row.final),
        ]
        with m.If(~held | accepted):
            with m.If(held & ~row_end):
                m.d.sync += [
                    row.address.eq(row.address + word_end),
                    row.more.eq(row.more - 1), row.single.eq(row.more == 1)]
            with m.Else():
                following = self.rows.payload
                m.d.sync += [held.eq(self.rows.valid), row.eq(following),
                             to_scratchpad.eq(following.target == LoadTarget.SCRATCHPAD),
                             to_weights.eq(following.target == LoadTarget.WEIGHT),
                             last_part.eq(0)]
                with m.Switch(following.target):
                    for target, count in parts.items():
                        with m.Case(target):
                            m.d.sync += last_part.eq(count - 1)
        with m.If(accepted):
            m.d.sync += [
                next_part.eq(Mux(word_end, 0, next_part + 1)),
                padding.eq(~row.is_fill & (padding | (word.last & taken)) & ~word_end),
                cut.eq(Mux(taken, 0, cut + 1)),
            ]
        return m
