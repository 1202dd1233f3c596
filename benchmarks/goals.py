"""Whole networks on RTL beside what the project wants to reach, and what others have reached.

`python -m benchmarks.goals`. Everything is simulated RTL with main memory of 50 cycles of latency.
The weights are random and the batch norms calibrated on photographs: that changes no cycle.
"""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from systolith.bench import bench_model
from systolith.hw.config import PRESETS, Config
from systolith.summary import layer_table, percent, terminal

__all__ = ["GOALS", "Goal"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A network on a configuration: the least utilization to reach, and others' figure."""

    model: str
    label: str
    reach: float
    elsewhere: str
    config: str = "default"
    memory_bytes: int = 8
    layers: str | None = None
    batch: int = 1

    @property
    def configuration(self) -> Config:
        """The preset with a memory port of the goal's width."""
        return PRESETS[self.config].replace(memory_bytes_per_beat=self.memory_bytes)

    def run(self) -> dict[str, Any]:
        """Measure: what `systolith bench --json` holds."""
        return bench_model(self.model, config=self.configuration, layers=self.layers,
                           batch=self.batch)


GOALS = (
    Goal(model="resnet18", label="ResNet-18 C2-C11", layers="2:29", reach=0.95,
         elsewhere="VTA 85.7 %, no latency"),
    Goal(model="resnet18", label="ResNet-18", reach=0.897, elsewhere=""),
    Goal(model="resnet50", label="ResNet-50", reach=0.85, elsewhere="NVDLA 69 %, Gemmini 51 %"),
    Goal(model="mobilenetv2", label="MobileNetV2", memory_bytes=16, reach=0.75,
         elsewhere="DPU 14 %"),
    Goal(model="mobilenetv2", label="MobileNetV2", reach=0.60, elsewhere=""),
    Goal(model="resnet20", label="ResNet-20", config="small", reach=0.92,
         elsewhere="Tensil 50 % modelled, 18 % measured"),
    Goal(model="resnet8", label="MLPerf Tiny IC", config="small", reach=0.85,
         elsewhere="fpgaConvNet 40.7 %"),
    Goal(model="dscnn-kws", label="MLPerf Tiny KWS", config="small", reach=0.65,
         elsewhere="fpgaConvNet 16.5 %"),
    Goal(model="mobilenetv1-vww", label="MLPerf Tiny VWW", config="small", reach=0.55,
         elsewhere="fpgaConvNet 3.8 %"),
    Goal(model="resnet8", label="MLPerf Tiny IC", reach=0.75, elsewhere="Ethos-U55 45.6 %"),
    Goal(model="dscnn-kws", label="MLPerf Tiny KWS", reach=0.50, elsewhere="Ethos-U55 18.5 %"),
    Goal(model="mobilenetv1-vww", label="MLPerf Tiny VWW", reach=0.45,
         elsewhere="Ethos-U55 19.9 %"),
    Goal(model="autoencoder-ad", label="MLPerf Tiny AD, 16 images", batch=16, memory_bytes=16,
         reach=0.60, elsewhere=""),
    Goal(model="resnet20", label="ResNet-20, 4-bit weights", config="int4", reach=0.0,
         elsewhere=""),
)
"""By network, as the documentation lists them."""

BANDWIDTH_GOALS = (
    Goal(model="autoencoder-ad", label="MLPerf Tiny AD", reach=0.85, elsewhere=""),
    Goal(model="autoencoder-ad", label="MLPerf Tiny AD, 16 images", batch=16, reach=0.85,
         elsewhere=""),
)
"""Networks that the memory port holds up: the share of its bytes that they use."""


def bandwidth(result: dict[str, Any]) -> float:
    """Bytes moved over what the memory port could have moved."""
    return (result["total"]["bytes"]
            / (result["memory"]["bytes_per_cycle"] * result["total"]["cycles"]))


def main(console: Console) -> None:
    """Measure and print all."""
    rows = []
    for goal in GOALS:
        result = goal.run()
        total = result["total"]
        assert result["bit_exact"], goal
        rows.append((goal.label, f"{result['config']['rows']}x{result['config']['columns']}",
                     goal.memory_bytes, total["cycles"], total["predicted_cycles"],
                     percent(total["utilization"]), percent(goal.reach) if goal.reach else "",
                     goal.elsewhere))
    console.print(layer_table(
        "networks on RTL, bit-exact against the golden model, 50 cycles of memory latency",
        ("network", "array", "bytes a cycle", "cycles", "predicted", "utilization", "goal",
         "elsewhere"), rows))
    rows = []
    for goal in BANDWIDTH_GOALS:
        result = goal.run()
        assert result["bit_exact"], goal
        rows.append((goal.label, "16x16", goal.memory_bytes, result["total"]["cycles"],
                     percent(bandwidth(result)), percent(goal.reach)))
    console.print(layer_table(
        "networks that the memory port holds up",
        ("network", "array", "bytes a cycle", "cycles", "of the port's bytes", "goal"), rows))


if __name__ == "__main__":
    main(terminal())
