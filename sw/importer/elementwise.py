"""Sums, products, and functions of one value, which become tables."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx

from systolith import graph as ir
from systolith.importer import rules
from systolith.importer.fx import arguments, is_constant, layer_name, operator_name
from systolith.importer.lowering import CLAMPS, Lowering, handles
from systolith.importer.weighted import WEIGHTED, lower_scaled, lower_weighted
from systolith.integer import Quantization
from systolith.sim import numerics

__all__ = ["FUNCTIONS"]

FUNCTIONS = ("abs", "elu", "exp", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "log",
             "log_sigmoid", "mish", "neg", "pow", "reciprocal", "rsqrt", "selu", "sigmoid",
             "silu", "softplus", "sqrt", "tanh", "div")
"""Functions of one value; every chain of these and of bounds is one table."""

_BINARY = ("add", "sub", "rsub", "mul", "div")
_TRANSPARENT = ("dropout", "clone", "alias", "contiguous", "detach")


@handles(*FUNCTIONS)
def lower_function(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as a 256-entry table, together with all functions of one value around it"""
    return _table(lowering, node, target)


@handles("prelu")
def lower_prelu(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """as a table with one slope; with one a channel, the negative part goes through a depthwise
    layer and is added to the positive one"""
    slopes = lowering.constant(node.args[1])
    if slopes.numel() == 1:
        return _table(lowering, node, target)
    tensor, source = lowering.exact(node.args[0], node)
    factors = _per_channel(lowering, node, slopes.reshape(1, -1, 1, 1), lowering.shape(node)[0])
    builder, name = lowering.builder, layer_name(node)
    # Only one of the two parts is ever off its zero point, so that each value is rounded once.
    above = builder.requantize(f"{name}.positive", tensor, source,
                               replace(target, low=target.zero, high=127))
    below = builder.requantize(f"{name}.negative", tensor, source, source.within(-128, source.zero))
    whole = replace(target, low=-128, high=127)
    below = lower_scaled(lowering, f"{name}.slopes", below, source, whole, factors,
                         np.zeros(len(factors)))
    return builder.add(name, above, below, whole, whole, target)


@handles("add", "sub", "rsub")
def lower_sum(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """two tensors of one shape with one rounding; a constant behind a layer joins its bias; with
    numbers it joins a table"""
    values = arguments(node)
    first, second = values["self"], values["other"]
    alpha = float(values.get("alpha", 1) or 1)
    signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[operator_name(node)]
    pairs = [(first, signs[0]), (second, signs[1])]
    for (layer, sign), (added, factor) in (pairs, pairs[::-1]):
        if (_is_layer(layer) and is_constant(added) and sign == 1.0
                and len(layer.users) == 1):
            extra = factor * _per_channel(lowering, node, added, lowering.shape(layer)[0])
            return lower_weighted(lowering, layer, target, extra)
    kinds = [lowering.quantization(item) for item in (first, second)]
    if kinds[0] and kinds[1]:
        a, kind_a = lowering.exact(first, node)
        b, kind_b = lowering.exact(second, node)
        return lowering.builder.add(layer_name(node), a, b, kind_a, kind_b, target,
                                    factor_a=signs[0], factor_b=signs[1])
    return _table(lowering, node, target)


@handles("mul")
def lower_product(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """two tensors, one of which may hold one value a channel; with numbers it joins a table"""
    values = arguments(node)
    first, second = values["self"], values["other"]
    if lowering.quantization(first) and lowering.quantization(second):
        a, kind_a = lowering.exact(first, node)
        b, kind_b = lowering.exact(second, node)
        return lowering.builder.multiply(layer_name(node), a, b, kind_a, kind_b, target)
    return _table(lowering, node, target)


def _is_layer(node: Any) -> bool:
    return isinstance(node, fx.Node) and operator_name(node) in WEIGHTED


def _per_channel(lowering: Lowering, node: fx.Node, value: Any, channels: int) -> Any:
    """A constant as float64 [channels]; refused unless it is one value a channel, or one."""
    constant = lowering.constant(value)
    array = np.asarray(constant, np.float64)
    shape = array.shape
    rank = len(node.meta["val"].shape) if "val" in node.meta else len(shape)
    padded = (1,) * (rank - len(shape)) + shape
    if array.size != 1 and (padded[1] != channels or array.size != channels):
        raise rules.ChannelConstant(layer=layer_name(node), operator=operator_name(node),
                                    shape=shape)
    if not np.all(np.isfinite(array)):
        raise rules.NotFinite(layer=layer_name(node), what="constant")
    return np.broadcast_to(array.reshape(-1), (channels,))


def _table(lowering: Lowering, node: fx.Node, target: Quantization) -> str:
    """One table for the island of functions of a single quantized tensor that ends at `node`."""
    members: list[fx.Node] = []
    sources: dict[fx.Node, tuple[str, Quantization]] = {}
    _walk(lowering, node, node, members, sources)
    names = dict(sources.values())
    if len(names) != 1:
        raise lowering.needs_scale(_first_computed(lowering, node), node)
    (tensor, kind), = names.items()

    def function(levels: Any) -> Any:
        values: dict[fx.Node, Any] = dict.fromkeys(sources, torch.from_numpy(levels))
        with torch.no_grad():
            for member in members:
                values[member] = _evaluate(lowering, member, values)
        return values[node].numpy()

    table = numerics.build_table(function, kind.scale, kind.zero, target.scale, target.zero,
                                 target.low, target.high)
    return lowering.builder.make(ir.Table, layer_name(node), (tensor,), target, table=table)


def _walk(lowering: Lowering, node: fx.Node, consumer: fx.Node, members: list[fx.Node],
          sources: dict[fx.Node, tuple[str, Quantization]]) -> None:
    if node in sources or node in members:
        return
    if lowering.quantization(node) is not None:
        sources[node] = lowering.exact(node, consumer)
        return
    name = operator_name(node)
    if name not in (*FUNCTIONS, *CLAMPS, *_BINARY, *_TRANSPARENT, "prelu"):
        raise lowering.needs_scale(node, consumer)
    for item in node.all_input_nodes:
        if not is_constant(item):
            _walk(lowering, item, node, members, sources)
        elif getattr(lowering.constant(item), "numel", lambda: 1)() != 1:
            raise rules.ChannelConstant(layer=layer_name(node), operator=name,
                                        shape=tuple(lowering.constant(item).shape))
    members.append(node)


def _first_computed(lowering: Lowering, node: fx.Node) -> fx.Node:
    """The operand without a scale that makes an operator of two tensors impossible."""
    for item in node.all_input_nodes:
        if not is_constant(item) and lowering.quantization(item) is None:
            return item
    return node


def _evaluate(lowering: Lowering, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    def value(item: Any) -> Any:
        if isinstance(item, fx.Node):
            if item in values:
                return values[item]
            constant = lowering.constant(item)
            # A constant of one element would broadcast the table to its own rank.
            return constant.reshape(()) if constant.ndim > 1 else constant
        return item
    target: Any = node.target
    if operator_name(node) in _TRANSPARENT:
        return value(node.args[0])
    return target(*map(value, node.args), **{key: value(item) for key, item in node.kwargs.items()})
