"""One self-contained HTML page about a program or a run: charts as inline SVG, no scripts.

Predictions are the compiler's; cycles are the device's own. The page says which it shows.
"""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError, MissingExtraError, ProgramError
from .hw.config import Config
from .program import Program, load
from .summary import compile_summary, percent, time_shares

__all__ = ["report_file", "write_run_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; color: #1b2733;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #dfe5ea; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
svg { max-width: 100%; height: auto; } pre { overflow-x: auto; font-size: 13px; }
.note { color: #5b6b7a; }
"""
_MEASURED, _PREDICTED = "#1f6f8b", "#d9a441"


def report_file(source: Path, output: Path) -> dict[str, Any]:
    """Write the page for a program file, or for the JSON of `run`, `demo` or `bench`.

    Returns what the page was made from. Raises `InputError` or `ProgramError` for anything else.
    """
    try:
        text = source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None
    if text.lstrip()[:1] in (b"{", b"["):
        try:
            summary = json.loads(text)
            summary = summary.get("run", summary)
            summary["layers"][0]["cycles"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise InputError(f"{source} holds no run with layers: give the --json file of run, "
                             "demo or bench on a device that counts cycles") from None
        _write(output, _page(summary, None))
        return summary
    try:
        program = load(source)
    except ProgramError as error:
        raise InputError(f"{source} is neither a program nor the JSON of a run: {error}") from None
    summary = compile_summary(program)
    _write(output, _page(summary, program))
    return summary


def write_run_report(path: Path, program: Program, summary: dict[str, Any]) -> None:
    """Write the page for a run of `program`; `summary` is `systolith.summary.run_summary`'s."""
    if not summary["layers"]:
        summary = {**compile_summary(program), "images": summary["images"]}
    _write(path, _page(summary, program))


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _total_cycles(summary: dict[str, Any]) -> int:
    """Cycles of one image: of a bench, of a run, or as predicted."""
    if "total" in summary:
        return int(summary["total"]["cycles"])
    return int(summary.get("cycles_per_image") or summary["predicted_cycles"])


def _page(summary: dict[str, Any], program: Program | None) -> str:
    config = Config.from_dict(summary["config"])
    layers = summary["layers"]
    measured = "cycles" in layers[0]
    key = "cycles" if measured else "predicted_cycles"
    macs = sum(layer["macs"] for layer in layers)
    cycles = _total_cycles(summary)
    kind = "measured on the device" if measured else "predicted by the cost model"
    parts = [
        f"<h1>{html.escape(summary['model'] or 'model')} on {config.rows}×{config.columns}</h1>",
        f"<p>{macs:,} multiply-accumulates in {cycles:,} cycles ({kind}): "
        f"<b>{percent(macs / (cycles * config.multipliers)) if cycles else '–'}</b> of "
        f"{config.multipliers} multipliers; "
        f"{config.clock_mhz * 1e6 / cycles if cycles else 0:,.0f} images a second at "
        f"{config.clock_mhz:g} MHz, the link not counted.</p>",
        f"<p>{html.escape(time_shares(summary))}</p>",
        "<h2>Utilization a layer</h2>", _utilization_chart(layers, config, key),
        "<h2>Roofline</h2>", _roofline_chart(layers, config, key),
        "<h2>Timeline</h2>", _timeline_chart(layers, key),
        "<h2>Layers</h2>", _layer_table(layers, config, key),
    ]
    if summary.get("stalls"):
        parts += ["<h2>Stalls of the last image</h2>", _table(
            ("cause", "", "cycles"),
            [(name.replace("_", " "), "", value) for name, value in summary["stalls"].items()])]
    if program is not None:
        rows = [vars(row) for row in program.bias_report()]
        if rows:
            parts += ["<h2>Bias</h2>", '<p class="note">Float bias, the integer that is added, '
                      "what a rounding constant keeps of the rest, and the error that remains in "
                      "steps of the output.</p>", _table(tuple(rows[0]), [tuple(row.values())
                                                                        for row in rows])]
        parts += ["<h2>Memory map</h2>", f"<pre>{html.escape(program.memory_map())}</pre>"]
    return ("<!doctype html><html lang=en><meta charset=utf-8>"
            f"<title>systolith: {html.escape(summary['model'])}</title>"
            f"<style>{_STYLE}</style><body>" + "\n".join(parts) + "</body></html>\n")


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        return f"{value:,}" if isinstance(value, int) else html.escape(str(value))

    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>"
                   for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _layer_table(layers: list[dict[str, Any]], config: Config, key: str) -> str:
    return _table(
        ("layer", "operation", "MACs", "cycles", "predicted", "utilization"),
        [(layer["name"], layer["op"], layer["macs"], layer[key], layer["predicted_cycles"],
          _share(layer, config, key)) for layer in layers])


def _share(layer: dict[str, Any], config: Config, key: str) -> str:
    cycles = layer[key]
    return percent(layer["macs"] / (cycles * config.multipliers)) if cycles else "–"


# Charts -----------------------------------------------------------------------------------------

def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("reports need matplotlib: pip install 'systolith[report]'"
                                ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg"):]


def _utilization_chart(layers: list[dict[str, Any]], config: Config, key: str) -> str:
    shown = [layer for layer in layers if layer["macs"] and layer[key]]
    figure, axes = _figure(10, 1 + 0.24 * len(shown))
    places = range(len(shown))
    values = [100 * layer["macs"] / (layer[key] * config.multipliers) for layer in shown]
    axes.barh(places, values, color=_MEASURED)
    axes.set_yticks(places, [layer["name"] for layer in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("useful multiply-accumulates, % of the array")
    return _svg(figure)


def _roofline_chart(layers: list[dict[str, Any]], config: Config, key: str) -> str:
    shown = [layer for layer in layers
             if layer["macs"] and layer[key] and layer.get("bytes")]
    figure, axes = _figure(10, 4)
    bandwidth = config.memory_bytes_per_beat / config.memory_beat_cycles
    low, high = 0.5, 2.0 * max(config.multipliers, *(
        layer["macs"] / layer["bytes"] for layer in shown), 1)
    ridge = config.multipliers / bandwidth
    axes.plot([low, ridge, high], [low * bandwidth, config.multipliers, config.multipliers],
              color="#5b6b7a")
    axes.scatter([layer["macs"] / layer["bytes"] for layer in shown],
                 [layer["macs"] / layer[key] for layer in shown], color=_MEASURED, s=18)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("multiply-accumulates a byte of main memory traffic")
    axes.set_ylabel("multiply-accumulates a cycle")
    return _svg(figure)


def _timeline_chart(layers: list[dict[str, Any]], key: str) -> str:
    figure, axes = _figure(10, 1 + 0.24 * len(layers))
    clock = 0
    for row, layer in enumerate(layers):
        begin = layer.get("begin", clock)
        axes.barh(row, layer[key], left=begin,
                  color=_MEASURED if key == "cycles" else _PREDICTED)
        clock = begin + layer[key]
    axes.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("cycle")
    return _svg(figure)
