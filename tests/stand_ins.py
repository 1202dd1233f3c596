"""Small Amaranth components on which the tests of the tools themselves work."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PAIR", "Accumulate"]

PAIR = data.StructLayout({"index": 6, "value": signed(8)})


class Accumulate(wiring.Component):
    """Adds each value to the total of its index and gives the new total.

    `defect` builds a mistake in: "unstable" lets the payload change while it waits, "drop" loses
    an item when the output is refused, "sum" forgets a sign.
    """

    i: In(stream.Signature(PAIR))
    o: Out(stream.Signature(signed(24)))

    def __init__(self, defect: str | None = None):
        self._defect = defect
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.totals = totals = memory.Memory(shape=signed(24), depth=64, init=[])
        write, read = totals.write_port(), totals.read_port(domain="comb")
        total = Signal(signed(24))
        value = self.i.payload.value
        operand = value.as_unsigned() if self._defect == "sum" else value
        m.d.comb += [
            read.addr.eq(self.i.payload.index), write.addr.eq(self.i.payload.index),
            total.eq(read.data + operand), write.data.eq(total),
            write.en.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(1 if self._defect == "drop" else ~self.o.valid | self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.o.payload.eq(total), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        if self._defect == "unstable":
            with m.If(self.o.valid & ~self.o.ready):
                m.d.sync += self.o.payload.eq(self.o.payload + 1)
        return m
