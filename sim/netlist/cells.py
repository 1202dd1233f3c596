"""What the models in `ecp5.v` can do: all else in a netlist is refused before it is simulated.

LUTs, carries, multiplexers, flip-flops, distributed RAM and pads have models of yosys' own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from systolith.errors import BuildError

__all__ = ["MODELS", "YOSYS_CELLS", "Model", "check", "parameter"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """What our model of a cell has.

    Attributes
    ----------
    pins
        Width by name: 0 for a single pin, else pins NAME0 and up are one vector.
    outputs
        Those of `pins` that the cell drives.
    tied
        Constants that other inputs must have; a pin without connection counts as "0".
    ignored
        Inputs that are of no consequence with these settings.
    settings
        Values that a parameter may have; None for those that do not matter to the model, or that it
        takes as they are.
    """

    pins: Mapping[str, int]
    outputs: frozenset[str]
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    settings: Mapping[str, frozenset[Any] | None] = field(default_factory=dict)


def _one_of(*values: Any) -> frozenset[Any]:
    return frozenset(values)


def _numbered(value: str, *names: str, start: int = 0, count: int) -> dict[str, str]:
    return {f"{name}{i}": value for name in names for i in range(start, start + count)}


YOSYS_CELLS: dict[str, dict[str, frozenset[Any]]] = {
    "CCU2C": {}, "L6MUX21": {}, "LUT4": {}, "PFUMX": {}, "TRELLIS_DPR16X4": {},
    "TRELLIS_FF": {"LSRMODE": _one_of("LSR"), "CEMUX": _one_of("0", "1", "CE", "INV"),
                   "CLKMUX": _one_of("CLK", "INV"), "LSRMUX": _one_of("LSR", "INV"),
                   "SRMODE": _one_of("ASYNC", "LSR_OVER_CE")},
    "TRELLIS_IO": {"DIR": _one_of("INPUT", "OUTPUT", "BIDIR")},
}
"""Cells that have the meaning of yosys' own models, and the values that some settings may have."""

_WIDTHS = _one_of(1, 2, 4, 9, 18, 36)
_NOT_USED = _one_of("DISABLED")

MODELS: dict[str, Model] = {
    "MULT18X18D": Model(
        pins={"A": 18, "B": 18, "CLK0": 0, "CE": 4, "P": 36}, outputs=_one_of("P"),
        tied={"SIGNEDA": "1", "SIGNEDB": "1", "SOURCEA": "0", "SOURCEB": "0",
              **_numbered("0", "CLK", start=1, count=3), **_numbered("0", "RST", count=4),
              **_numbered("0", "C", "SRIA", "SRIB", count=18)},
        settings={
            "REG_INPUTA_CLK": _one_of("NONE", "CLK0"), "REG_INPUTA_CE": _one_of("CE0", "CE1"),
            "REG_INPUTB_CLK": _one_of("NONE", "CLK0"), "REG_INPUTB_CE": _one_of("CE0", "CE1"),
            "REG_INPUTC_CLK": _one_of("NONE"), "REG_PIPELINE_CLK": _one_of("NONE"),
            "REG_OUTPUT_CLK": _one_of("CLK0"), "REG_OUTPUT_CE": _one_of("CE0", "CE1"),
            "GSR": None, "MULT_BYPASS": _NOT_USED, "RESETMODE": _one_of("SYNC")}),
    "DP16KD": Model(
        pins={"CLKA": 0, "CEA": 0, "WEA": 0, "ADA": 14, "DIA": 18, "DOA": 18,
              "CLKB": 0, "CEB": 0, "ADB": 14, "DIB": 18, "DOB": 18},
        outputs=_one_of("DOA", "DOB"),
        tied={"WEB": "0", "RSTA": "0", "RSTB": "0", "OCEB": "1",
              **_numbered("0", "CSA", "CSB", count=3)},
        ignored=_one_of("OCEA"),
        settings={
            "DATA_WIDTH_A": _WIDTHS, "DATA_WIDTH_B": _WIDTHS,
            "WRITEMODE_A": _one_of("NORMAL", "WRITETHROUGH", "READBEFOREWRITE"),
            "WRITEMODE_B": None, "INITVAL": None, "RESETMODE": None, "ASYNC_RESET_RELEASE": None,
            "REGMODE_A": _one_of("NOREG"), "REGMODE_B": _one_of("NOREG", "OUTREG"),
            "CLKAMUX": _one_of("CLKA"), "CLKBMUX": _one_of("CLKB"),
            "CSDECODE_A": _one_of("0b000"), "CSDECODE_B": _one_of("0b000"), "GSR": None}),
    "ODDRX1F": Model(pins={"SCLK": 0, "D0": 0, "D1": 0, "Q": 0}, outputs=_one_of("Q"),
                     tied={"RST": "0"}, settings={"GSR": None}),
    "EHXPLLL": Model(
        pins={"CLKI": 0, "CLKOP": 0, "CLKOS": 0, "LOCK": 0},
        outputs=_one_of("CLKOP", "CLKOS", "LOCK"),
        tied={"RST": "0", "STDBY": "0", "PHASESEL0": "0", "PHASESEL1": "0", "PHASEDIR": "1",
              "PHASESTEP": "1", "PHASELOADREG": "1", "PLLWAKESYNC": "0", "ENCLKOP": "0",
              "ENCLKOS": "0"},
        ignored=_one_of("CLKFB"),
        settings={
            "CLKI_DIV": None, "CLKFB_DIV": None, "CLKOP_DIV": None, "CLKOP_CPHASE": None,
            "CLKOP_FPHASE": None, "CLKOP_ENABLE": _one_of("ENABLED"), "CLKOS_DIV": None,
            "CLKOS_CPHASE": None, "CLKOS_FPHASE": None, "CLKOS_ENABLE": _one_of("ENABLED"),
            "FEEDBK_PATH": _one_of("CLKOP"), "PLLRST_ENA": _NOT_USED, "INTFB_WAKE": _NOT_USED,
            "STDBY_ENABLE": _NOT_USED, "DPHASE_SOURCE": _NOT_USED, "OUTDIVIDER_MUXA": None,
            "OUTDIVIDER_MUXB": None, "OUTDIVIDER_MUXC": None, "OUTDIVIDER_MUXD": None}),
}
"""Our own models, by cell."""


