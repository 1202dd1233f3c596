"""The requantizer: int32 accumulators to int8, to the bit as the arithmetic contract says."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .multiplier import registered_product

__all__ = [
    "CLAMP_STAGE",
    "MULTIPLIER_STAGE",
    "REQUANTIZE_LATENCY",
    "ROUNDING_STAGE",
    "ZERO_STAGE",
    "Requantizer",
    "bounded",
    "rounding_width",
]

MULTIPLIER_STAGE = 2
"""Cycles from an accumulator to the cycle in which its multiplier and shift are taken."""

ROUNDING_STAGE = 3
"""Cycles from an accumulator to the cycle in which its rounding constant is taken."""

ZERO_STAGE = 10
"""Cycles from an accumulator to the cycle in which the zero point is taken."""

CLAMP_STAGE = 11
"""Cycles from an accumulator to the cycle in which the bounds are taken."""

REQUANTIZE_LATENCY = 12
"""Cycles from an accumulator to its int8 value."""

_SHIFT_STAGE = 6
_LOW_BITS = 17  # of v; with a sign they fill an 18-bit multiplier's operand


def rounding_width(config: Config) -> int:
    """Bits of the rounding constant that the parameter memory keeps, 0 without it."""
    return 25 if config.bias == "exact" else 0


def bounded(value, low, high):
    """`value` limited to [`low`, `high`]; where low exceeds high, high it is.

    The three comparisons stand beside each other, which is faster than a minimum of a maximum.
    """
    return Mux((value > high) | (low > high), high, Mux(value < low, low, value))


class Requantizer(wiring.Component):
    """One lane: `clamp(round((v * M + R) / 2^n) + zero, low, high)`, `v = acc + bias` in int32,
    rounded to 24 significant bits.

    A value may enter every cycle. The fields of its parameter record are taken in the cycles in
    which they are needed, so that what is common to all lanes is delayed once, outside: bias with
    the accumulator, multiplier and shift `MULTIPLIER_STAGE` cycles later, and so on. Rounding is
    half to even; with a 24-bit multiplier in float32's sense, as the contract defines it.

    Bits of the result above 256 are not computed: with any zero point the clamp decides then. Every
    wire is at most 64 bits wide, which simulators like.

    Parameters
    ----------
    config : Config
        `multiplier_bits` and `bias` matter.

    Members
    -------
    enable : In
        Bit k: the value that entered k cycles ago exists. Registers of a stage without a value
        keep theirs.
    acc, bias : In
        Int32, in the cycle of entry.
    multiplier, shift : In
        In cycle `MULTIPLIER_STAGE`. The multiplier is not there when `multiplier_bits` is 0.
    rounding : In
        In cycle `ROUNDING_STAGE`. Not there when `bias` is "int32".
    zero : In
        Int8, in cycle `ZERO_STAGE`.
    low, high : In
        Int8, in cycle `CLAMP_STAGE`.
    o : Out
        Int8, in cycle `REQUANTIZE_LATENCY`.
    """

    def __init__(self, config: Config):
        self._bits = config.multiplier_bits
        self._rounding = rounding_width(config)
        members = {
            "enable": In(REQUANTIZE_LATENCY),
            "acc": In(signed(32)),
            "bias": In(signed(32)),
            "shift": In(6),
            "zero": In(signed(8)),
            "low": In(signed(8)),
            "high": In(signed(8)),
            "o": Out(signed(8)),
        }
        if self._bits:
            members["multiplier"] = In(self._bits)
        if self._rounding:
            members["rounding"] = In(signed(self._rounding))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        total, shift = self._multiply(m, platform, self._bias_and_significand(m))
        magnitude, up, sign = self._shift_and_round(m, total, shift)

        # -(magnitude + up) is the magnitude's complement and 1 - up: one adder for all of it.
        value = Signal(signed(10))
        with m.If(self.enable[ZERO_STAGE]):
            m.d.sync += value.eq((magnitude ^ sign.replicate(10)).as_signed() + self.zero
                                 + (up ^ sign))
        with m.If(self.enable[CLAMP_STAGE]):
            m.d.sync += self.o.eq(bounded(value, self.low, self.high))
        return m

    def _bias_and_significand(self, m):
        """Stages 0 and 1: v in 33 bits, because 2^31 - 1 rounds to 2^31."""
        biased = Signal(signed(32))
        v = Signal(signed(33))
        with m.If(self.enable[0]):
            m.d.sync += biased.eq(self.acc + self.bias)

        # `below` has a one for each bit that leaves the significand. The one's complement serves
        # as magnitude: it is too short only for powers of two, which need no rounding.
        high = biased[24:31] ^ biased[31].replicate(7)
        spread = Signal(7)
        below = Signal(7)
        even = Signal()
        m.d.comb += [
            spread.eq(high | (high >> 1) | (high >> 2)),
            below.eq(spread | (spread >> 3) | (spread >> 6)),
            even.eq((biased[1:8] & below & ~(below >> 1)).any()),  # the last bit that stays
        ]
        with m.If(self.enable[1]):
            m.d.sync += v.eq((biased + (below >> 1) + even) & ~Cat(below, Const(0, 26)).as_signed())
        return v

    def _multiply(self, m, platform, v):
        """Stages 2 to 4: v * M + R, from products that fit small multipliers."""
        width = self.product_width + 1
        base = Signal(signed(width))
        total = Signal(signed(width))
        rounding = self.rounding if self._rounding else 0
        low, high = v[:_LOW_BITS], v[_LOW_BITS:].as_signed()
        if self._bits == 24:
            m_low, m_high = self.multiplier[:12], self.multiplier[12:]
            low_low, low_high, high_low, high_high = (
                registered_product(m, platform, "requantizer", name, a, b,
                                   enable=self.enable[2])
                for name, a, b in (("low_low", low, m_low), ("low_high", low, m_high),
                                   ("high_low", high, m_low), ("high_high", high, m_high)))
            middle = Signal(signed(34))
            with m.If(self.enable[3]):
                m.d.sync += [
                    base.eq(Cat(low_low, high_high).as_signed() + rounding),
                    middle.eq(low_high + (high_low << (_LOW_BITS - 12))),
                ]
            rest = middle << 12
        elif self._bits:
            by_low, by_high = (
                registered_product(m, platform, "requantizer", name, part, self.multiplier,
                                   enable=self.enable[2])
                for name, part in (("by_low", low), ("by_high", high)))
            upper = Signal(by_high.shape())
            with m.If(self.enable[3]):
                m.d.sync += [base.eq(by_low + rounding), upper.eq(by_high)]
            rest = upper << _LOW_BITS
        else:
            delayed = Signal(v.shape())
            with m.If(self.enable[2]):
                m.d.sync += delayed.eq(v)
            with m.If(self.enable[3]):
                m.d.sync += base.eq(delayed + rounding)
            rest = 0
        with m.If(self.enable[4]):
            m.d.sync += total.eq(base + rest)

        shift = self.shift
        for stage in range(MULTIPLIER_STAGE, _SHIFT_STAGE):
            delayed_shift = Signal(6, name=f"shift_{stage + 1}")
            with m.If(self.enable[stage]):
                m.d.sync += delayed_shift.eq(shift)
            shift = delayed_shift
        return total, shift

    @property
    def product_width(self) -> int:
        """Bits of |v * M + R|: |v| <= 2^31, M < 2^bits, |R| <= 2^24."""
        return 31 + max(self._bits, 1)

    def _shift_and_round(self, m, total, shift):
        """Stages 5 to 9: the quotient's magnitude, 256 standing for more, whether it is rounded up,
        and its sign."""
        product = Signal(self.product_width)
        signs = [Signal(name=f"sign_{stage}") for stage in range(6, 11)]
        with m.If(self.enable[5]):
            m.d.sync += [product.eq(abs(total)), signs[0].eq(total < 0)]
        for stage in range(6, 10):
            with m.If(self.enable[stage]):
                m.d.sync += signs[stage - 5].eq(signs[stage - 6])

        # The quotient has 8 bits before the point and `fraction` behind it. What lies above it
        # overflows, what lies below is sticky. First the shift's multiple of 8, then the rest.
        fraction = 25 if self._bits == 24 else 1
        coarse = Signal(15 + fraction)
        coarse_over = Signal()
        coarse_sticky = Signal()
        fine = Signal(3)
        with m.If(self.enable[6]):
            m.d.sync += fine.eq(shift[:3])
            with m.Switch(shift[3:]):
                for k in range(8):
                    with m.Case(k):
                        drop = 8 * k - fraction  # lowest bit of the product in the window
                        window = product[drop:] if drop >= 0 else Cat(Const(0, -drop), product)
                        m.d.sync += [
                            coarse.eq(window),
                            coarse_over.eq(product[15 + 8 * k:].any()),
                            coarse_sticky.eq(product[:max(drop, 0)].any()),
                        ]

        shifted = Signal(15 + fraction)
        quotient = Signal(8 + fraction)
        over = Signal()
        sticky = Signal()
        m.d.comb += shifted.eq(coarse >> fine)
        with m.If(self.enable[7]):
            m.d.sync += [
                quotient.eq(shifted),
                over.eq(coarse_over | shifted[8 + fraction:].any()),
                sticky.eq(coarse_sticky | (coarse[:7] & ((1 << fine) - 1)[:7]).any()),
            ]

        q, f = quotient[fraction:], quotient[:fraction]
        whole = Signal(9)
        is_odd, half, exact = Signal(), Signal(), Signal()
        tie = Signal()
        with m.If(self.enable[8]):
            m.d.sync += [whole.eq(Mux(over, 256, q)), is_odd.eq(q[0] & ~over),
                         half.eq(f[-1] & ~over), exact.eq(~sticky)]
        if fraction == 1:
            m.d.comb += tie.eq(half & exact)
        else:
            # With L = bit length of q and D = f - 2^24, a tie is -2^L <= D <= 2^L. `ones` is
            # 2^L - 1; `distance` is D, or -1 - D where D is negative.
            spread = Signal(8)
            ones = Signal(8)
            distance = Signal(24)
            m.d.comb += spread.eq(q | (q >> 1) | (q >> 2))
            with m.If(self.enable[8]):
                m.d.sync += [ones.eq(spread | (spread >> 3) | (spread >> 6)),
                             distance.eq(f[:24] ^ (~f[-1]).replicate(24))]
            beyond = distance & ~Cat(ones, Const(0, 16))
            power = Cat(Const(1, 1), ones) & ~Cat(ones, Const(0, 1))
            m.d.comb += tie.eq((beyond == 0) | (half & exact & (distance == power)))

        magnitude = Signal(9)
        up = Signal()
        with m.If(self.enable[9]):
            m.d.sync += [magnitude.eq(whole), up.eq(Mux(tie, is_odd, half))]
        return magnitude, up, signs[4]
