"""Carry chains of the ECP5 as nextpnr takes them, without what it would add to their ends.

nextpnr-ecp5 reaches a chain's first carry input from logic by a CCU2C in front, a constant too, and
leads a last carry output out by a CCU2C behind, where nobody reads it too: two LUTs each. `trim`
leaves out an output without readers; and where the last CCU2C's second half is idle, and nobody
reads a carry in between, a chain's bits move up by a half, so that the first half makes the
constant.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["REVISION", "trim", "trim_file"]

REVISION = 1
"""Part of a build's identity: to be raised with every change of what `trim` leaves."""

_HALF = ("A", "B", "C", "D", "S")

_MADE = {"0": "0" * 16, "1": "0" * 12 + "1" * 4}
"""Truth tables that make a carry: 0 for inputs of 1, so that nothing is propagated, with the
generated bit in the lower quarter (CCU2C in yosys' lattice/ccu2c_sim.vh)."""


def trim_file(path: Path) -> None:
    """`trim` a netlist of yosys' `write_json` in its file."""
    netlist = json.loads(path.read_text())
    trim(netlist)
    path.write_text(json.dumps(netlist))


def trim(netlist: dict[str, Any]) -> None:
    """Shorten the carry chains of the top module of a netlist of yosys, in place."""
    top = next(module for module in netlist["modules"].values() if "top" in module["attributes"])
    cells = [cell for cell in top["cells"].values() if cell["type"] == "CCU2C"]
    readers = _readers(top)
    behind = {_bit(cell, "CIN"): cell for cell in cells if isinstance(_bit(cell, "CIN"), int)}
    driven = {_bit(cell, "COUT") for cell in cells} & behind.keys()
    for first in cells:
        if _bit(first, "CIN") in driven:
            continue
        chain = [first]
        while (following := behind.get(_bit(chain[-1], "COUT"))) is not None:
            chain.append(following)
        if not readers[_bit(chain[-1], "COUT")]:
            chain[-1]["connections"]["COUT"] = ["x"]
            tapped = any(readers[_bit(cell, "COUT")] > 1 for cell in chain[:-1])
            idle = not readers[_bit(chain[-1], "S1")]
            if _bit(first, "CIN") in _MADE and idle and not tapped:
                _move_up(chain)


def _readers(top: dict[str, Any]) -> Counter[Any]:
    """How many inputs of cells and outputs of the module read a net."""
    readers: Counter[Any] = Counter()
    for cell in top["cells"].values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] != "output":
                readers.update(bits)
    for port in top["ports"].values():
        if port["direction"] != "input":
            readers.update(port["bits"])
    return readers


def _bit(cell: dict[str, Any], port: str) -> Any:
    """What a port of one bit is connected to: a net's number, or a constant."""
    return cell["connections"].get(port, ["x"])[0]


def _move_up(chain: list[dict[str, Any]]) -> None:
    """Move every half of a chain, of which the last is idle, to the next half, and make the
    constant carry in the first."""
    halves = [(cell, half) for cell in chain for half in (0, 1)]
    for (target, to), (source, of) in zip(halves[:0:-1], halves[-2::-1], strict=True):
        for port in _HALF:
            target["connections"][f"{port}{to}"] = source["connections"].get(f"{port}{of}", ["x"])
        target["parameters"][f"INIT{to}"] = source["parameters"][f"INIT{of}"]
        target["parameters"][f"INJECT1_{to}"] = source["parameters"][f"INJECT1_{of}"]
    first = chain[0]
    first["parameters"] |= {"INIT0": _MADE[_bit(first, "CIN")], "INJECT1_0": "NO"}
    first["connections"] |= {**{f"{port}0": ["1"] for port in "ABCD"}, "S0": ["x"], "CIN": ["x"]}