_BINARY = re.compile(r"[01xz]+")


def parameter(text: str) -> int | str:
    """A parameter of yosys' JSON: numbers are binary, and a string that looks like one ends in a
    space more than it has."""
    if _BINARY.fullmatch(text):
        return int(re.sub("[xz]", "0", text), 2)
    return text[:-1] if re.fullmatch(r"[01xz]* +", text) else text


def check(name: str, cell: Mapping[str, Any], defaults: Mapping[str, str]) -> None:
    """Raise `BuildError` when the model of a cell lacks a setting of it, or a pin that it uses, or
    when there is no model."""
    kind = cell["type"]
    model = MODELS.get(kind)
    if model is None and kind not in YOSYS_CELLS:
        raise BuildError(f"the netlist's cell {name} is a {kind}, of which there is no model: only "
                         "netlists of ECP5 boards are simulated")
    # Defaults of yosys' own cells are as those models want them.
    given = {key: parameter(value) for key, value in {
        **(defaults if model else {}), **cell["parameters"]}.items()}
    for key, allowed in (YOSYS_CELLS[kind] if model is None else model.settings).items():
        if allowed is not None and key in given and given[key] not in allowed:
            raise _lacks(kind, name, f"{key}={given[key]}")
    if model is None:
        return
    for key in cell["parameters"]:
        if _family(key, "INITVAL_") not in model.settings:
            raise _lacks(kind, name, f"{key}={given[key]}")
    pins = {f"{pin}{i}" for pin, width in model.pins.items() if width for i in range(width)}
    pins |= {pin for pin, width in model.pins.items() if not width} | model.ignored
    for pin, bits in cell["connections"].items():
        if bits and pin not in pins and bits != [model.tied.get(pin)]:
            raise _lacks(kind, name, f"pin {pin} in use")
    for pin, value in model.tied.items():
        if value != "0" and not cell["connections"].get(pin):
            raise _lacks(kind, name, f"pin {pin} left open")


def _family(key: str, start: str) -> str:
    return start.rstrip("_") if key.startswith(start) else key


def _lacks(kind: str, name: str, what: str) -> BuildError:
    return BuildError(f"the netlist's {kind} {name} has {what}, which its model lacks: add it to "
                      "sim/netlist/ecp5.v, or build without it")
