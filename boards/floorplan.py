"""Where the multipliers of an ECP5 go: an array's beside each other, along a snake.

nextpnr-ecp5 places multipliers one by one where there is room left, and most of them are taken: a
product may lie a chip's width away from the sum that it is added to. An array's rows pass on their
sums and their activations to the next row alone. So `lay_out` gives each multiplier its site: row
by row of the array, along the chip's rows of multipliers, to and fro, and behind them the others',
lane by lane. Everything else follows where the placer puts it.
"""

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["CORNERS", "REVISION", "lay_out", "lay_out_file", "sites"]

REVISION = 1
"""Part of a build's identity: to be raised with every change of what `lay_out` does."""

CORNERS = ("top left", "top right", "bottom left", "bottom right")
"""Where a snake may begin."""

_BLOCKS = {
    "LFE5U-85F": ((10, 34, 58), (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)),
    "LFE5U-25F": ((13,), (4, 13, 22, 33, 42, 51, 60)),
}
"""Rows and columns of a chip's blocks of multipliers (tiles MIB_DSP0 of project Trellis'
database)."""

_IN_BLOCK = (0, 1, 4, 5)
"""Columns of a block that have a multiplier of 18 x 18, and its number."""

_DIES = {"LFE5U-12F": "LFE5U-25F"}
"""Chips that have the die of another one."""

_CELL = "MULT18X18D"
_IN_ARRAY = re.compile(r"\barray\.product_(\d+)_(\d+)\b")
_LANE = re.compile(r"_(\d+)(?:\.|\$|$)")


def sites(device: str, corner: str) -> list[str]:
    """Names of a chip's multipliers along a snake that begins in a `corner`, one of `CORNERS`."""
    if corner not in CORNERS:
        raise ValueError(f"no corner '{corner}': choose one of {', '.join(CORNERS)}")
    rows, columns = _BLOCKS[_DIES.get(device, device)]
    vertical, horizontal = corner.split()
    tiles = [(y, x + number, number) for y in rows for x in columns for number in _IN_BLOCK]
    walk = []
    for turn, y in enumerate(rows if vertical == "top" else reversed(rows)):
        row = [tile for tile in tiles if tile[0] == y]
        walk += row[::-1] if (horizontal == "right") != bool(turn % 2) else row
    return [f"X{x}/Y{y}/MULT18_{number}" for y, x, number in walk]


def lay_out_file(path: Path, device: str, corner: str) -> None:
    """`lay_out` a netlist of yosys' `write_json` in its file."""
    netlist = json.loads(path.read_text())
    lay_out(netlist, device, corner)
    path.write_text(json.dumps(netlist))


def lay_out(netlist: dict[str, Any], device: str, corner: str) -> None:
    """Give the multipliers of the top module of a netlist of yosys their sites, in place."""
    top = next(module for module in netlist["modules"].values() if "top" in module["attributes"])
    names = sorted((name for name, cell in top["cells"].items() if cell["type"] == _CELL),
                   key=_place_of)
    # More of them than there are sites is for nextpnr to complain about.
    for name, site in zip(names, sites(device, corner), strict=False):
        top["cells"][name]["attributes"]["BEL"] = site


def _place_of(name: str) -> tuple[Any, ...]:
    """What multipliers are sorted by: the array's by row and column, and then the others', by
    lane."""
    in_array = _IN_ARRAY.search(name)
    if in_array:
        return 0, int(in_array[1]), int(in_array[2]), ""
    lane = _LANE.search(name)
    return 1, int(lane[1]) if lane else 0, 0, name
