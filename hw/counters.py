"""Counters of a run, and the log of marked instructions."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .head import MAX_IN_FLIGHT
from .isa import Queue
from .protocol import Counter

__all__ = ["Counters", "counter_port"]

_QUEUES = len(Queue)


def counter_port(counter: Counter) -> str:
    """Name of the output that carries a counter's value."""
    return f"counter_{counter.name.lower()}"


class Counters(wiring.Component):
    """Counts the events of a run and logs its marked instructions.

    A mark logs the values of CYCLES and ARRAY_ACTIVE. When several marked instructions retire in
    one cycle, their entries are written one a cycle, the lowest queue's first, with the values of
    the cycle of writing. A full log keeps its entries.

    Members
    -------
    begin : In(1)
        Clear all counters and the log.
    running : In(1)
        Count. What retires in a cycle counts from the next one on.
    active, stall, waiting, retired, marked : In(5)
        Events, a bit a queue.
    weight_stall : In(1)
        The array lost a cycle because the next tile was not there.
    read_beat : In(1), written : In
        A beat was read; bytes written in this cycle.
    counter_index, counter_value, timestamp_index, timestamp_cycles, timestamp_active,
    timestamp_count
        As in `ControlSignature`.
    counter_cycles, … : Out(32)
        Every counter's value, by the name of `counter_port`; a simulation looks at them.
    mark : Out(1)
        Pulse: an entry is written to the log, or would be if there were room.
    pending : Out(1)
        Entries wait to be written.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "begin": In(1),
            "running": In(1),
            **{name: In(_QUEUES) for name in ("active", "stall", "waiting", "retired", "marked")},
            "weight_stall": In(1),
            "read_beat": In(1),
            "written": In(range(config.memory_bytes_per_beat + 1)),
            "counter_index": In(range(len(Counter))),
            "counter_value": Out(32),
            "timestamp_index": In(range(config.timestamps)),
            "timestamp_cycles": Out(32),
            "timestamp_active": Out(32),
            "timestamp_count": Out(range(config.timestamps + 1)),
            **{counter_port(counter): Out(32) for counter in Counter},
            "mark": Out(1),
            "pending": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        values = {counter: getattr(self, counter_port(counter)) for counter in Counter}
        # All of them a cycle late, which keeps the counters out of everybody's path.
        late = {name: Signal.like(getattr(self, name), name=f"late_{name}") for name in (
            "running", "active", "stall", "waiting", "retired", "marked", "weight_stall",
            "read_beat", "written")}
        m.d.sync += [signal.eq(getattr(self, name)) for name, signal in late.items()]
        increments = {
            Counter.CYCLES: 1,
            Counter.BYTES_READ: Mux(late["read_beat"], self._config.memory_bytes_per_beat, 0),
            Counter.BYTES_WRITTEN: late["written"],
            Counter.ARRAY_WEIGHT: late["weight_stall"],
        }
        for queue in Queue:
            for kind, events in (("ACTIVE", "active"), ("WAIT", "waiting"), ("STALL", "stall"),
                                 ("RETIRED", "retired")):
                increments[Counter[f"{queue.name}_{kind}"]] = late[events][queue]
        with m.If(self.begin):
            m.d.sync += [value.eq(0) for value in values.values()]
        with m.Elif(late["running"]):
            for counter, increment in increments.items():
                m.d.sync += values[counter].eq(values[counter] + increment)
        index = Signal.like(self.counter_index)
        m.d.sync += [index.eq(self.counter_index), self.counter_value.eq(
            Cat(*values.values()).word_select(index, 32))]

        waiting = [Signal(range(MAX_IN_FLIGHT + 1), name=f"marks_{queue.name.lower()}")
                   for queue in Queue]
        served = 0
        for queue in Queue:
            serve = (waiting[queue] != 0) & ~served
            served |= waiting[queue] != 0
            m.d.sync += waiting[queue].eq(waiting[queue] + late["marked"][queue] - serve)
        m.d.comb += [
            self.pending.eq(Cat(waiting).any() | late["marked"].any() | self.marked.any()),
            self.mark.eq(Cat(waiting).any()),
        ]
        m.submodules.log = log = memory.Memory(
            shape=64, depth=self._config.timestamps, init=[])
        write, read = log.write_port(), log.read_port()
        m.d.comb += [
            write.addr.eq(self.timestamp_count),
            write.data.eq(Cat(values[Counter.CYCLES], values[Counter.ARRAY_ACTIVE])),
            write.en.eq(self.mark & (self.timestamp_count != self._config.timestamps)),
            read.addr.eq(self.timestamp_index),
            Cat(self.timestamp_cycles, self.timestamp_active).eq(read.data),
        ]
        with m.If(self.begin):
            m.d.sync += self.timestamp_count.eq(0)
            m.d.sync += [count.eq(0) for count in waiting]
        with m.Elif(write.en):
            m.d.sync += self.timestamp_count.eq(self.timestamp_count + 1)
        return m
