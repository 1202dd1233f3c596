"""How often two engines meet in the scratchpad: walks of words through its banks.

The bank of an address is its lowest bits. Where two engines want the same bank in a cycle, the one
of lower priority waits: the vector unit and the post-processor for the array's reads, the load
mover for the post-processor's writes. How often that happens depends on the steps of both walks
alone: rows whose ends return to the same bank meet again and again, others hardly ever. So the two
are walked here, some hundred words from each of a few beginnings, and the result is kept.
"""

from collections.abc import Iterable
from functools import lru_cache

from systolith.hw.config import Config
from systolith.hw.isa import Array, Fill, Load, Post, PostSource, Vector

from .work import row_words

__all__ = ["operand_pace", "read_pace", "reads_operands", "write_waits"]

_WORDS = 384
"""Of a walk that are looked at."""

Walk = tuple[tuple[int, int], ...]


def read_pace(config: Config, vector: Vector, array: Array) -> float:
    """Words that `vector` reads a cycle, in the mean, while the array is at `array`; in a pass of
    few pixels that is idle for some of the time."""
    banks = config.scratchpad_banks
    waits = _waits(banks, _loops(vector, 4, banks), _loops(array, 5, banks), 1)
    idle = 1 - array.count_0 * array.count_1 / config.rows
    return max(1 / (1 + waits), idle)


def reads_operands(post: Post) -> bool:
    """Whether `post` reads the scratchpad."""
    return bool(post.use_add) or post.source in (PostSource.SCRATCHPAD, PostSource.PRODUCT)


def operand_pace(config: Config, post: Post, array: Array) -> float:
    """Cycles of the post-processor for one that it takes by itself, while the array is at `array`:
    its operands are read behind the array's pixels, those of b ahead of their use."""
    banks = config.scratchpad_banks
    reads = []
    if post.source in (PostSource.SCRATCHPAD, PostSource.PRODUCT):
        reads.append((post.operand_a_step_0, post.operand_a_step_1, 1))
    if post.use_add or post.source == PostSource.PRODUCT:
        reads.append((post.operand_b_step_0, post.operand_b_step_1, _word_items(config, post)))
    rival = _loops(array, 5, banks)
    return max((1.0, *(
        (1 + _waits(banks, _walk(_pixels(config, post, *steps), banks), rival, 1)) / items
        for *steps, items in reads)))


def write_waits(config: Config, writer: Load | Fill, post: Post) -> float:
    """Cycles that `writer` waits for a word, in the mean, while the post-processor is at `post`,
    which stays at a word for as long as its channels take."""
    banks = config.scratchpad_banks
    mine: Walk
    if isinstance(writer, Fill):
        mine = ((writer.words, 1), (writer.rows, writer.row_step),
                (writer.planes, writer.plane_step))
    else:
        mine = ((row_words(writer, config.rows), 1),
                (writer.rows, writer.destination_row_step),
                (writer.planes, writer.destination_plane_step))
    theirs = _pixels(config, post, post.destination_step_0, post.destination_step_1)
    return _waits(banks, _walk(mine, banks), _walk(theirs, banks), _word_items(config, post))


def _pixels(config: Config, post: Post, step_0: int, step_1: int) -> Walk:
    """The post-processor's walk over pixels, whose steps begin at a pixel's first word."""
    words = config.column_words if post.source == PostSource.ARRAY else 1
    back = (words - 1) * post.word_step
    return (words, post.word_step), (post.count_0, step_0 - back), (post.count_1, step_1 - back)


def _word_items(config: Config, post: Post) -> int:
    """Cycles that the post-processor takes for a word."""
    width = config.rows
    if post.source == PostSource.ARRAY:
        width = min(width, config.columns)
    return -(-width // config.lanes)


def _loops(instruction: Vector | Array, levels: int, banks: int) -> Walk:
    return _walk(((getattr(instruction, f"count_{k}"), getattr(instruction, f"step_{k}"))
                  for k in range(levels)), banks)


def _walk(loops: Iterable[tuple[int, int]], banks: int) -> Walk:
    """Counts of loops and how far each leads in banks, the inner first."""
    return tuple((count, step % banks) for count, step in loops if count > 1)


@lru_cache(maxsize=1 << 14)
def _waits(banks: int, walk: Walk, rival: Walk, pace: int) -> float:
    """Mean number of cycles waited for a word of `walk`, while the rival stays `pace` at each of
    its own."""
    mine, other = _banks_visited(banks, walk), _banks_visited(banks, rival)
    cycles = len(other) * pace
    waited = 0
    for phase in range(banks):
        # Beginnings differ in the bank and in how far the rival has come.
        cycle = phase * cycles // banks
        for bank in mine:
            while (other[cycle % cycles // pace] + phase) % banks == bank:
                waited += 1
                cycle += 1
                if waited > len(mine) * banks * banks:
                    return float("inf")  # a rival that stays in one bank
            cycle += 1
    return waited / (banks * len(mine))


@lru_cache(maxsize=1 << 12)
def _banks_visited(banks: int, walk: Walk) -> list[int]:
    """The bank of each word of a walk that begins in bank 0."""
    visited, offset = [0], 0
    for count, step in walk:
        # A step leads from the last word of the loops inside to the next first one.
        stride = offset + step
        visited = [bank + index * stride for index in range(min(count, -(-_WORDS // len(visited))))
                   for bank in visited]
        offset += (count - 1) * stride
    return [bank % banks for bank in visited[:_WORDS]]
