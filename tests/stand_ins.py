"""Small Amaranth components on which the tests of the tools themselves work."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.isa import ErrorCode, Queue
from systolith.hw.ports import MemoryReadSignature, memory_write_signature
from systolith.hw.soc import DirectSignature

__all__ = ["PAIR", "Accumulate", "CopySoC"]

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


class CopySoC(wiring.Component):
    """Has the SoC's ports; a run copies inverted beats, `burst` at a time, and marks every burst.

    The descriptor is four 32-bit words: source, destination, beats (0: error LENGTH), unused.
    Counters: cycles of the run, beats read, beats written. The link returns every byte plus one.
    """

    def __init__(self, config, *, outside: bool = False, burst: int = 64):
        self._beat = config.memory_bytes_per_beat
        self._burst = burst
        self._outside = 1 << 31 if outside else 0
        super().__init__({
            "rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8)),
            "memory_read": Out(MemoryReadSignature(config)),
            "memory_write": Out(memory_write_signature(config)),
            "direct": In(DirectSignature()),
            "counters": Out(data.ArrayLayout(32, 3)), "mark": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        read, write, direct = self.memory_read, self.memory_write, self.direct
        m.d.comb += [self.tx.valid.eq(self.rx.valid), self.rx.ready.eq(self.tx.ready),
                     self.tx.payload.eq(self.rx.payload + 1)]
        words = Signal(data.ArrayLayout(32, 4))
        source, destination, left, _ = words
        base, burst, got = Signal(32), Signal(7), Signal(7)
        cycles, beats_read, beats_written = self.counters
        m.d.comb += [direct.error_queue.eq(Queue.STORE),
                     burst.eq(Mux(left > self._burst, self._burst, left)),
                     write.payload.data.eq(~read.data.payload), direct.busy.eq(1),
                     write.payload.address.eq(destination | self._outside),
                     write.payload.mask.eq(~0)]
        m.d.sync += [cycles.eq(cycles + 1), self.mark.eq(0)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [direct.busy.eq(0), direct.start.ready.eq(1)]
                m.d.sync += cycles.eq(cycles)
                with m.If(direct.start.valid):
                    m.d.sync += [base.eq(direct.start.payload), cycles.eq(0), beats_read.eq(0),
                                 beats_written.eq(0), direct.error.eq(0), got.eq(0)]
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [read.request.valid.eq(1), read.request.payload.address.eq(base),
                             read.request.payload.beats.eq(16 // self._beat)]
                with m.If(read.request.ready):
                    m.next = "DESCRIPTOR"
            with m.State("DESCRIPTOR"):
                m.d.comb += read.data.ready.eq(1)
                with m.If(read.data.valid):
                    m.d.sync += [words.eq(Cat(words.as_value()[8 * self._beat:],
                                              read.data.payload)), got.eq(got + 1)]
                    with m.If(got == 16 // self._beat - 1):
                        m.next = "BURST"
            with m.State("BURST"):
                m.d.comb += [read.request.valid.eq(left != 0), read.request.payload.beats.eq(burst),
                             read.request.payload.address.eq(source)]
                m.d.sync += got.eq(burst)
                with m.If((left == 0) & (beats_read == 0)):
                    m.d.sync += direct.error.eq(ErrorCode.LENGTH)
                    m.next = "IDLE"
                with m.Elif(left == 0):
                    m.next = "IDLE"
                with m.Elif(read.request.ready):
                    m.d.sync += [beats_read.eq(beats_read + burst), left.eq(left - burst),
                                 source.eq(source + burst * self._beat)]
                    m.next = "COPY"
            with m.State("COPY"):
                m.d.comb += [write.valid.eq(read.data.valid), read.data.ready.eq(write.ready)]
                with m.If(write.valid & write.ready):
                    m.d.sync += [destination.eq(destination + self._beat), got.eq(got - 1),
                                 beats_written.eq(beats_written + 1)]
                    with m.If(got == 1):
                        m.d.sync += self.mark.eq(1)
                        m.next = "BURST"
        with m.If(direct.cancel & direct.busy):
            m.d.sync += direct.error.eq(ErrorCode.CANCELLED)
        return m
