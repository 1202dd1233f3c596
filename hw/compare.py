"""Comparisons with constants that are powers of two, which need no carry chain."""

from amaranth import Value

__all__ = ["exceeds"]


def exceeds(value: Value, limit: int) -> Value:
    """`value > limit`, for an unsigned `value`.

    Synthesis sees by itself that `value >= limit` asks for the upper bits, but not this one, and
    spends two cells of a carry chain on a bit.
    """
    bits = limit.bit_length() - 1
    if limit != 1 << bits:
        return value > limit
    return value[bits + 1:].any() | (value[bits:bits + 1].any() & value[:bits].any())
