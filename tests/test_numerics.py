"""The arithmetic contract in numpy, against Python integers, float32 arithmetic and PyTorch."""

from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
import torch

from systolith.errors import ModelError
from systolith.sim import numerics

SEED = 20


def half_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


def signed(value, bits):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def contract(acc, bias, rounding, multiplier, shift, zero, low, high, bits):
    """Steps 2 to 5 of the contract in Python integers, with nothing saturated on the way."""
    v = signed(acc + bias, 32)
    excess = max(abs(v).bit_length() - 24, 0)
    v = half_even(Fraction(v, 1 << excess)) << excess
    multiplier = multiplier & ((1 << bits) - 1) if bits else 1
    x = v * multiplier + signed(rounding, 25)
    p = abs(x)
    q, f = p >> shift, p & ((1 << shift) - 1)
    distance = abs(Fraction(f) - Fraction(1 << shift, 2))
    window = Fraction(2) ** (shift - 25 + q.bit_length()) if bits == 24 else 0
    if shift and distance <= (window if window >= 1 else 0):
        q += q & 1
    elif 2 * f > 1 << shift:
        q += 1
    return min(max((-q if x < 0 else q) + zero, low), high)


def any_fields(rng, count):
    limit = 1 << rng.integers(0, 32, count)
    return {
        "acc": rng.integers(-limit, limit, count),
        "bias": np.where(rng.random(count) < 0.5, rng.integers(-2**31, 2**31, count),
                         rng.integers(-100, 100, count)),
        "rounding": np.where(rng.random(count) < 0.5, rng.integers(-2**31, 2**31, count), 0),
        "multiplier": rng.integers(0, 2**24, count),
        "shift": rng.integers(0, 64, count),
        "zero": rng.integers(-128, 128, count),
        "low": rng.integers(-128, 128, count),
        "high": rng.integers(-128, 128, count),
    }


def tie_fields(rng, count, bits):
    """Records whose products lie on ties, at the ends of their float32 windows, or one beside."""
    width = bits or 1
    shift = rng.integers(max(width - 2, 1), width + 15, count)
    multiplier = rng.integers((1 << width) >> 1, 1 << width, count)
    quotient = rng.integers(0, 140, count)
    exponent = shift - 25 + np.frexp(quotient)[1]
    window = np.where(exponent < 0, 0, 1 << np.maximum(exponent, 0))
    product = ((2 * quotient + 1) << (shift - 1)) + rng.integers(-1, 2, count) * window
    product += rng.integers(-1, 2, count)
    acc = product // multiplier
    sign = rng.choice([-1, 1], count)
    return {
        "acc": acc * sign, "bias": np.zeros(count, np.int64),
        "rounding": (product - acc * multiplier) * sign, "multiplier": multiplier,
        "shift": shift, "zero": np.zeros(count, np.int64),
        "low": np.full(count, -128), "high": np.full(count, 127),
    }


@pytest.mark.parametrize("bits", [24, 18, 16, 0])
@pytest.mark.parametrize("kind", ["any", "ties"])
def test_requantize_is_the_contract_in_integers(bits, kind):
    rng = np.random.default_rng(SEED)
    fields = any_fields(rng, 20_000) if kind == "any" else tie_fields(rng, 20_000, bits)
    result = numerics.requantize(**fields, multiplier_bits=bits)
    columns = [column.tolist() for column in fields.values()]
    expected = [contract(*row, bits) for row in zip(*columns, strict=True)]
    wrong = np.flatnonzero(result != expected)
    assert wrong.size == 0, (SEED, {k: int(v[wrong[0]]) for k, v in fields.items()})


def test_the_tie_window_matters():
    # Without the float32 sense of a tie, the tie test above could not tell the two apart.
    fields = tie_fields(np.random.default_rng(SEED), 100_000, 24)
    exact = numerics.requantize(**fields, multiplier_bits=24)
    x = fields["acc"] * fields["multiplier"] + fields["rounding"]
    plain = np.clip(numerics.shift_round(x, fields["shift"]), -128, 127)
    assert 0.01 < np.mean(exact != plain) < 0.5


def float32_reference(v, multiplier, zero):
    return np.clip(np.rint(v.astype(np.int32).astype(np.float32) * multiplier) + zero, -128, 127)


