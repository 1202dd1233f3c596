"""Registers between streams, so that long chains of logic end at a boundary."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Config

__all__ = ["HoldRegister", "RegisterSlice", "ShortSlice", "register_slice", "words_for"]


def words_for(m, load, target):
    """What the load mover writes to a target, a cycle later: the fields of `load_write_signature`
    with `valid`, in registers. From the mover to all blocks of a memory it is a long way.

    An instruction that waits for the words' LOAD begins two cycles later than they are written.
    """
    words = Signal(data.StructLayout({"valid": 1, **load.p.shape().members}),
                   name=f"words_for_{target.name.lower()}", reset_less=True)
    m.d.sync += [
        words.valid.eq(load.valid & (load.p.target == target)),
        *(words[name].eq(load.p[name]) for name in load.p.shape().members),
    ]
    return words


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
        # What arrives while the output is held up, in the cycle in which `ready` falls. `ready` is
        # a register beside `held`, its opposite: one for those who ask, one for what it chooses.
        spare = Signal(self.i.payload.shape(), reset_less=True)
        held, ready, free = Signal(), Signal(init=1), Signal()
        m.d.comb += [self.i.ready.eq(ready), free.eq(~self.o.valid | self.o.ready)]
        m.d.sync += [
            held.eq(~free & (held | self.i.valid)),
            ready.eq(free | ~(held | self.i.valid)),
            self.o.valid.eq(held | self.i.valid | (self.o.valid & ~self.o.ready)),
        ]
        with m.If(ready):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(free):
            m.d.sync += self.o.payload.eq(Mux(held, spare, self.i.payload))
        return m


class ShortSlice(wiring.Component):
    """As `RegisterSlice`, with one register: `ready` runs through it.

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
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m


def register_slice(config: Config, shape):
    """The slice that a configuration's clock needs: a `RegisterSlice`, or a `ShortSlice`."""
    return (ShortSlice if config.relaxed else RegisterSlice)(shape)


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
