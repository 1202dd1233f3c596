"""What a program and a run amount to: JSON values, tables for the terminal, and a timeline.

Figures of a run come from the device's own counters; predictions from the compiler's cost model.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .errors import InputError

if TYPE_CHECKING:
    from .driver.records import RunRecord
    from .program import Program

__all__ = ["compile_summary", "layer_table", "percent", "print_run", "print_summary", "run_summary",
           "terminal", "time_shares", "write_trace"]


def compile_summary(program: "Program") -> dict[str, Any]:
    """The fit of a program, as `systolith compile --json` holds it."""
    parameters = [region.nbytes for region in program.regions if region.name == "parameters"]
    activations = program.memory_bytes - len(program.image)
    return {
        "model": program.model,
        "config": program.config.to_dict(),
        "instructions": program.metadata.get("instructions", {}),
        "bytes": {"image": len(program.image), "parameters": sum(parameters),
                  "activations_peak": activations, "main_memory": program.memory_bytes},
        "macs": program.macs,
        "predicted_cycles": program.predicted_cycles,
        "layers": [{"name": layer.name, "op": layer.op, "macs": layer.macs,
                    "bytes": layer.bytes, "predicted_cycles": layer.predicted_cycles}
                   for layer in program.layers],
        "fits": program.memory_bytes <= program.config.memory_size,
    }


def layer_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table whose first two columns are texts and the others numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index >= 2)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return table


def terminal() -> Console:
    """A console for tables; a file or a pipe has no width, so that nothing is cut there."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 180)


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def _ratio(macs: int, cycles: int, multipliers: int) -> str:
    return percent(macs / (cycles * multipliers)) if cycles and macs else ""


def print_summary(console: Console, program: "Program", summary: dict[str, Any]) -> None:
    """Print the fit of a program: layers with predicted cycles, memories, instructions."""
    multipliers = program.config.multipliers
    console.print(layer_table(
        f"{summary['model']}: predicted on {program.config.rows}x{program.config.columns}",
        ("layer", "operation", "MACs", "bytes", "cycles", "utilization"),
        [(layer["name"], layer["op"], layer["macs"], layer["bytes"], layer["predicted_cycles"],
          _ratio(layer["macs"], layer["predicted_cycles"], multipliers))
         for layer in summary["layers"]]))
    console.print(program.memory_map(), soft_wrap=True)
    console.print(f"image {summary['bytes']['image']:,} bytes, instructions "
                  + ", ".join(f"{name} {count}"
                              for name, count in summary["instructions"].items()))
    console.print(f"predicted {summary['predicted_cycles']:,} cycles an image, "
                  f"{_ratio(program.macs, program.predicted_cycles, multipliers)} of the array")


def run_summary(program: "Program", last: "RunRecord") -> dict[str, Any]:
    """A run as JSON values: totals, counters and layers."""
    clock = program.config.clock_mhz * 1e6
    return {
        "model": program.model,
        "config": program.config.to_dict(),
        "images": last.images,
        "cycles_per_image": last.cycles,
        "utilization": last.utilization,
        "images_per_second": clock / last.cycles if last.cycles else None,
        "stalls": last.stalls,
        "counters": last.counters,
        "bytes": {"read": last.bytes_read, "written": last.bytes_written},
        "seconds": {"total": last.seconds, "core": last.core_seconds, "link": last.link_seconds},
        "layers": [{"name": layer.name, "op": layer.op, "macs": layer.macs, "begin": layer.begin,
                    "end": layer.end, "cycles": layer.cycles, "active": layer.active,
                    "predicted_cycles": layer.predicted_cycles,
                    "utilization": layer.utilization} for layer in last.layers],
    }


def time_shares(summary: dict[str, Any]) -> str:
    """A sentence on where the time of a run went; nothing for what is no run of some length."""
    seconds = summary.get("seconds", {})
    total = seconds.get("total", 0.0)
    if not total or not summary.get("cycles_per_image"):
        return ""
    return (f"{percent(seconds['core'] / total)} of the time in the core and "
            f"{percent(seconds['link'] / total)} in the link")


def print_run(console: Console, summary: dict[str, Any]) -> None:
    """Print a run: a line a layer where the device counts cycles."""
    if summary["layers"]:
        console.print(layer_table(
            f"{summary['model']}: cycles of the last image",
            ("layer", "operation", "MACs", "cycles", "predicted", "utilization"),
            [(layer["name"], layer["op"], layer["macs"], layer["cycles"],
              layer["predicted_cycles"], percent(layer["utilization"]))
             for layer in summary["layers"]]))
    if summary["cycles_per_image"]:
        console.print(f"{summary['cycles_per_image']:,} cycles an image, "
                      f"{percent(summary['utilization'])} of the array, "
                      f"{summary['images_per_second']:,.0f} images a second at "
                      f"{summary['config']['clock_mhz']:g} MHz, link not counted")
        console.print(f"{summary['images']} images, {time_shares(summary)}")
    else:
        console.print(f"{summary['images']} images; this device counts no cycles")


def write_trace(path: Path, summary: dict[str, Any]) -> None:
    """Write a run's layers as a timeline that Perfetto and chrome://tracing open.

    One microsecond of the timeline is one cycle. Raises `InputError` when the file cannot be
    written, or the run has no layers (the golden model counts no cycles).
    """
    if not summary["layers"]:
        raise InputError("this run has no timeline, because the device counts no cycles: use "
                         "--device rtl or a board")
    events = [{"name": layer["name"], "cat": layer["op"], "ph": "X", "pid": 1, "tid": 1,
               "ts": layer["begin"], "dur": layer["cycles"],
               "args": {"macs": layer["macs"], "utilization": layer["utilization"]}}
              for layer in summary["layers"]]
    try:
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
