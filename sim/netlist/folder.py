"""The board of a folder that `systolith build` has filled, in simulation."""

import json
from pathlib import Path

from systolith.boards.build import board_named
from systolith.errors import BuildError
from systolith.hw.config import Config

from .board import PAD_NS, NetlistDevice, netlist_of

__all__ = ["open_build"]


def open_build(folder: Path, *, pad_ns: float = PAD_NS) -> NetlistDevice:
    """Simulate the netlist of which the bitstream in `folder` was made.

    Raises `BuildError` when no finished build is there, or its netlist cannot be simulated, and
    `MissingExtraError` without the packages that describe boards.
    """
    try:
        result = json.loads((folder / "result.json").read_text())
        board, config = board_named(result["board"]), Config.from_dict(result["config"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BuildError(f"there is no finished build in {folder}: make one with systolith build "
                         "BOARD, and name its folder, such as build/boards/ulx3s-85f") from None
    return NetlistDevice(netlist_of(board, folder / "top.json"), board, config, pad_ns=pad_ns)
