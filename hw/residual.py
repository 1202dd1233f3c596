"""One lane of the residual add: two scaled int8 values, one rounding."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .isa import ADD_MULTIPLIER_BITS
from .multiplier import registered_product
from .requantize import bounded

__all__ = [
    "ADD_CLAMP_STAGE",
    "ADD_LATENCY",
    "ADD_MULTIPLIER_STAGE",
    "ADD_SHIFT_STAGE",
    "ADD_ZERO_STAGE",
    "ResidualAdder",
]

ADD_MULTIPLIER_STAGE = 1
"""Cycles from the operands to the cycle in which the multipliers are taken."""

ADD_SHIFT_STAGE = 3
"""Cycles from the operands to the cycle in which the shift is taken."""

ADD_ZERO_STAGE = 5
"""Cycles from the operands to the cycle in which the zero point is taken."""

ADD_CLAMP_STAGE = 6
"""Cycles from the operands to the cycle in which the bounds are taken."""

ADD_LATENCY = 7
"""Cycles from the operands to the sum."""

_LOW_BITS = ADD_MULTIPLIER_BITS // 2


class ResidualAdder(wiring.Component):
    """`clamp(rne(((a - zero_a)*multiplier_a + (b - zero_b)*multiplier_b) / 2^shift) + zero, low,
    high)`, a pair of operands a cycle.

    Quotients beyond 9 bits are not computed: with any zero point the clamp decides then.

    Members
    -------
    enable : In
        Bit k: the operands that entered k cycles ago exist.
    a, b, zero_a, zero_b : In
        Int8, in the cycle of entry.
    multiplier_a, multiplier_b : In
        In cycle `ADD_MULTIPLIER_STAGE`.
    shift : In
        In cycle `ADD_SHIFT_STAGE`.
    zero : In
        Int8, in cycle `ADD_ZERO_STAGE`.
    low, high : In
        Int8, in cycle `ADD_CLAMP_STAGE`.
    o : Out
        Int8, in cycle `ADD_LATENCY`.
    """

    enable: In(ADD_LATENCY)
    a: In(signed(8))
    b: In(signed(8))
    zero_a: In(signed(8))
    zero_b: In(signed(8))
    multiplier_a: In(signed(ADD_MULTIPLIER_BITS + 1))
    multiplier_b: In(signed(ADD_MULTIPLIER_BITS + 1))
    shift: In(5)
    zero: In(signed(8))
    low: In(signed(8))
    high: In(signed(8))
    o: Out(signed(8))

    def elaborate(self, platform):
        m = Module()
        difference_a = Signal(signed(9))
        difference_b = Signal(signed(9))
        total = Signal(signed(32))  # 510 * 2^22 < 2^31
        with m.If(self.enable[0]):
            m.d.sync += [difference_a.eq(self.a - self.zero_a),
                         difference_b.eq(self.b - self.zero_b)]

        # A multiplier is cut in two, which fit small hardware multipliers.
        def products(letter, difference, multiplier):
            return (registered_product(m, platform, "residual", f"{part}_{letter}",
                                       difference, bits, enable=self.enable[1])
                    for part, bits in (("low", multiplier[:_LOW_BITS]),
                                       ("high", multiplier[_LOW_BITS:].as_signed())))

        low_a, high_a = products("a", difference_a, self.multiplier_a)
        low_b, high_b = products("b", difference_b, self.multiplier_b)
        with m.If(self.enable[2]):
            m.d.sync += total.eq((low_a + low_b) + ((high_a + high_b) << _LOW_BITS))

        # The bit behind the point is kept as bit 0; what lies below it is sticky. First the
        # shift's multiple of 8, then the rest.
        coarse = Signal(signed(33))
        coarse_sticky = Signal()
        fine = Signal(3)
        doubled = Cat(Const(0, 1), total).as_signed()
        with m.If(self.enable[3]):
            m.d.sync += fine.eq(self.shift[:3])
            with m.Switch(self.shift[3:]):
                for k in range(4):
                    with m.Case(k):
                        m.d.sync += [coarse.eq(doubled[8 * k:].as_signed()),
                                     coarse_sticky.eq(doubled[:8 * k].any())]

        shifted = Signal(signed(33))
        quotient = Signal(signed(10))
        half = Signal()
        sticky = Signal()
        sign = shifted[-1]
        fits = shifted[10:] == sign.replicate(23)
        m.d.comb += shifted.eq(coarse >> fine)
        with m.If(self.enable[4]):
            m.d.sync += [
                quotient.eq(Mux(fits, shifted[1:11].as_signed(), Mux(sign, -512, 511))),
                half.eq(shifted[0]),
                sticky.eq(coarse_sticky | (coarse[:7] & ((1 << fine) - 1)[:7]).any()),
            ]

        value = Signal(signed(11))
        with m.If(self.enable[ADD_ZERO_STAGE]):
            m.d.sync += value.eq(quotient + self.zero + (half & (sticky | quotient[0])))
        with m.If(self.enable[ADD_CLAMP_STAGE]):
            m.d.sync += self.o.eq(bounded(value, self.low, self.high))
        return m
