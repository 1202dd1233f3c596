"""Counters of a run, and the log of marked instructions."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .head import MAX_IN_FLIGHT
from .isa import Queue
from .protocol import Counter
from .totals import Totals, event_shift

__all__ = ["Counters", "counter_port", "watched_ports"]

_QUEUES = len(Queue)


def counter_port(counter: Counter) -> str:
    """Name of the output that carries a counter's value."""
    return f"counter_{counter.name.lower()}"


def watched_ports(watched: bool) -> dict[str, Out]:
    """Outputs, by the names of `counter_port`, of a component whose counters are `watched`."""
    return {counter_port(counter): Out(32) for counter in Counter} if watched else {}


class Counters(wiring.Component):
    """Counts the events of a run and logs its marked instructions.

    Only the two counters that the log needs in an instant are registers; all are kept by `Totals`.

    A mark logs the values of CYCLES and ARRAY_ACTIVE. When several marked instructions retire in
    one cycle, their entries are written one a cycle, the lowest queue's first, with the values of
    the cycle of writing. A full log keeps its entries.

    Parameters
    ----------
    config : Config
    watched : bool
        Add a register a counter, which a simulation looks at in any cycle.

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
    counter_index, counter_value, counter_ready, timestamp_index, timestamp_cycles,
    timestamp_active, timestamp_count
        As in `ControlSignature`.
    counter_cycles, … : Out(32)
        Only if `watched`: every counter's value, by the name of `counter_port`.
    mark : Out(1)
        Pulse: an entry is written to the log, or would be if there were room.
    pending : Out(1)
        Entries wait to be written, of what retired in earlier cycles.
    """

    def __init__(self, config: Config, *, watched: bool = False):
        self._config = config
        self._watched = watched
        super().__init__({
            "begin": In(1),
            "running": In(1),
            **{name: In(_QUEUES) for name in ("active", "stall", "waiting", "retired", "marked")},
            "weight_stall": In(1),
            "read_beat": In(1),
            "written": In(range(config.memory_bytes_per_beat + 1)),
            "counter_index": In(range(len(Counter))),
            "counter_value": Out(32),
            "counter_ready": Out(1),
            "timestamp_index": In(range(config.timestamps)),
            "timestamp_cycles": Out(32),
            "timestamp_active": Out(32),
            "timestamp_count": Out(range(config.timestamps + 1)),
            **watched_ports(watched),
            "mark": Out(1),
            "pending": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # All of them a cycle late, which keeps the counters out of everybody's path.
        late = {name: Signal.like(getattr(self, name), name=f"late_{name}") for name in (
            "running", "active", "stall", "waiting", "retired", "marked", "weight_stall",
            "read_beat", "written")}
        m.d.sync += [signal.eq(getattr(self, name)) for name, signal in late.items()]
        events = {
            Counter.CYCLES: Const(1, 1),
            Counter.BYTES_READ: late["read_beat"],
            Counter.BYTES_WRITTEN: late["written"],
            Counter.ARRAY_WEIGHT: late["weight_stall"],
        }
        for queue in Queue:
            for kind, name in (("ACTIVE", "active"), ("WAIT", "waiting"), ("STALL", "stall"),
                               ("RETIRED", "retired")):
                events[Counter[f"{queue.name}_{kind}"]] = late[name][queue]
        m.submodules.totals = totals = Totals(self._config)
        m.d.comb += [
            totals.begin.eq(self.begin),
            *(totals.events[counter.name].eq(Mux(late["running"], event, 0))
              for counter, event in events.items()),
            totals.index.eq(self.counter_index),
            self.counter_value.eq(totals.value),
            self.counter_ready.eq(totals.ready),
        ]
        self._log(m, late["marked"], self._registers(m, late["running"], events))
        return m

    def _registers(self, m, running, events):
        """Counters that are registers: those of the log, or all."""
        values = {}
        for counter in Counter if self._watched else (Counter.CYCLES, Counter.ARRAY_ACTIVE):
            name, shift = counter_port(counter), event_shift(counter, self._config)
            value = values[counter] = Signal(32, name=f"{name}_register")
            with m.If(self.begin):
                m.d.sync += value.eq(0)
            with m.Elif(running):
                m.d.sync += value.eq(value + (events[counter] << shift))
            if self._watched:
                m.d.comb += getattr(self, name).eq(value)
        return values

    def _log(self, m, marked, values):
        waiting = [Signal(range(MAX_IN_FLIGHT + 1), name=f"marks_{queue.name.lower()}")
                   for queue in Queue]
        served = 0
        for queue in Queue:
            serve = (waiting[queue] != 0) & ~served
            served |= waiting[queue] != 0
            m.d.sync += waiting[queue].eq(waiting[queue] + marked[queue] - serve)
        m.d.comb += [
            self.pending.eq(Cat(waiting).any() | marked.any()),
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
