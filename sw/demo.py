"""`systolith demo`: digits, from training to the last bit of the hardware's answer."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from .errors import MissingExtraError
from .hw.config import load_config

__all__ = ["run_demo"]

CALIBRATION_IMAGES = 256


def run_demo(*, config: str | Path = "default", device: str = "rtl", report: Path | None = None,
             console: Console | None = None) -> dict[str, Any]:
    """Train, quantize and compile the digits model, run every held-out digit on a device, compare.

    Parameters
    ----------
    config
        Preset's name or TOML file.
    device
        As for `systolith.open`.
    report
        Where to write the HTML report; None for no report.
    console
        Where to print; a quiet one by default.

    Returns what `systolith demo --json` holds. Raises `MissingExtraError` without torch.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("the demo trains with torch: pip install 'systolith[torch]'"
                                ) from None
    from . import api
    from .driver import open as open_device
    from .importer import import_model
    from .models import digits
    from .quantizer import quantize
    from .summary import percent, run_summary

    console = console or Console(quiet=True)
    chosen = load_config(config)
    with console.status("training on 1,438 handwritten digits"):
        model, data = digits.train()
    images, labels = data.test_images, data.test_labels
    with torch.no_grad():
        float_accuracy = digits.accuracy(model(torch.from_numpy(images)).numpy(), labels)
    console.print(f"float model: {percent(float_accuracy)} of {len(images)} held-out digits")

    with console.status("quantizing and compiling"):
        calibration = torch.from_numpy(data.train_images[:CALIBRATION_IMAGES])
        example = torch.from_numpy(images[:1])
        quantized = quantize(model, [calibration])
        with torch.no_grad():
            framework = quantized(torch.from_numpy(images)).numpy()
        graph = import_model(quantized, example, bias=chosen.bias,
                             multiplier_bits=chosen.multiplier_bits)
        program = api.compile(graph, config=chosen, name="digits")
    quantized_accuracy = digits.accuracy(framework, labels)
    console.print(f"quantized PyTorch model: {percent(quantized_accuracy)}; compiled to "
                  f"{len(program.image):,} bytes for {chosen.rows}x{chosen.columns}")

    with open_device("golden", config=chosen) as golden:
        expected = golden.run(program, images, dequantize=False)
    console.print(f"building and running {device} (the first build takes a while)")
    with open_device(device, config=chosen) as opened:
        levels = opened.run(program, images, dequantize=False)
        last = opened.last_run
    assert last is not None
    output = program.outputs[0]
    framework_levels = output.quantize(framework)
    result: dict[str, Any] = {
        "accuracy": {"float": float_accuracy, "quantized": quantized_accuracy,
                     "rtl": digits.accuracy(output.dequantize(levels), labels)},
        "outputs": int(levels.size),
        "mismatches": {"rtl_vs_golden": int(np.count_nonzero(levels != expected)),
                       "rtl_vs_framework": int(np.count_nonzero(levels != framework_levels))},
        "cycles_per_image": last.cycles,
        "utilization": last.utilization,
        "config": chosen.to_dict(),
        "device": device,
        "run": run_summary(program, last),
    }
    _print(console, result, device)
    if report is not None:
        from .report import write_run_report

        write_run_report(report, program, result["run"])
        console.print(f"report: {report}")
    return result


def _print(console: Console, result: dict[str, Any], device: str) -> None:
    from .summary import percent

    accuracy, different = result["accuracy"], result["mismatches"]
    console.print(f"accuracy: float {percent(accuracy['float'])}, quantized PyTorch "
                  f"{percent(accuracy['quantized'])}, {device} {percent(accuracy['rtl'])}")
    console.print(f"values that differ, of {result['outputs']:,}: {different['rtl_vs_golden']} "
                  f"from the golden model, {different['rtl_vs_framework']} from PyTorch")
    if result["cycles_per_image"]:
        run = result["run"]
        console.print(f"{result['cycles_per_image']:,} cycles an image, "
                      f"{percent(result['utilization'])} of the array's multipliers, "
                      f"{run['images_per_second']:,.0f} images a second at "
                      f"{result['config']['clock_mhz']:g} MHz (simulated, link not counted)")
