"""The arithmetic contract in numpy: exact integers, to the bit what the hardware computes.

Symbols: scale `s`, zero point `z`, quantized value `q`, real value `s * (q - z)`; input `x`,
weight `w`, output `y`. A channel's parameter record is bias B, rounding constant R, multiplier M
and shift n. Channels lie on the last axis everywhere, so that records broadcast.

Every function is defined for every value that the fields of a record or of an instruction can
hold, sensible or not, because the hardware computes something for them too.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from systolith.errors import ModelError
from systolith.hw.isa import ADD_MULTIPLIER_BITS, PARAMETER_BYTES

__all__ = [
    "BIAS_LIMIT",
    "ROUNDING_BITS",
    "SHIFT_MAX",
    "add",
    "add_multipliers",
    "average_terms",
    "bias_terms",
    "build_table",
    "clamp",
    "dequantize",
    "look_up",
    "pack_records",
    "product",
    "quantize",
    "quantize_multiplier",
    "real_multiplier",
    "requantize",
    "round_significand",
    "scale_enlargement",
    "shift_round",
    "unpack_records",
    "wrap32",
]

IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.int8]
FloatArray = npt.NDArray[np.float32]

SHIFT_MAX = 63
"""Largest shift of a parameter record."""

ADD_SHIFT_MAX = 31
"""Largest shift of a residual add."""

ROUNDING_BITS = 25
"""Width of R on the chip: |r * M| <= 2^23, and a sign."""

BIAS_LIMIT = 1 << 30
"""|b / (s_x * s_w)| must be less, or the channel's weight scale must be enlarged."""

SIGNIFICAND_BITS = 24


# Scales to integers -----------------------------------------------------------------------------

def real_multiplier(input_scale: npt.ArrayLike, weight_scale: npt.ArrayLike,
                    output_scale: npt.ArrayLike) -> FloatArray:
    """The real multiplier `f32(f32(s_x * s_w) / s_y)`, evaluated as the frameworks do."""
    scale = np.asarray(input_scale, np.float32) * np.asarray(weight_scale, np.float32)
    return np.asarray(scale / np.asarray(output_scale, np.float32), np.float32)


def quantize_multiplier(real: npt.ArrayLike, bits: int = 24) -> tuple[IntArray, IntArray]:
    """Multiplier M and shift n with `M * 2^-n` equal, or next, to the real multiplier.

    24 bits are float32's own significand and lose nothing; 18 and 16 round half to even. With 0
    bits M is 1, and a multiplier that is no power of two is refused: rounding it would change most
    outputs of the layer. Where n would exceed `SHIFT_MAX`, M gives up bits instead; the product
    with any int32 value is then below 2^-8 and rounds to 0 either way.

    Parameters
    ----------
    real
        Float32 multipliers, greater than 0.
    bits
        `multiplier_bits` of the configuration.

    Raises
    ------
    ModelError
        A multiplier is not finite, not positive, too large for a shift of 0, or (0 bits) no power
        of two. The message names the first such channel.
    """
    real = np.asarray(real, np.float32).astype(np.float64)
    _refuse(~(np.isfinite(real) & (real > 0)), real,
            "is not a positive number: check the scales of the layer")
    significand, exponent = np.frexp(real)  # real = significand * 2^exponent, in [0.5, 1)
    if bits == 0:
        _refuse(significand != 0.5, real, "is not a power of two, but multiplier_bits = 0 can only "
                "shift: train with power-of-two scales or choose a wider multiplier")
        shift = 1 - exponent.astype(np.int64)
        multiplier = np.ones_like(shift)
    else:
        multiplier = np.rint(np.ldexp(significand, bits)).astype(np.int64)
        shift = bits - exponent.astype(np.int64)
        carried = multiplier == 1 << bits
        multiplier = np.where(carried, multiplier >> 1, multiplier)
        shift = np.where(carried, shift - 1, shift)
    _refuse(shift < 0, real, f"is too large for a multiplier of {bits} bits: check the scales")
    surplus = np.clip(shift - SHIFT_MAX, 0, 62)
    if bits:
        multiplier = multiplier >> surplus
    return multiplier, np.minimum(shift, SHIFT_MAX)


def _refuse(bad: npt.NDArray[np.bool_], real: npt.NDArray[np.float64], why: str) -> None:
    if np.any(bad):
        channel = int(np.argmax(np.atleast_1d(bad)))
        value = float(np.atleast_1d(real)[channel])
        raise ModelError(f"requantize multiplier {value:g} of channel {channel} {why}")


