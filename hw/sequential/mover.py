"""The sequential core's mover: bytes between main memory and the memories on the chip.

The program cuts a transfer into pieces of at most `MOST` bytes and says where they come from and
go to. Where both sides stand at the beginning of a word, a word moves at a time, otherwise
a byte.
"""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import Config
from ..ports import MemoryReadSignature, memory_write_signature
from .ports import WRITE, Output, ScratchpadPort, Target, written

__all__ = ["MOST", "Mover"]

MOST = 252
"""Bytes of a piece at most: one burst, wherever it begins."""

_LENGTH_BITS = 8


class Mover(wiring.Component):
    """Members
    -------
    output, port, value : In
        The processor's ports `Output.MAIN` to `PUSH`.
    read : Out(MemoryReadSignature), write : Out(memory_write_signature)
        Main memory.
    scratchpad : Out(ScratchpadPort)
    weight, data : Out
        Words for the weight memory, and for the processor's data memory.
    busy : Out(1)
        Between MOVE and the last byte.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "output": In(1), "port": In(5), "value": In(32),
            "read": Out(MemoryReadSignature(config)),
            "write": Out(memory_write_signature(config)),
            "scratchpad": Out(ScratchpadPort(config)),
            "weight": Out(WRITE),
            "data": Out(WRITE),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        main = Signal((self._config.memory_size - 1).bit_length())
        place = Signal(16)        # on the chip
        kind = Signal(2)
        left = Signal(_LENGTH_BITS)
        word, position = Signal(32), Signal(2)
        asking, loading, storing = Signal(), Signal(), Signal()

        with m.If(written(self, Output.MAIN)):
            m.d.sync += main.eq(self.value)
        with m.If(written(self, Output.TARGET)):
            m.d.sync += [place.eq(self.value), kind.eq(self.value[16:]), position.eq(0)]
        stores = kind == Target.MAIN
        with m.If(written(self, Output.MOVE)):
            m.d.sync += [left.eq(self.value), asking.eq(~stores), loading.eq(~stores),
                         storing.eq(stores)]

        whole = Signal()  # a word at a time
        last = Signal()
        moved = Signal()  # a byte, or a word
        m.d.comb += [
            whole.eq((main[:2] == 0) & (position == 0) & (left[2:] != 0)),
            last.eq(left == Mux(whole, 4, 1)),
            self.busy.eq(loading | storing),
        ]
        with m.If(moved):
            m.d.sync += [left.eq(left - Mux(whole, 4, 1)), main.eq(main + Mux(whole, 4, 1))]
            with m.If(last):
                m.d.sync += [loading.eq(0), storing.eq(0)]

        # Main memory to the word ------------------------------------------------------------------
        request, beats = self.read.request, self.read.data
        m.d.comb += [
            request.valid.eq(asking),
            request.p.address.eq(Cat(Const(0, 2), main[2:])),
            request.p.beats.eq((left + main[:2] + 3) >> 2),
        ]
        with m.If(asking & request.ready):
            m.d.sync += asking.eq(0)
        takes = loading & ~asking & beats.valid
        pushed = written(self, Output.PUSH)
        byte = Signal(8)
        m.d.comb += [
            beats.ready.eq(takes & (whole | (main[:2] == 3) | last)),
            byte.eq(Mux(pushed, self.value, beats.p.word_select(main[:2], 8))),
        ]
        complete = Signal()
        m.d.sync += complete.eq(0)
        with m.If(takes & whole):
            m.d.sync += [word.eq(beats.p), complete.eq(1)]
        with m.Elif(takes | pushed):
            m.d.sync += [word.eq(Cat(word[8:], byte)), position.eq(position + 1),
                         complete.eq(position == 3)]

        # The word to its place --------------------------------------------------------------------
        m.d.comb += [
            self.weight.enable.eq(complete & (kind == Target.WEIGHT)),
            self.data.enable.eq(complete & (kind == Target.DATA)),
            *(port[name].eq(value) for port in (self.weight, self.data)
              for name, value in (("address", place), ("data", word))),
            self.scratchpad.address.eq(place),
            self.scratchpad.data.eq(word),
        ]

        # Scratchpad to main memory ----------------------------------------------------------------
        ready = Signal()  # the word of `place` has been read
        finished = whole | (position == 3)
        stored = storing & ready & self.write.ready
        source = self.scratchpad.read
        m.d.comb += [
            self.scratchpad.enable.eq((complete & (kind == Target.SCRATCHPAD))
                                      | (storing & ~ready)),
            self.scratchpad.mask.eq((~storing).replicate(4)),
            self.write.valid.eq(storing & ready),
            self.write.p.address.eq(Cat(Const(0, 2), main[2:])),
            self.write.p.data.eq(Mux(whole, source, source.word_select(position, 8).replicate(4))),
            self.write.p.mask.eq(Mux(whole, 15, 1 << main[:2])),
            moved.eq(takes | stored),
        ]
        m.d.sync += ready.eq(storing & ~(stored & (finished | last)))
        with m.If(stored & ~whole):
            m.d.sync += position.eq(position + 1)
        with m.If(complete | (stored & finished)):
            m.d.sync += place.eq(place + 1)
        return m
