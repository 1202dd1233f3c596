"""Observers and fake-quantizers that know the hardware's bias and scale rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e import FakeQuantizeBase
from torchao.quantization.pt2e.observer import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)

from systolith.sim.numerics import BIAS_LIMIT

__all__ = ["ActivationObserver", "BiasFakeQuantize", "PerChannelWeightObserver", "RangeObserver",
           "ScaleLink", "TensorWeightObserver", "scale_floor", "snap_scale"]

INT32_LEVELS = (-(1 << 31), (1 << 31) - 1)
OUTPUT_STEP_FLOOR = 2.0 ** -16
"""Smallest useful product step: weights finer than this part of an output step say nothing."""


class ActivationObserver(HistogramObserver):
    """A histogram observer that searches its range once, not once for every reader."""

    _found: tuple[Tensor, ...] = ()

    def forward(self, x_orig: Tensor) -> Tensor:
        self._found = ()
        return super().forward(x_orig)

    def calculate_qparams(self) -> tuple[Tensor, ...]:
        if not self._found:
            self._found = super().calculate_qparams()
        return self._found


def scale_floor(input_scale: Tensor, output_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Least weight scale a channel at which its bias fits and its multiplier stays useful."""
    floor = output_scale * OUTPUT_STEP_FLOOR / input_scale
    if bias is not None:
        # One part in a thousand above the limit, so that float32 rounding cannot cross it.
        floor = torch.maximum(floor, bias.detach().abs() * 1.001 / (input_scale * BIAS_LIMIT))
    return floor


def snap_scale(scale: Tensor, input_scale: Tensor, output_scale: Tensor, bits: int) -> Tensor:
    """Weight scales rounded up to where the multiplier has `bits` significant bits exactly.

    0 bits means a power of two. The multiplier is `f32(f32(s_x * s_w) / s_y)`; two roundings pass
    over some values, so the next reachable one is taken, as a rule within two steps.
    """
    s_x, s_y = np.float32(input_scale.item()), np.float32(output_scale.item())
    wanted = np.atleast_1d(scale.detach().to(torch.float64).numpy()) * float(s_x) / float(s_y)
    significand, exponent = np.frexp(wanted)
    width = max(bits, 1)
    first = np.ceil(np.ldexp(significand, width))
    snapped = np.atleast_1d(scale.detach().numpy()).astype(np.float32)
    open_ = np.ones(snapped.shape, bool)
    for step in range(16):
        # A step past the next power of two is twice as wide.
        carried = first + step > 1 << width
        number = np.where(carried, 2 * (first + step) - (1 << width), first + step)
        real = np.ldexp(number, exponent - width)
        candidate = (real * float(s_y) / float(s_x)).astype(np.float32)
        for neighbour in (candidate, np.nextafter(candidate, np.float32(np.inf)),
                          np.nextafter(candidate, np.float32(0))):
            hit = open_ & ((s_x * neighbour) / s_y == real)
            snapped = np.where(hit, neighbour, snapped)
            open_ &= ~hit
    return torch.from_numpy(snapped).reshape(scale.shape)


class ScaleLink:
    """What a weight or bias must know of the layer around it.

    Plain references, hidden from `nn.Module`, so that observers are not registered twice.
    """

    def __init__(self, source: nn.Module, result: nn.Module | None,
                 bias: Callable[[], Tensor | None], multiplier_bits: int | None):
        self.source = source
        self.result = result
        self.bias = bias
        self.multiplier_bits = multiplier_bits

    def input_scale(self) -> Tensor | None:
        """Scale of the layer's input, or None before anything was observed."""
        return _observed_scale(self.source)

    def adjust(self, scale: Tensor) -> Tensor:
        """Apply the floor, and the snapping where it was asked for."""
        s_x = self.input_scale()
        s_y = None if self.result is None else _observed_scale(self.result)
        if s_x is None or s_y is None:
            return scale
        floor = scale_floor(s_x, s_y, self.bias())
        adjusted = torch.maximum(scale, floor if scale.numel() > 1 else floor.max())
        if self.multiplier_bits is not None:
            adjusted = snap_scale(adjusted, s_x, s_y, self.multiplier_bits)
        return adjusted.to(scale.dtype).reshape(scale.shape)