def test_no_difference_from_float32():
    rng = np.random.default_rng(SEED)
    differences = 0
    for low, high, least, most in ((-2**20, 2**20, -14, -3), (-2**31, 2**31, -40, -8),
                                   (2**24 - 64, 2**24 + 64, -20, -17), (-300, 300, -8, 6)):
        v = rng.integers(low, high, 1_000_000)
        multiplier = np.exp2(rng.uniform(least, most, v.size)).astype(np.float32)
        m, n = numerics.quantize_multiplier(multiplier)
        assert np.array_equal(np.ldexp(m.astype(float), -n), multiplier)
        result = numerics.requantize(v, 0, 0, m, n, 5, -128, 127)
        differences += int(np.sum(result != float32_reference(v, multiplier, 5)))
    assert differences == 0


def test_no_difference_from_float32_next_to_ties():
    rng = np.random.default_rng(SEED)
    count = 2_000_000
    v = rng.integers(1, 2**22, count) * rng.choice([-1, 1], count)
    target = rng.integers(0, 130, count) + 0.5
    multiplier = (target / np.abs(v)).astype(np.float32)
    for neighbour in range(-2, 3):
        near = multiplier.view(np.int32) + np.int32(neighbour)
        m, n = numerics.quantize_multiplier(near.view(np.float32))
        result = numerics.requantize(v, 0, 0, m, n, -1, -128, 127)
        assert np.array_equal(result, float32_reference(v, near.view(np.float32), -1)), neighbour


@pytest.mark.parametrize(("bits", "worst"), [(18, 1e-4), (16, 4e-4)])
def test_narrow_multipliers_seldom_differ_from_float32(bits, worst):
    rng = np.random.default_rng(SEED)
    v = rng.integers(-2**16, 2**16, 1_000_000)
    multiplier = np.exp2(rng.uniform(-11, -9, v.size)).astype(np.float32)
    m, n = numerics.quantize_multiplier(multiplier, bits)
    assert np.all((m >= 1 << (bits - 1)) & (m < 1 << bits))
    result = numerics.requantize(v, 0, 0, m, n, 0, -128, 127, multiplier_bits=bits)
    difference = np.abs(result - float32_reference(v, multiplier, 0))
    assert difference.max() <= 1 and 0 < np.mean(difference > 0) < worst


def test_pure_shift_is_exact_for_powers_of_two():
    rng = np.random.default_rng(SEED)
    v = rng.integers(-2**31, 2**31, 500_000) >> rng.integers(0, 31, 500_000)
    multiplier = np.exp2(-rng.integers(0, 32, v.size)).astype(np.float32)
    m, n = numerics.quantize_multiplier(multiplier, 0)
    assert np.all(m == 1)
    result = numerics.requantize(v, 0, 0, m, n, 2, -128, 127, multiplier_bits=0)
    assert np.array_equal(result, float32_reference(v, multiplier, 2))


def test_pure_shift_refuses_other_multipliers():
    with pytest.raises(ModelError, match=r"0\.3 of channel 1 is not a power of two, but multi"):
        numerics.quantize_multiplier([0.5, 0.3], 0)


@pytest.mark.parametrize(("value", "words"), [
    (0.0, "not a positive number"), (-1.0, "not a positive number"),
    (float("nan"), "not a positive number"), (float("inf"), "not a positive number"),
    (2.0**25, "too large for a multiplier of 24 bits")])
def test_senseless_multipliers_are_refused(value, words):
    with pytest.raises(ModelError, match=words):
        numerics.quantize_multiplier(value)


def test_tiny_multipliers_give_up_bits_and_round_to_zero():
    real = np.float32([2.0**-41, 1e-30, np.finfo(np.float32).smallest_subnormal])
    m, n = numerics.quantize_multiplier(real)
    assert np.all(n == 63) and np.all(m < 2**23)
    for v in (-2**31, 2**31 - 1):
        assert np.all(numerics.requantize(v, 0, 0, m, n, 7, -128, 127) == 7)


def test_narrow_multiplier_that_rounds_up_to_the_next_power_of_two():
    m, n = numerics.quantize_multiplier(np.float32(1) - np.float32(2.0**-24), 16)
    assert (m, n) == (1 << 15, 15)


def test_round_significand_on_all_magnitudes():
    rng = np.random.default_rng(SEED)
    values = [s * (2**k + d) for k in range(32) for d in range(-3, 4) for s in (-1, 1)]
    values += rng.integers(-2**31, 2**31, 20_000).tolist()
    values += (((rng.integers(2**23, 2**24, 20_000) * 2 + 1) << 6) + rng.integers(-1, 2)).tolist()
    expected = []
    for v in values:
        excess = max(abs(v).bit_length() - 24, 0)
        expected.append(half_even(Fraction(v, 1 << excess)) << excess)
    assert numerics.round_significand(values).tolist() == expected


