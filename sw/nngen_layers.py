"""`systolith bench nngen-layers`: single layers at the geometry of NNgen's published comparison.

NNgen generates a circuit for each network; its figures were measured on the RTL of one layer, from
start to end, by the utilization of its multipliers. Here the same layer runs on an array of as many
multipliers, or of the next smaller power of two, at the same bus width. "With latency" there is
a latency of 50 cycles here, "without" is one cycle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from .bench import Progress, bench_graph, first_images
from .errors import MissingExtraError
from .hw.config import PRESETS, Config
from .summary import layer_table, percent

__all__ = ["LAYERS", "Yardstick", "bench_layers", "print_layers"]


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """A convolution with ReLU, where it ran, and how much of its multipliers NNgen used there."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    multipliers: int
    bus_bytes: int
    latency: int
    utilization: float

    @property
    def name(self) -> str:
        """As in the table."""
        return (f"{self.kernel}x{self.kernel} {self.inputs}->{self.outputs} at "
                f"{self.size}x{self.size}")

    @property
    def config(self) -> Config:
        """An array of at most as many multipliers."""
        rows, columns = _GEOMETRY[self.multipliers]
        return PRESETS["default"].replace(
            rows=rows, columns=columns, lanes=min(columns, 16), memory_size=16 << 20,
            memory_bytes_per_beat=self.bus_bytes)


_GEOMETRY = {16: (4, 4), 144: (16, 8), 256: (16, 16), 288: (16, 16), 576: (32, 16)}


def _layer(inputs: int, outputs: int, kernel: int, size: int, multipliers: int, bus_bytes: int,
           latency: int, percentage: float) -> Yardstick:
    return Yardstick(inputs=inputs, outputs=outputs, kernel=kernel, size=size,
                     multipliers=multipliers, bus_bytes=bus_bytes, latency=latency,
                     utilization=percentage / 100)


LAYERS = (
    _layer(16, 16, 3, 16, 144, 4, 50, 67.5),
    _layer(16, 16, 3, 16, 144, 16, 1, 77.3),
    _layer(3, 16, 3, 16, 144, 16, 1, 31.6),
    _layer(64, 64, 1, 8, 16, 16, 1, 90.9),
    _layer(64, 64, 3, 16, 144, 16, 1, 95.0),
    _layer(64, 64, 3, 16, 288, 16, 1, 90.9),
    _layer(64, 64, 3, 16, 576, 16, 1, 80.9),
    _layer(64, 64, 3, 16, 288, 4, 50, 65.6),
    _layer(576, 64, 1, 16, 256, 16, 1, 77.9),
    _layer(64, 64, 1, 16, 256, 16, 1, 34.8),
    _layer(64, 64, 1, 16, 256, 4, 50, 11.3),
)


def bench_layers(*, progress: Progress = lambda text: None,
                 bench: Callable[..., dict[str, Any]] = bench_graph) -> list[dict[str, Any]]:
    """Run every layer on RTL; rows are bench results with `yardstick`, NNgen's utilization.

    Raises `MissingExtraError` without torch, which quantizes the layers.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("benchmark layers are quantized by torch: pip install "
                                "'systolith[torch]'") from None
    from .importer import import_model
    from .quantizer import quantize

    results = []
    for layer in LAYERS:
        progress(layer.name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Conv2d(layer.inputs, layer.outputs, layer.kernel,
                                padding=layer.kernel // 2), torch.nn.ReLU()).eval()
            images = torch.randn(4, layer.inputs, layer.size, layer.size)
        graph = import_model(quantize(model, [images]), images, bias=layer.config.bias,
                             multiplier_bits=layer.config.multiplier_bits)
        result = bench(graph, first_images(graph, images), name=layer.name, config=layer.config,
                       memory_latency=layer.latency, progress=progress)
        results.append(result | {"yardstick": layer.utilization,
                                 "yardstick_multipliers": layer.multipliers})
    return results


def print_layers(console: Console, results: list[dict[str, Any]]) -> None:
    """Print a line a layer: NNgen's multipliers and utilization beside ours."""
    console.print(layer_table(
        "single layers on RTL, beside NNgen's",
        ("layer", "array", "bus bytes", "latency", "cycles", "utilization", "NNgen",
         "its multipliers"),
        [(row["model"], f"{row['config']['rows']}x{row['config']['columns']}",
          row["memory"]["bytes_per_cycle"], row["memory"]["latency"], row["total"]["cycles"],
          percent(row["total"]["utilization"]), percent(row["yardstick"]),
          row["yardstick_multipliers"]) for row in results]))
