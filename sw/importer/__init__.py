"""Import of quantized PyTorch models: everything becomes one integer graph."""

from typing import TYPE_CHECKING, Any

from systolith.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from systolith.graph import Graph

__all__ = ["import_model"]


def import_model(model: Any, example_input: Any = None, *, bias: str = "exact",
                 multiplier_bits: int = 24) -> "Graph":
    """Turn a quantized PyTorch model into an integer graph.

    Parameters
    ----------
    model
        A converted PT2E `GraphModule`, an `ExportedProgram`, the path of a `.pt2` file, or a
        module converted by FX or eager mode quantization.
    example_input
        A tensor or array (or a tuple of them) of the network's input shape, batch first. Only its
        shape is used, to check against the model's own; it may be None, but for a module that FX
        or eager mode converted.
    bias
        "exact" or "int32" (arithmetic contract, bias modes).
    multiplier_bits
        24, 18, 16 or 0: width of the requantize multiplier.

    Raises
    ------
    ModelError
        A `systolith.importer.rules.Rule`, or several in one
        `systolith.errors.MultipleRefusals`.
    MissingExtraError
        When torch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("importing a PyTorch model needs torch: "
                                "pip install 'systolith[torch]'") from None
    if bias not in ("exact", "int32"):
        raise ModelError(f"bias must be \"exact\" or \"int32\", not {bias!r}")
    if multiplier_bits not in (24, 18, 16, 0):
        raise ModelError(f"multiplier_bits must be 24, 18, 16 or 0, not {multiplier_bits}")
    from systolith.importer.pt2e import import_pt2e
    from systolith.importer.sources import graph_module

    return import_pt2e(graph_module(model, example_input), example_input, bias=bias,
                       multiplier_bits=multiplier_bits)
