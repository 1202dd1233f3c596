"""Maximum and average pools, means and their global and adaptive forms."""

from math import ceil
from typing import Any

from torch import fx

from systolith import graph as ir
from systolith.importer import rules
from systolith.importer.fx import arguments, layer_name, operator_name, value_shape
from systolith.importer.lowering import Lowering, handles
from systolith.integer import Quantization

__all__: list[str] = []


@handles("max_pool1d", "max_pool2d", selects=True)
def lower_max_pool(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """in any window: on the vector unit, else as differences, clamps and sums on the array"""
    values = arguments(node)
    kernel = _pair(values["kernel_size"], 1)
    stride = _pair(values["stride"] or values["kernel_size"], 1)
    padding, dilation = _pair(values["padding"], 0), _pair(values["dilation"], 1)
    return _max_pool(lowering, node, target, kernel, stride, padding, dilation,
                     ceil_mode=bool(values["ceil_mode"]))


@handles("adaptive_max_pool2d", selects=True)
def lower_adaptive_max_pool(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as a max pool, where the output divides the input"""
    values = arguments(node)
    kernel = _adaptive(lowering, node, values["output_size"])
    return _max_pool(lowering, node, target, kernel, kernel, (0, 0), (1, 1), ceil_mode=False)


@handles("amax", selects=True)
def lower_amax(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as a global max pool, over height and width"""
    kernel = _reduced(lowering, node)
    tensor = _max_pool(lowering, node, target, kernel, kernel, (0, 0), (1, 1), ceil_mode=False)
    return lowering.builder.reshape(f"{tensor}.reshape", tensor, lowering.shape(node), target)


@handles("avg_pool1d", "avg_pool2d")
def lower_average_pool(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """on the vector unit, with the padding counted"""
    values = arguments(node)
    kernel = _pair(values["kernel_size"], 1)
    stride = _pair(values["stride"] or values["kernel_size"], 1)
    high, wide = _pair(values["padding"], 0)
    padded = high or wide
    if (padded and not values["count_include_pad"]) or values.get("divisor_override"):
        raise rules.PaddedAverage(layer=layer_name(node))
    tensor, source = lowering.exact(node.args[0], node)
    tensor = lowering.builder.average(
        layer_name(node), tensor, source, target, kernel=kernel, stride=stride,
        padding=(high, high, wide, wide), centered=lowering.centered_average)
    if lowering.builder.shape(tensor) != lowering.shape(node):  # ceil_mode cut a window short
        raise rules.PaddedAverage(layer=layer_name(node))
    return tensor


@handles("adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean")
def lower_global_average(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as an average pool, where the output divides the input, or over height and width"""
    if operator_name(node) == "mean":
        kernel = _reduced(lowering, node)
    else:
        kernel = _adaptive(lowering, node, arguments(node)["output_size"])
    tensor, source = lowering.exact(node.args[0], node)
    tensor = lowering.builder.average(
        layer_name(node), tensor, source, target, kernel=kernel, stride=kernel,
        padding=(0, 0, 0, 0), centered=lowering.centered_average)
    return lowering.builder.reshape(f"{tensor}.reshape", tensor, lowering.shape(node), target)


def _max_pool(lowering: Lowering, node: fx.Node, target: Quantization, kernel: tuple[int, int],
              stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], *,
              ceil_mode: bool) -> str:
    tensor = lowering.lower(node.args[0], target)
    bottom_right = list(padding)
    if ceil_mode:
        # More padding makes the last windows whole; it never wins a maximum.
        sizes = lowering.builder.shape(tensor)[1:]
        for axis in (0, 1):
            extent = dilation[axis] * (kernel[axis] - 1) + 1
            steps = ceil((sizes[axis] + 2 * padding[axis] - extent) / stride[axis])
            if steps * stride[axis] >= sizes[axis] + padding[axis]:
                steps -= 1  # a window must begin inside the input or its left padding
            needed = steps * stride[axis] + extent - sizes[axis] - padding[axis]
            bottom_right[axis] = max(needed, 0)
    return lowering.builder.make(
        ir.MaxPool, layer_name(node), (tensor,), target, kernel=kernel, stride=stride,
        padding=(padding[0], bottom_right[0], padding[1], bottom_right[1]), dilation=dilation)


def _pair(value: Any, fill: int) -> tuple[int, int]:
    items = list(value) if isinstance(value, list | tuple) else [value] * 2
    return (fill, int(items[0])) if len(items) == 1 else (int(items[0]), int(items[1]))


def _adaptive(lowering: Lowering, node: fx.Node, output_size: Any) -> tuple[int, int]:
    sizes = lowering.shape(node.all_input_nodes[0])[1:]
    outputs = _pair(output_size, 1)
    if any(size % output for size, output in zip(sizes, outputs, strict=True)):
        raise rules.AdaptivePool(layer=layer_name(node), input=sizes, output=outputs)
    return sizes[0] // outputs[0], sizes[1] // outputs[1]


def _reduced(lowering: Lowering, node: fx.Node) -> tuple[int, int]:
    """Window of a reduction over axes: height, width or both."""
    shape = value_shape(node.all_input_nodes[0])
    dims = arguments(node).get("dim")
    axes = {int(axis) % len(shape) for axis in (dims if dims else range(len(shape)))}
    if 0 in axes:
        raise rules.BatchAxis(layer=layer_name(node), operator=operator_name(node))
    if 1 in axes or len(shape) < 3:
        raise lowering.unsupported(node)
    sizes = lowering.shape(node.all_input_nodes[0])
    if len(shape) == 3:
        return 1, sizes[2]
    return sizes[1] if 2 in axes else 1, sizes[2] if 3 in axes else 1
