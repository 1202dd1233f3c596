"""How quick the tools are, beside PyTorch's own int8 execution (`python -m benchmarks.tools`).

Seconds depend on the machine, and on what else it does; ratios less so.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console

from systolith import models
from systolith.bench import bench_model
from systolith.hw.config import PRESETS
from systolith.summary import layer_table, terminal

__all__ = ["torch_seconds"]


def torch_seconds(name: str, *, repeats: int = 5) -> float:
    """Best time of one image through PyTorch's quantized kernels, on one thread."""
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    model, images = models.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated, and has the kernels
        prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (images[:1],))
        prepared(images)
        converted = quantize_fx.convert_fx(prepared)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return min(_seconds(lambda: converted(images[:1])) for _ in range(repeats))
    finally:
        torch.set_num_threads(threads)


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _build_seconds() -> float:
    """Time to build the simulator of the 16x16 SoC from nothing."""
    from systolith.sim.verilated import build_library

    before = os.environ.get("SYSTOLITH_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SYSTOLITH_CACHE"] = folder
        try:
            return _seconds(lambda: build_library(PRESETS["default"]))
        finally:
            if before is None:
                del os.environ["SYSTOLITH_CACHE"]
            else:
                os.environ["SYSTOLITH_CACHE"] = before


def main(console: Console) -> None:
    """Measure and print all."""
    console.print(f"building the 16x16 simulator: {_build_seconds():.1f} s")
    rows = []
    for name in ("resnet18", "mobilenetv2"):
        result = bench_model(name)
        seconds, native = result["seconds"], torch_seconds(name)
        rows.append((name, "", f"{seconds['compile']:.1f}", f"{seconds['golden']:.2f}",
                     f"{seconds['rtl']:.1f}",
                     f"{result['simulated_cycles_per_second']:,.0f}", f"{native:.3f}",
                     f"{seconds['golden'] / native:.0f}", f"{seconds['rtl'] / native:.0f}"))
    console.print(layer_table(
        "one image, seconds", ("network", "", "compile", "golden model", "RTL",
                               "RTL cycles a second", "torch int8", "golden / torch",
                               "RTL / torch"), rows))


if __name__ == "__main__":
    main(terminal())