def test_bounds_and_zero_point():
    assert numerics.requantize(1 << 30, 0, 0, 1 << 23, 23, 127, -128, 127) == 127
    assert numerics.requantize(-(1 << 30), 0, 0, 1 << 23, 23, 127, -128, 127) == -128
    assert numerics.requantize([-9, 9], 0, 0, 1 << 23, 23, 0, 0, 6).tolist() == [0, 6]
    assert numerics.clamp([-5, 0, 5], 3, -3).tolist() == [-3, -3, -3]  # the upper bound wins
    assert numerics.requantize(100, 2**31 - 50, 0, 1 << 23, 23, 0, -128, 127) == -128  # wraps


# Biases -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("bias", [0.5, 3.0, 300.0, -300.0])
@pytest.mark.parametrize("mode", ["exact", "int32"])
def test_bias_on_zero_weights_is_exact(bias, mode):
    s_x, s_w, s_y = 0.05, 1.1920929e-07, 4.0 if abs(bias) > 100 else 0.03125
    enlargement = numerics.scale_enlargement([bias], s_x, s_w)
    s_w = np.float32(s_w) * np.exp2(enlargement).astype(np.float32)
    beta = bias / (float(np.float32(s_x)) * float(s_w[0]))
    assert abs(beta) < 2**30 and (enlargement == 0 or abs(beta) >= 2**29)
    m, n = numerics.quantize_multiplier(numerics.real_multiplier(s_x, s_w, s_y))
    b, r = numerics.bias_terms([bias], s_x, s_w, 17, [0], m, mode)
    y = numerics.requantize(0, b, r, m, n, -3, -128, 127)
    assert y[0] == np.clip(half_even(Fraction(bias) / Fraction(s_y)) - 3, -128, 127)


def test_bias_terms():
    rng = np.random.default_rng(SEED)
    s_x, s_w = 0.0371, rng.uniform(1e-4, 1e-2, 500)
    bias, sums = rng.normal(0, 3, 500), rng.integers(-9999, 9999, 500)
    m, _ = numerics.quantize_multiplier(numerics.real_multiplier(s_x, s_w, 0.11))
    b, r = numerics.bias_terms(bias, s_x, s_w, -7, sums, m)
    zero_term = numerics.bias_terms(bias, s_x, s_w, -7, sums, m, "int32")
    assert b.dtype == np.int32 and np.array_equal(zero_term[0], b) and not zero_term[1].any()
    assert np.all(np.abs(r) <= 2**23) and np.mean(r != 0) > 0.9
    for c in range(500):
        beta = Fraction(float(bias[c])) / (Fraction(float(np.float32(s_x)))
                                           * Fraction(float(np.float32(s_w[c]))))
        assert b[c] == half_even(beta) + 7 * sums[c]
        assert abs(r[c] - (beta - half_even(beta)) * int(m[c])) <= Fraction(1, 2) + Fraction(1, 256)


def test_exact_bias_follows_a_bias_kept_in_float():
    rng = np.random.default_rng(SEED)
    count = 500_000
    s_x, s_y = 0.04, 0.09
    s_w = rng.uniform(1e-3, 1e-2, count).astype(np.float32)
    acc, bias = rng.integers(-3000, 3000, count), rng.normal(0, 1, count)
    real = numerics.real_multiplier(s_x, s_w, s_y)
    m, n = numerics.quantize_multiplier(real)
    exact = np.clip(np.rint((acc + bias / (s_x * s_w.astype(float))) * real.astype(float)),
                    -128, 127)
    wrong = {}
    for mode in ("exact", "int32"):
        b, r = numerics.bias_terms(bias, s_x, s_w, 0, np.zeros(count), m, mode)
        wrong[mode] = np.mean(numerics.requantize(acc, b, r, m, n, 0, -128, 127) != exact)
    assert wrong["exact"] < 1e-5 and wrong["int32"] > 3e-4


def test_bias_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match=r"bias of channel 1 is .* more than 2\^30: enlarge the"):
        numerics.bias_terms([0.0, 300.0], 0.05, 1.19e-7, 0, [0, 0], [1, 1])
    with pytest.raises(ModelError, match="bias of channel 0 with its zero point term is"):
        numerics.bias_terms([2.0**29], 1.0, 1.0, -128, [2**24 - 1 + 2**20], [1])
    assert numerics.scale_enlargement([0.0, 1.0], 1.0, 1.0).tolist() == [0, 0]
    assert numerics.scale_enlargement([2.0**30, 2.0**30 - 1, 2.0**33], 1.0, 1.0).tolist() == [
        1, 0, 4]


