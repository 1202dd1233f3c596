"""From scales and float biases to integers: everything a node needs to be executed exactly.

The formulas are the contract's (`systolith.sim.numerics`); this module applies them to a layer and
decides what to do with channels that do not fit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.bias_table import BiasRow
from systolith.errors import ModelError
from systolith.graph import ConvTranspose2d, Graph
from systolith.sim import numerics

__all__ = ["Quantization", "add_constants", "average_constants", "bias_report",
           "requantize_constants", "weighted_constants"]

ACCUMULATOR_LIMIT = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How real values become int8: scale, zero point, and the bounds that levels keep to."""

    scale: float
    zero: int
    low: int = -128
    high: int = 127

    def level(self, value: float) -> int:
        """The int8 level of a real value, within the bounds."""
        level = numerics.quantize(np.float32(value), self.scale, self.zero)
        return int(min(max(int(level), self.low), self.high))

    def within(self, low: int, high: int) -> "Quantization":
        """The same with bounds no wider than `low` and `high`."""
        low, high = max(low, self.low), min(high, self.high)
        return Quantization(scale=self.scale, zero=self.zero, low=min(low, high), high=high)

    def same_scale(self, other: "Quantization") -> bool:
        """Whether a level means the same real value."""
        return (np.float32(self.scale) == np.float32(other.scale)) and self.zero == other.zero


def weighted_constants(
        name: str, weight: NDArray[np.int8], weight_scale: Any, float_bias: Any,
        source: Quantization, target: Quantization, *, bias: str, multiplier_bits: int,
        integer_bias: NDArray[np.int64] | None = None, centered: bool = False) -> dict[str, Any]:
    """Constants of a layer with weights, as keyword arguments of `graph.Weighted`.

    Parameters
    ----------
    name
        The layer, for messages.
    weight, weight_scale, float_bias
        int8 [O, ...]; positive float32 [O]; float32 [O] in real numbers.
    source, target
        Quantization of input and output.
    bias, multiplier_bits
        The contract's bias mode and multiplier width.
    integer_bias
        Bias that the model itself holds in units of `source.scale * weight_scale`, int [O]; it is
        then used as it is.
    centered
        The input's zero point is subtracted before the sum, so the bias holds no term for it.

    Raises
    ------
    ModelError
        When a channel's accumulator could overflow, or its multiplier cannot be expressed.
    """
    channels = len(weight)
    scale = np.broadcast_to(np.asarray(weight_scale, np.float32), (channels,))
    real_bias = np.broadcast_to(np.asarray(float_bias, np.float64), (channels,))
    enlargement = numerics.scale_enlargement(real_bias, source.scale, scale)
    enlarged, error_in_weights = _enlarge(weight, enlargement)
    scale = np.ldexp(scale, enlargement).astype(np.float32)
    try:
        real = numerics.real_multiplier(source.scale, scale, target.scale)
        multiplier, shift = numerics.quantize_multiplier(real, multiplier_bits)
        sums = enlarged.reshape(channels, -1).sum(axis=1, dtype=np.int64)
        zero = 0 if centered else source.zero
        terms, rounding = numerics.bias_terms(real_bias, source.scale, scale, zero, sums,
                                              multiplier, bias)
        if integer_bias is not None:
            kept = enlargement == 0
            exact = np.asarray(integer_bias, np.int64) - zero * sums
            terms = np.where(kept, numerics.wrap32(exact), terms).astype(np.int32)
            rounding = np.where(kept, 0, rounding)
    except ModelError as error:
        raise ModelError(f"layer '{name}': {error}") from None
    _prove_accumulator(name, enlarged, terms, centered=centered)
    reach = max(source.high - source.zero, source.zero - source.low)
    return {
        "weight": enlarged, "bias": terms, "rounding": rounding, "multiplier": multiplier,
        "shift": shift, "zero": target.zero, "low": target.low, "high": target.high,
        "float_bias": real_bias.copy(), "weight_scale": scale.astype(np.float64),
        "enlargement": enlargement,
        "enlargement_error": error_in_weights * reach * real.astype(np.float64),
    }


