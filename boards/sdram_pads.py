"""An SDRAM controller's pins through registers in the pads, and the chip's clock.

The chip's clock is the core's, turned by half a period: commands change half a period before the
chip takes them, and its words are caught by the pads' registers half a period and the pads' delays
after it sends them.
"""

from math import ceil, floor

from amaranth import Const, Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In

from systolith.errors import BuildError
from systolith.hw.sdram import SdramPins
from systolith.hw.sdram_chips import SdramChip

from .board import bare_pins

__all__ = ["PAD_NS", "SdramPads", "read_delay"]

PAD_NS = 5.0
"""What the FPGA's pads and the board's wires take in both directions together: assumed, not
measured."""

_MARGIN_NS = 1.0


def read_delay(chip: SdramChip, clock_mhz: float) -> int:
    """Cycles by which words arrive late, of which one is the commands' register in the pads.

    With the period T, a word is there from tAC + `PAD_NS` to T + tOH + `PAD_NS` behind the edge of
    the chip's clock that sends it. The pads' registers take it T/2 behind that edge when the clock
    is slow, or 3T/2 behind it.

    Raises `BuildError` for the clocks in between, at which either is too close.
    """
    half = 500.0 / clock_mhz
    first, last = chip.tAC + PAD_NS, 2 * half + chip.tOH + PAD_NS
    margins = {delay: min(edge - first, last - edge)
               for delay, edge in ((1, half), (2, 3 * half))}
    best = max(margins, key=margins.__getitem__)
    if margins[best] < _MARGIN_NS:
        raise BuildError(f"at {clock_mhz:g} MHz no edge of the clock is safe for reading "
                         f"{chip.name}: choose a clock_mhz of at most "
                         f"{floor(500 / (first + _MARGIN_NS))}, or of "
                         f"{ceil(500 / (chip.tOH + PAD_NS - _MARGIN_NS))} and more")
    return best


class SdramPads(wiring.Component):
    """Connects `pins : In(SdramPins)` with the platform's resource `sdram`."""

    def __init__(self, chip):
        super().__init__({"pins": In(SdramPins(chip))})

    def elaborate(self, platform):
        m = Module()
        pads = bare_pins(platform, "sdram")
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