def scale_enlargement(float_bias: npt.ArrayLike, input_scale: float,
                      weight_scale: npt.ArrayLike) -> IntArray:
    """Least k >= 0 a channel, so that `|b / (s_x * s_w * 2^k)| < BIAS_LIMIT`."""
    beta = np.abs(_beta(float_bias, input_scale, weight_scale))
    _, exponent = np.frexp(beta / BIAS_LIMIT)
    return np.maximum(exponent, 0).astype(np.int64)


def _beta(float_bias: npt.ArrayLike, input_scale: float,
          weight_scale: npt.ArrayLike) -> npt.NDArray[np.float64]:
    scale = np.float64(np.float32(input_scale)) * np.asarray(weight_scale, np.float32).astype(
        np.float64)
    return np.asarray(float_bias, np.float64) / scale


def bias_terms(float_bias: npt.ArrayLike, input_scale: float, weight_scale: npt.ArrayLike,
               input_zero: int, weight_sums: npt.ArrayLike, multiplier: npt.ArrayLike,
               mode: str = "exact") -> tuple[npt.NDArray[np.int32], IntArray]:
    """Integer bias B and rounding constant R of each channel.

    `B = rne(beta) - z_x * sum(q_w)` with `beta = b / (s_x * s_w)` in float64. What rounding beta
    discards is kept in `R = rne((beta - rne(beta)) * M)` when `mode` is "exact"; it is 0 when
    `mode` is "int32".

    Raises
    ------
    ModelError
        `|beta|` reaches `BIAS_LIMIT` (see `scale_enlargement`) or B leaves int32.
    """
    beta = np.atleast_1d(_beta(float_bias, input_scale, weight_scale))
    large = ~(np.abs(beta) < BIAS_LIMIT)
    if np.any(large):
        channel = int(np.argmax(large))
        raise ModelError(f"bias of channel {channel} is {beta[channel]:g} accumulator units, more "
                         "than 2^30: enlarge the channel's weight scale")
    rounded = np.rint(beta)
    bias = rounded.astype(np.int64) - int(input_zero) * np.asarray(weight_sums, np.int64)
    wrong = bias != wrap32(bias)
    if np.any(wrong):
        channel = int(np.argmax(wrong))
        raise ModelError(f"bias of channel {channel} with its zero point term is {bias[channel]}, "
                         "which int32 cannot hold: reduce the layer's weights")
    if mode == "exact":
        rounding = np.rint((beta - rounded) * np.asarray(multiplier, np.float64)).astype(np.int64)
    else:
        rounding = np.zeros_like(bias)
    return bias.astype(np.int32), rounding


# Parameter records ------------------------------------------------------------------------------

