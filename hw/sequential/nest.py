"""The sequential core's address generator: two loops, an address a cycle."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .ports import Output, written

__all__ = ["ADDRESS_BITS", "COUNT_BITS", "Nest"]

ADDRESS_BITS = 20
COUNT_BITS = 16


class Nest(wiring.Component):
    """Walks `COUNT_1` times `COUNT_0` addresses. Behind the last one the address stays, and JUMP
    or PASS leads to the next one.

    Parameters
    ----------
    hops : bool
        Whether there can be more than one address at a place.

    Members
    -------
    output, port, value : In
        The processor's ports `Output.ADDRESS` to `COUNT_1`, and `STEP_WORD`.
    begin : In(1)
        Take the counts; `active` from the next cycle on.
    step : In(1)
        To the next address.
    hop : In(1)
        To the next address of the same place, by `STEP_WORD`; only with `hops`.
    stop : In(1)
        `active` becomes 0.
    address : Out, active : Out(1), last : Out(1)
        `last`: there is no address behind this one.
    """

    def __init__(self, *, hops: bool = False):
        self._hops = hops
        super().__init__({
            "output": In(1), "port": In(5), "value": In(32),
            "begin": In(1), "step": In(1), **({"hop": In(1)} if hops else {}), "stop": In(1),
            "address": Out(ADDRESS_BITS), "active": Out(1), "last": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        steps = [Signal(ADDRESS_BITS, name=f"step_{k}") for k in range(2)]
        counts = [Signal(COUNT_BITS, name=f"count_{k}") for k in range(2)]
        left = [Signal(COUNT_BITS, name=f"left_{k}") for k in range(2)]
        single = [counter == 1 for counter in left]
        jump = Signal()
        for port, register in ((Output.STEP_0, steps[0]), (Output.STEP_1, steps[1]),
                               (Output.COUNT_0, counts[0]), (Output.COUNT_1, counts[1])):
            with m.If(written(self, port)):
                m.d.sync += register.eq(self.value)
        m.d.comb += [
            jump.eq(self.output & ((self.port == Output.JUMP) | (self.port == Output.PASS))),
            self.last.eq(single[0] & single[1]),
        ]
        moves, distance = (self.step & ~self.last) | jump, Mux(single[0], steps[1], steps[0])
        if self._hops:
            hop = Signal(ADDRESS_BITS)
            with m.If(written(self, Output.STEP_WORD)):
                m.d.sync += hop.eq(self.value)
            moves, distance = moves | self.hop, Mux(self.hop, hop, distance)
        with m.If(moves):
            m.d.sync += self.address.eq(
                self.address + Mux(jump, self.value[:ADDRESS_BITS], distance))
        with m.If(written(self, Output.ADDRESS)):
            m.d.sync += self.address.eq(0)
        with m.If(self.step | self.begin):
            m.d.sync += left[0].eq(Mux(self.begin | single[0], counts[0], left[0] - 1))
        with m.If((self.step & single[0]) | self.begin):
            m.d.sync += left[1].eq(Mux(self.begin, counts[1], left[1] - 1))
        with m.If(self.begin):
            m.d.sync += self.active.eq(1)
        with m.Elif(self.stop | (self.step & self.last)):
            m.d.sync += self.active.eq(0)
        return m
