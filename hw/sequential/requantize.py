"""The sequential core's requantizer: sums of digit products to int8, a value a cycle.

A value of 22 bits and sign is three signed digits of eight bits, the multiplier 16 bits. Their
products are what the array's columns can sum up: column k has the sum of digit products of weight
2^(8k), with the weights that the program has put there (`firmware`). Here the four sums become one
product, which is shifted, rounded half to even, moved by the zero point, and clamped. Another four
columns have another channel's weights.
"""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .ports import COLUMN_GROUP, FastShift

__all__ = ["LATENCY", "Requantizer"]

LATENCY = 6
"""Cycles from the sums to the result."""

_GUARD = FastShift.LEAST - 1
"""Lowest bit of a product that can decide about rounding alone."""

_BITS = 40
_QUOTIENT_BITS = 10
"""More than int8 and a zero point: what does not fit is clamped anyway."""


class Requantizer(wiring.Component):
    """Members: `sums` of the columns; `shift` of each group of `COLUMN_GROUP` columns, minus
    `FastShift.LEAST`; `word`, the group of a value, together with its sums, where there are two;
    `zero`, `low`, `high`; `result`, an int8 `LATENCY` cycles later."""

    def __init__(self, groups: int):
        self._groups = groups
        super().__init__({
            "sums": In(data.ArrayLayout(signed(18), COLUMN_GROUP * groups)),
            "shift": In(4 * groups),
            **({"word": In(1)} if groups > 1 else {}),
            "zero": In(signed(8)), "low": In(signed(8)), "high": In(signed(8)),
            "result": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        sums, shift = self.sums, self.shift
        if self._groups > 1:
            sums = [Mux(self.word, self.sums[k + COLUMN_GROUP], self.sums[k])
                    for k in range(COLUMN_GROUP)]
            shift = self._shifts(m)
        halves = []
        for k in (0, 2):
            low, high = sums[k], sums[k + 1]
            half = Signal(signed(28), name=f"half_{k}", reset_less=True)
            m.d.sync += half.eq(Cat(low[:8], high + (low >> 8)).as_signed())
            halves.append(half)
        product = Signal(signed(_BITS), reset_less=True)
        m.d.sync += product.eq(Cat(halves[0][:16], halves[1] + (halves[0] >> 16)).as_signed())

        # What is shifted out is remembered as one bit, behind the one that decides.
        value, rest = product[_GUARD:].as_signed(), product[:_GUARD].any()
        for stage, bits in enumerate(((3, 2), (1, 0))):
            for bit in bits:
                count = 1 << bit
                rest = rest | (shift[bit] & value[:count].any())
                value = Mux(shift[bit], value >> count, value)
            shifted = Signal(signed(_BITS - _GUARD), name=f"shifted_{stage}", reset_less=True)
            sticky = Signal(name=f"sticky_{stage}", reset_less=True)
            m.d.sync += [shifted.eq(value), sticky.eq(rest)]
            value, rest = shifted, sticky

        quotient, over = value[1:].as_signed(), Signal()
        sign = quotient[-1]
        kept = Signal(signed(_QUOTIENT_BITS))
        m.d.comb += [
            over.eq((quotient[_QUOTIENT_BITS - 1:-1] ^ sign.replicate(
                len(quotient) - _QUOTIENT_BITS)).any()),
            kept.eq(Mux(over, Cat((~sign).replicate(_QUOTIENT_BITS - 1), sign), quotient)),
        ]
        moved = Signal(signed(_QUOTIENT_BITS + 1), reset_less=True)
        up = Signal()
        m.d.comb += up.eq(value[0] & (rest | value[1]))
        total = Signal(_QUOTIENT_BITS + 2)
        m.d.comb += total.eq(Cat(Const(1, 1), kept, kept[-1])
                             + Cat(up, self.zero, self.zero[-1].replicate(3)))
        m.d.sync += moved.eq(total[1:])

        bounded = Signal(signed(_QUOTIENT_BITS + 1))
        m.d.comb += bounded.eq(Mux(moved < self.low, self.low, moved))
        m.d.sync += self.result.eq(Mux(bounded > self.high, self.high, bounded))
        return m

    def _shifts(self, m):
        """The bits of a value's shift, each in the cycle that it is used in."""
        word = Signal()
        upper, lower, waiting = Signal(2), Signal(2), Signal(2)
        chosen = self.shift.word_select(word, 4)
        m.d.sync += [word.eq(self.word), Cat(waiting, upper).eq(chosen), lower.eq(waiting)]
        return Cat(lower, upper)
