"""Main memory as bytes: from beats to a stream, and from a stream to beats."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import Config
from ..ports import MAX_BURST_BEATS, MemoryReadSignature, memory_write_signature
from ..slices import RegisterSlice

__all__ = ["ByteReader", "ByteWriter"]


class ByteReader(wiring.Component):
    """Reads a range of main memory, a byte a cycle.

    It asks only for beats it has room for, so that a slow line never holds up the memory.

    Parameters
    ----------
    config : Config
    beats : int
        Beats it has room for, a power of two; half of them are one burst. At 1 it reads a beat at
        a time, into one register.

    Members
    -------
    request : In(stream)
        `address` and `length` of a range inside of memory, `length` not 0. Accepted when the
        range before has been delivered.
    o : Out(stream of bytes)
        The bytes.
    last : Out(1)
        The byte on `o` is the range's last.
    read : Out(MemoryReadSignature)
        Main memory.
    """

    def __init__(self, config: Config, beats: int):
        if beats < 1 or beats & (beats - 1) or beats > 2 * MAX_BURST_BEATS:
            raise ValueError(f"beats must be a power of two up to {2 * MAX_BURST_BEATS}, not "
                             f"{beats}")
        self._config = config
        self._beats = beats
        bits = (config.memory_size - 1).bit_length()
        super().__init__({
            "request": In(stream.Signature(data.StructLayout({
                "address": bits, "length": bits + 1}))),
            "o": Out(stream.Signature(8)),
            "last": Out(1),
            "read": Out(MemoryReadSignature(config)),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.request.payload.length)    # bytes not delivered yet
        is_last, some = Signal(), Signal()
        m.submodules.bytes = delivered = RegisterSlice(
            data.StructLayout({"data": 8, "last": 1}))
        self._bytes = out = delivered.i
        m.d.comb += [
            self.request.ready.eq(~some),
            out.payload.last.eq(is_last),
            self.o.valid.eq(delivered.o.valid),
            self.o.payload.eq(delivered.o.payload.data),
            self.last.eq(delivered.o.payload.last),
            delivered.o.ready.eq(self.o.ready),
        ]
        # Without a range, everything but `some` may follow what could be the next.
        with m.If(~some):
            m.d.sync += [left.eq(self.request.payload.length),
                         is_last.eq(self.request.payload.length == 1),
                         some.eq(self.request.valid)]
        with m.If(self._bytes.valid & self._bytes.ready):
            m.d.sync += [left.eq(left - 1), is_last.eq(left == 2), some.eq(~is_last)]
        if self._beats == 1:
            self._beat_by_beat(m, some)
        else:
            self._ahead(m, some)
        return m

    def _beat_by_beat(self, m, some):
        """A beat is asked for when the register is empty."""
        width = self._config.memory_bytes_per_beat
        lane_bits = width.bit_length() - 1
        place = Signal.like(self.request.payload.address)   # of the next byte
        word = Signal(8 * width)
        full = Signal()
        asked = Signal()
        m.d.comb += [
            self.read.request.payload.address.eq(place[lane_bits:] << lane_bits),
            self.read.request.payload.beats.eq(1),
            self.read.request.valid.eq(some & ~full & ~asked),
            self.read.data.ready.eq(1),  # there is a place for what was asked for
            self._bytes.valid.eq(full),
            self._bytes.payload.data.eq(word.word_select(place[:lane_bits], 8)),
        ]
        with m.If(~some):
            m.d.sync += place.eq(self.request.payload.address)
        with m.If(self.read.request.valid & self.read.request.ready):
            m.d.sync += asked.eq(1)
        with m.If(self.read.data.valid):
            m.d.sync += [word.eq(self.read.data.payload), full.eq(1), asked.eq(0)]
        with m.If(self._bytes.valid & self._bytes.ready):
            m.d.sync += place.eq(place + 1)
            with m.If(place[:lane_bits].all() | self._bytes.payload.last):
                m.d.sync += full.eq(0)

    def _ahead(self, m, some):
        """As many beats are asked for as there is room for, in bursts."""
        width = self._config.memory_bytes_per_beat
        lane_bits = width.bit_length() - 1
        bits = len(self.request.payload.address)
        burst = self._beats // 2
        m.submodules.fifo = beats = fifo.SyncFIFOBuffered(width=8 * width, depth=self._beats)
        wiring.connect(m, wiring.flipped(self.read.data), beats.w_stream)

        beat = Signal(bits - lane_bits)             # of the next request
        asked_for = Signal(bits + 1 - lane_bits)    # beats not asked for yet
        free = Signal(range(self._beats + 1), init=self._beats)
        lane = Signal(lane_bits)

        count = Signal(range(burst + 1))
        m.d.comb += [
            count.eq(Mux(asked_for >= burst, burst, asked_for)),
            self.read.request.payload.address.eq(beat << lane_bits),
            self.read.request.payload.beats.eq(count),
            self.read.request.valid.eq(some & (asked_for != 0) & (free >= burst)),
        ]
        with m.If(self.read.request.valid & self.read.request.ready):
            m.d.sync += [beat.eq(beat + count), asked_for.eq(asked_for - count)]

        m.d.comb += [
            self._bytes.valid.eq(beats.r_rdy & some),
            self._bytes.payload.data.eq(beats.r_data.word_select(lane, 8)),
        ]
        with m.If(self._bytes.valid & self._bytes.ready):
            m.d.comb += beats.r_en.eq((lane == width - 1) | self._bytes.payload.last)
            m.d.sync += lane.eq(lane + 1)
        taken = Mux(self.read.request.valid & self.read.request.ready, count, 0)
        m.d.sync += free.eq(free - taken + beats.r_en)

        with m.If(~some):
            address, length = self.request.payload.address, self.request.payload.length
            first_lane = address[:lane_bits]
            m.d.sync += [
                beat.eq(address >> lane_bits),
                asked_for.eq((first_lane + length + (width - 1)) >> lane_bits),
                lane.eq(first_lane),
            ]


class ByteWriter(wiring.Component):
    """Writes bytes to main memory, a byte a cycle, in whole beats where they fill them.

    Parameters
    ----------
    config : Config

    Members
    -------
    start : In(1), address : In
        Pulse: the next byte goes to `address`. Only while not `busy`.
    i : In(stream)
        `data`; `last` sends a beat that is not full yet; `whole`, only where a beat begins: the
        byte stands for a whole beat of the same.
    busy : Out(1)
        Something accepted is not in memory yet.
    write : Out(memory_write_signature)
        Main memory.
    """

    def __init__(self, config: Config):
        self._config = config
        self._bits = (config.memory_size - 1).bit_length()
        self._lane_bits = config.memory_bytes_per_beat.bit_length() - 1
        super().__init__({
            "start": In(1),
            "address": In(self._bits),
            "i": In(stream.Signature(data.StructLayout({"data": 8, "last": 1, "whole": 1}))),
            "busy": Out(1),
            "write": Out(memory_write_signature(config)),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._config.memory_bytes_per_beat
        m.submodules.bytes = taken = RegisterSlice(self.i.payload.shape())
        wiring.connect(m, wiring.flipped(self.i), taken.i)
        source = taken.o
        beat = Signal(self._bits - self._lane_bits)
        place = Signal(self._lane_bits)     # of the next byte in its beat
        mask = Signal(width)
        word = Signal(8 * width)

        offered = self.write.payload
        idle = Signal()     # the register toward memory is free
        m.d.comb += [
            idle.eq(~self.write.valid),
            self.busy.eq(source.valid | self.write.valid | (mask != 0)),
        ]
        with m.If(self.write.ready):
            m.d.sync += self.write.valid.eq(0)

        new_mask = Signal(width)
        new_word = Signal(8 * width)
        completes = Signal()
        m.d.comb += [
            new_mask.eq(mask),
            new_word.eq(word),
            completes.eq((place == width - 1) | source.payload.last | source.payload.whole),
            source.ready.eq(idle | ~completes),
        ]
        for lane in range(width):
            with m.If((place == lane) | source.payload.whole):
                m.d.comb += [new_mask[lane].eq(1),
                             new_word.word_select(lane, 8).eq(source.payload.data)]
        # A byte that has to wait is put in its place again and again, and what is offered follows
        # it until it is valid.
        with m.If(source.valid):
            m.d.sync += word.eq(new_word)
        with m.If(idle):
            m.d.sync += [
                offered.address.eq(beat << self._lane_bits),
                offered.data.eq(new_word),
                offered.mask.eq(new_mask),
            ]
        with m.If(source.valid & source.ready):
            m.d.sync += place.eq(place + 1)
            with m.If(completes):
                m.d.sync += [
                    self.write.valid.eq(1),
                    mask.eq(0),
                    place.eq(0),
                    beat.eq(beat + 1),
                ]
            with m.Else():
                m.d.sync += mask.eq(new_mask)
        with m.If(self.start):
            m.d.sync += [
                beat.eq(self.address >> self._lane_bits),
                place.eq(self.address[:self._lane_bits]),
            ]
        return m
