"""Max pooling without the vector unit: differences on the array, clamped by the post-processor.

The larger of two values is `b + relu(a - b)`. The array takes the difference, the lower bound is
the ReLU, and the array adds. A difference d is 0 to 255, and is stored as `d - 128`. A maximum is
written only at the end: until then it is a value and the differences that are to be added to it,
and who reads it reads all of these. So each further value of a window is one step, not two:

    r = relu(a - b)        max(a, b)    = b + r
    s = relu(b + r - c)    max(a, b, c) = c + s

Windows are taken along one axis, then along the other.

Weights are 2 and -2, and the post-processor halves. With weights of 1 and multipliers of 16 bits
the shift would be 15, and the sequential core is quick from 16 on. All sums are even, so that
nothing is rounded.
"""

from dataclasses import dataclass, replace
from functools import cache
from math import gcd
from typing import Any

import numpy as np

from systolith import graph as g
from systolith.hw.config import Config

from .ir import Feature, Matrix, Source, identity_finish

__all__ = ["has_empty_windows", "maximum"]

LEAST = -128
"""The least int8: padding, and what stands for a difference of 0."""

STEP_PIXELS = 64
"""What a step costs beside its pixels, in pixels: instructions, and their room in main memory."""

LONG = 16
"""Of windows with more values than this, only halves are tried."""


@dataclass(frozen=True)
class _Axis:
    """Windows along one axis: `count`, `stride` pixels apart, the first from pixel `first` on.

    Each is of `taps` values, `dilation` pixels apart.
    """

    taps: int
    dilation: int
    stride: int
    count: int
    first: int

    def read(self, size: int) -> int:
        """How many of `size` pixels lie in front of the end of the last window."""
        end = self.first + (self.count - 1) * self.stride + (self.taps - 1) * self.dilation + 1
        return max(1, min(size, end))

    def misses(self, size: int) -> bool:
        """Whether a window holds none of `size` pixels."""
        return any(not any(0 <= pixel + tap * self.dilation < size for tap in range(self.taps))
                   for pixel in range(self.first, self.first + self.count * self.stride,
                                      self.stride))

    def best(self, across: int) -> tuple[int, int]:
        """`_best` of these windows, `across` pixels along the other axis."""
        return _best(self.taps, self.stride, self.count, self.dilation, across)


def _axes(node: g.MaxPool, output: tuple[int, int]) -> list[_Axis]:
    return [_Axis(node.kernel[axis], node.dilation[axis], node.stride[axis], output[axis],
                  -node.padding[2 * axis]) for axis in (0, 1)]


def has_empty_windows(node: g.MaxPool, feature: Feature, output: tuple[int, int]) -> bool:
    """Whether a window of a pool holds nothing but padding, which is its result then."""
    return any(axis.misses(size) for axis, size in zip(
        _axes(node, output), (feature.height, feature.width), strict=True))


@dataclass(frozen=True)
class _Term:
    """A summand of a maximum: a feature from element `origin` on.

    `step` is how many pixels lie from an element to the next.
    """

    feature: str
    origin: tuple[int, int]
    step: tuple[int, int]

    def moved(self, axis: int, pixels: int) -> "_Term":
        """The same so many pixels further on."""
        elements, rest = divmod(pixels, self.step[axis])
        assert not rest, (self, axis, pixels)
        row, column = self.origin
        return replace(self, origin=(row, column + elements) if axis else (row + elements, column))


def _inner(stride: int, count: int, distance: int) -> tuple[int, int]:
    """Stride and count of the windows of which each outer one takes one, and one further on."""
    step = gcd(stride, distance) if count > 1 else distance
    return step, (stride * (count - 1) + distance) // step + 1 if count > 1 else 2


