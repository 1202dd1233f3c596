"""`systolith build`: a board's bitstream with its resources and timing.

Everything lands in `build/boards/BOARD/`. The identity names what went in: the design with its
constraints and its configuration, the board, the tools' commands and versions. The same identity
gives the same bitstream, and a build whose result is there is not made again.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from systolith.errors import BuildError, ConfigError, MissingExtraError
from systolith.hw.config import Config
from systolith.hw.protocol import VERSION
from systolith.sim.build import locked

from . import carry, floorplan, flow
from .board import FAMILIES, Board
from .catalog import BOARDS
from .netlist_checks import check_crossings

__all__ = ["board_named", "build_board", "check_timing", "identity", "write_design"]

_VIVADO_MET = "All user specified timing constraints are met"
_PRODUCTS = {"ecp5": "top.bit", "ice40": "top.bin", "gowin": "top.fs", "series7": "top.bit"}


def board_named(name: str) -> Board:
    """The board called `name`. Raises `ConfigError` when there is none."""
    if name not in BOARDS:
        raise ConfigError(f"no board '{name}': choose one of {', '.join(BOARDS)}")
    return BOARDS[name]


def identity(board: Board, config: Config) -> int:
    """64 bits over the design and its constraints, the tools' commands and their versions.

    Comments and other boards' sources are not in it, so that they do not change a placement either:
    the identity is a constant in the netlist.
    """
    platform, files = _design(board, config, 0)
    digest = hashlib.sha256()
    for name in sorted(files):
        if not name.startswith("build_"):  # scripts of the platform, which are not used
            digest.update(name.encode() + b"\0" + files[name])
    parts = {"board": board.name, "config": config.to_dict(), "version": VERSION,
             "commands": [[Path(step.command[0]).name, *step.command[1:]]
                          for step in flow.steps(board, platform, board.placement(config))],
             "tools": flow.tool_versions(board.family, usb=board.baud is None)}
    if board.family == "ecp5":
        parts["trimmed"] = carry.REVISION
    corner = board.placement(config).corner
    if corner:
        parts["floorplan"] = [floorplan.REVISION, corner]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return int.from_bytes(digest.digest()[:8], "big")


def build_board(board: Board, config: Config, *, folder: Path,
                progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Build a bitstream in `folder`, or find the one that is there.

    Returns what `systolith build --json` writes: `name` (the folder's), `board`, `config`,
    `bitstream` (path, or None where `folder` holds a project for a vendor's tool that is not
    there), `identity` (hex), `crossings` (of `netlist_checks.crossings`, where they were looked
    for), `fmax_mhz` and `target_mhz` by clock, `placements` (the `flow.Attempt` of each seed),
    `utilization` by resource, `multipliers`, `peak_gops`, `seconds`.

    Raises `BuildError` when a tool fails, and `ConfigError` when the board cannot have `config`.
    """
    progress(f"{board.name}: elaborating")
    name = identity(board, config)
    with locked(folder.parent / f".{folder.name}.lock"):  # whoever comes second finds the first's
        return _build(board, config, name, folder, progress)


