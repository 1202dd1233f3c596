"""When the post-processor's reads of accumulators are refused.

A half of an accumulator memory gives a word a cycle: while an engine adds to the words of a half,
the post-processor cannot read others there. The first pass of an instruction writes without
reading what was there and refuses nothing.
"""

from collections.abc import Iterable
from typing import NamedTuple

from systolith.hw.config import Config
from systolith.hw.isa import Array, Post, PostSource, Vector
from systolith.hw.pairs import SEPARATING

from .slowing import slowed

__all__ = ["Additions", "additions", "half_read", "read_end", "through_array"]

_ARRAY_DELAY = 2
"""Cycles, beside one a row, from the reading of a pixel to that of the accumulator that its sum is
added to."""

_VECTOR_DELAY = 3
"""The same for a word of the vector unit."""


class Additions(NamedTuple):
    """Cycles from `begin` to `end` of which an engine takes a `share` in a `half`.

    Halves are those of the array, 0 and 1, and behind them the vector unit's.
    """

    half: int
    begin: int
    end: int
    share: float


def half_read(config: Config, post: Post) -> int | None:
    """The half that `post` reads, None when it reads the scratchpad."""
    if post.source == PostSource.ARRAY:
        return int(post.accumulator >= config.accumulator_words)
    if post.source == PostSource.VECTOR:
        return 2 + int(post.accumulator >= config.vector_accumulator_words)
    return None


def through_array(config: Config) -> int:
    """Cycles of a sum in the array: one a stage, and those that take shared products apart."""
    return config.rows // config.stage_rows + SEPARATING[config.paired_bits]


def additions(config: Config, instruction: Array | Vector, begin: int, end: int) -> Additions:
    """What an instruction that reads its words from `begin` to `end` adds to what is there."""
    if isinstance(instruction, Array):
        pixels = instruction.count_0 * instruction.count_1
        passes = instruction.count_2 * instruction.count_3 * instruction.count_4
        cycles = max(pixels, config.rows)
        share = pixels / cycles
        begin = end - pixels - (passes - 1) * cycles
        half = int(instruction.accumulator >= config.accumulator_words)
        delay = _ARRAY_DELAY + through_array(config)
    else:
        passes = instruction.count_2 * instruction.count_3
        cycles = (end - begin) // passes
        values = (1 if instruction.reduce else max(
            0, (instruction.count_0 - instruction.taps) // instruction.stride + 1))
        share = values / instruction.count_0
        half = 2 + int(instruction.accumulator >= config.vector_accumulator_words)
        delay = _VECTOR_DELAY
    if not instruction.accumulate:
        begin += cycles
    return Additions(half, begin + delay, end + delay, share)


def read_end(begin: int, reads: int, half: int, others: Iterable[Additions]) -> int:
    """When the last of `reads`, one a cycle from `begin` on, is done; `others` in their order."""
    return slowed(begin, reads, ((other.begin, other.end, 1 - other.share)
                                 for other in others if other.half == half))
