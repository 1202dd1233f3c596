"""The compiler's own representation: features in channel groups, and operations on the engines.

Lowering (`lower`) turns the integer graph into a list of `Operation`s, one an engine task and a
source layer; everything behind it (planning, tiling, emission) sees only these.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config

__all__ = ["Feature", "Finish", "Lowered", "Matrix", "Operation", "Packing", "Point", "Residual",
           "Source", "Window", "identity_finish", "uniform_finish"]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A tensor as the accelerator sees it: `groups` channel groups of height x width words.

    `tensor` is the tensor of the integer graph that it holds, whole, packed or copied, or that it
    is a step towards.
    """

    name: str
    tensor: str
    channels: int
    height: int
    width: int
    zero_point: int

    def groups(self, config: Config) -> int:
        """Words a pixel."""
        return -(-self.channels // config.rows)

    def buffer_groups(self, config: Config) -> int:
        """Words a pixel in a scratchpad buffer: POST writes whole array columns."""
        unit = config.column_words
        return -(-self.groups(config) // unit) * unit


@dataclass(frozen=True, kw_only=True)
class Source:
    """How an operation walks one input feature.

    Output row y reads input rows `y * stride[0] + offset[0] + k * dilation[0]`, k below
    `kernel[0]`; columns likewise. `offset` is minus the padding, `pad_value` what padding holds.
    With a `spread` these are coordinates of the input with every pixel that many times apart.
    """

    feature: str
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)
    spread: tuple[int, int] = (1, 1)
    pad_value: int = 0

    def span(self, axis: int, first: int, last: int) -> tuple[int, int]:
        """Input coordinates [low, high) that output coordinates [first, last) read."""
        low = first * self.stride[axis] + self.offset[axis]
        high = ((last - 1) * self.stride[axis] + self.offset[axis]
                + (self.kernel[axis] - 1) * self.dilation[axis] + 1)
        return low // self.spread[axis], (high - 1) // self.spread[axis] + 1


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A feature that LOAD makes of a network input in layout "pixels".

    The word at (y, x) is `chunks` pieces of `chunk_bytes`, a pixel row apart, from pixel row
    `first[0] + y * step[0]` and byte `first[1] + x * step[1]` of it on.
    """

    tensor: str
    chunks: int
    chunk_bytes: int
    first: tuple[int, int]
    step: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Residual:
    """The addition that POST fuses: operand b and the constants of `hw.isa.Post`."""

    feature: str
    zero_a: int
    zero_b: int
    multiplier_a: int
    multiplier_b: int
    shift: int
    zero: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Finish:
    """What POST does: parameters a channel, or one record for all (`uniform`), and what follows."""

    bias: NDArray[Any]
    rounding: NDArray[Any]
    multiplier: NDArray[Any]
    shift: NDArray[Any]
    zero: int
    low: int = -128
    high: int = 127
    table: NDArray[np.int8] | None = None
    residual: Residual | None = None
    uniform: bool = False


def uniform_finish(bias: int, multiplier: int, shift: int, zero: int, low: int = -128,
                   high: int = 127, **more: Any) -> Finish:
    """A finish with one record for all channels."""
    def one(value: int) -> NDArray[np.int64]:
        return np.array([value], np.int64)

    return Finish(bias=one(bias), rounding=one(0), multiplier=one(multiplier), shift=one(shift),
                  zero=zero, low=low, high=high, uniform=True, **more)


def identity_finish(config: Config, *, bias: int = 0, halvings: int = 0, zero: int = 0,
                    **more: Any) -> Finish:
    """A finish that passes values on, halved so many times: y = clamp((v + bias) / 2^h + zero)."""
    bits = config.multiplier_bits
    multiplier, shift = (1 << (bits - 1), bits - 1) if bits else (1, 0)
    return uniform_finish(bias, multiplier, shift + halvings, zero, **more)


@dataclass(kw_only=True, eq=False)
class Operation:
    """One engine task: reads `sources`, writes all of feature `output`.

    `name` and `op` are the source layer's; `names` all layers that are fused into it. Operations
    that follow each other and have one first name are steps of one layer. `light` says that there
    is little to compute: instructions are what it costs, so that its rows are not cut for engines
    to overlap, and its constants are shared with operations that have the same.
    """

    name: str
    op: str
    output: str
    sources: tuple[Source, ...]
    finish: Finish
    macs: int = 0
    names: tuple[str, ...] = field(default=())
    light: bool = False

    @property
    def inputs(self) -> list[str]:
        """Features read, the residual operand included."""
        names = [source.feature for source in self.sources]
        if self.finish.residual is not None:
            names.append(self.finish.residual.feature)
        return names


@dataclass(kw_only=True, eq=False)
class Matrix(Operation):
    """Convolution on the array: the sum over the sources of their convolutions.

    `weights` holds int8 [O, I / channel_groups, kh, kw] for each source.
    """

    weights: tuple[NDArray[np.int8], ...]
    channel_groups: int = 1


@dataclass(kw_only=True, eq=False)
class Window(Operation):
    """Depthwise convolution or pooling on the vector unit.

    `weight` is int8 [C, kh, kw] for a sum of products, None for a maximum. `total` says that the
    window is the whole input with equal weights 1, which the unit reduces row by row.
    """

    weight: NDArray[np.int8] | None
    total: bool = False


@dataclass(kw_only=True, eq=False)
class Point(Operation):
    """Elementwise work of the post-processor: scale change, table, add, product.

    `product` multiplies source 0 and source 1 (which may be one value a channel: `broadcast`),
    taken from their zero points `zeros`. A source with a spread has its pixels repeated, or, with
    `gap`, that value between them.
    """

    product: bool = False
    zeros: tuple[int, int] = (0, 0)
    broadcast: bool = False
    gap: int | None = None


@dataclass(kw_only=True, eq=False)
class Lowered:
    """A network ready for planning.

    `packings` are the features that LOAD packs out of pixel inputs; `pixels` gives those inputs'
    padding and tail. `aliases` maps a graph tensor to the feature that holds its elements.
    """

    operations: list[Operation]
    features: dict[str, Feature]
    inputs: list[str]
    outputs: list[str]
    packings: dict[str, Packing] = field(default_factory=dict)
    pixels: dict[str, tuple[tuple[int, int, int, int], int]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def consumers(self, feature: str) -> list[Operation]:
        """The operations that read a feature, in order."""
        return [operation for operation in self.operations if feature in operation.inputs]
