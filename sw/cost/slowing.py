"""When work ends that others slow down for a while."""

from collections.abc import Iterable

__all__ = ["slowed"]

Spell = tuple[int, int, float]
"""From, until, and what is done a cycle, of what would be done without the others."""


def slowed(begin: int, cycles: int, spells: Iterable[Spell]) -> int:
    """When work that begins at `begin` and takes `cycles` by itself is done.

    The spells do not overlap and are in order; one may have a speed of 0.
    """
    end: float = begin + cycles
    for since, until, speed in spells:
        if until <= begin or since >= end:
            continue
        start = max(since, begin)
        done = (until - start) * speed
        if done >= end - start:
            end = start + (end - start) / speed
            break
        end += until - start - done
        begin = until
    return round(end)
