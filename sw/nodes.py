"""The operations of the integer graph, each with its integer constants ready to execute.

Names, shapes and arithmetic only: `systolith.graph` joins them to a network.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.errors import ModelError

__all__ = [
    "Add",
    "AveragePool",
    "ChannelShuffle",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
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
    "Upsample",
    "UpsampleBilinear",
    "Weighted",
]

Shape = tuple[int, ...]
Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation. `name` is the model's own name of the layer and unique in the graph."""

    name: str
    inputs: tuple[str, ...]
    output: str

    arity: int = field(default=1, init=False, repr=False)

    @property
    def op(self) -> str:
        """Name of the operation, for reports."""
        return type(self).__name__

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        """Shape of the output for input shapes. Raises ModelError where they do not fit."""
        return shapes[0]

    def macs(self, shapes: tuple[Shape, ...]) -> int:
        """Useful multiply-accumulates for one image; 0 for all but convolution and linear."""
        return 0

    def _refuse(self, message: str) -> ModelError:
        return ModelError(f"{self.op} '{self.name}' {message}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted(Node):
    """Constants of a layer with weights; the output channel is the first axis of `weight`.

    y = clamp(round((v * multiplier + rounding) / 2^shift) + zero, low, high), v = sum + bias.

    Parameters
    ----------
    weight
        int8; the layout is the subclass's.
    bias, rounding, multiplier, shift
        int32, int64, int64, int64, each [O]: B (zero-point term included), R, M and n.
    zero, low, high
        Output zero point and bounds, which hold a fused activation function.
    float_bias, weight_scale
        float64 [O]: the bias in real numbers, and the working scale of the weights, for reports.
    enlargement, enlargement_error
        int64 and float64 [O]: power of two by which a channel's weight scale was enlarged so that
        its bias fits, and the largest error that this causes, in output steps.
    """

    weight: Int8Array
    bias: Int32Array
    rounding: Int64Array
    multiplier: Int64Array
    shift: Int64Array
    zero: int
    low: int = -128
    high: int = 127
    float_bias: FloatArray
    weight_scale: FloatArray
    enlargement: Int64Array
    enlargement_error: FloatArray

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return len(self.bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(Weighted):
    """Convolution, weight int8 [O, I/groups, kh, kw]; pads with the input's zero point.

    `padding` is (top, bottom, left, right). Depthwise when `groups` equals the input channels.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel height and width."""
        return self.weight.shape[2], self.weight.shape[3]

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        (shape,) = shapes
        if len(shape) != 3 or shape[0] != self.weight.shape[1] * self.groups:
            raise self._refuse(f"takes {self.weight.shape[1] * self.groups} channels, "
                               f"but its input is {shape}")
        if self.channels % self.groups:
            raise self._refuse(f"has {self.channels} output channels, not a multiple of its "
                               f"{self.groups} groups")
        return (self.channels, *_window(self, shape, self.kernel))

    def macs(self, shapes: tuple[Shape, ...]) -> int:
        return self.weight.size * prod(self.output_shape(shapes)[1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvTranspose2d(Weighted):
    """Transposed convolution, weight int8 [O, I/groups, kh, kw] (the forward kernel, not flipped).

    Input pixel (y, x) adds (q - zero_in) * weight[..., ky, kx] to output pixel
    (y * stride + ky * dilation - padding top, ...), so `bias` holds no zero-point term: how many
    taps meet an output pixel depends on its place. `padding` (top, bottom, left, right) cuts the
    result, `output_padding` lengthens it at the bottom and right, where only the bias arrives.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel height and width."""
        return self.weight.shape[2], self.weight.shape[3]

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        (shape,) = shapes
        if len(shape) != 3 or shape[0] != self.weight.shape[1] * self.groups:
            raise self._refuse(f"takes {self.weight.shape[1] * self.groups} channels, "
                               f"but its input is {shape}")
        size = tuple(
            (shape[1 + axis] - 1) * self.stride[axis] + self.dilation[axis] *
            (self.kernel[axis] - 1) + 1 - sum(self.padding[2 * axis:2 * axis + 2]) +
            self.output_padding[axis] for axis in (0, 1))
        if min(size) < 1:
            raise self._refuse(f"would have an empty output {size}")
        return (self.channels, *size)

    def macs(self, shapes: tuple[Shape, ...]) -> int:
        return self.weight.size * prod(shapes[0][1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Weighted):
    """Fully connected layer on a (C,) tensor, weight int8 [O, I]."""

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if shapes[0] != (self.weight.shape[1],):
            raise self._refuse(f"takes ({self.weight.shape[1]},), but its input is {shapes[0]}")
        return (self.channels,)

    def macs(self, shapes: tuple[Shape, ...]) -> int:
        return self.weight.size


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of two tensors of one shape.

    y = clamp(rne(((a - zero_a) * multiplier_a + (b - zero_b) * multiplier_b) / 2^shift) + zero).
    Multipliers are signed, of magnitude below 2^22; shift is at most 31.
    """

    arity: int = field(default=2, init=False, repr=False)
    zero_a: int
    zero_b: int
    multiplier_a: int
    multiplier_b: int
    shift: int
    zero: int
    low: int = -128
    high: int = 127

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if shapes[0] != shapes[1]:
            raise self._refuse(f"has inputs of different shapes {shapes[0]} and {shapes[1]}")
        return shapes[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Multiply(Node):
    """Product of two tensors: y = clamp(requantize((a - zero_a) * (b - zero_b)) + zero).

    The second input may be one value a channel, (C,) or (C, 1, 1), for a first of (C, H, W).
    """

    arity: int = field(default=2, init=False, repr=False)
    zero_a: int
    zero_b: int
    multiplier: int
    shift: int
    zero: int
    low: int = -128
    high: int = 127

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        first, second = shapes
        if second not in (first, first[:1], (*first[:1], 1, 1)):
            raise self._refuse(f"cannot multiply {first} by {second}")
        return first


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Node):
    """Maximum over windows; padding counts as -128."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return (shapes[0][0], *_window(self, shapes[0], self.kernel))


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Node):
    """Average over windows: y = clamp(requantize(sum of q + bias) + zero).

    Padding feeds the input's zero point. A global average has the whole input as its kernel.
    `bias` is -kernel_size * zero_in or 0, as the source model rounds; `zero` accordingly.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = field(default=(1, 1), init=False, repr=False)
    bias: int
    multiplier: int
    shift: int
    zero: int
    low: int = -128
    high: int = 127

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return (shapes[0][0], *_window(self, shapes[0], self.kernel))


@dataclass(frozen=True, kw_only=True, eq=False)
class Requantize(Node):
    """Change of scale: y = clamp(requantize(q + bias) + zero)."""

    bias: int
    multiplier: int
    shift: int
    zero: int
    low: int = -128
    high: int = 127


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Node):
    """y = table[q + 128]: any function of one value, `table` int8 [256]."""

    table: Int8Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Node):
    """Tensors behind each other along `axis` (0 = channels); all have the output's scale."""

    axis: int = 0

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        first = shapes[0]
        axis = self.axis
        if not 0 <= axis < len(first):
            raise self._refuse(f"joins axis {axis} of {first}")
        for shape in shapes[1:]:
            if len(shape) != len(first) or any(
                    shape[i] != first[i] for i in range(len(first)) if i != axis):
                raise self._refuse(f"cannot join {first} and {shape} along axis {axis}")
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Node):
    """A box of the input: from `start` up to `stop`, every `step`th, an entry an axis."""

    start: Shape
    stop: Shape
    step: Shape

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as Python slices of a tensor without batch axis."""
        return tuple(map(slice, self.start, self.stop, self.step))

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        (shape,) = shapes
        entries = list(zip(self.start, self.stop, self.step, strict=True))
        if len(entries) != len(shape) or any(
                not (0 <= start < stop <= size and step > 0)
                for (start, stop, step), size in zip(entries, shape, strict=True)):
            raise self._refuse(f"cuts {self.slices} out of {shape}")
        return tuple(-(-(stop - start) // step) for start, stop, step in entries)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Node):
    """The same elements in C, H, W order under another shape; flatten is one."""

    shape: Shape

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if prod(self.shape) != prod(shapes[0]):
            raise self._refuse(f"cannot give {shapes[0]} the shape {self.shape}")
        return self.shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Node):
    """A border of `value`: `padding` is (top, bottom, left, right)."""

    padding: tuple[int, int, int, int]
    value: int

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        channels, height, width = shapes[0]
        top, bottom, left, right = self.padding
        return (channels, height + top + bottom, width + left + right)


@dataclass(frozen=True, kw_only=True, eq=False)
class Upsample(Node):
    """Every pixel repeated `factor` (rows, columns) times: nearest neighbour."""

    factor: tuple[int, int]

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        channels, height, width = shapes[0]
        return (channels, height * self.factor[0], width * self.factor[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class UpsampleBilinear(Node):
    """Twice the height and width, between pixel centres: y = clamp(requantize(S + bias) + zero).

    S is the sum of the four nearest pixels with weights 9, 3, 3, 1, 16 together; beyond an edge the
    edge's own pixels continue. `bias` is 0 where input and output have one scale and zero point
    (and `zero` is 0 then), as PyTorch's kernels round, and otherwise -16 * zero_in.
    """

    bias: int
    multiplier: int
    shift: int
    zero: int
    low: int = -128
    high: int = 127

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        channels, height, width = shapes[0]
        return (channels, 2 * height, 2 * width)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelShuffle(Node):
    """Channels seen as [groups, C / groups] and transposed."""

    groups: int

    def output_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        if shapes[0][0] % self.groups:
            raise self._refuse(f"has {shapes[0][0]} channels in {self.groups} groups")
        return shapes[0]


def _window(node: Any, shape: Shape, kernel: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a window leaves of a padded input."""
    if len(shape) != 3:
        raise node._refuse(f"needs a (C, H, W) input, not {shape}")
    size = []
    for axis in (0, 1):
        padded = shape[1 + axis] + sum(node.padding[2 * axis:2 * axis + 2])
        extent = node.dilation[axis] * (kernel[axis] - 1) + 1
        if padded < extent:
            raise node._refuse(f"has a window of {extent} on an axis of {padded}")
        size.append((padded - extent) // node.stride[axis] + 1)
    return size[0], size[1]