def _enlarge(weight: NDArray[np.int8], enlargement: NDArray[np.int64]
             ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights at a scale 2^k times as large, and the sum of what rounding them lost a channel."""
    shape = (-1, *(1,) * (weight.ndim - 1))
    ideal = np.ldexp(weight.astype(np.float64), -enlargement.reshape(shape))
    rounded = np.rint(ideal)
    lost = np.abs(ideal - rounded).reshape(len(weight), -1).sum(axis=1)
    return rounded.astype(np.int8), lost


def _prove_accumulator(name: str, weight: NDArray[np.int8], bias: NDArray[np.int32], *,
                       centered: bool) -> None:
    magnitude = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1)
    bound = (256 if centered else 128) * magnitude + np.abs(bias.astype(np.int64))
    worst = int(bound.argmax())
    if bound[worst] >= ACCUMULATOR_LIMIT:
        raise ModelError(f"layer '{name}' could overflow its 32-bit accumulator: channel {worst} "
                         f"may reach {bound[worst]}, so reduce its bias or split its inputs")


def add_constants(a: Quantization, b: Quantization, target: Quantization, *,
                  factor_a: float = 1.0, factor_b: float = 1.0) -> dict[str, int]:
    """Constants of `graph.Add` for `factor_a * a + factor_b * b`; the factors are not 0."""
    multiplier_a, multiplier_b, shift = numerics.add_multipliers(
        abs(factor_a) * a.scale, abs(factor_b) * b.scale, target.scale)
    return {"zero_a": a.zero, "zero_b": b.zero,
            "multiplier_a": multiplier_a if factor_a > 0 else -multiplier_a,
            "multiplier_b": multiplier_b if factor_b > 0 else -multiplier_b,
            "shift": shift, "zero": target.zero, "low": target.low, "high": target.high}


def requantize_constants(source: Quantization, target: Quantization, *, bias: int,
                         multiplier_bits: int, factor: float = 1.0) -> dict[str, int]:
    """Multiplier, shift, bias, zero point and bounds for `factor * source` in `target` levels."""
    real = np.float32(np.float32(source.scale) * np.float32(factor)) / np.float32(target.scale)
    multiplier, shift = numerics.quantize_multiplier(real, multiplier_bits)
    return {"bias": bias, "multiplier": int(multiplier), "shift": int(shift),
            "zero": target.zero, "low": target.low, "high": target.high}


def average_constants(source: Quantization, target: Quantization, count: int, *,
                      centered: bool, multiplier_bits: int) -> dict[str, int]:
    """Constants of `graph.AveragePool` over `count` values.

    `centered` rounds as QNNPACK and the PT2E reference do, otherwise as FBGEMM and oneDNN; the
    choice exists only where input and output have one scale and zero point.
    """
    if source.same_scale(target):
        bias, multiplier, shift, zero = numerics.average_terms(
            count, source.zero, centered=centered, multiplier_bits=multiplier_bits)
        return {"bias": bias, "multiplier": multiplier, "shift": shift, "zero": zero,
                "low": target.low, "high": target.high}
    return requantize_constants(source, target, bias=-count * source.zero, factor=1 / count,
                                multiplier_bits=multiplier_bits)


def bias_report(graph: Graph) -> list[BiasRow]:
    """A row for every output channel of every layer with weights."""
    rows = []
    for node in graph.weighted():
        source = graph.tensors[node.inputs[0]]
        step = np.float64(np.float32(source.scale)) * node.weight_scale
        term = 0 if isinstance(node, ConvTranspose2d) else source.zero_point
        sums = node.weight.reshape(node.channels, -1).sum(axis=1, dtype=np.int64)
        added = node.bias.astype(np.int64) + term * sums
        # A multiplier that was cut to fit the largest shift stands for a channel that is all zero.
        kept = np.divide(node.rounding, node.multiplier, where=node.multiplier > 0,
                         out=np.zeros(node.channels))
        to_output = step / np.float64(np.float32(graph.tensors[node.output].scale))
        error = (node.float_bias / step - added - kept) * to_output
        for channel in range(node.channels):
            rows.append(BiasRow(
                layer=node.name, channel=channel, float_bias=float(node.float_bias[channel]),
                integer_bias=int(node.bias[channel]), kept=float(kept[channel]),
                error=float(error[channel]), enlargement=1 << int(node.enlargement[channel]),
                enlargement_error=float(node.enlargement_error[channel])))
    return rows

