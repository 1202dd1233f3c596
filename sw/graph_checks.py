"""What a valid integer graph is: run after import and after every pass of the compiler."""

import numpy as np

from systolith import graph as ir
from systolith.errors import ModelError

__all__ = ["validate"]


def validate(graph: ir.Graph) -> None:
    """Check order, shapes and ranges. Raises ModelError naming the first node that is wrong."""
    known: set[str] = set()
    for name in graph.inputs:
        _tensor(graph, name, "network input")
        if name in known:
            raise ModelError(f"network input '{name}' is named twice")
        known.add(name)
    names: set[str] = set()
    for node in graph.nodes:
        if node.name in names:
            raise ModelError(f"two nodes are called '{node.name}'")
        names.add(node.name)
        for name in node.inputs:
            if name not in known:
                raise ModelError(f"{node.op} '{node.name}' reads '{name}' before it is made")
        if node.output in known:
            raise ModelError(f"{node.op} '{node.name}' makes '{node.output}' a second time")
        _tensor(graph, node.output, f"output of {node.op} '{node.name}'")
        _node(graph, node)
        known.add(node.output)
    for name in graph.outputs:
        if name not in known:
            raise ModelError(f"network output '{name}' is made by no node")
    for operation in graph.tail:
        for name in operation.inputs:
            if name not in known:
                raise ModelError(f"{operation.op} behind the network reads '{name}' "
                                 "before it is made")
        known.add(operation.output)
    for name in graph.results:
        if name not in known:
            raise ModelError(f"network result '{name}' is made by no node")
    stray = set(graph.tensors) - known
    if stray:
        raise ModelError(f"tensors that no node makes: {', '.join(sorted(stray))}")


def _tensor(graph: ir.Graph, name: str, what: str) -> None:
    kind = graph.tensors.get(name)
    if kind is None:
        raise ModelError(f"{what} '{name}' has no type")
    if kind.dtype != "int8":
        raise ModelError(f"{what} '{name}' is {kind.dtype}: only int8 tensors are supported")
    if len(kind.shape) not in (1, 3) or min(kind.shape) < 1:
        raise ModelError(f"{what} '{name}' has the shape {kind.shape}: (C, H, W) or (C,) is "
                         "needed, with no empty axis")
    if not (np.isfinite(kind.scale) and kind.scale > 0):
        raise ModelError(f"{what} '{name}' has the scale {kind.scale}: it must be positive")
    if not -128 <= kind.zero_point <= 127:
        raise ModelError(f"{what} '{name}' has the zero point {kind.zero_point}, outside int8")


def _node(graph: ir.Graph, node: ir.Node) -> None:
    def need(condition: object, message: str) -> None:
        if not condition:
            raise ModelError(f"{node.op} '{node.name}' {message}")

    count = len(node.inputs)
    need(count >= 1 if isinstance(node, ir.Concat) else count == node.arity,
         f"has {count} inputs")
    shape = node.output_shape(graph.shapes(node))
    expected = graph.tensors[node.output].shape
    need(shape == expected, f"makes {shape}, but its output is declared as {expected}")
    low, high = getattr(node, "low", -128), getattr(node, "high", 127)
    need(-128 <= low <= high <= 127, f"has the bounds {low} and {high}")
    need(-128 <= getattr(node, "zero", 0) <= 127, "has a zero point outside int8")
    if isinstance(node, ir.Weighted):
        _weighted(node, need)
    elif isinstance(node, (ir.Multiply, ir.AveragePool, ir.Requantize, ir.UpsampleBilinear)):
        need(0 <= node.multiplier < 1 << 24, f"has the multiplier {node.multiplier}")
        need(0 <= node.shift < 64, f"has the shift {node.shift}")
        need(-1 << 31 <= getattr(node, "bias", 0) < 1 << 31, "has a bias outside int32")
    elif isinstance(node, ir.Add):
        need(max(abs(node.multiplier_a), abs(node.multiplier_b)) < 1 << 22,
             "has a multiplier of more than 22 bits")
        need(0 <= node.shift < 32, f"has the shift {node.shift}")
    elif isinstance(node, ir.Table):
        need(node.table.shape == (256,) and node.table.dtype == np.int8,
             "needs a table of 256 int8")
    elif isinstance(node, ir.Pad):
        need(min(node.padding) >= 0 and -128 <= node.value <= 127, "has an impossible padding")


def _weighted(node: ir.Weighted, need) -> None:  # type: ignore[no-untyped-def]
    channels = len(node.weight)
    dtypes = {"weight": np.int8, "bias": np.int32, "rounding": np.int64, "multiplier": np.int64,
              "shift": np.int64, "float_bias": np.float64, "weight_scale": np.float64,
              "enlargement": np.int64, "enlargement_error": np.float64}
    for name, dtype in dtypes.items():
        array = getattr(node, name)
        need(array.dtype == dtype, f"has {name} of type {array.dtype}, not {np.dtype(dtype)}")
        need(name == "weight" or array.shape == (channels,),
             f"has {array.shape} values of {name} for {channels} channels")
    need(node.multiplier.min() >= 0 and node.multiplier.max() < 1 << 24,
         "has a multiplier of more than 24 bits")
    need(node.shift.min() >= 0 and node.shift.max() < 64, "has a shift outside 0 to 63")
    need(np.abs(node.rounding).max() < 1 << 24, "has a rounding constant of more than 25 bits")
    magnitude = np.abs(node.weight.reshape(channels, -1).astype(np.int64)).sum(axis=1)
    bound = 128 * magnitude + np.abs(node.bias.astype(np.int64))
    worst = int(bound.argmax())
    need(bound[worst] < 1 << 31,
         f"may overflow its 32-bit accumulator in channel {worst} (up to {bound[worst]})")
