"""The integer graph: a quantized network as int8 tensors and nodes with ready integer constants.

This is what the importer produces, the integer reference executes and the compiler lowers. There
is no batch axis and no floating point in it: every node says exactly which integers it computes
(arithmetic: docs/arithmetic.md). Scales and zero points of tensors are kept for the network's
boundary and for reports. Needs numpy only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.nodes import (
    Add,
    AveragePool,
    ChannelShuffle,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Linear,
    MaxPool,
    Multiply,
    Node,
    Pad,
    Requantize,
    Reshape,
    Shape,
    Slice,
    Table,
    Upsample,
    UpsampleBilinear,
    Weighted,
)
from systolith.sim import numerics

__all__ = [
    "Add",
    "AveragePool",
    "ChannelShuffle",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Graph",
    "Linear",
    "MaxPool",
    "Multiply",
    "Node",
    "Pad",
    "Requantize",
    "Reshape",
    "Shape",
    "Slice",
    "Table",
    "TailOperation",
    "TensorType",
    "Upsample",
    "UpsampleBilinear",
    "Weighted",
]

@dataclass(frozen=True, kw_only=True)
class TensorType:
    """Shape and quantization of a tensor: real value = scale * (q - zero_point).

    `shape` is (C, H, W) or (C,), without the batch axis.
    """

    shape: Shape
    scale: float
    zero_point: int
    dtype: str = "int8"

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def quantize(self, values: NDArray[Any]) -> NDArray[np.int8]:
        """Float values to int8 as PyTorch quantizes them."""
        return numerics.quantize(values, self.scale, self.zero_point)

    def dequantize(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """int8 values to float32."""
        return numerics.dequantize(levels, self.scale, self.zero_point)


@dataclass(frozen=True, kw_only=True)
class TailOperation:
    """A float operation that the driver runs in numpy on dequantized outputs (softmax, ...).

    `arguments` holds plain JSON values. Axes count the batch axis, as in PyTorch.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Graph:
    """A quantized network.

    Parameters
    ----------
    inputs, outputs
        Names of int8 tensors; the driver quantizes the former and dequantizes the latter.
    nodes
        In execution order.
    tensors
        Type of every tensor by name.
    tail, results
        Float operations behind the outputs, and the names that the user gets (of outputs or of
        tail operations' outputs); without a tail the results are the outputs.
    bias, multiplier_bits
        How the constants were derived (`hw.config.Config` has the same fields).
    origins
        For a tensor that the source model itself quantizes: the name of that place in the model,
        so that both can be compared.
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    tensors: dict[str, TensorType]
    tail: list[TailOperation] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    bias: str = "exact"
    multiplier_bits: int = 24
    origins: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.results:
            self.results = list(self.outputs)

    def producer(self, tensor: str) -> Node | None:
        """The node that makes a tensor; None for a network input."""
        return next((node for node in self.nodes if node.output == tensor), None)

    def consumers(self, tensor: str) -> list[Node]:
        """The nodes that read a tensor, in execution order."""
        return [node for node in self.nodes if tensor in node.inputs]

    def shapes(self, node: Node) -> tuple[Shape, ...]:
        """Shapes of a node's inputs."""
        return tuple(self.tensors[name].shape for name in node.inputs)

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates for one image."""
        return sum(node.macs(self.shapes(node)) for node in self.nodes)

    def weighted(self) -> Iterator[Weighted]:
        """The layers that have weights."""
        return (node for node in self.nodes if isinstance(node, Weighted))

    def validate(self) -> None:
        """Check the whole graph. Raises ModelError naming the first node that is wrong."""
        from systolith.graph_checks import validate  # checks import the graph

        validate(self)
