"""Two products from one multiplier: an activation times two neighbouring weights as one factor.

The factor is `high * 2**DISTANCE + low`, and so the product of an activation and the factor is the
sum of both products, `DISTANCE` bits apart. Weights of 4 bits leave room between the products.
Those of 8 bits do not in a multiplier of 18 bits: there the products overlap, and what of the upper
one lies under the lower one has to be known. It is the upper product's `KNOWN_BITS` lowest bits,
which depend on nothing but the operands' lowest bits, and are made by a small product of logic
beside the multiplier.
"""

from amaranth import Cat, Signal

__all__ = ["DISTANCE", "KNOWN_BITS", "SEPARATING", "pair", "separate", "separate_overlapping"]

DISTANCE = {4: 12, 8: 9}
"""By the bits of a weight. -128 * -8 needs 12 bits with its sign, and a factor of 18 bits leaves no
more than 9."""

SEPARATING = {0: 0, 4: 0, 8: 1}
"""Cycles that it takes to have products apart, by the bits of weights that share a multiplier; 0
where none do."""

KNOWN_BITS = 7
"""-128 * -128 is 32 * 2**9, and 32 needs 7 bits with its sign."""


def pair(low, high):
    """The factor of two weights, signed values of 4 or of 8 bits."""
    bits = len(low)
    extended = low[-1].replicate(DISTANCE[bits] - bits)
    return Cat(low, extended, high.as_signed() - low[-1]).as_signed()


def separate(product):
    """The products with the lower and with the upper weight of 4 bits; a negative lower one has
    borrowed."""
    low = product[:DISTANCE[4]].as_signed()
    return low, product[DISTANCE[4]:].as_signed() + low[-1]


def separate_overlapping(m, product, known):
    """The same of weights of 8 bits, given the upper product's `known` lowest bits.

    With F = floor(lower product / 2**9), the bits from 9 on are the upper product plus F. Their
    lowest ones less what is known are F, from which follow both: the upper product's upper bits are
    the sum's, less one where that subtraction borrowed, and one more where F is negative.
    """
    distance, name = DISTANCE[8], product.name
    overlap = Signal(KNOWN_BITS, name=f"{name}_overlap")
    borrow = Signal(name=f"{name}_borrow")
    m.d.comb += Cat(overlap, borrow).eq(product[distance:distance + KNOWN_BITS] - known)
    above = product[distance + KNOWN_BITS:]
    more, less = overlap[-1] & ~borrow, borrow & ~overlap[-1]
    # One adder, into which the lowest bits bring the carry.
    upper = Signal(1 + len(above), name=f"{name}_upper")
    m.d.comb += upper.eq(Cat(1, above) + Cat(more, less.replicate(len(above))))
    return Cat(product[:distance], overlap).as_signed(), Cat(known, upper[1:]).as_signed()
