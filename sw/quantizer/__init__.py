"""Quantization for the hardware: a PT2E quantizer, and one call that does everything."""

from typing import TYPE_CHECKING, Any

from systolith.errors import MissingExtraError

if TYPE_CHECKING:
    from systolith.quantizer.annotate import SystolithQuantizer
    from systolith.quantizer.flow import fine_tune_classifier, quantize

__all__ = ["SystolithQuantizer", "fine_tune_classifier", "quantize"]

_LAZY = {"SystolithQuantizer": "annotate", "fine_tune_classifier": "flow", "quantize": "flow"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'systolith.quantizer' has no attribute '{name}'")
    from importlib import import_module

    try:
        module = import_module(f"systolith.quantizer.{_LAZY[name]}")
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("torch", "torchao"):
            raise
        raise MissingExtraError(f"quantizing a model needs {error.name}: "
                                "pip install 'systolith[torch]'") from None
    return getattr(module, name)