def pack_records(bias: npt.ArrayLike, rounding: npt.ArrayLike, multiplier: npt.ArrayLike,
                 shift: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Parameter records in memory order (`PARAMETER_FIELDS`), uint8 of shape [channels, 16]."""
    fields = np.broadcast_arrays(*(np.atleast_1d(np.asarray(field, np.int64))
                                   for field in (bias, rounding, multiplier, shift)))
    words = np.zeros((fields[0].size, PARAMETER_BYTES // 4), "<u4")
    words[:, 0] = fields[0] & 0xFFFFFFFF
    words[:, 1] = fields[1] & 0xFFFFFFFF
    words[:, 2] = (fields[2] & 0xFFFFFF) | (fields[3] & SHIFT_MAX) << 24
    return words.view(np.uint8)


def unpack_records(data: npt.NDArray[np.uint8], *, multiplier_bits: int = 24,
                   mode: str = "exact") -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """B, R, M, n of records as the parameter memory keeps them.

    R is the low 25 bits, sign-extended, and 0 in bias mode "int32"; M is the low
    `multiplier_bits` bits, and 1 for a pure shift.
    """
    words = np.ascontiguousarray(data).reshape(-1, PARAMETER_BYTES).view("<u4").astype(np.int64)
    bias = wrap32(words[:, 0])
    rounding = _rounding_field(words[:, 1]) if mode == "exact" else np.zeros_like(bias)
    multiplier = _multiplier_field(words[:, 2], multiplier_bits)
    return bias, rounding, multiplier, (words[:, 2] >> 24) & SHIFT_MAX


def _rounding_field(value: npt.ArrayLike) -> IntArray:
    half = 1 << (ROUNDING_BITS - 1)
    return ((np.asarray(value, np.int64) + half) & (2 * half - 1)) - half


def _multiplier_field(value: npt.ArrayLike, bits: int) -> IntArray:
    value = np.asarray(value, np.int64)
    return value & ((1 << bits) - 1) if bits else np.ones_like(value)


# The post-processor's operations ----------------------------------------------------------------

def wrap32(value: npt.ArrayLike) -> IntArray:
    """Two's complement wrap to int32, as int64."""
    return np.asarray(value, np.int64).astype(np.int32).astype(np.int64)


def round_significand(value: npt.ArrayLike) -> IntArray:
    """Round integers to 24 significant bits, half to even: what conversion to float32 does."""
    return np.asarray(value, np.int64).astype(np.float32).astype(np.int64)


def clamp(value: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> ByteArray:
    """Limit to [`low`, `high`], int8; where `low` exceeds `high`, `high` it is."""
    value = np.maximum(value, np.asarray(low, np.int64))
    return np.minimum(value, np.asarray(high, np.int64)).astype(np.int8)


def requantize(acc: npt.ArrayLike, bias: npt.ArrayLike, rounding: npt.ArrayLike,
               multiplier: npt.ArrayLike, shift: npt.ArrayLike, zero: npt.ArrayLike,
               low: npt.ArrayLike, high: npt.ArrayLike, *,
               multiplier_bits: int = 24) -> ByteArray:
    """Accumulators to int8: bias add, multiply, shift with rounding, zero point, clamp.

    `y = clamp(round((v * M + R) / 2^n) + z, low, high)`, where v is `acc + bias`, wrapped to int32
    and rounded to 24 significant bits. A shift of 0 leaves no fraction and rounds nothing.

    With a 24-bit multiplier `round` is half to even *in float32's sense*: the frameworks round the
    product to a float32 first, so that what lies within half a unit in the last place of a tie is
    a tie. Narrower multipliers and the pure shift (0 bits, where M is 1) are plain half to even.

    Parameters
    ----------
    acc
        Int32 values of shape [..., channels].
    bias, rounding, multiplier, shift
        Fields of the parameter records, scalars or of shape [channels]; bits that the
        configuration's parameter memory does not keep are ignored.
    zero, low, high
        Zero point of the output and bounds of the clamp, int8.
    multiplier_bits
        As in the configuration.
    """
    n = np.asarray(shift, np.int64)
    v = round_significand(wrap32(np.asarray(acc, np.int64) + np.asarray(bias, np.int64)))
    x = v * _multiplier_field(multiplier, multiplier_bits) + _rounding_field(rounding)
    p = np.abs(x)
    q = np.minimum(p >> n, 256)  # 256 plus any zero point lies beyond int8: the clamp decides
    f = p & ((np.int64(1) << n) - 1)
    half = np.int64(1) << np.maximum(n - 1, 0)  # f is 0, and less, where n is 0
    if multiplier_bits == 24:
        _, length = np.frexp(q.astype(np.float32))  # bit length of q
        exponent = n - 25 + length
        window = np.where(exponent < 0, 0, np.int64(1) << np.maximum(exponent, 0))
        tie = np.abs(f - half) <= window
    else:
        tie = f == half
    q += np.where(tie, q & 1, f > half)
    return clamp(np.where(x < 0, -q, q) + np.asarray(zero, np.int64), low, high)


def shift_round(value: npt.ArrayLike, shift: npt.ArrayLike) -> IntArray:
    """`rne(value / 2^shift)` of integers, exact."""
    value, n = np.asarray(value, np.int64), np.asarray(shift, np.int64)
    q = value >> n
    f = value - (q << n)
    half = np.int64(1) << np.maximum(n - 1, 0)
    return q + np.where(f == half, q & 1, f > half)


def add(a: npt.ArrayLike, b: npt.ArrayLike, zero_a: int, zero_b: int, multiplier_a: int,
        multiplier_b: int, shift: int, zero: int, low: int, high: int) -> ByteArray:
    """Residual add of two int8 arrays with one rounding, half to even.

    `clamp(rne(((a - z_a) * M_a + (b - z_b) * M_b) / 2^n) + z, low, high)`
    """
    total = (np.asarray(a, np.int64) - zero_a) * multiplier_a
    total = total + (np.asarray(b, np.int64) - zero_b) * multiplier_b
    return clamp(shift_round(total, shift) + zero, low, high)


def add_multipliers(scale_a: float, scale_b: float, scale_y: float) -> tuple[int, int, int]:
    """`M_a`, `M_b` and their common shift for `add`: the largest shift at which both fit 22 bits.

    Subtraction negates `M_b`. Raises `ModelError` when a ratio of scales is not a positive number
    or is too large for a shift of 0.
    """
    ratios = np.array([scale_a, scale_b], np.float32).astype(np.float64) / np.float32(scale_y)
    if not (np.all(np.isfinite(ratios)) and np.all(ratios > 0)):
        raise ModelError(f"scales {scale_a:g}, {scale_b:g} and {scale_y:g} of an addition are not "
                         "positive numbers: check its observers")
    limit = (1 << ADD_MULTIPLIER_BITS) - 1
    _, exponent = np.frexp(ratios.max())
    shift = min(ADD_MULTIPLIER_BITS - int(exponent), ADD_SHIFT_MAX)
    if np.rint(np.ldexp(ratios.max(), shift)) > limit:
        shift -= 1
    if shift < 0:
        raise ModelError(f"an addition's input scale is {ratios.max():g} times its output scale "
                         f"{scale_y:g}, which must be less than 2^{ADD_MULTIPLIER_BITS}")
    multipliers = np.rint(np.ldexp(ratios, shift)).astype(np.int64)
    return int(multipliers[0]), int(multipliers[1]), shift


def product(a: npt.ArrayLike, b: npt.ArrayLike, zero_a: int, zero_b: int) -> IntArray:
    """`(a - z_a) * (b - z_b)`: the accumulator of a multiplication, to be requantized."""
    return (np.asarray(a, np.int64) - zero_a) * (np.asarray(b, np.int64) - zero_b)


def average_terms(count: int, zero: int = 0, *, centered: bool = False,
                  multiplier_bits: int = 24) -> tuple[int, int, int, int]:
    """Bias, multiplier, shift and zero point that requantize a sum of `count` values to their mean.

    The frameworks disagree on ties: `rne(sum / n)` (FBGEMM, oneDNN, x86), or with `centered`
    `rne((sum - n * z) / n) + z` (QNNPACK). With 24 bits the mean is exact for every odd count,
    every power of two and every square window up to 17x17; ties of a few other even counts (14,
    26, 28, ...) go where the product with float32's 1 / n falls, as in the frameworks' kernels.
    """
    multiplier, shift = quantize_multiplier(np.float32(1) / np.float32(count), multiplier_bits)
    bias, output_zero = (-count * zero, zero) if centered else (0, 0)
    return bias, int(multiplier), int(shift), output_zero


# Between real and quantized values --------------------------------------------------------------

def quantize(real: npt.ArrayLike, scale: float, zero: int, low: int = -128,
             high: int = 127) -> ByteArray:
    """Float values to int8: `clamp(rne(x * f32(1 / s)) + z)`, as PyTorch's exported graphs do.

    PyTorch's eager `quantize_per_tensor` adds the zero point before it rounds, so that exact ties
    go the other way where the zero point is odd.
    """
    scaled = np.asarray(real, np.float32) * np.float32(1.0 / float(scale))
    levels = np.clip(np.rint(scaled), -1024, 1024).astype(np.int64)
    return clamp(levels + zero, low, high)


def dequantize(levels: npt.ArrayLike, scale: float, zero: int) -> FloatArray:
    """Int8 values to float32: `s * (q - z)`."""
    return (np.asarray(levels, np.int64) - zero).astype(np.float32) * np.float32(scale)


def build_table(function: Callable[[FloatArray], npt.ArrayLike], input_scale: float,
                input_zero: int, output_scale: float, output_zero: int, low: int = -128,
                high: int = 127) -> ByteArray:
    """A function's table of 256 entries: entry `q + 128` is the output for input value q.

    `function` takes and gives float32 arrays: the framework's own, so that every entry is what the
    framework would have computed.
    """
    inputs = dequantize(np.arange(-128, 128), input_scale, input_zero)
    return quantize(function(inputs), output_scale, output_zero, low, high)


def look_up(table: npt.NDArray[np.int8], levels: npt.ArrayLike) -> ByteArray:
    """Table entries of int8 values."""
    return table[np.asarray(levels, np.int64) + 128]
