"""Random layers given by their integers, in the form that PT2E's converted graphs have.

One sample is what every oracle and the importer are given: levels, scales, zero points, int8
weights and a real bias. All numbers follow from the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
import torchao.quantization.pt2e  # noqa: F401  registers quantized_decomposed
from numpy.typing import NDArray
from torch import Tensor, nn

from systolith.integer import Quantization

__all__ = ["OPERATORS", "Reference", "Sample", "dequantized", "levels_of"]

Levels = NDArray[np.int8]
WIDTH = 24
"""Height and width of images."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One layer and its inputs.

    `levels` are int8 arrays [N, ...], one a source. Layers with weights have int8 `weight`, float32
    `weight_scale` of one element or one an output channel, and float32 `bias`. `options` are those
    of the PyTorch function `operator`.
    """

    operator: str
    levels: tuple[Levels, ...]
    sources: tuple[Quantization, ...]
    target: Quantization
    weight: Levels | None = None
    weight_scale: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    relu: bool = False

    @property
    def per_channel(self) -> bool:
        """Whether every output channel has a weight scale of its own."""
        return self.weight_scale is not None and self.weight_scale.size > 1

    def floats(self) -> tuple[Tensor, ...]:
        """The inputs as real numbers, which quantize to exactly `levels`."""
        return tuple(map(dequantized, self.levels, self.sources))


def dequantized(levels: Levels, kind: Quantization) -> Tensor:
    """Real values of levels, float32."""
    values = levels.astype(np.float32) - np.float32(kind.zero)
    return torch.from_numpy(values * np.float32(kind.scale))


def levels_of(values: Any, kind: Quantization) -> Levels:
    """Levels of real values that are multiples of the scale but for float32's precision."""
    steps = np.rint(np.asarray(values, np.float64) / np.float64(np.float32(kind.scale)))
    return (steps + kind.zero).astype(np.int8)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "conv2d": functional.conv2d,
    "conv_transpose2d": functional.conv_transpose2d,
    "linear": functional.linear,
    "add": torch.add,
    "mul": torch.mul,
    "cat": lambda *tensors: torch.cat(tensors, 1),
    "avg_pool2d": functional.avg_pool2d,
    "max_pool2d": functional.max_pool2d,
    "bilinear": functional.interpolate,
    "sigmoid": torch.sigmoid,
    "hardswish": functional.hardswish,
}


class Reference(nn.Module):
    """The sample as a converted PT2E graph: float code between dequantize and quantize."""

    def __init__(self, sample: Sample):
        super().__init__()
        self.sample = sample
        if sample.weight is not None:
            self.register_buffer("weight", torch.from_numpy(sample.weight))
            self.register_buffer("scales", torch.from_numpy(sample.weight_scale))
            self.register_buffer("zeros", torch.zeros(sample.weight_scale.size,
                                                      dtype=torch.int64))
            self.bias = nn.Parameter(torch.from_numpy(sample.bias), requires_grad=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        sample = self.sample
        values: list[Any] = [_rounded(tensor, kind) for tensor, kind in
                             zip(inputs, sample.sources, strict=True)]
        if sample.weight is not None:
            values += [self._weight(), self.bias]
        result = FUNCTIONS[sample.operator](*values, **sample.options)
        return _rounded(functional.relu(result) if sample.relu else result, sample.target)

    def _weight(self) -> Tensor:
        decomposed = torch.ops.quantized_decomposed
        if self.sample.per_channel:
            return decomposed.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -127,
                                                     127, torch.int8)
        return decomposed.dequantize_per_tensor(
            self.weight, float(self.sample.weight_scale[0]), 0, -127, 127, torch.int8)


def _rounded(value: Tensor, kind: Quantization) -> Tensor:
    constants = (kind.scale, kind.zero, kind.low, kind.high, torch.int8)
    decomposed = torch.ops.quantized_decomposed
    return decomposed.dequantize_per_tensor(
        decomposed.quantize_per_tensor(value, *constants), *constants)


# Makers -------------------------------------------------------------------------------------------

def _scale(value: float) -> float:
    return float(np.float32(value))


def _source(rng: np.random.Generator, narrow: bool) -> Quantization:
    """A random input quantization; `narrow` gives the lower 7 bits of a uint8."""
    high = -1 if narrow else 127
    return Quantization(scale=_scale(np.exp(rng.uniform(-5, -2))),
                        zero=int(rng.integers(-128, high + 1)), low=-128, high=high)


def _levels(rng: np.random.Generator, kind: Quantization, *shape: int) -> Levels:
    return rng.integers(kind.low, kind.high + 1, shape).astype(np.int8)


def _target(rng: np.random.Generator, spread: float) -> Quantization:
    """A random output quantization whose range ends at 3 to 5 standard deviations."""
    return Quantization(scale=_scale(spread / rng.uniform(25, 42)),
                        zero=int(rng.integers(-60, 60)))


