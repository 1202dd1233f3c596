"""PyTorch's own int8 kernels, and its PT2E reference graph."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from systolith.integer import Quantization

from .samples import Levels, Reference, Sample, levels_of

__all__ = ["by_engine", "by_reference_graph"]


def by_reference_graph(sample: Sample) -> Levels:
    """What the converted graph computes in float32."""
    with torch.no_grad():
        return levels_of(Reference(sample)(*sample.floats()).numpy(), sample.target)


@contextmanager
def _engine(name: str) -> Any:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def by_engine(name: str) -> Callable[[Sample], Levels]:
    """An oracle: the kernels of one of `torch.backends.quantized.supported_engines`."""
    def run(sample: Sample) -> Levels:
        inputs = [_quantized(levels, kind) for levels, kind in
                  zip(sample.levels, sample.sources, strict=True)]
        with _engine(name), torch.no_grad():
            result = _run(sample, inputs)
        return (result.int_repr().numpy().astype(np.int16) - 128).astype(np.int8)
    return run


def _quantized(levels: Levels, kind: Quantization) -> Tensor:
    """Levels as the uint8 tensor that these kernels take."""
    raw = torch.from_numpy((levels.astype(np.int16) + 128).astype(np.uint8))
    return torch._make_per_tensor_quantized_tensor(raw, kind.scale, kind.zero + 128)


def _weight(sample: Sample) -> Tensor:
    levels = torch.from_numpy(sample.weight)
    if not sample.per_channel:
        return torch._make_per_tensor_quantized_tensor(levels, float(sample.weight_scale[0]), 0)
    scales = torch.from_numpy(sample.weight_scale).double()
    return torch._make_per_channel_quantized_tensor(
        levels, scales, torch.zeros(len(scales), dtype=torch.int64), 0)


def _run(sample: Sample, inputs: list[Tensor]) -> Tensor:
    quantized: Any = torch.ops.quantized
    scale, zero = sample.target.scale, sample.target.zero + 128
    relu = "_relu" if sample.relu else ""
    operator = sample.operator
    if operator == "linear":
        packed = quantized.linear_prepack(_weight(sample), torch.from_numpy(sample.bias))
        return getattr(quantized, f"linear{relu}")(inputs[0], packed, scale, zero)
    if operator == "conv2d":
        padding = [sample.options.get("padding", 0)] * 2
        packed = quantized.conv2d_prepack(
            _weight(sample), torch.from_numpy(sample.bias), [1, 1], padding, [1, 1],
            sample.options.get("groups", 1))
        return getattr(quantized, f"conv2d{relu}")(inputs[0], packed, scale, zero)
    if operator == "conv_transpose2d":
        stride, padding = [sample.options["stride"]] * 2, [sample.options["padding"]] * 2
        packed = quantized.conv_transpose2d_prepack(
            _weight(sample), torch.from_numpy(sample.bias), stride, padding, [0, 0], [1, 1], 1)
        return quantized.conv_transpose2d(inputs[0], packed, scale, zero)
    if operator in ("add", "mul"):
        return getattr(quantized, f"{operator}{relu}")(*inputs, scale, zero)
    if operator == "cat":
        return quantized.cat(inputs, 1, scale, zero)
    if operator == "sigmoid":
        return quantized.sigmoid(inputs[0], scale, zero)
    if operator == "hardswish":
        return quantized.hardswish(inputs[0], scale, zero)
    if operator == "bilinear":
        return torch.nn.functional.interpolate(inputs[0], **sample.options)
    function = getattr(torch.nn.functional, operator)
    return function(inputs[0], sample.options["kernel_size"], sample.options["stride"])