# Records ----------------------------------------------------------------------------------------

def test_records_survive_packing_and_lose_what_the_memory_does_not_keep():
    rng = np.random.default_rng(SEED)
    b, r = rng.integers(-2**31, 2**31, 99), rng.integers(-2**24, 2**24, 99)
    m, n = rng.integers(0, 2**24, 99), rng.integers(0, 64, 99)
    data = numerics.pack_records(b, r, m, n)
    assert data.shape == (99, 16) and data.dtype == np.uint8
    for ours, theirs in zip((b, r, m, n), numerics.unpack_records(data), strict=True):
        assert np.array_equal(ours, theirs)
    _, r_kept, m_kept, _ = numerics.unpack_records(data, multiplier_bits=16, mode="int32")
    assert not r_kept.any() and np.array_equal(m_kept, m & 0xFFFF)
    _, _, m_kept, _ = numerics.unpack_records(data, multiplier_bits=0)
    assert np.all(m_kept == 1)
    data[:, 7] ^= 0xFE  # all but the sign bit of R
    assert np.array_equal(numerics.unpack_records(data)[1], r)


# Addition, products, averages, tables -----------------------------------------------------------

def test_shift_round_and_add_are_exact():
    rng = np.random.default_rng(SEED)
    for _ in range(3000):
        shift = int(rng.integers(0, 32))
        ma, mb = (int(v) for v in rng.integers(-2**22, 2**22, 2))
        a, b, za, zb, zy, low, high = (int(v) for v in rng.integers(-128, 128, 7))
        total = (a - za) * ma + (b - zb) * mb
        expected = min(max(half_even(Fraction(total, 1 << shift)) + zy, low), high)
        assert numerics.add(a, b, za, zb, ma, mb, shift, zy, low, high) == expected, (
            SEED, a, b, za, zb, ma, mb, shift)
    values = np.arange(-4096, 4096)
    for shift in range(8):
        assert numerics.shift_round(values, shift).tolist() == [
            half_even(Fraction(int(v), 1 << shift)) for v in values]


def test_add_multipliers_agree_with_real_scales():
    rng = np.random.default_rng(SEED)
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    differences = []
    for _ in range(30):
        s_a, s_b, s_y = np.exp2(rng.uniform(-8, 0, 3))
        m_a, m_b, shift = numerics.add_multipliers(s_a, s_b, s_y)
        assert 0 <= shift <= 31 and max(m_a, m_b) < 2**22
        assert max(m_a, m_b) >= 2**21 or shift == 31
        ours = numerics.add(a, b, 3, -4, m_a, m_b, shift, 1, -128, 127)
        real = (a - 3) * float(np.float32(s_a)) + (b + 4) * float(np.float32(s_b))
        exact = np.clip(np.rint(real / float(np.float32(s_y))) + 1, -128, 127)
        differences.append(np.abs(ours - exact))
    assert np.max(differences) <= 1 and np.mean(differences) < 1e-4


@pytest.mark.parametrize("scales", [(1e-9, 1e-9, 1.0), (1.0, 1.0, 1.0), (4000.0, 1e-3, 0.001)])
def test_add_multipliers_at_the_limits(scales):
    m_a, m_b, shift = numerics.add_multipliers(*scales)
    assert 0 <= shift <= 31 and 0 <= m_a < 2**22 and 0 <= m_b < 2**22


@pytest.mark.parametrize(("scales", "words"), [
    ((1.0, 1.0, 0.0), "not positive numbers"), ((1.0, float("nan"), 1.0), "not positive numbers"),
    ((2.0**23, 1.0, 1.0), "times its output scale 1, which must be less")])
def test_senseless_add_scales_are_refused(scales, words):
    with np.errstate(divide="ignore", invalid="ignore"), pytest.raises(ModelError, match=words):
        numerics.add_multipliers(*scales)


def test_product():
    assert numerics.product([-128, 127], [-128, -128], 127, 127).tolist() == [255 * 255, 0]


