"""The first stage of an engine that prefetches weights: holds an instruction for two takers."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Intake"]


class Intake(wiring.Component):
    """Holds the next instruction until both the issue side and the weight loader have taken it.

    The loader, being ahead, takes it while the issue side still works on the one before. The next
    instruction is accepted when both have taken this one.

    Parameters
    ----------
    layout : StructLayout
        Fields of the instruction.
    in_place : bool
        It is held where it is, by whoever offers it, and accepted when the second side takes it:
        without registers, and the next one comes later.

    Members
    -------
    i : In(stream)
        Instructions.
    wrong, uses_weights : In(1)
        About the instruction on `i`: its lengths are wrong, so that nobody may take it; its weights
        must be loaded, so that the loader takes it too.
    held : Out
        The instruction that is held.
    is_wrong : Out(1)
        A wrong instruction is held.
    issue, loader : Out(stream of no payload)
        `valid`: the held instruction is there to be taken, once by each side.
    """

    def __init__(self, layout: data.StructLayout, *, in_place: bool = False):
        self._in_place = in_place
        super().__init__({
            "i": In(stream.Signature(layout)),
            "wrong": In(1),
            "uses_weights": In(1),
            "held": Out(layout),
            "is_wrong": Out(1),
            "issue": Out(stream.Signature(0)),
            "loader": Out(stream.Signature(0)),
        })

    def elaborate(self, platform):
        m = Module()
        if self._in_place:
            self._elaborate_in_place(m)
            return m
        held = Signal.like(self.held, reset_less=True)
        m.d.comb += [
            self.held.eq(held),
            self.i.ready.eq(~self.is_wrong & ~self.issue.valid & ~self.loader.valid),
        ]
        for side in (self.issue, self.loader):
            with m.If(side.ready):
                m.d.sync += side.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                held.eq(self.i.p),
                self.is_wrong.eq(self.wrong),
                self.issue.valid.eq(~self.wrong),
                self.loader.valid.eq(~self.wrong & self.uses_weights),
            ]
        return m

    def _elaborate_in_place(self, m):
        good = self.i.valid & ~self.wrong
        taken = Signal(2)
        sides = ((self.issue, Const(1)), (self.loader, self.uses_weights))
        m.d.comb += [
            self.held.eq(self.i.p),
            self.is_wrong.eq(self.i.valid & self.wrong),
            *(side.valid.eq(good & wanted & ~taken[k]) for k, (side, wanted) in enumerate(sides)),
            self.i.ready.eq(~self.wrong & Cat(
                taken[k] | side.ready | ~wanted for k, (side, wanted) in enumerate(sides)).all()),
        ]
        m.d.sync += taken.eq(Mux(self.i.ready, 0, taken | Cat(
            side.valid & side.ready for side, _ in sides)))
