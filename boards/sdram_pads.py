"""An SDRAM controller's pins through registers in the pads, and the chip's clock.

The chip's clock is the core's, turned by half a period: commands change half a period before the
chip takes them, and its words are caught by the pads' registers half a period and the pads' delays
after it sends them.
"""

from amaranth import Const, Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In

from systolith.hw.sdram import SdramPins

__all__ = ["READ_DELAY", "SdramPads"]

READ_DELAY = 2
"""Registers on the way: one in the pads of the commands, one in those of the data."""


class SdramPads(wiring.Component):
    """Connects `pins : In(SdramPins)` with the platform's resource `sdram`."""

    def __init__(self, chip):
        super().__init__({"pins": In(SdramPins(chip))})

    def elaborate(self, platform):
        m = Module()
        resource = platform.lookup("sdram", 0)
        pads = platform.request("sdram", 0, dir={pin.name: "-" for pin in resource.ios})
        pins = self.pins
        m.submodules.clock = clock = io.DDRBuffer("o", pads.clk)
        m.d.comb += [clock.o[0].eq(0), clock.o[1].eq(Const(-1, len(clock.o[1])))]
        # The resource says which pads are active low.
        for name, value in (("clk_en", pins.cke), ("cs", ~pins.cs_n), ("ras", ~pins.ras_n),
                            ("cas", ~pins.cas_n), ("we", ~pins.we_n), ("ba", pins.ba),
                            ("a", pins.a), ("dqm", pins.dqm)):
            if hasattr(pads, name):
                m.submodules[name] = pad = io.FFBuffer("o", getattr(pads, name))
                m.d.comb += pad.o.eq(value)
        m.submodules.dq = dq = io.FFBuffer("io", pads.dq)
        m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
        return m