@cache
def _best(taps: int, stride: int, count: int, dilation: int, across: int) -> tuple[int, int]:
    """Cost of the cheapest way to windows of `taps` values, and its shift.

    A window is a shorter one and the same so many values further on, or, with a shift of 0, a
    window without the last value, and that value.
    """
    if taps == 1:
        return 0, 0
    shifts = list(range(taps // 2 + 1))
    if taps > LONG:
        shifts = [0, taps // 2] if taps % 2 else [taps // 2]
    ways = []
    for shift in shifts:
        inner = _inner(stride, count, shift * dilation) if shift else (stride, count)
        ways.append((_best(taps - (shift or 1), *inner, dilation, across)[0], shift))
    cost, shift = min(ways)
    return cost + count * across + STEP_PIXELS, shift


def maximum(node: g.MaxPool, feature: Feature, output: tuple[int, int], pad: int,
            config: Config) -> tuple[list[tuple[Feature, Matrix]], Matrix]:
    """Operations that take the maxima of `feature`, and what all but the last of them make.

    Parameters
    ----------
    node, output
        The pool, and its result's height and width.
    feature, pad
        Its input, and the padding: a value that is no larger than any of it, and -128 where the
        pool `has_empty_windows`.
    config
        The accelerator.
    """
    return _Maximum(node, feature, output, pad, config).run()


class _Maximum:
    def __init__(self, node: g.MaxPool, feature: Feature, output: tuple[int, int], pad: int,
                 config: Config):
        self.node = node
        self.feature = feature
        self.config = config
        self.pad = pad
        size = feature.height, feature.width
        self.axes = _axes(node, output)
        # The grid on which steps are made: all pixels first, then, axis by axis, the windows.
        self.size = [axis.read(pixels) for axis, pixels in zip(self.axes, size, strict=True)]
        self.step = [1, 1]
        self.made: list[tuple[Feature, Matrix]] = []

    def run(self) -> tuple[list[tuple[Feature, Matrix]], Matrix]:
        """Both axes in the cheaper order."""
        def cost(order: tuple[int, int]) -> int:
            first, second = (self.axes[axis] for axis in order)
            return first.best(self.size[order[1]])[0] + second.best(first.count)[0]

        terms = [_Term(self.feature.name, (0, 0), (1, 1))]
        for axis in min(((0, 1), (1, 0)), key=cost):
            line = self.axes[axis]
            terms = [term.moved(axis, line.first) for term in terms]
            terms = self._windows(axis, terms, line.taps, line.stride, line.count)
            self.size[axis], self.step[axis] = line.count, line.stride
        return self.made, self._matrix(self.node.output, terms, [], 0, 0, bias=len(terms) - 1)

    def _windows(self, axis: int, values: list[_Term], taps: int, stride: int, count: int
                 ) -> list[_Term]:
        """Maxima of `taps` values along an axis."""
        if taps == 1:
            return values
        dilation = self.axes[axis].dilation
        _, shift = _best(taps, stride, count, dilation, self.size[1 - axis])
        if shift:
            distance = shift * dilation
            first = self._windows(axis, values, taps - shift, *_inner(stride, count, distance))
            second = [term.moved(axis, distance) for term in first]
        else:
            first = self._windows(axis, values, taps - 1, stride, count)
            second = [term.moved(axis, (taps - 1) * dilation) for term in values]
        self.size[axis], self.step[axis] = count, stride
        return [*second, self._difference(axis, first, second)]

    def _difference(self, axis: int, first: list[_Term], second: list[_Term]) -> _Term:
        """By how much the first maximum exceeds the second one."""
        name = f"{self.node.output}@step{len(self.made)}"
        height, width = self.size
        feature = replace(self.feature, name=name, tensor=self.node.output, height=height,
                          width=width, zero_point=LEAST)
        self.made.append((feature, self._matrix(name, first, second, axis, LEAST,
                                                bias=len(first) - len(second),
                                                names=(self.node.name,))))
        return _Term(name, (0, 0), (self.step[0], self.step[1]))

    def _matrix(self, output: str, first: list[_Term], second: list[_Term], axis: int, zero: int,
                *, bias: int, **more: Any) -> Matrix:
        """The first sum less the second one; `bias` differences more lie in the first."""
        sources, weights = [], []
        for name in dict.fromkeys(term.feature for term in (*first, *second)):
            taps = [(term, weight) for terms, weight in ((first, 2), (second, -2))
                    for term in terms if term.feature == name]
            begin, end = taps[0][0], taps[-1][0]
            kernel, dilation = [1, 1], [1, 1]
            if len(taps) == 2:
                kernel[axis], dilation[axis] = 2, end.origin[axis] - begin.origin[axis]
            stride = tuple(step // each if count > 1 else 1 for step, each, count in
                           zip(self.step, begin.step, self.size, strict=True))
            sources.append(Source(
                feature=name, kernel=(kernel[0], kernel[1]), stride=(stride[0], stride[1]),
                dilation=(dilation[0], dilation[1]), offset=begin.origin,
                pad_value=self.pad if name == self.feature.name else LEAST))
            values = np.array([weight for _, weight in taps], np.int8).reshape(1, 1, *kernel)
            weights.append(np.tile(values, (self.feature.channels, 1, 1, 1)))
        return Matrix(
            name=self.node.name, op=self.node.op, output=output, sources=tuple(sources),
            weights=tuple(weights), channel_groups=self.feature.channels, light=True,
            # A difference d is stored as d - 128 and taken twice.
            finish=identity_finish(self.config, bias=-2 * LEAST * bias, halvings=1, zero=zero),
            **more)
