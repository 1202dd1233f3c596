"""Clocks by the families' phase-locked loops: the dividers for a frequency, and the primitives.

Limits are those of the data sheets: Lattice FPGA-TN-02200 (ECP5 sysCLOCK), FPGA-TN-02052 (iCE40
sysCLOCK), Gowin UG286 (rPLL), AMD DS181 (Artix-7).
"""

from dataclasses import dataclass

from amaranth import Const, Instance, Signal

from systolith.errors import BuildError

__all__ = ["Dividers", "ecp5_dividers", "ecp5_pll", "gowin_dividers", "gowin_pll",
           "ice40_dividers", "ice40_pll", "series7_dividers", "series7_pll"]

_TOLERANCE = 0.005


@dataclass(frozen=True)
class Dividers:
    """A way to make a clock: `reference` divides the input, `feedback` multiplies it, and
    `output` divides the oscillator. `mhz` is what comes out."""

    reference: int
    feedback: int
    output: int
    mhz: float


def _choose(candidates, wanted_mhz: float, source_mhz: float) -> Dividers:
    """The nearest frequency; of equals the one that compares phases most often."""
    found = min(candidates, default=None,
                key=lambda d: (round(abs(d.mhz - wanted_mhz), 6), d.reference, d.output))
    if found is None or abs(found.mhz / wanted_mhz - 1) > _TOLERANCE:
        raise BuildError(f"the PLL cannot make {wanted_mhz:g} MHz from {source_mhz:g} MHz: choose "
                         "another clock_mhz" + (f", such as {found.mhz:g}" if found else ""))
    return found


def ecp5_dividers(source_mhz: float, wanted_mhz: float) -> Dividers:
    """EHXPLLL with feedback from its output: phase detector 3.125 to 400 MHz, oscillator 400 to
    800 MHz. Raises `BuildError` when there is no way."""
    return _choose((
        Dividers(reference, feedback, output, source_mhz * feedback / reference)
        for reference in range(1, 129) if 3.125 <= source_mhz / reference <= 400
        for feedback in range(1, 81)
        for output in range(1, 129)
        if 400 <= source_mhz * feedback * output / reference <= 800), wanted_mhz, source_mhz)


def ice40_dividers(source_mhz: float, wanted_mhz: float) -> Dividers:
    """SB_PLL40 in simple feedback: phase detector 10 to 133 MHz, oscillator 533 to 1066 MHz;
    `output` is a power of two. Raises `BuildError` when there is no way."""
    return _choose((
        Dividers(reference, feedback, output, source_mhz * feedback / reference / output)
        for reference in range(1, 17) if 10 <= source_mhz / reference <= 133
        for feedback in range(1, 65) if 533 <= source_mhz * feedback / reference <= 1066
        for output in (2, 4, 8, 16, 32, 64)), wanted_mhz, source_mhz)


def gowin_dividers(source_mhz: float, wanted_mhz: float, *, lowest: float = 400,
                   highest: float = 1200) -> Dividers:
    """rPLL: phase detector 3 to 400 MHz, oscillator `lowest` to `highest` MHz, which are those of
    the GW1N-9 unless given. Raises `BuildError` when there is no way."""
    return _choose((
        Dividers(reference, feedback, output, source_mhz * feedback / reference)
        for reference in range(1, 65) if 3 <= source_mhz / reference <= 400
        for feedback in range(1, 65)
        for output in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
        if lowest <= source_mhz * feedback * output / reference <= highest),
        wanted_mhz, source_mhz)


def ecp5_pll(m, source, dividers: Dividers, *, turned=None):
    """An EHXPLLL. Returns its output and whether it is locked.

    `turned`: a signal for a second output of the same frequency, and the quarters of a period that
    it is later. Phases are counted in the oscillator's periods, and in eighths of them.
    """
    clock, locked = Signal(name="core_clock"), Signal(name="pll_locked")
    second = {}
    if turned is not None:
        signal, quarters = turned
        whole, eighths = divmod(2 * quarters * dividers.output, 8)
        second = {"p_CLKOS_ENABLE": "ENABLED", "p_CLKOS_DIV": dividers.output,
                  "p_CLKOS_CPHASE": dividers.output - 1 + whole, "p_CLKOS_FPHASE": eighths,
                  "i_ENCLKOS": Const(0), "o_CLKOS": signal}
    m.submodules.pll = Instance(
        "EHXPLLL",
        # What the vendor's tool sets for the loop filter of any frequency.
        a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED", p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB",
        p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD", p_FEEDBK_PATH="CLKOP",
        p_CLKI_DIV=dividers.reference, p_CLKFB_DIV=dividers.feedback,
        p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=dividers.output,
        p_CLKOP_CPHASE=dividers.output - 1, p_CLKOP_FPHASE=0, **second,
        i_CLKI=source, i_CLKFB=clock, o_CLKOP=clock, o_LOCK=locked,
        i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0), i_PHASESEL1=Const(0),
        i_PHASEDIR=Const(1), i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1),
        i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0))
    return clock, locked


