"""How often two engines meet in the scratchpad: walks of words through its banks.

The bank of an address is its lowest bits. Where two engines want the same bank in a cycle, the one
of lower priority waits: the vector unit for the array's reads, the load mover for the
post-processor's writes. How often that happens depends on the steps of both walks alone: rows whose
ends return to the same bank meet again and again, others hardly ever. So the two are walked here,
some hundred words from each of a few beginnings, and the result is kept.
"""

from collections.abc import Iterable
from functools import lru_cache

from systolith.hw.config import Config
from systolith.hw.isa import Array, Fill, Load, Post, PostSource, Vector

__all__ = ["read_waits", "row_words", "write_waits"]

_WORDS = 384
"""Of a walk that are looked at."""

Walk = tuple[tuple[int, int], ...]


def row_words(load: Load, word_bytes: int) -> int:
    """Words of `word_bytes` that a row of a LOAD takes on the chip."""
    return -(-load.chunk_bytes * load.chunks // word_bytes)


def read_waits(config: Config, vector: Vector, array: Array) -> float:
    """Cycles that `vector` waits for a word, in the mean, while the array is at `array`."""
    banks = config.scratchpad_banks
    return _waits(banks, _loops(vector, 4, banks), _loops(array, 5, banks), 1)


def write_waits(config: Config, writer: Load | Fill, post: Post) -> float:
    """Cycles that `writer` waits for a word, in the mean, while the post-processor is at `post`,
    which stays at a word for as long as its channels take."""
    banks, width = config.scratchpad_banks, config.rows
    mine: Walk
    theirs: Walk
    if isinstance(writer, Fill):
        mine = ((writer.words, 1), (writer.rows, writer.row_step),
                (writer.planes, writer.plane_step))
    else:
        mine = ((row_words(writer, width), 1),
                (writer.rows, writer.destination_row_step),
                (writer.planes, writer.destination_plane_step))
    theirs = ((post.count_0, post.destination_step_0), (post.count_1, post.destination_step_1))
    if post.source == PostSource.ARRAY:
        theirs = ((max(1, config.columns // width), post.word_step), *theirs)
        width = min(width, config.columns)
    return _waits(banks, _walk(mine, banks), _walk(theirs, banks), -(-width // config.lanes))


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
                    return waited / (banks * len(mine))  # a rival that stays in one bank
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
