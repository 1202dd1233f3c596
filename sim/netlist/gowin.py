"""Gowin's netlists as yosys leaves them for placement, and the Verilog that simulates them.

Logic, registers and distributed memory are yosys' own models; block RAM, multipliers and the PLL
are black boxes to yosys, and ours (`gowin.v`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from systolith.errors import BuildError

from .clocks import PllClocks, gowin_clocks
from .convert import yosys_models, yosys_verilog

__all__ = ["MODELS", "OWN", "GowinNetlist", "join_contents"]

MODELS = (Path(__file__).parent / "gowin.v").read_text()
_BLOCK_RAM = {"SPX9", "SDPX9B", "DPX9B", "DPB"}

OWN = {*_BLOCK_RAM, "MULT9X9", "MULT18X18", "rPLL", "IOBUF"}
"""Cells whose models are in `MODELS`."""

_FIXED = {"READ_MODE": 0, "BLK_SEL": 0, "BLKSEL": 0, "RESET": 0, "OCE": 1}
"""Parameters and pins of block RAM, by what their names begin with, that the models lack."""


class GowinNetlist:
    """A board's flat netlist of Gowin cells.

    Parameters
    ----------
    design
        Yosys' JSON; block RAM's contents are changed in it (`join_contents`).
    top
        Name of the module that is to be simulated.

    Raises `BuildError` for a setting of block RAM without a model.
    """

    def __init__(self, design: dict[str, Any], top: str = "top"):
        join_contents(design, top)
        self._design = design
        self._cells = [cell for cell in design["modules"][top]["cells"].values()
                       if cell["type"] != "$scopeinfo"]
        self.ports: dict[str, Any] = design["modules"][top]["ports"]

    def models(self) -> str:
        """Verilog of the cells that the netlist has."""
        kinds = {cell["type"] for cell in self._cells} - OWN
        return MODELS + yosys_models("gowin", sorted(kinds))

    def verilog(self) -> str:
        """The netlist as Verilog; it needs `models()`."""
        return yosys_verilog(self._design)

    def clocks(self) -> PllClocks:
        """What its PLL makes. Raises `BuildError` as `gowin_clocks` does."""
        return gowin_clocks([cell for cell in self._cells if cell["type"] == "rPLL"])


def join_contents(design: Mapping[str, Any], top: str = "top") -> None:
    """Give each block RAM of a netlist (yosys' JSON) its contents as the one parameter of the
    models.

    Raises `BuildError` when a setting or pin is in use that they lack.
    """
    cells = design["modules"][top]["cells"].values()
    level = {bit: value for cell in cells for kind, pin, value in (("GND", "G", 0), ("VCC", "V", 1))
             if cell["type"] == kind for bit in cell["connections"][pin]}
    for cell in cells:
        if cell["type"] not in _BLOCK_RAM:
            continue
        given = cell["parameters"]
        byte = 9 if "X9" in cell["type"] else 8
        rows = [given.pop(f"INIT_RAM_{row:02X}", "0").replace("x", "0").rjust(32 * byte, "0")
                for row in reversed(range(64))]
        contents = "".join(rows)
        given["INIT"] = "".join(contents[place:place + byte].rjust(9, "0")
                                for place in range(0, len(contents), byte))
        wide = byte == 8 and any(int(given[name], 2) > 4 for name in given if "WIDTH" in name)
        pins = {name: [level.get(bit, bit) for bit in bits]
                for name, bits in cell["connections"].items()}
        settings = {name: [int(bit) for bit in given[name]] for name in given
                    if name.startswith(("READ_MODE", "BLK_SEL"))}
        wrong = [name for name, bits in (*settings.items(), *pins.items())
                 for start, value in _FIXED.items()
                 if name.startswith(start) and set(bits) != {value}]
        clocks = {bits[0] for name, bits in pins.items() if name.startswith("CLK")}
        if wide or wrong or len(clocks) != 1:
            raise BuildError(f"there is no model of a {cell['type']} with "
                             f"{', '.join(wrong) or ('this width' if wide else 'two clocks')} "
                             "as in the netlist: simulate the RTL instead")
