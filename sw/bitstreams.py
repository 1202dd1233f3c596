"""The `build` command: bitstreams of boards, what they take, and loading them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console

from systolith.boards.board import Board
from systolith.boards.build import board_named, build_board, check_timing
from systolith.boards.catalog import BOARDS
from systolith.boards.fit import CAPACITY, check_fit
from systolith.hw.config import PRESETS, load_config

from .errors import BuildError, ConfigError, MissingExtraError
from .summary import layer_table

__all__ = ["build_boards", "fit_boards", "load_bitstream", "print_builds", "write_table"]

_MARK = "<!-- builds -->"
_PROGRAM_SECONDS = 120.0


def build_boards(name: str, config: str | None, folder: Path, *, program: bool,
                 console: Console, table: Path | None = None) -> Any:
    """Build one board, or `all` with all presets that are known to be routed
    (`Board.placements`), each configuration of a board in a folder of its own (`_name`); print and
    return the results.

    `table` is a Markdown file, whose table of builds (`write_table`) gets what was built. Raises
    `BuildError` when a tool fails or a board misses its timing, after all have been built and
    printed.
    """
    if name == "all" and (program or config is not None):
        raise ConfigError("--program and --config are for one board: name it instead of 'all'")
    builds = ([(board, preset) for board in BOARDS.values()
               for preset in dict.fromkeys((board.name, *board.placements))]
              if name == "all" else [(board_named(name), name if config is None else config)])
    results, failed = [], []
    with console.status(name) as status:
        for board, chosen in builds:
            own = _name(board, chosen)
            try:
                results.append(build_board(
                    board, load_config(chosen), folder=folder.resolve() / own,
                    progress=status.update))
            except BuildError as error:
                failed.append(f"{own}: {error}")
    if results:
        print_builds(console, results)
    if table is not None:
        write_table(table, results)
    if failed:
        raise BuildError("; ".join(failed))
    for result in results:
        check_timing(result)
    if program and results[0]["bitstream"] is None:
        raise MissingExtraError(f"{builds[0][0].title} has no bitstream: install Vivado, which "
                                "builds it")
    if program:
        load_bitstream(builds[0][0], Path(results[0]["bitstream"]))
        console.print(f"loaded {results[0]['bitstream']}")
    return results if name == "all" else results[0]


def _name(board: Board, config: str) -> str:
    """A build's name: the board's, with the configuration's where that is another one's."""
    own = config in PRESETS and config.startswith(board.name)
    return config if own else f"{board.name}-{Path(config).stem}"


def fit_boards(name: str, config: str | None, *, console: Console) -> Any:
    """Estimate what one board, or `all` that the open tools build, would take; print and return it.

    Raises `BuildError` when one does not fit, after all have been printed.
    """
    boards = ([board for board in BOARDS.values() if board.device in CAPACITY] if name == "all"
              else [board_named(name)])
    chosen = None if config is None else load_config(config)
    results = [check_fit(board, chosen or board.config) for board in boards]
    console.print(layer_table(
        "estimates before synthesis", ["board", "core", "resources", "fits"],
        [[result["board"], f"{result['config']['rows']}x{result['config']['columns']}",
          _amounts(result["resources"], "estimate"),
          "yes" if result["fits"] else "no"] for result in results]))
    for result in results:
        if not result["fits"]:
            raise BuildError(f"the configuration does not fit {result['board']} (it needs about "
                             f"{_amounts(result['resources'], 'estimate')}): choose fewer rows, "
                             "columns, lanes or taps, or smaller memories")
    return results if name == "all" else results[0]


def _amounts(resources: dict[str, dict[str, int]], taken: str) -> str:
    return ", ".join(f"{use[taken]} of {use['available']} {name}"
                     for name, use in resources.items())


def print_builds(console: Console, results: list[dict[str, Any]]) -> None:
    """A table with a row a board."""
    console.print(layer_table(
        "bitstreams (built by open tools, not run on a board)",
        ["board", "core", "resources", "clock MHz", "peak GOPS", "seconds", "identity"],
        [[result["name"], f"{result['config']['rows']}x{result['config']['columns']}",
          _amounts(result["utilization"], "used"),
          ", ".join(f"{clock} {mhz:g} of {result['target_mhz'][clock]:g}"
                    for clock, mhz in result["fmax_mhz"].items()),
          result["peak_gops"], result["seconds"], result["identity"]] for result in results]))
    for result in results:
        where = result["bitstream"] or (
            "a project for Vivado, which is not installed here: unbuilt; run vivado -mode batch "
            "-source top.tcl in its folder")
        console.print(f"{result['name']}: {where}", soft_wrap=True)


def write_table(path: Path, results: list[dict[str, Any]]) -> None:
    """Put a table of bitstreams between the two marks `<!-- builds -->` of a Markdown file.

    Raises `ConfigError` when the file cannot be read or written, or has no such marks.
    """
    titles = ("board", "core", "LUT", "FF", "multipliers", "block RAM", "core MHz, of wanted",
              "peak GOPS", "seconds to build")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for result in results:
        if result["bitstream"] is None:
            continue
        # Some families have multipliers of two sizes.
        amounts = [", ".join(f"{use['used']:,} of {use['available']:,}"
                             for kind, use in result["utilization"].items() if kind.endswith(name))
                   for name in ("LUT", "FF", "multipliers", "block RAM")]
        reached, wanted = min(((result["fmax_mhz"][clock], wanted)
                               for clock, wanted in result["target_mhz"].items()),
                              key=lambda pair: abs(pair[1] - result["config"]["clock_mhz"]))
        lines.append("| " + " | ".join([
            result["name"], f"{result['config']['rows']}×{result['config']['columns']}",
            *amounts, f"{reached:g} of {wanted:g}", f"{result['peak_gops']:g}",
            f"{result['seconds']:.0f}"]) + " |")
    try:
        parts = path.read_text().split(_MARK)
        if len(parts) != 3:
            raise ConfigError(f"{path} has no table of builds: put two lines '{_MARK}' where it "
                              "belongs")
        path.write_text(f"{parts[0]}{_MARK}\n" + "\n".join(lines) + f"\n{_MARK}{parts[2]}")
    except OSError as error:
        raise ConfigError(f"cannot write the table of builds into {path}: "
                          f"{error.strerror}") from None


def load_bitstream(board: Board, bitstream: Path) -> None:
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
