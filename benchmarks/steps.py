"""What each part of the design brings: the same networks without it (`python -m benchmarks.steps`).

Parts of the compiler are left out by name, parts of the hardware by configuration. Predicted cycles
are the cost model's, cycles are the RTL's.
"""

from typing import Any

from rich.console import Console

from systolith import models
from systolith.bench import bench_graph, first_images
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from systolith.summary import layer_table, terminal

__all__ = ["CHANGES"]

NETWORKS = ("resnet8", "dscnn-kws", "resnet20", "mobilenetv2")

CHANGES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "everything": ((), {}),
    "first layer not packed by taps": (("packing",), {}),
    "layer after layer, not stripe by stripe": (("fusion",), {}),
    "work in the order of the layers": (("scheduling",), {}),
    "4 requantize lanes instead of 16": ((), {"lanes": 4}),
    "1 tap a lane in the vector unit instead of 3": ((), {"vector_taps": 1}),
    "scratchpad of 1 bank instead of 8": ((), {"scratchpad_banks": 1,
                                               "scratchpad_bank_words": 16384}),
}
"""What is left out: compiler steps, and changes of the configuration."""


def main(console: Console) -> None:
    """Measure and print all."""
    rows = []
    for name in NETWORKS:
        model, example = models.load_quantized(name)
        graph = import_model(model, example)
        images = first_images(graph, example)
        base = 0
        for label, (steps, changes) in CHANGES.items():
            result = bench_graph(graph, images, name=name, leave_out=steps,
                                 config=PRESETS["default"].replace(**changes))
            assert result["bit_exact"], (name, label)
            total = result["total"]
            base = base or total["cycles"]
            rows.append((name, label, total["predicted_cycles"], total["cycles"],
                         f"{total['cycles'] / base:.2f}"))
    console.print(layer_table(
        "16x16, 8 bytes a cycle, 50 cycles of latency, without one part each",
        ("network", "design", "predicted", "cycles", "ratio"), rows))


if __name__ == "__main__":
    main(terminal())
