"""The accelerator core: sequencer, engines, scratchpad and memory arbiter."""

from amaranth import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .arbiter import MemoryArbiter
from .array_engine import ArrayEngine
from .config import Config
from .counters import Counters, counter_port
from .fetch import Fetch
from .isa import LoadTarget, Queue
from .load import LoadMover
from .ports import ControlSignature, Counter, MemoryReadSignature, memory_write_signature
from .post import PostProcessor
from .scratchpad import Scratchpad
from .sequencer import Sequencer
from .store import StoreMover
from .vector import VectorUnit

__all__ = ["Core"]

_HOST, _FETCH, _LOAD = range(3)  # readers of main memory
_STORE = 1                       # of its writers, behind the host


class Core(wiring.Component):
    """Runs programs from main memory (`docs/architecture.md`).

    Members
    -------
    control : In(ControlSignature)
        Start, outcome, counters and timestamps of runs.
    read : Out(MemoryReadSignature), write : Out(memory_write_signature)
        Main memory.
    host_read : In(MemoryReadSignature), host_write : In(memory_write_signature)
        By which the link endpoint reaches main memory, at any time. It asks only for data that it
        takes without delay.
    counter_cycles, … : Out(32)
        Every counter, by the names of `counter_port`, for simulations.
    mark : Out(1)
        Pulse a marked instruction, when its entry is written to the timestamp log.
    """

    def __init__(self, config: Config):
        self._config = config
        read, write = MemoryReadSignature(config), memory_write_signature(config)
        super().__init__({
            "control": In(ControlSignature(config)),
            "read": Out(read),
            "write": Out(write),
            "host_read": In(read),
            "host_write": In(write),
            **{counter_port(counter): Out(32) for counter in Counter},
            "mark": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.scratchpad = scratchpad = Scratchpad(config)
        m.submodules.arbiter = arbiter = MemoryArbiter(config, readers=3, writers=2)
        m.submodules.counters = counters = Counters(config)

        # What a run leaves behind goes with the run.
        parts = {
            "fetch": Fetch(config), "load": LoadMover(config), "array": ArrayEngine(config),
            "post": PostProcessor(config), "store": StoreMover(config),
        }
        if config.vector_taps:
            parts["vector"] = VectorUnit(config)
        for name, part in parts.items():
            m.submodules[name] = ResetInserter(sequencer.clear)(part)

        self._connect_memory(m, sequencer, arbiter, parts)
        self._connect_fetch(m, sequencer, parts["fetch"])
        self._connect_engines(m, sequencer, scratchpad, parts)
        self._connect_control(m, sequencer, counters)
        self._count(m, sequencer, counters, arbiter, parts)
        return m

    def _connect_memory(self, m, sequencer, arbiter, parts):
        wiring.connect(m, wiring.flipped(self.host_read), arbiter.readers[_HOST])
        wiring.connect(m, parts["fetch"].read, arbiter.readers[_FETCH])
        wiring.connect(m, parts["load"].read, arbiter.readers[_LOAD])
        wiring.connect(m, wiring.flipped(self.host_write), arbiter.writers[_HOST])
        wiring.connect(m, parts["store"].write, arbiter.writers[_STORE])
        wiring.connect(m, arbiter.memory_read, wiring.flipped(self.read))
        wiring.connect(m, arbiter.memory_write, wiring.flipped(self.write))
        m.d.comb += [
            arbiter.discard[_FETCH].eq(sequencer.clear),
            arbiter.discard[_LOAD].eq(sequencer.clear),
            sequencer.drained.eq(~(arbiter.reads_pending[_FETCH] | arbiter.reads_pending[_LOAD]
                                   | arbiter.writes_pending[_STORE])),
        ]

    def _connect_fetch(self, m, sequencer, fetch):
        m.d.comb += [
            fetch.start.eq(sequencer.fetch_start),
            fetch.base.eq(sequencer.base),
            fetch.want.eq(sequencer.want),
            sequencer.described.eq(fetch.described),
            sequencer.code.eq(fetch.code),
            sequencer.starts.eq(fetch.starts),
            sequencer.beat.eq(fetch.beat),
            sequencer.beat_valid.eq(fetch.beat_valid),
            sequencer.missing.eq(fetch.missing),
        ]

    def _connect_engines(self, m, sequencer, scratchpad, parts):
        for queue in Queue:
            name = queue.name.lower()
            if name in parts:
                wiring.connect(m, getattr(sequencer, name), parts[name].engine)
        load, post, array = parts["load"], parts["post"], parts["array"]
        wiring.connect(m, array.activation, scratchpad.array)
        wiring.connect(m, post.operand_a, scratchpad.operand_a)
        wiring.connect(m, parts["store"].read, scratchpad.store)
        wiring.connect(m, post.write, scratchpad.post)
        wiring.connect(m, load.write, scratchpad.load)
        wiring.connect(m, post.array, array.accumulators)
        if self._config.residual:
            wiring.connect(m, post.operand_b, scratchpad.operand_b)
        owners = {LoadTarget.WEIGHT: array, LoadTarget.PARAMETER: post}
        if self._config.table:
            owners[LoadTarget.TABLE] = post
        if self._config.vector_taps:
            vector = parts["vector"]
            wiring.connect(m, vector.activation, scratchpad.vector)
            wiring.connect(m, post.vector, vector.accumulators)
            owners[LoadTarget.VECTOR_WEIGHT] = vector

        for part in {id(part): part for part in owners.values()}.values():
            mine = Signal()
            m.d.comb += [
                mine.eq(Cat(load.load.payload.target == target
                            for target, owner in owners.items() if owner is part).any()),
                part.load.payload.eq(load.load.payload),
                part.load.valid.eq(load.load.valid & mine),
            ]
            with m.If(mine):
                m.d.comb += load.load.ready.eq(part.load.ready)

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
            counters.timestamp_index.eq(control.timestamp_index),
            control.timestamp_cycles.eq(counters.timestamp_cycles),
            control.timestamp_active.eq(counters.timestamp_active),
            control.timestamp_count.eq(counters.timestamp_count),
            self.mark.eq(counters.mark),
        ]
        for counter in Counter:
            name = counter_port(counter)
            m.d.comb += getattr(self, name).eq(getattr(counters, name))

    def _count(self, m, sequencer, counters, arbiter, parts):
        fetch, load, store = parts["fetch"].read, parts["load"].read, parts["store"].write
        written = Signal.like(counters.written)
        with m.If(store.valid & store.ready):
            m.d.comb += written.eq(sum(store.payload.mask))
        m.d.comb += [
            counters.begin.eq(sequencer.begin),
            counters.running.eq(sequencer.running),
            counters.waiting.eq(sequencer.waiting),
            counters.retired.eq(sequencer.retired),
            counters.marked.eq(sequencer.marked),
            sequencer.log_pending.eq(counters.pending),
            counters.weight_stall.eq(parts["array"].weight_stall),
            counters.read_beat.eq((fetch.data.valid & fetch.data.ready)
                                  | (load.data.valid & load.data.ready)),
            counters.written.eq(written),
        ]
        for queue in Queue:
            name = queue.name.lower()
            if name in parts:
                m.d.comb += [counters.active[queue].eq(parts[name].engine.active),
                             counters.stall[queue].eq(parts[name].engine.stall)]
