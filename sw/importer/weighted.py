"""Convolution, transposed convolution and linear layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from systolith import graph as ir
from systolith.importer import rules
from systolith.importer.fx import arguments, is_constant, layer_name, operator_name, value_shape
from systolith.importer.lowering import Lowering, check_scale, handles
from systolith.integer import Quantization

__all__ = ["WEIGHTED", "float_linear", "lower_scaled", "lower_weighted"]

WEIGHTED = {"conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear"}
"""Operators with weights; a constant added behind one is a bias."""


_UNIT = 64
"""Magnitude of the weights of a product with one factor a channel; a power of two."""


@dataclass(frozen=True, kw_only=True)
class _Weight:
    levels: NDArray[np.int8]  # output channels first
    scale: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Bias:
    real: NDArray[np.float64]
    integer: NDArray[np.int64] | None = None


@handles(*sorted(WEIGHTED))
def lower_layer(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """on the array (depthwise on the vector unit), with bias, requantize and bounds"""
    return lower_weighted(lowering, node, target)


def lower_weighted(lowering: Lowering, node: fx.Node, target: Quantization,
                   extra_bias: NDArray[np.float64] | None = None) -> str:
    """Lower a layer with weights, optionally with a constant that the model adds behind it."""
    values = arguments(node)
    operator, name = operator_name(node), layer_name(node)
    tensor, source = lowering.exact(values["input"], node)
    transposed = "transpose" in operator
    groups = int(values.get("groups", 1))
    weight = _weight(lowering, values["weight"], name, groups if transposed else None)
    bias = _bias(lowering, values["bias"], name, weight, source)
    if extra_bias is not None:
        bias = _Bias(real=bias.real + extra_bias)
    common: dict[str, Any] = {"weight_scale": weight.scale, "float_bias": bias.real,
                              "integer_bias": bias.integer}
    builder = lowering.builder
    if operator == "linear":
        if len(builder.shape(tensor)) != 1:
            raise rules.Rank(layer=name, shape=value_shape(values["input"]))
        return builder.weighted(ir.Linear, name, tensor, source, target, weight=weight.levels,
                                **common)
    levels = weight.levels if operator.endswith("2d") else weight.levels[:, :, None]
    stride, dilation = _pair(values["stride"]), _pair(values["dilation"])
    common |= {"weight": levels, "stride": stride, "dilation": dilation, "groups": groups}
    kernel = (levels.shape[2], levels.shape[3])
    if transposed:
        high, wide = _pair(values["padding"], fill=0)
        return builder.weighted(
            ir.ConvTranspose2d, name, tensor, source, target, padding=(high, high, wide, wide),
            output_padding=_pair(values["output_padding"], fill=0), **common)
    return builder.weighted(
        ir.Conv2d, name, tensor, source, target,
        padding=_padding(values["padding"], kernel, dilation), **common)


@handles("batch_norm")
def lower_batch_norm(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """behind a convolution inside it, elsewhere as a depthwise layer of one weight a channel"""
    values, name = arguments(node), layer_name(node)
    if values["training"]:
        raise rules.BatchAxis(layer=name, operator="batch_norm")
    mean, deviation = (np.asarray(lowering.constant(values[key]), np.float64)
                       for key in ("running_mean", "running_var"))
    factor = 1 / np.sqrt(deviation + float(values["eps"]))
    if values["weight"] is not None:
        factor *= np.asarray(lowering.constant(values["weight"]), np.float64)
    bias = -mean * factor
    if values["bias"] is not None:
        bias += np.asarray(lowering.constant(values["bias"]), np.float64)
    tensor, source = lowering.exact(values["input"], node)
    return lower_scaled(lowering, name, tensor, source, target, factor, bias)


def lower_scaled(lowering: Lowering, name: str, tensor: str, source: Quantization,
                 target: Quantization, factor: NDArray[np.float64], bias: NDArray[np.float64]
                 ) -> str:
    """A tensor times one real factor a channel plus one bias a channel, rounded once.

    All weights have one magnitude, and the factor is in their scale, so that nothing of it is lost.
    The magnitude is what an int32 bias can divide a step of the input into.
    """
    if not (np.all(np.isfinite(factor)) and np.all(np.isfinite(bias))):
        raise rules.NotFinite(layer=name, what="factor or bias of a channel")
    builder = lowering.builder
    shape = builder.shape(tensor)
    tensor = builder.reshape(f"{name}.input", tensor, (*shape, 1, 1)[:3], source)
    # The scale of a factor of 0 does not matter.
    scale = np.where(factor == 0, 1, np.abs(factor) / _UNIT).astype(np.float32)
    result = builder.weighted(
        ir.Conv2d, name, tensor, source, target, groups=len(factor), float_bias=bias,
        weight=(_UNIT * np.sign(factor)).astype(np.int8).reshape(-1, 1, 1, 1), weight_scale=scale)
    return builder.reshape(f"{name}.output", result, shape, target)


def float_linear(lowering: Lowering, node: fx.Node
                 ) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float64]]:
    """Weight levels, scales and real biases of a linear layer whose output stays in float."""
    values, name = arguments(node), layer_name(node)
    weight = _weight(lowering, values["weight"], name, None)
    if len(value_shape(node)) != 2:
        raise rules.Rank(layer=name, shape=value_shape(node))
    return weight.levels, weight.scale, _real_bias(lowering, values["bias"], name, weight)


def _pair(value: Any, fill: int = 1) -> tuple[int, int]:
    items = [int(item) for item in value] if isinstance(value, list | tuple) else [int(value)] * 2
    return (fill, items[0]) if len(items) == 1 else (items[0], items[1])


def _padding(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]
             ) -> tuple[int, int, int, int]:
    if value == "valid":
        return (0, 0, 0, 0)
    if value == "same":
        # PyTorch puts the odd element of an even kernel at the end.
        total = [dilation[axis] * (kernel[axis] - 1) for axis in (0, 1)]
        top, left = total[0] // 2, total[1] // 2
        return (top, total[0] - top, left, total[1] - left)
    high, wide = _pair(value, fill=0)
    return (high, high, wide, wide)


def _weight(lowering: Lowering, node: Any, name: str, transposed_groups: int | None) -> _Weight:
    """Weight levels with output channels first; `transposed_groups` of a transposed layer."""
    operator = operator_name(node) if isinstance(node, fx.Node) else ""
    if operator not in ("dequantize_per_channel", "dequantize_per_tensor") or not is_constant(node):
        raise rules.WeightConstant(layer=name)
    values = arguments(node)
    levels = lowering.constant(values["input"])
    if levels.dtype != torch.int8:
        raise rules.TensorKind(layer=name, kind=str(levels.dtype).removeprefix("torch."))
    array = levels.numpy()
    scale: NDArray[np.float32]
    if operator == "dequantize_per_tensor":
        scale = np.asarray(lowering.constant(values["scale"]), np.float32).reshape(1)
        zero = np.asarray(lowering.constant(values["zero_point"]))
    else:
        axis, expected = int(values["axis"]), 0 if transposed_groups is None else 1
        if axis != expected:
            raise rules.ChannelAxis(layer=name, axis=axis, expected=expected)
        scale = lowering.constant(values["scales"]).numpy().astype(np.float32)
        points = lowering.constant(values["zero_points"])
        zero = np.zeros(1) if points is None else points.numpy()
        if transposed_groups is not None:
            # The scales are those of one group's output channels, and hold for every group.
            scale = np.tile(scale, transposed_groups)
    for value in np.ravel(scale):
        check_scale(float(value), f"weight of {name}")
    if np.any(zero):
        raise rules.WeightZeroPoint(layer=name, zero_point=int(zero[zero != 0].flat[0]))
    if transposed_groups is not None:
        array = _transposed_weight(array, transposed_groups)
    return _Weight(levels=array, scale=np.broadcast_to(scale, (len(array),)))


def _transposed_weight(array: NDArray[np.int8], groups: int) -> NDArray[np.int8]:
    """[I, O / groups, ...] as PyTorch keeps it to [O, I / groups, ...]."""
    split = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(
        groups * array.shape[1], array.shape[0] // groups, *array.shape[2:]))


def _real_bias(lowering: Lowering, node: Any, name: str, weight: _Weight
               ) -> NDArray[np.float64]:
    if node is None:
        return np.zeros(len(weight.scale))
    if not is_constant(node):
        raise lowering.needs_scale(node, node)
    real: NDArray[np.float64] = lowering.constant(node).numpy().astype(np.float64)
    if not np.all(np.isfinite(real)):
        raise rules.NotFinite(layer=name, what="bias")
    return real


def _bias(lowering: Lowering, node: Any, name: str, weight: _Weight,
          source: Quantization) -> _Bias:
    real = _real_bias(lowering, node, name, weight)
    operator = "" if node is None else operator_name(node)
    if operator not in ("dequantize_per_channel", "dequantize_per_tensor"):
        return _Bias(real=real)
    values = arguments(node)
    levels = lowering.constant(values["input"])
    scale = np.asarray(lowering.constant(
        values["scales" if operator.endswith("channel") else "scale"]), np.float32)
    expected = np.float32(source.scale) * weight.scale
    integer = levels.numpy().astype(np.int64)
    exact = integer.astype(np.float64) * scale.astype(np.float64)
    # A bias at another scale than the accumulator's is a real number like any other.
    matches = levels.dtype == torch.int32 and np.allclose(scale, expected, rtol=1e-6, atol=0)
    return _Bias(real=exact, integer=integer if matches else None)
