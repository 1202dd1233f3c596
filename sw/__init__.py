"""Systolith: run PyTorch-quantized models bit for bit on an open int8 FPGA accelerator.

The public names load on first use, so that importing the package needs only the driver's
dependencies: torch is imported by `quantize`, `compile` and `reference` of a torch model, the
simulator by `open("rtl")`.
"""

from importlib import import_module
from typing import Any

from . import errors
from .errors import Error

__version__ = "0.1.0"

_LAZY = {
    "quantize": ("systolith.quantizer", "quantize"),
    "SystolithQuantizer": ("systolith.quantizer", "SystolithQuantizer"),
    "fine_tune_classifier": ("systolith.quantizer", "fine_tune_classifier"),
    "compile": ("systolith.api", "compile"),
    "reference": ("systolith.integer_reference", "reference"),
    "load": ("systolith.program", "load"),
    "Program": ("systolith.program", "Program"),
    "open": ("systolith.driver", "open"),
}

__all__ = ["Error", "Program", "SystolithQuantizer", "compile", "errors",
           "fine_tune_classifier", "load", "open",
           "quantize", "reference"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'systolith' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
