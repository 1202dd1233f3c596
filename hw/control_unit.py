"""The part of the core that decides when instructions begin: fetch, sequencer and counters."""

from amaranth import DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .counters import Counters, watched_ports
from .fetch import Fetch
from .head import ENGINE_LAYOUTS, engine_queues
from .ports import ControlSignature, EngineSignature, MemoryReadSignature
from .sequencer import Sequencer, add_run_domain

__all__ = ["ControlUnit"]


class ControlUnit(wiring.Component):
    """Fetches programs and runs them on engines.

    Members
    -------
    control : In(ControlSignature)
        Start, outcome, counters and timestamps of runs.
    read : Out(MemoryReadSignature)
        Fetching. When `clear` is 1 no request is accepted, and data is thrown away.
    hurry : Out(1)
        The request should not wait for its turn.
    load, array, vector, post, store : Out(EngineSignature)
        The engines that there are, with the layouts of `ENGINE_LAYOUTS`.
    clear, fresh : Out(1)
        As in `Sequencer`; `fresh` is the engines' reset.
    drained : In(1)
        Nothing that fetch or engines asked for is left in the memory system.
    weight_stall, read_beat, written : In
        Events that `Counters` counts.
    counter_cycles, … : Out(32), mark : Out(1)
        See `Counters`, as for the parameters.
    """

    def __init__(self, config: Config, *, watched: bool = False):
        self._config = config
        self._watched = watched
        super().__init__({
            "control": In(ControlSignature(config)),
            "read": Out(MemoryReadSignature(config)),
            "hurry": Out(1),
            **{queue.name.lower(): Out(EngineSignature(ENGINE_LAYOUTS[queue]))
               for queue in engine_queues(config)},
            "clear": Out(1),
            "fresh": Out(1),
            "drained": In(1),
            "weight_stall": In(1),
            "read_beat": In(1),
            "written": In(range(config.memory_bytes_per_beat + 1)),
            **watched_ports(watched),
            "mark": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.sequencer = sequencer = Sequencer(self._config)
        m.submodules.counters = counters = Counters(
            self._config, watched=self._watched)
        fetch = Fetch(self._config)
        add_run_domain(m, "fetching", sequencer.fresh)
        m.submodules.fetch = DomainRenamer("fetching")(fetch)
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        m.d.comb += [
            self.clear.eq(sequencer.clear),
            self.fresh.eq(sequencer.fresh),
            self.hurry.eq(fetch.hurry),
            sequencer.drained.eq(self.drained),
            fetch.start.eq(sequencer.fetch_start),
            fetch.base.eq(sequencer.base),
            fetch.want.eq(sequencer.want),
            sequencer.described.eq(fetch.described),
            sequencer.code.eq(fetch.code),
            fetch.start_queue.eq(sequencer.start_queue),
            sequencer.list_start.eq(fetch.list_start),
            sequencer.beat.eq(fetch.beat),
            sequencer.beat_valid.eq(fetch.beat_valid),
            sequencer.missing.eq(fetch.missing),
            counters.begin.eq(sequencer.begin),
            counters.running.eq(sequencer.running),
            counters.waiting.eq(sequencer.waiting),
            counters.retired.eq(sequencer.retired),
            counters.marked.eq(sequencer.marked),
            sequencer.log_pending.eq(counters.pending),
            counters.weight_stall.eq(self.weight_stall),
            counters.read_beat.eq(self.read_beat),
            counters.written.eq(self.written),
            self.mark.eq(counters.mark),
        ]
        for name in watched_ports(self._watched):
            m.d.comb += getattr(self, name).eq(getattr(counters, name))
        for queue in engine_queues(self._config):
            name = queue.name.lower()
            engine = getattr(self, name)
            wiring.connect(m, getattr(sequencer, name), wiring.flipped(engine))
            m.d.comb += [counters.active[queue].eq(engine.active),
                         counters.stall[queue].eq(engine.stall)]
        self._connect_control(m, sequencer, counters)
        return m

    def _connect_control(self, m, sequencer, counters):
        control = self.control
        wiring.connect(m, wiring.flipped(control.start), sequencer.start)
        m.d.comb += [
            sequencer.cancel.eq(control.cancel),
            sequencer.watchdog.eq(control.watchdog),
            control.busy.eq(sequencer.busy),
            control.error.eq(sequencer.error),
            control.error_queue.eq(sequencer.error_queue),
            control.error_address.eq(sequencer.error_address),
            counters.counter_index.eq(control.counter_index),
            control.counter_value.eq(counters.counter_value),
            control.counter_ready.eq(counters.counter_ready),
            counters.timestamp_index.eq(control.timestamp_index),
            control.timestamp_cycles.eq(counters.timestamp_cycles),
            control.timestamp_active.eq(counters.timestamp_active),
            control.timestamp_count.eq(counters.timestamp_count),
        ]
