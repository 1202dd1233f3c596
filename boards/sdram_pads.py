"""An SDRAM controller's pins through registers in the pads, and the chip's clock.

The chip's clock is the core's, later by one to three quarters of a period: as much as leaves
commands on their way out, and words on their way back, most room.
"""

from dataclasses import dataclass

from amaranth import ClockSignal, Const, Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In

from systolith.errors import BuildError
from systolith.hw.multiplier import family_of
from systolith.hw.sdram import SdramPins
from systolith.hw.sdram_chips import SdramChip

from .board import bare_pins

__all__ = ["PAD_NS", "PadTiming", "SdramPads", "pad_timing"]

PAD_NS = 5.0
"""What the FPGA's pads and the board's wires take in both directions together: assumed, not
measured."""

_MARGIN_NS = 1.0


@dataclass(frozen=True)
class PadTiming:
    """When the chip's clock comes, and when its words are taken.

    Attributes
    ----------
    quarters : int
        Of the core's period that the chip's clock is later.
    delay : int
        Cycles by which words arrive late, of which one is the commands' register in the pads.
    margin_ns : float
        What is left where it is least.
    """

    quarters: int
    delay: int
    margin_ns: float


def pad_timing(chip: SdramChip, clock_mhz: float) -> PadTiming:
    """The timing of an SDRAM's pads with the most room.

    Commands and written words change with the core's clock, so that they stand for `quarters`/4 of
    the period T before the chip's clock, and for the rest behind it; pads delay both alike. A word
    is there from tAC + `PAD_NS` to T + tOH + `PAD_NS` behind the chip's clock that sends it. The
    pads' registers take it with the core's clock, (delay - quarters/4) T behind it.

    Raises `BuildError` for a clock at which less than a nanosecond is left.
    """
    period = 1e3 / clock_mhz

    def timing(quarters, delay):
        late = quarters / 4 * period
        taken = delay * period - late
        return PadTiming(quarters, delay, min(
            late - chip.tIS, period - late - chip.tIH,
            taken - chip.tAC - PAD_NS, period + chip.tOH + PAD_NS - taken))

    best = max((timing(quarters, delay) for quarters in (2, 1, 3) for delay in (1, 2, 3)),
               key=lambda found: found.margin_ns)
    if best.margin_ns < _MARGIN_NS:
        raise BuildError(f"at {clock_mhz:g} MHz no phase of the clock is safe for {chip.name}: "
                         "choose a lower clock_mhz")
    return best


class SdramPads(wiring.Component):
    """Connects `pins : In(SdramPins)` with the platform's resource `sdram`. The chip's clock is the
    domain `sdram`."""

    def __init__(self, chip):
        super().__init__({"pins": In(SdramPins(chip))})

    def elaborate(self, platform):
        m = Module()
        pads = bare_pins(platform, "sdram")
        pins = self.pins
        if family_of(platform) == "gowin":
            # The PLL's output goes to the pad as it is: no register has to follow it.
            m.submodules.clock = clock = io.Buffer("o", pads.clk)
            m.d.comb += clock.o.eq(ClockSignal("sdram"))
        else:
            m.submodules.clock = clock = io.DDRBuffer("o", pads.clk, o_domain="sdram")
            m.d.comb += [clock.o[0].eq(Const(-1, len(clock.o[0]))), clock.o[1].eq(0)]
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
