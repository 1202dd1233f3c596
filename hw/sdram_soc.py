"""The system on a chip with an SDRAM controller inside, as a simulator sees it."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from .config import Config
from .sdram import SdramController, SdramPins
from .sdram_chips import SDRAM_CHIPS, SDRAM_READ_DELAY
from .soc import SoC

__all__ = ["SdramSoC"]


class SdramSoC(wiring.Component):
    """`SoC(config, direct=True)`, or a component with its ports, whose main memory is the chip that
    the configuration names.

    Members are the SoC's but for the memory port, and `pins : Out(SdramPins)`, which lead to the
    chip by way of registers in the pads.
    """

    def __init__(self, config: Config, soc: wiring.Component | None = None):
        self._soc = SoC(config, direct=True) if soc is None else soc
        self._controller = SdramController(config, SDRAM_CHIPS[config.sdram],
                                           config.clock_mhz * 1e6, read_delay=SDRAM_READ_DELAY)
        members = dict(self._soc.signature.members)
        self._kept = [name for name in members if not name.startswith("memory_")]
        super().__init__({**{name: members[name] for name in self._kept},
                          "pins": Out(SdramPins(self._controller.chip))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.soc = soc = self._soc
        m.submodules.controller = controller = self._controller
        wiring.connect(m, soc.memory_read, controller.read)
        wiring.connect(m, soc.memory_write, controller.write)
        wiring.connect(m, controller.pins, wiring.flipped(self.pins))
        for name in self._kept:
            inner, outer = getattr(soc, name), getattr(self, name)
            member = self.signature.members[name]
            if member.is_port:
                m.d.comb += outer.eq(inner)
            else:
                wiring.connect(m, inner, wiring.flipped(outer))
        return m