def _observed_scale(module: nn.Module) -> Tensor | None:
    observer: Any = getattr(module, "activation_post_process", module)
    least = getattr(observer, "min_val", None)
    if least is not None and (least.numel() == 0 or not bool(torch.isfinite(least).all())):
        return None
    return observer.calculate_qparams()[0].detach().reshape(())


class _Linked:
    """Adds the link to a weight observer."""

    link: tuple[ScaleLink, ...] = ()

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()  # type: ignore[misc]
        for link in self.link:
            scale = link.adjust(scale)
        return scale, zero_point


class PerChannelWeightObserver(_Linked, PerChannelMinMaxObserver):
    """Symmetric weight scales a channel, never below the layer's floor.

    PT2E passes the channel axis only to classes with "PerChannel" in their name.
    """


class TensorWeightObserver(_Linked, MinMaxObserver):
    """One symmetric weight scale, never below the layer's floor."""


class RangeObserver(MovingAverageMinMaxObserver):
    """Activation range in training."""


class BiasFakeQuantize(FakeQuantizeBase):
    """Rounds a bias to int32 in units of `s_x * s_w`, in training and in the converted model.

    The gradient passes through. Conversion writes the integers, computed in float64, as a constant
    behind a dequantize: PyTorch's own int32 quantize loses bits above 2^24 and wraps.
    """

    def __init__(self, source: nn.Module, weight: nn.Module):
        super().__init__()
        self.parts = (source, weight)
        self.dtype = torch.int32
        self.qscheme = torch.per_tensor_affine
        self.quant_min, self.quant_max = INT32_LEVELS
        self.is_dynamic = False

    def _scale(self) -> Tensor | None:
        source, weight = self.parts
        s_x, s_w = _observed_scale(source), None
        if s_x is not None:
            observer: Any = getattr(weight, "activation_post_process", weight)
            if observer.min_val.numel() and bool(torch.isfinite(observer.min_val).all()):
                s_w = observer.calculate_qparams()[0].detach()
        return None if s_x is None or s_w is None else s_x * s_w

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        scale = self._scale()
        scale = torch.ones(1) if scale is None else scale
        return scale, torch.zeros_like(scale, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        scale = self._scale() if self.training and self.fake_quant_enabled[0] == 1 else None
        if scale is None:
            return x
        rounded = (_levels(x, scale).to(torch.float64) * scale.to(torch.float64)).to(x.dtype)
        return x + (rounded - x).detach()

    def convert(self, model: fx.GraphModule, node: fx.Node) -> None:
        """Replace this module by the integers and their dequantize."""
        bias_node: Any = node.args[0]
        bias: Any = model
        for part in str(bias_node.target).split("."):
            bias = getattr(bias, part)
        scale = self._scale()
        if scale is None:
            node.replace_all_uses_with(bias_node)
            model.graph.erase_node(node)
            return
        name = str(node.target).replace(".", "_") + "_bias"
        channel = scale.numel() > 1
        model.register_buffer(f"{name}_levels", _levels(bias.detach(), scale).to(torch.int32))
        with model.graph.inserting_before(node):
            levels = model.graph.get_attr(f"{name}_levels")
            if channel:
                model.register_buffer(f"{name}_scale", scale)
                model.register_buffer(f"{name}_zero", torch.zeros(scale.shape, dtype=torch.int64))
                operator = torch.ops.quantized_decomposed.dequantize_per_channel.default
                arguments: tuple[Any, ...] = (
                    levels, model.graph.get_attr(f"{name}_scale"),
                    model.graph.get_attr(f"{name}_zero"), 0, *INT32_LEVELS, torch.int32)
            else:
                operator = torch.ops.quantized_decomposed.dequantize_per_tensor.default
                arguments = (levels, float(scale), 0, *INT32_LEVELS, torch.int32)
            replacement = model.graph.call_function(operator, arguments)
        node.replace_all_uses_with(replacement)
        model.graph.erase_node(node)


def _levels(bias: Tensor, scale: Tensor) -> Tensor:
    """Half to even in float64, saturated to int32."""
    exact = torch.round(bias.detach().to(torch.float64) / scale.to(torch.float64))
    return exact.clamp(*INT32_LEVELS).to(torch.int64)
