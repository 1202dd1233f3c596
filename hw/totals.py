"""The counters' values: a memory of totals, and in front of it a few bits a counter."""

from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .protocol import COUNTERS, Counter

__all__ = ["Totals", "event_bits", "event_shift"]


def event_bits(counter: Counter, config: Config) -> int:
    """Width of what is counted in a cycle."""
    return config.memory_bytes_per_beat.bit_length() if counter == Counter.BYTES_WRITTEN else 1


def event_shift(counter: Counter, config: Config) -> int:
    """Power of two that an event of the counter stands for: beats are counted for bytes."""
    beats = counter == Counter.BYTES_READ
    return config.memory_bytes_per_beat.bit_length() - 1 if beats else 0


class Totals(wiring.Component):
    """Counts events of each `Counter` in 32 bits, with one adder for all of them.

    Every counter has its turn once in `COUNTERS` cycles. What was counted since its last turn is
    then added to its total, and the sum shown: it has all events of the cycles before.

    Members
    -------
    begin : In(1)
        All counters are zero from the next cycle on.
    events : In
        What is added in this cycle, by the names of `Counter`, `event_bits` wide and to be
        multiplied by 2 to the `event_shift`.
    index : In
        Counter that is asked for.
    value : Out(32), ready : Out(1)
        A sum, and whether it is that of the counter asked for in the cycle before.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "begin": In(1),
            "events": In(data.StructLayout({
                counter.name: event_bits(counter, config) for counter in Counter})),
            "index": In(range(COUNTERS)),
            "value": Out(32),
            "ready": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.cells = cells = memory.Memory(shape=32, depth=COUNTERS, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        # Turns begin anew with the run; in the first round totals are not what the memory says.
        turn = Signal(range(COUNTERS))
        first = Signal(init=1)
        with m.If(self.begin):
            m.d.sync += [turn.eq(0), first.eq(1)]
        with m.Elif(turn == COUNTERS - 1):
            m.d.sync += [turn.eq(0), first.eq(0)]
        with m.Else():
            m.d.sync += turn.eq(turn + 1)

        # Three steps: the total is read, the events are added, the sum is shown and written.
        total = Signal(32)
        adding = Signal(COUNTERS)   # a bit a counter, for a multiplexer of ANDs and ORs
        number, shown = (Signal(range(COUNTERS + 1), name=name, init=COUNTERS)
                         for name in ("number", "shown"))
        m.d.comb += read.addr.eq(turn)
        m.d.sync += [
            total.eq(Mux(first, 0, read.data)),
            adding.eq(Cat(turn == 0, adding[:-1])), number.eq(turn),
            shown.eq(number), self.ready.eq(number == self.index),
        ]
        recent = []
        for counter in Counter:
            event, is_adding = self.events[counter.name], adding[counter]
            most = (self._config.memory_bytes_per_beat if len(event) > 1 else 1) * COUNTERS
            count = Signal(range(most + 1), name=f"recent_{counter.name.lower()}")
            with m.If(self.begin):
                m.d.sync += count.eq(0)
            with m.Elif(is_adding):
                m.d.sync += count.eq(event)
            with m.Else():
                m.d.sync += count.eq(_sum(count, event))
            recent.append(Mux(is_adding, count << event_shift(counter, self._config), 0))
        m.d.sync += self.value.eq(total + reduce(or_, recent))
        m.d.comb += [
            write.addr.eq(shown), write.data.eq(self.value), write.en.eq(1),
        ]
        return m


def _sum(value, event):
    """`value + event`; without a carry chain for one bit, as chains cost more than so few bits."""
    if len(event) > 1:
        return value + event
    bits, carry = [], event
    for digit in value:
        bits.append(digit ^ carry)
        carry = digit & carry
    return Cat(bits)
