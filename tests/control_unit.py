"""The control unit with its memory path as in the core, and the engines' ports left open."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.arbiter import MemoryArbiter
from systolith.hw.config import Config
from systolith.hw.control_unit import ControlUnit
from systolith.hw.counters import counter_port
from systolith.hw.head import ENGINE_LAYOUTS, engine_queues
from systolith.hw.ports import ControlSignature, Counter, EngineSignature, MemoryReadSignature

__all__ = ["OpenControlUnit"]


class OpenControlUnit(wiring.Component):
    """A control unit whose engines the bench plays."""

    def __init__(self, config: Config):
        self._config = config
        self._engines = [queue.name.lower() for queue in engine_queues(config)]
        super().__init__({
            "control": In(ControlSignature(config)),
            "read": Out(MemoryReadSignature(config)),
            **{queue.name.lower(): Out(EngineSignature(ENGINE_LAYOUTS[queue]))
               for queue in engine_queues(config)},
            "clear": Out(1),
            "mark": Out(1),
            **{counter_port(counter): Out(32) for counter in Counter},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = ControlUnit(self._config, watched=True)
        m.submodules.arbiter = arbiter = MemoryArbiter(self._config, readers=1, writers=1)
        wiring.connect(m, wiring.flipped(self.control), unit.control)
        wiring.connect(m, unit.read, arbiter.readers[0])
        wiring.connect(m, arbiter.memory_read, wiring.flipped(self.read))
        for name in self._engines:
            wiring.connect(m, getattr(unit, name), wiring.flipped(getattr(self, name)))
        for name in (*map(counter_port, Counter), "mark", "clear"):
            m.d.comb += getattr(self, name).eq(getattr(unit, name))
        m.d.comb += [arbiter.discard.eq(unit.clear), unit.drained.eq(~arbiter.reads_pending)]
        return m
