"""Builds the integer graph: names, tensor types and integer constants. Needs no torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith import graph as ir
from systolith.importer import rules
from systolith.integer import (
    Quantization,
    add_constants,
    average_constants,
    requantize_constants,
    weighted_constants,
)

__all__ = ["Builder"]


class Builder:
    """Collects nodes in execution order.

    Parameters
    ----------
    bias, multiplier_bits
        How constants are derived (arithmetic contract).

    Every method that makes a node returns the name of its output tensor.
    """

    def __init__(self, *, bias: str, multiplier_bits: int):
        self.bias = bias
        self.multiplier_bits = multiplier_bits
        self.nodes: list[ir.Node] = []
        self.tensors: dict[str, ir.TensorType] = {}
        self.inputs: list[str] = []
        self.origins: dict[str, str] = {}
        self._names: set[str] = set()

    def graph(self, outputs: list[str], tail: list[ir.TailOperation],
              results: list[str]) -> ir.Graph:
        """The finished graph, not yet validated."""
        return ir.Graph(inputs=self.inputs, outputs=outputs, nodes=self.nodes,
                        tensors=self.tensors, tail=tail, results=results, bias=self.bias,
                        multiplier_bits=self.multiplier_bits, origins=self.origins)

    def shape(self, tensor: str) -> ir.Shape:
        """Shape of a tensor that was made."""
        return self.tensors[tensor].shape

    def input(self, name: str, shape: ir.Shape, kind: Quantization) -> str:
        """Declare a network input; a narrower range than int8 is applied to it at once."""
        name = self.unique(name)
        self._declare(name, shape, kind)
        self.inputs.append(name)
        if (kind.low, kind.high) == (-128, 127):
            return name
        return self.requantize(f"{name}.clamp", name, kind, kind)

    def make(self, kind: type[ir.Node], hint: str, inputs: tuple[str, ...],
             quantization: Quantization, **values: Any) -> str:
        """Append a node; its output's shape follows from its inputs'."""
        name = self.unique(hint)
        node = kind(name=name, inputs=inputs, output=name, **values)
        shape = node.output_shape(tuple(self.shape(tensor) for tensor in inputs))
        self._declare(name, shape, quantization)
        self.nodes.append(node)
        return name

    def weighted(self, kind: type[ir.Weighted], hint: str, tensor: str, source: Quantization,
                 target: Quantization, *, weight: NDArray[np.int8], weight_scale: Any,
                 float_bias: Any, integer_bias: NDArray[np.int64] | None = None,
                 **values: Any) -> str:
        """A convolution, transposed convolution or linear layer."""
        constants = weighted_constants(
            hint, weight, weight_scale, float_bias, source, target, bias=self.bias,
            multiplier_bits=self.multiplier_bits, integer_bias=integer_bias,
            centered=kind is ir.ConvTranspose2d)
        return self.make(kind, hint, (tensor,), target, **constants, **values)

    def add(self, hint: str, a: str, b: str, source_a: Quantization, source_b: Quantization,
            target: Quantization, *, factor_a: float = 1.0, factor_b: float = 1.0) -> str:
        """A sum of two tensors times factors."""
        if self.shape(a) != self.shape(b):
            raise rules.Broadcast(layer=hint, operator="add", first=self.shape(a),
                                  second=self.shape(b))
        return self.make(ir.Add, hint, (a, b), target, **add_constants(
            source_a, source_b, target, factor_a=factor_a, factor_b=factor_b))

    def multiply(self, hint: str, a: str, b: str, source_a: Quantization,
                 source_b: Quantization, target: Quantization) -> str:
        """A product; one of the two may hold one value a channel."""
        first, second = self.shape(a), self.shape(b)
        if np.prod(first) < np.prod(second):
            a, b, source_a, source_b = b, a, source_b, source_a
            first, second = second, first
        if second not in (first, first[:1], (*first[:1], 1, 1)):
            raise rules.Broadcast(layer=hint, operator="mul", first=first, second=second)
        constants = requantize_constants(source_a, target, bias=0, factor=source_b.scale,
                                         multiplier_bits=self.multiplier_bits)
        del constants["bias"]
        return self.make(ir.Multiply, hint, (a, b), target, zero_a=source_a.zero,
                         zero_b=source_b.zero, **constants)

    def average(self, hint: str, tensor: str, source: Quantization, target: Quantization, *,
                kernel: tuple[int, int], stride: tuple[int, int],
                padding: tuple[int, int, int, int], centered: bool) -> str:
        """An average over windows, padding counted."""
        return self.make(ir.AveragePool, hint, (tensor,), target, kernel=kernel, stride=stride,
                         padding=padding, **average_constants(
                             source, target, kernel[0] * kernel[1], centered=centered,
                             multiplier_bits=self.multiplier_bits))

    def upsample_bilinear(self, hint: str, tensor: str, source: Quantization,
                          target: Quantization) -> str:
        """Twice the height and width, interpolated."""
        return self.make(ir.UpsampleBilinear, hint, (tensor,), target, **average_constants(
            source, target, 16, centered=False, multiplier_bits=self.multiplier_bits))

    def requantize(self, hint: str, tensor: str, source: Quantization,
                   target: Quantization) -> str:
        """The same real values at another scale, or within narrower bounds."""
        return self.make(ir.Requantize, hint, (tensor,), target, **requantize_constants(
            source, target, bias=-source.zero, multiplier_bits=self.multiplier_bits))

    def reshape(self, hint: str, tensor: str, shape: ir.Shape, quantization: Quantization) -> str:
        """The same elements under another shape; nothing where it has that shape."""
        if self.shape(tensor) == shape:
            return tensor
        return self.make(ir.Reshape, hint, (tensor,), quantization, shape=shape)

    def unique(self, hint: str) -> str:
        """A name that no other node or tensor has."""
        name, number = hint, 1
        while name in self._names:
            number += 1
            name = f"{hint}.{number}"
        self._names.add(name)
        return name

    def _declare(self, name: str, shape: ir.Shape, quantization: Quantization) -> None:
        self.tensors[name] = ir.TensorType(shape=shape, scale=float(quantization.scale),
                                           zero_point=quantization.zero)