def test_averages_are_exact_where_the_frameworks_agree():
    counts = {*range(1, 130, 2), *(1 << k for k in range(9)), *(k * k for k in range(1, 18))}
    for count in sorted(counts):
        total = np.arange(-128 * count, 127 * count + 1)
        for centered, zero in ((False, 9), (True, 9), (True, -128)):
            b, m, n, z = numerics.average_terms(count, zero, centered=centered)
            mean, rest = np.divmod(total + b, count)
            exact = mean + np.where(2 * rest == count, mean & 1, 2 * rest > count)
            result = numerics.requantize(total, b, 0, m, n, z, -128, 127)
            assert np.array_equal(result, np.clip(exact + z, -128, 127)), (count, centered, zero)


def test_the_two_conventions_of_average_differ_on_ties():
    total = np.arange(-512, 509)
    results = []
    for centered in (False, True):
        b, m, n, z = numerics.average_terms(4, 3, centered=centered)
        results.append(numerics.requantize(total, b, 0, m, n, z, -128, 127))
    assert np.mean(results[0] != results[1]) == pytest.approx(0.25, abs=0.01)


def test_table():
    table = numerics.build_table(lambda x: 1 / (1 + np.exp(-x)), 0.1, 5, 1 / 256, -128)
    levels = np.arange(-128, 128)
    real = 1 / (1 + np.exp(-0.1 * (levels - 5)))
    assert np.abs(table - np.clip(np.rint(real * 256) - 128, -128, 127)).max() <= 1
    assert np.array_equal(numerics.look_up(table, [-128, 0, 127]), table[[0, 128, 255]])


# PyTorch ----------------------------------------------------------------------------------------

DEPRECATED = "ignore:.*quantized tensor creation functions:UserWarning"

def test_quantize_and_dequantize_are_those_of_exported_graphs():
    import_module("torch.ao.quantization.fx._decomposed")  # registers the operators
    operators = torch.ops.quantized_decomposed
    rng = np.random.default_rng(SEED)
    for scale, zero in ((0.1, 0), (0.0123, -77), (float(np.float32(3.7)), 127)):
        x = np.concatenate([rng.normal(0, 100 * scale, 100_000),
                            (np.arange(-200, 200) + 0.5) * scale]).astype(np.float32)
        parameters = (scale, zero, -128, 127, torch.int8)
        theirs = operators.quantize_per_tensor(torch.from_numpy(x), *parameters)
        ours = numerics.quantize(x, scale, zero)
        assert np.array_equal(ours, theirs.numpy())
        assert np.array_equal(numerics.dequantize(ours, scale, zero),
                              operators.dequantize_per_tensor(theirs, *parameters).numpy())


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize(("engine", "mode", "worst"), [("qnnpack", "int32", 2e-6),
                                                       ("fbgemm", "exact", 2e-6)])
def test_linear_layers_are_pytorchs(engine, mode, worst, monkeypatch):
    """QNNPACK adds an integer bias, FBGEMM a float one; activations are 7 bits for FBGEMM."""
    rng = np.random.default_rng(SEED)
    inputs, outputs, batch = 96, 256, 2048
    s_x, z_x, s_y, z_y = 0.0271, 61, 0.173, 120
    levels = rng.integers(0, 128, (batch, inputs))
    weight = rng.integers(-127, 128, (outputs, inputs))
    s_w = np.exp2(rng.uniform(-9, -6, outputs)).astype(np.float32)
    bias = rng.normal(0, 0.2, outputs).astype(np.float32)  # more needs more than float32's bits
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    q_w = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(weight.astype(np.int8)), torch.from_numpy(s_w).double(),
        torch.zeros(outputs, dtype=torch.long), 0)
    q_x = torch._make_per_tensor_quantized_tensor(
        torch.from_numpy(levels.astype(np.uint8)), s_x, z_x)
    packed = torch.ops.quantized.linear_prepack(q_w, torch.from_numpy(bias))
    theirs = torch.ops.quantized.linear(q_x, packed, s_y, z_y).int_repr().numpy().astype(int) - 128

    m, n = numerics.quantize_multiplier(numerics.real_multiplier(s_x, s_w, s_y))
    b, r = numerics.bias_terms(bias, s_x, s_w, z_x - 128, weight.sum(1), m, mode)
    acc = (levels - 128) @ weight.T
    ours = numerics.requantize(acc, b, r, m, n, z_y - 128, -128, 127)
    assert np.mean((ours > -128) & (ours < 127)) > 0.2
    assert np.abs(ours - theirs).max() <= 1 and np.mean(ours != theirs) <= worst, SEED