def _weighted(operator: str, weight_shape: tuple[int, ...], image: tuple[int, ...], *,
              per_channel: bool, relu: bool = False, **options: Any) -> Callable[..., Sample]:
    def make(rng: np.random.Generator, images: int, narrow: bool) -> Sample:
        source = _source(rng, narrow)
        # PyTorch keeps the weights of transposed layers with the input channels first.
        channels = weight_shape["transpose" in operator]
        images = images if len(image) > 1 else 36 * images  # as many outputs as an image has
        weight = np.clip(np.rint(rng.normal(0, 40, weight_shape)), -127, 127).astype(np.int8)
        scale = np.exp(rng.uniform(-7, -5, channels if per_channel else 1)).astype(np.float32)
        fan_in = weight.size / channels / options.get("stride", 1) ** 2
        deviation = source.scale * float(scale.mean()) * 40 * (source.high - source.low) / 3.46
        target = _target(rng, deviation * np.sqrt(fan_in))
        bias = _biases(rng, channels, np.float64(np.float32(source.scale)) * scale, target)
        return Sample(operator=operator, levels=(_levels(rng, source, images, *image),),
                      sources=(source,), target=target, weight=weight, weight_scale=scale,
                      bias=bias, options=options, relu=relu)
    return make


def _biases(rng: np.random.Generator, channels: int, step: NDArray[np.float64],
            target: Quantization) -> NDArray[np.float32]:
    """Real biases of some tens of output steps, far enough from the middle of two integers that
    float32 rounds them as float64 does: the middle is a question of its own (`own_ways`)."""
    units = np.rint(rng.normal(0, 20, channels) * target.scale / step)
    return ((units + rng.uniform(-0.45, 0.45, channels)) * step).astype(np.float32)


def _two(operator: str, relu: bool = False) -> Callable[..., Sample]:
    def make(rng: np.random.Generator, images: int, narrow: bool) -> Sample:
        kinds = (_source(rng, narrow), _source(rng, narrow))
        first, second = (kind.scale * 74 for kind in kinds)
        spread = {"add": np.hypot(first, second), "mul": first * second,
                  "cat": max(first, second)}[operator]
        return Sample(
            operator=operator, sources=kinds, target=_target(rng, float(spread)), relu=relu,
            levels=tuple(_levels(rng, kind, images, 32, WIDTH, WIDTH) for kind in kinds))
    return make


def _pool(operator: str, kernel: int, stride: int) -> Callable[..., Sample]:
    """A pool; its output has its input's scale, as the quantizers give it."""
    def make(rng: np.random.Generator, images: int, narrow: bool) -> Sample:
        source = _source(rng, narrow)
        target = Quantization(scale=source.scale, zero=source.zero)
        width = stride * WIDTH + kernel - stride
        return Sample(operator=operator, sources=(source,), target=target,
                      levels=(_levels(rng, source, images, 32, width, width),),
                      options={"kernel_size": kernel, "stride": stride})
    return make


def _bilinear(rng: np.random.Generator, images: int, narrow: bool) -> Sample:
    source = _source(rng, narrow)
    half = WIDTH // 2
    return Sample(operator="bilinear", sources=(source,),
                  target=Quantization(scale=source.scale, zero=source.zero),
                  levels=(_levels(rng, source, images, 32, half, half),),
                  options={"scale_factor": 2.0, "mode": "bilinear"})


def _function(operator: str) -> Callable[..., Sample]:
    def make(rng: np.random.Generator, images: int, narrow: bool) -> Sample:
        source = _source(rng, narrow)
        target = (Quantization(scale=1 / 256, zero=-128) if operator == "sigmoid" else
                  _target(rng, source.scale * 100))
        return Sample(operator=operator, sources=(source,), target=target,
                      levels=(_levels(rng, source, images, 32, WIDTH, WIDTH),))
    return make


IMAGE = (16, WIDTH + 2, WIDTH + 2)
OPERATORS: dict[str, Callable[..., Sample]] = {
    "conv, per tensor": _weighted("conv2d", (32, 16, 3, 3), IMAGE, per_channel=False),
    "conv, per channel": _weighted("conv2d", (32, 16, 3, 3), IMAGE, per_channel=True),
    "conv, ReLU, padded": _weighted("conv2d", (32, 16, 3, 3), (16, WIDTH, WIDTH), relu=True,
                                    per_channel=True, padding=1),
    "conv, 4 groups": _weighted("conv2d", (32, 4, 3, 3), IMAGE, per_channel=False, groups=4),
    "depthwise, per tensor": _weighted("conv2d", (32, 1, 3, 3), (32, WIDTH, WIDTH), groups=32,
                                       per_channel=False, padding=1),
    "depthwise, per channel": _weighted("conv2d", (32, 1, 3, 3), (32, WIDTH, WIDTH), groups=32,
                                        per_channel=True, padding=1),
    "conv transposed": _weighted("conv_transpose2d", (16, 32, 4, 4), (16, WIDTH // 2, WIDTH // 2),
                                 per_channel=False, stride=2, padding=1),
    "linear, per tensor": _weighted("linear", (512, 96), (96,), per_channel=False),
    "linear, per channel": _weighted("linear", (512, 96), (96,), per_channel=True),
    "add": _two("add"),
    "add, ReLU": _two("add", relu=True),
    "mul": _two("mul"),
    "cat": _two("cat"),
    "average pool 2x2": _pool("avg_pool2d", 2, 2),
    "average pool 3x3": _pool("avg_pool2d", 3, 2),
    "average pool 7x7": _pool("avg_pool2d", 7, 1),
    "max pool 3x3": _pool("max_pool2d", 3, 2),
    "bilinear upsampling": _bilinear,
    "sigmoid": _function("sigmoid"),
    "hardswish": _function("hardswish"),
}
"""Maker of a sample from a generator, a number of images, and whether activations have 7 bits."""