def ice40_pll(m, pad, dividers: Dividers):
    """An SB_PLL40_PAD, whose input is a pad that nothing else can have. Returns output and lock."""
    clock, locked = Signal(name="core_clock"), Signal(name="pll_locked")
    detector = dividers.mhz * dividers.output / dividers.feedback
    filter_range = next(i for i, top in enumerate((17, 26, 44, 66, 101, 1000), 1)
                        if detector < top)
    m.submodules.pll = Instance(
        "SB_PLL40_PAD",
        p_FEEDBACK_PATH="SIMPLE", p_DIVR=Const(dividers.reference - 1, 4),
        p_DIVF=Const(dividers.feedback - 1, 7),
        p_DIVQ=Const(dividers.output.bit_length() - 1, 3),
        p_FILTER_RANGE=Const(filter_range, 3),
        i_PACKAGEPIN=pad, i_RESETB=Const(1), i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=clock, o_LOCK=locked)
    return clock, locked


def gowin_pll(m, source, dividers: Dividers, *, device: str, turned=None):
    """An rPLL of `device` (such as GW1NR-9C). Returns output and lock.

    `turned` is as `ecp5_pll` has it; phases are counted in sixteenths of a period.
    """
    clock, locked = Signal(name="core_clock"), Signal(name="pll_locked")
    phase, second = 0, {}
    if turned is not None:
        signal, quarters = turned
        phase, second = 4 * quarters, {"o_CLKOUTP": signal}
    source_mhz = dividers.mhz * dividers.reference / dividers.feedback
    m.submodules.pll = Instance(
        "rPLL",
        p_FCLKIN=f"{source_mhz:g}", p_DEVICE=device,
        p_IDIV_SEL=dividers.reference - 1, p_FBDIV_SEL=dividers.feedback - 1,
        p_ODIV_SEL=dividers.output, p_DYN_IDIV_SEL="false", p_DYN_FBDIV_SEL="false",
        p_DYN_ODIV_SEL="false", p_PSDA_SEL=f"{phase:04b}", p_DYN_DA_EN="false", p_DUTYDA_SEL="1000",
        p_CLKOUT_FT_DIR=Const(1, 1), p_CLKOUTP_FT_DIR=Const(1, 1), p_CLKOUT_DLY_STEP=0,
        p_CLKOUTP_DLY_STEP=0, p_CLKFB_SEL="internal", p_CLKOUT_BYPASS="false",
        p_CLKOUTP_BYPASS="false", p_CLKOUTD_BYPASS="false", p_DYN_SDIV_SEL=2,
        p_CLKOUTD_SRC="CLKOUT", p_CLKOUTD3_SRC="CLKOUT",
        i_CLKIN=source, i_CLKFB=Const(0), i_RESET=Const(0), i_RESET_P=Const(0),
        i_FBDSEL=Const(0, 6), i_IDSEL=Const(0, 6), i_ODSEL=Const(0, 6), i_PSDA=Const(0, 4),
        i_FDLY=Const(0, 4), i_DUTYDA=Const(0, 4), o_CLKOUT=clock, o_LOCK=locked, **second)
    return clock, locked


def series7_dividers(source_mhz: float, wanted_mhz: float) -> Dividers:
    """PLLE2_BASE of speed grade -1: phase detector 19 to 450 MHz, oscillator 800 to 1600 MHz.
    Raises `BuildError` when there is no way."""
    return _choose((
        Dividers(reference, feedback, output, source_mhz * feedback / reference / output)
        for reference in range(1, 57) if 19 <= source_mhz / reference <= 450
        for feedback in range(2, 65) if 800 <= source_mhz * feedback / reference <= 1600
        for output in range(1, 129)), wanted_mhz, source_mhz)


def series7_pll(m, source, dividers: Dividers):
    """A PLLE2_BASE with a global buffer. Returns its output and whether it is locked."""
    unbuffered, feedback = Signal(), Signal()
    clock, locked = Signal(name="core_clock"), Signal(name="pll_locked")
    source_mhz = dividers.mhz * dividers.reference * dividers.output / dividers.feedback
    m.submodules.pll = Instance(
        "PLLE2_BASE",
        p_CLKIN1_PERIOD=1e3 / source_mhz, p_DIVCLK_DIVIDE=dividers.reference,
        p_CLKFBOUT_MULT=dividers.feedback, p_CLKOUT0_DIVIDE=dividers.output,
        i_CLKIN1=source, i_CLKFBIN=feedback, i_RST=Const(0), i_PWRDWN=Const(0),
        o_CLKFBOUT=feedback, o_CLKOUT0=unbuffered, o_LOCKED=locked)
    m.submodules.pll_buffer = Instance("BUFG", i_I=unbuffered, o_O=clock)
    return clock, locked
