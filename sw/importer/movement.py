"""Operators that move, repeat, join or interpolate values."""

from math import prod
from typing import Any

from torch import fx

from systolith import graph as ir
from systolith.importer import rules
from systolith.importer.fx import arguments, layer_name, operator_name, value_shape
from systolith.importer.lowering import Lowering, handles
from systolith.integer import Quantization

__all__: list[str] = []


@handles("alias", "clone", "contiguous", "detach", "dropout", "to", "lift_fresh_copy",
         "feature_dropout", selects=True)
def lower_identity(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """vanishes"""
    return lowering.lower(node.args[0], target)


@handles("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze", selects=True)
def lower_reshape(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as an order of the data, which costs nothing; by the driver where it ends the network"""
    shuffled = _shuffle_groups(lowering, node)
    if shuffled:
        source, groups = shuffled
        tensor = lowering.lower(source, target)
        return lowering.builder.make(ir.ChannelShuffle, layer_name(node), (tensor,), target,
                                     groups=groups)
    _keep_batch(node)
    shape = lowering.shape(node)
    tensor = lowering.lower(node.args[0], target)
    return lowering.builder.reshape(layer_name(node), tensor, shape, target)


@handles("channel_shuffle", "native_channel_shuffle", selects=True)
def lower_shuffle(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """by a copy on the array"""
    tensor = lowering.lower(node.args[0], target)
    return lowering.builder.make(ir.ChannelShuffle, layer_name(node), (tensor,), target,
                                 groups=int(arguments(node)["groups"]))


@handles("permute", "transpose", "t", selects=True)
def lower_permute(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """where only axes of size 1 move"""
    shape = value_shape(node.all_input_nodes[0])
    axes = list(range(len(shape)))
    values = arguments(node)
    if operator_name(node) == "permute":
        axes = [int(axis) % len(shape) for axis in values["dims"]]
    else:
        first, second = values.get("dim0", 0), values.get("dim1", 1)
        axes[first], axes[second] = axes[second], axes[first]
    moved = [axis for axis in axes if shape[axis] != 1]
    if axes[0] != 0 or moved != sorted(moved):
        raise rules.Permute(layer=layer_name(node), shape=shape, axes=tuple(axes))
    tensor = lowering.lower(node.args[0], target)
    return lowering.builder.reshape(layer_name(node), tensor, lowering.shape(node), target)


@handles("cat", "concat", selects=True)
def lower_concat(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as several inputs of the convolution behind it, else by a copy on the array; an input of
    another scale is requantized once"""
    values = arguments(node)
    shape = value_shape(node)
    axis = int(values["dim"]) % len(shape)
    tensors = tuple(lowering.lower(item, target) for item in values["tensors"])
    return lowering.builder.make(ir.Concat, layer_name(node), tensors, target,
                                 axis=_axis(node, axis, len(shape)))


@handles("slice", "select", "narrow", selects=True)
def lower_slice(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """by a copy on the array"""
    values = arguments(node)
    shape = value_shape(node.all_input_nodes[0])
    axis = int(values["dim"]) % len(shape)
    size = shape[axis]
    step = int(values.get("step", 1))
    if operator_name(node) == "select":
        start = int(values["index"]) % size
        stop = start + 1
    elif operator_name(node) == "narrow":
        start = int(values["start"]) % size
        stop = start + int(values["length"])
    else:
        start, stop, _ = slice(values["start"], values["end"]).indices(size)
    if axis == 0 and (start, stop) == (0, size or stop) and operator_name(node) == "slice":
        return lowering.lower(node.args[0], target)
    tensor = _box(lowering, node, node.args[0], target, axis, start, stop, step)
    return lowering.builder.reshape(f"{tensor}.reshape", tensor, lowering.shape(node), target)


@handles("chunk", "split", "split_with_sizes", "getitem", selects=True)
def lower_part(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """by copies on the array"""
    source: Any = node.args[0]
    kind, index = operator_name(source), int(node.args[1])
    if kind in ("adaptive_max_pool2d", "max_pool2d_with_indices") and index == 0:
        return lowering.lower(source, target)
    if kind not in ("chunk", "split", "split_with_sizes"):
        raise lowering.unsupported(source)
    axis = int(arguments(source)["dim"]) % len(value_shape(node))
    sizes = [int(part.shape[axis]) for part in source.meta["val"]]
    start = sum(sizes[:index])
    return _box(lowering, node, source.args[0], target, axis, start, start + sizes[index], 1)


@handles("pad", "constant_pad_nd", selects=True)
def lower_pad(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """inside the following convolution or pool where that pads with the same value, else by a
    copy on the array"""
    values = arguments(node)
    widths = [int(width) for width in values["pad"]]
    mode = values.get("mode", "constant")
    if mode != "constant" or len(widths) > 4 or min(widths) < 0:
        raise rules.PaddingMode(layer=layer_name(node), mode=f"{mode} {widths}")
    left, right, top, bottom = (*widths, 0, 0)[:4]
    tensor = lowering.lower(node.args[0], target)
    if len(lowering.builder.shape(tensor)) != 3:
        raise rules.PaddingMode(layer=layer_name(node), mode=f"{mode} of a vector")
    value = values.get("value")
    return lowering.builder.make(ir.Pad, layer_name(node), (tensor,), target,
                                 padding=(top, bottom, left, right),
                                 value=target.level(0.0 if value is None else float(value)))


@handles("upsample_nearest1d", "upsample_nearest2d", selects=True)
def lower_upsample(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """by whole factors; the post-processor repeats the pixels"""
    source, result = lowering.shape(node.all_input_nodes[0]), lowering.shape(node)
    if result[1] % source[1] or result[2] % source[2]:
        raise rules.UpsampleFactor(layer=layer_name(node), input=source[1:], output=result[1:])
    tensor = lowering.lower(node.args[0], target)
    return lowering.builder.make(ir.Upsample, layer_name(node), (tensor,), target,
                                 factor=(result[1] // source[1], result[2] // source[2]))


@handles("upsample_bilinear2d")
def lower_bilinear(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """by 2, with align_corners=False: as a transposed depthwise convolution of the image with its
    edges repeated"""
    source, result = lowering.shape(node.all_input_nodes[0]), lowering.shape(node)
    if arguments(node)["align_corners"] or result[1:] != (2 * source[1], 2 * source[2]):
        raise rules.BilinearFactor(layer=layer_name(node), input=source[1:], output=result[1:])
    tensor, kind = lowering.exact(node.args[0], node)
    return lowering.builder.upsample_bilinear(layer_name(node), tensor, kind, target)


def _box(lowering: Lowering, node: fx.Node, source: Any, target: Quantization, axis: int,
         start: int, stop: int, step: int) -> str:
    internal = _axis(node, axis, len(value_shape(source)))
    tensor = lowering.lower(source, target)
    shape = lowering.builder.shape(tensor)
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[internal], stops[internal], steps[internal] = start, stop, step
    return lowering.builder.make(ir.Slice, layer_name(node), (tensor,), target,
                                 start=tuple(starts), stop=tuple(stops), step=tuple(steps))


def _axis(node: fx.Node, axis: int, rank: int) -> int:
    """Axis of the integer graph's tensors for an axis of PyTorch's."""
    if axis == 0:
        raise rules.BatchAxis(layer=layer_name(node), operator=operator_name(node))
    return 2 if rank == 3 and axis == 2 else axis - 1


def _keep_batch(node: fx.Node) -> None:
    before, after = value_shape(node.all_input_nodes[0]), value_shape(node)
    if not after or before[0] != after[0] or prod(before[1:]) != prod(after[1:]):
        raise rules.BatchAxis(layer=layer_name(node), operator=operator_name(node))


def _shuffle_groups(lowering: Lowering, node: fx.Node) -> tuple[fx.Node, int] | None:
    """Source and groups of view -> transpose -> view, which is how channels are shuffled."""
    names = ("view", "reshape", "contiguous", "clone", "_unsafe_view")
    inner: Any = lowering.behind(node.args[0])
    while operator_name(inner) in ("contiguous", "clone"):
        inner = lowering.behind(inner.args[0])
    if operator_name(inner) not in ("transpose", "permute"):
        return None
    split: Any = lowering.behind(inner.args[0])
    if operator_name(split) not in names:
        return None
    source: Any = split.args[0]
    before, middle, turned = value_shape(source), value_shape(split), value_shape(inner)
    if (len(middle) != 5 or len(before) != 4 or value_shape(node) != before
            or middle[3:] != before[2:] or turned != (middle[0], middle[2], middle[1],
                                                      *middle[3:])):
        return None
    return source, middle[1]
