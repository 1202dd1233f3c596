"""What the PLL of a board's netlist makes of the oscillator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from systolith.errors import BuildError

from .cells import parameter

__all__ = ["PllClocks", "ecp5_clocks", "gowin_clocks"]

Cell = Mapping[str, Any]

_NO_SECOND = ("the netlist's PLL has no second output of the core's frequency, for the SDRAM chip: "
              "build it again")


@dataclass(frozen=True)
class PllClocks:
    """What a netlist's PLL makes: the core's clock over the oscillator's, and the part of its
    period that the chip's clock is later."""

    ratio: Fraction
    turned: Fraction


def ecp5_clocks(plls: Sequence[Cell]) -> PllClocks:
    """The clocks by dividers and phases of the EHXPLLL, the only one of `plls`.

    Raises `BuildError` unless there is exactly one, fed back from its own output, with a second
    output of the same frequency.
    """
    pll = _only(plls)
    if pll["connections"].get("CLKFB") != pll["connections"].get("CLKOP"):
        raise BuildError("the netlist's PLL is not fed back from its output: build it again")
    value = {key: _number(pll, key) for key in (
        "CLKI_DIV", "CLKFB_DIV", *(f"{output}_{name}" for output in ("CLKOP", "CLKOS")
                                   for name in ("DIV", "CPHASE", "FPHASE")))}
    if value["CLKOS_DIV"] != value["CLKOP_DIV"]:
        raise BuildError(_NO_SECOND)
    eighths = (8 * (value["CLKOS_CPHASE"] - value["CLKOP_CPHASE"])
               + value["CLKOS_FPHASE"] - value["CLKOP_FPHASE"])
    return PllClocks(Fraction(value["CLKFB_DIV"], value["CLKI_DIV"]),
                     Fraction(eighths, 8 * value["CLKOP_DIV"]) % 1)


def gowin_clocks(plls: Sequence[Cell]) -> PllClocks:
    """The same of the rPLL, whose feedback is inside, and whose phases are fixed.

    Raises `BuildError` unless there is exactly one, with a second output.
    """
    pll = _only(plls)
    if not pll["connections"].get("CLKOUTP"):
        raise BuildError(_NO_SECOND)
    return PllClocks(Fraction(_number(pll, "FBDIV_SEL") + 1, _number(pll, "IDIV_SEL") + 1),
                     Fraction(int(pll["parameters"].get("PSDA_SEL", "0"), 2), 16))


def _only(plls: Sequence[Cell]) -> Cell:
    if len(plls) != 1:
        raise BuildError(f"the netlist has {len(plls)} PLLs instead of one: only a board's whole "
                         "netlist is simulated")
    return plls[0]


def _number(pll: Cell, name: str) -> int:
    return int(parameter(pll["parameters"].get(name, "0")))
