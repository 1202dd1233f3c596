"""The accelerator core: control unit, engines, scratchpad and memory arbiter."""

from amaranth import Cat, DomainRenamer, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from .arbiter import MemoryArbiter
from .array_engine import ArrayEngine
from .config import Config
from .control_unit import ControlUnit
from .counters import watched_ports
from .isa import LoadTarget, Queue
from .load import LoadMover
from .ports import core_members
from .post import PostProcessor
from .scratchpad import Scratchpad
from .sequencer import add_run_domain
from .store import StoreMover
from .vector import VectorUnit

__all__ = ["Core"]

_HOST, _FETCH, _LOAD = range(3)  # readers of main memory
_STORE = 1                       # of its writers, behind the host


class Core(wiring.Component):
    """Runs programs from main memory (`docs/architecture.md`).

    Parameters
    ----------
    config : Config
    watched : bool
        Show all counters in every cycle, for simulations.

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
        Only if `watched`: every counter, by the names of `counter_port`.
    mark : Out(1)
        Pulse a marked instruction, when its entry is written to the timestamp log.
    """

    def __init__(self, config: Config, *, watched: bool = False):
        self._config = config
        self._watched = watched
        super().__init__({**core_members(config), **watched_ports(watched), "mark": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.control_unit = control = ControlUnit(
            config, watched=self._watched)
        m.submodules.scratchpad = scratchpad = Scratchpad(config)
        m.submodules.arbiter = arbiter = MemoryArbiter(config, readers=3, writers=2)

        # What a run leaves behind goes with the run.
        add_run_domain(m, "engines", control.fresh)
        engines = {Queue.LOAD: LoadMover(config), Queue.ARRAY: ArrayEngine(config),
                   Queue.POST: PostProcessor(config), Queue.STORE: StoreMover(config)}
        if config.vector_taps:
            engines[Queue.VECTOR] = VectorUnit(config)
        for queue, engine in engines.items():
            name = queue.name.lower()
            m.submodules[name] = DomainRenamer("engines")(engine)
            wiring.connect(m, getattr(control, name), engine.engine)

        self._connect_memory(m, control, arbiter, engines)
        self._connect_scratchpad(m, scratchpad, engines)
        self._connect_loads(m, engines)
        self._count(m, control, engines)
        wiring.connect(m, wiring.flipped(self.control), control.control)
        for name in (*watched_ports(self._watched), "mark"):
            m.d.comb += getattr(self, name).eq(getattr(control, name))
        return m

    def _connect_memory(self, m, control, arbiter, engines):
        wiring.connect(m, wiring.flipped(self.host_read), arbiter.readers[_HOST])
        wiring.connect(m, control.read, arbiter.readers[_FETCH])
        wiring.connect(m, engines[Queue.LOAD].read, arbiter.readers[_LOAD])
        wiring.connect(m, wiring.flipped(self.host_write), arbiter.writers[_HOST])
        wiring.connect(m, engines[Queue.STORE].write, arbiter.writers[_STORE])
        wiring.connect(m, arbiter.memory_read, wiring.flipped(self.read))
        wiring.connect(m, arbiter.memory_write, wiring.flipped(self.write))
        m.d.comb += [
            arbiter.discard[_FETCH].eq(control.clear),
            arbiter.discard[_LOAD].eq(control.clear),
            arbiter.hurry[_FETCH].eq(control.hurry),
            control.drained.eq(~(arbiter.reads_pending[_FETCH] | arbiter.reads_pending[_LOAD]
                                 | arbiter.writes_pending[_STORE])),
        ]

    def _connect_scratchpad(self, m, scratchpad, engines):
        array, post = engines[Queue.ARRAY], engines[Queue.POST]
        wiring.connect(m, array.activation, scratchpad.array)
        wiring.connect(m, post.operand_a, scratchpad.operand_a)
        wiring.connect(m, engines[Queue.STORE].read, scratchpad.store)
        wiring.connect(m, post.write, scratchpad.post)
        wiring.connect(m, engines[Queue.LOAD].write, scratchpad.load)
        wiring.connect(m, post.array, array.accumulators)
        if self._config.residual:
            wiring.connect(m, post.operand_b, scratchpad.operand_b)
        if self._config.vector_taps:
            wiring.connect(m, engines[Queue.VECTOR].activation, scratchpad.vector)
            wiring.connect(m, post.vector, engines[Queue.VECTOR].accumulators)

    def _connect_loads(self, m, engines):
        """Loaded words go to the engine whose memory is meant."""
        load = engines[Queue.LOAD].load
        owners = {Queue.ARRAY: [LoadTarget.WEIGHT], Queue.POST: [LoadTarget.PARAMETER]}
        if self._config.table:
            owners[Queue.POST].append(LoadTarget.TABLE)
        if self._config.vector_taps:
            owners[Queue.VECTOR] = [LoadTarget.VECTOR_WEIGHT]
        for queue, targets in owners.items():
            port = engines[queue].load
            mine = Signal(name=f"loads_{queue.name.lower()}")
            m.d.comb += [
                mine.eq(Cat(load.payload.target == target for target in targets).any()),
                port.payload.eq(load.payload),
                port.valid.eq(load.valid & mine),
            ]
            with m.If(mine):
                m.d.comb += load.ready.eq(port.ready)

    def _count(self, m, control, engines):
        fetch, load = control.read.data, engines[Queue.LOAD].read.data
        store = engines[Queue.STORE].write
        with m.If(store.valid & store.ready):
            m.d.comb += control.written.eq(sum(store.payload.mask))
        m.d.comb += [
            control.weight_stall.eq(engines[Queue.ARRAY].weight_stall),
            control.read_beat.eq((fetch.valid & fetch.ready) | (load.valid & load.ready)),
        ]
