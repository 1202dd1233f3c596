"""Registers between streams, so that long chains of logic end at a boundary."""

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["HoldRegister", "RegisterSlice"]


class RegisterSlice(wiring.Component):
    """Passes a stream on a cycle later, a transfer a cycle; no logic runs through it either way.

    Parameters
    ----------
    shape : shape-like
        Of the payload.

    Members
    -------
    i : In(stream), o : Out(stream)
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        # What arrives while the output is held up, in the cycle in which `ready` falls.
        spare = HoldRegister(self.i.payload.shape())
        m.submodules.spare = spare
        free = ~self.o.valid | self.o.ready
        m.d.comb += [
            self.i.ready.eq(spare.i.ready),
            spare.i.payload.eq(self.i.payload),
            spare.i.valid.eq(self.i.valid & ~free),
            spare.o.ready.eq(free),
        ]
        with m.If(free):
            m.d.sync += self.o.valid.eq(spare.o.valid | self.i.valid)
            with m.If(spare.o.valid):
                m.d.sync += self.o.payload.eq(spare.o.payload)
            with m.Else():
                m.d.sync += self.o.payload.eq(self.i.payload)
        return m


class HoldRegister(wiring.Component):
    """One register, which is filled when it is empty: a transfer every other cycle at most.

    Parameters
    ----------
    shape : shape-like
        Of the payload.

    Members
    -------
    i : In(stream), o : Out(stream)
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid)
        with m.If(self.o.valid):
            m.d.sync += self.o.valid.eq(~self.o.ready)
        with m.Else():
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m