def _build(board: Board, config: Config, name: int, folder: Path,
           progress: Callable[[str], None]) -> dict[str, Any]:
    result_file = folder / "result.json"
    found = _finished(result_file, name)
    if found is not None:
        return found
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    platform = write_design(board, config, name, folder)
    placement = board.placement(config)
    steps, found, attempts = flow.steps(board, platform, placement), None, []
    for step in steps:
        progress(f"{board.name}: {step.name}")
        if step.products:
            attempts = flow.place(
                lambda seed: next(item for item in flow.steps(
                    board, platform, replace(placement, seed=seed)) if item.products),
                folder, lambda: _reached(_report(board, config, folder, built=True)),
                lambda text: progress(f"{board.name}: {text}"), first=placement.seed)
            continue
        if step.name == "synthesis":
            flow.synthesize(board.family, step, folder)
            flow.check_latches(folder / step.log)
            if placement.corner:
                floorplan.lay_out_file(folder / "top.json", board.device, placement.corner)
            if board.family in ("ecp5", "gowin"):
                found = check_crossings(folder / "top.json")
        else:
            flow.run_step(step, folder)
    bitstream = folder / _PRODUCTS[board.family]
    result = {
        "name": folder.name,
        "board": board.name,
        "config": config.to_dict(),
        "bitstream": str(bitstream) if steps else None,
        "bitstream_sha256": _sha256(bitstream) if steps else None,
        "identity": f"{name:016x}",
        "crossings": found,
        "placements": [asdict(attempt) for attempt in attempts],
        **_report(board, config, folder, built=bool(steps)),
        "multipliers": config.multipliers,
        "peak_gops": round(2e-3 * config.rows * config.columns * config.clock_mhz, 3),
        "seconds": round(time.monotonic() - started, 1),
    }
    result_file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _finished(result_file: Path, name: int) -> dict[str, Any] | None:
    """The result of an earlier build of the same, if its bitstream is untouched."""
    try:
        result = json.loads(result_file.read_text())
        untouched = (result["identity"] == f"{name:016x}"
                     and result["name"] == result_file.parent.name
                     and result["bitstream_sha256"] == _sha256(Path(result["bitstream"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if untouched else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_design(board: Board, config: Config, name: int, folder: Path) -> Any:
    """Write the design with the identity `name`, and the board's constraints, into `folder`.
    Returns the platform."""
    platform, files = _design(board, config, name)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return platform


def _design(board: Board, config: Config, name: int) -> tuple[Any, dict[str, bytes]]:
    """The platform, and the files that it leaves for the tools."""
    try:
        from systolith.hw.multiplier import MultiplierBudget

        from .top import BoardTop
        platform = board.platform()
    except ImportError as error:
        raise MissingExtraError(f"building a bitstream needs {error.name}: install it with "
                                "pip install 'systolith[hw]'") from None
    if board.multipliers:
        platform.multipliers = MultiplierBudget(board.family, board.multipliers, config)
    plan = platform.build(BoardTop(board, config, build=name), name="top", do_build=False,
                          emit_src=False)
    files = dict(plan.files)
    if "top.il" in files:
        files["top.il"] = flow.without_collisions(files["top.il"])
    if board.placement(config).sums:
        files["top_sums.v"] = flow.SUMS
    return platform, {file: content if isinstance(content, bytes) else content.encode()
                      for file, content in files.items()}


def _report(board: Board, config: Config, folder: Path, *, built: bool) -> dict[str, Any]:
    """Clocks and resources from nextpnr's report. Vivado's reports stay in the folder, but for
    whether the timing is met."""
    if board.family == "series7":
        if built and _VIVADO_MET not in (folder / "top_timing.rpt").read_text(errors="replace"):
            raise BuildError(f"{board.name} misses its timing (see {folder / 'top_timing.rpt'}): "
                             "lower clock_mhz in its configuration")
        return {"fmax_mhz": {}, "target_mhz": {}, "utilization": {}}
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise BuildError(f"placement left no report ({error}): see {folder}") from None
    reached, wanted = {}, {}
    oscillator_mhz = board.platform().default_clk_frequency / 1e6
    for net, clock in report["fmax"].items():
        constraint = clock["constraint"]
        names = [name for name, mhz in (("core", config.clock_mhz), ("link", oscillator_mhz))
                 if abs(constraint - mhz) < 0.5]
        if not names:
            raise BuildError(f"{board.name} has a clock without a constraint of its own, {net}: "
                             "name its frequency in the platform")
        # Of clocks with the same constraint the slowest counts: an SDRAM chip's is the core's, and
        # a core may run at the oscillator's.
        for name in names:
            reached[name] = min(reached.get(name, clock["achieved"]), clock["achieved"])
            wanted[name] = constraint
    used = report["utilization"]
    utilization = {
        ours: {"used": used[theirs]["used"], "available": used[theirs]["available"]}
        for ours, theirs in FAMILIES[board.family].resources.items() if theirs in used}
    return {"fmax_mhz": {name: round(mhz, 1) for name, mhz in reached.items()},
            "target_mhz": {name: round(mhz, 1) for name, mhz in wanted.items()},
            "utilization": utilization}


def _reached(report: dict[str, Any]) -> float:
    """The least part of a wanted clock."""
    return min(report["fmax_mhz"][clock] / target
               for clock, target in report["target_mhz"].items())


def check_timing(result: dict[str, Any]) -> None:
    """Raises `BuildError` when a clock of a build is slower than it has to be."""
    slow = [f"{clock} reaches {result['fmax_mhz'][clock]:g} of {target:g} MHz"
            for clock, target in result["target_mhz"].items()
            if result["fmax_mhz"][clock] < target]
    if slow:
        raise BuildError(f"{result['name']} misses its timing ({', '.join(slow)}): lower "
                         "clock_mhz in its configuration")
