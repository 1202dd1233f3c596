"""The `build` command: bitstreams of boards, what they take, and loading them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console

from systolith.boards.build import board_named, build_board, check_timing
from systolith.boards.catalog import BOARDS
from systolith.hw.config import load_config

from .errors import BuildError, ConfigError, MissingExtraError
from .summary import layer_table

__all__ = ["build_boards", "load_bitstream", "print_builds"]

_PROGRAM_SECONDS = 120.0


def build_boards(name: str, config: str | None, folder: Path, *, program: bool,
                 console: Console) -> Any:
    """Build one board, or `all`, each in a folder of its name; print and return the results.

    Raises `BuildError` when a tool fails or a board misses its timing, after all have been built
    and printed.
    """
    if name == "all" and (program or config is not None):
        raise ConfigError("--program and --config are for one board: name it instead of 'all'")
    boards = list(BOARDS.values()) if name == "all" else [board_named(name)]
    chosen = None if config is None else load_config(config)
    results = []
    with console.status(name) as status:
        for board in boards:
            results.append(build_board(board, chosen, folder=folder.resolve() / board.name,
                                       progress=status.update))
    print_builds(console, results)
    for result in results:
        check_timing(result)
    if program and results[0]["bitstream"] is None:
        raise MissingExtraError(f"{boards[0].title} has no bitstream: install Vivado, which builds "
                                "it")
    if program:
        load_bitstream(boards[0], Path(results[0]["bitstream"]))
        console.print(f"loaded {results[0]['bitstream']}")
    return results if name == "all" else results[0]


def print_builds(console: Console, results: list[dict[str, Any]]) -> None:
    """A table with a row a board."""
    console.print(layer_table(
        "bitstreams (built by open tools, not run on a board)",
        ["board", "core", "resources", "clock MHz", "peak GOPS", "seconds", "identity"],
        [[result["board"], f"{result['config']['rows']}x{result['config']['columns']}",
          ", ".join(f"{use['used']} of {use['available']} {name}"
                    for name, use in result["utilization"].items()),
          ", ".join(f"{clock} {mhz:g} of {result['target_mhz'][clock]:g}"
                    for clock, mhz in result["fmax_mhz"].items()),
          result["peak_gops"], result["seconds"], result["identity"]] for result in results]))
    for result in results:
        where = result["bitstream"] or (
            "a project for Vivado, which is not installed here: unbuilt; run vivado -mode batch "
            "-source top.tcl in its folder")
        console.print(f"{result['board']}: {where}", soft_wrap=True)


def load_bitstream(board: Any, bitstream: Path) -> None:
    """Load a bitstream into a board that is plugged in.

    Raises `MissingExtraError` when the tool for it is not installed, and `BuildError` with what to
    check when it does not find the board.
    """
    tool = board.programmer[0]
    if shutil.which(tool) is None:
        raise MissingExtraError(f"loading {board.title} needs {tool}: install it from your "
                                f"system's packages, or load {bitstream} with another tool")
    try:
        result = subprocess.run([*board.programmer, str(bitstream)], text=True,
                                capture_output=True, check=False, timeout=_PROGRAM_SECONDS)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{tool} did not end within {_PROGRAM_SECONDS:.0f} s: check the cable and "
                         "plug the board in again") from None
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()
        raise BuildError(f"{tool} could not load {board.title} ({lines[-1]}): check that the board "
                         "is plugged in and that you may use its USB device")
