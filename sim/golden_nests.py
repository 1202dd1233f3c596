"""Addresses of loop nests, vectorized.

Address arithmetic wraps at the width of the address field, as the hardware's adders do; an address
is compared with the size of its memory only after that.
"""

from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from systolith.hw.isa import strides_of

__all__ = ["Indices", "nest", "shorten", "transposed_nest"]

Indices = NDArray[np.int64]


@lru_cache(maxsize=256)
def _offsets(counts: tuple[int, ...], steps: tuple[int, ...], bits: int) -> Indices:
    offsets = np.zeros((1,) * len(counts), np.int64)
    for axis, (count, stride) in enumerate(
            zip(counts, strides_of(counts, steps, bits), strict=True)):
        shape = [1] * len(counts)
        shape[-1 - axis] = count
        offsets = offsets + (np.arange(count, dtype=np.int64) * stride).reshape(shape)
    offsets.flags.writeable = False
    return offsets


@lru_cache(maxsize=64)
def _transposed(counts: tuple[int, ...], steps: tuple[int, ...], inner: int) -> Indices:
    offsets = _offsets(counts, steps, 20)
    result = np.ascontiguousarray(offsets.reshape(-1, prod(counts[:inner])).T)
    result.flags.writeable = False
    return result


def nest(base: int, counts: tuple[int, ...], steps: tuple[int, ...], bits: int = 20) -> Indices:
    """All addresses of a loop nest given innermost first, shaped outermost loop first."""
    return (base + _offsets(counts, steps, bits)) & ((1 << bits) - 1)


def transposed_nest(base: int, counts: tuple[int, ...], steps: tuple[int, ...],
                    inner: int) -> Indices:
    """Scratchpad addresses shaped `[inner loops, outer loops]`, for `inner` innermost loops."""
    return (base + _transposed(counts, steps, inner)) & 0xFFFFF


def shorten(counts: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Counts of a nest cut from the outside to the first `limit` iterations or a few fewer."""
    result = []
    for count in counts:
        result.append(max(1, min(count, limit)))
        limit //= result[-1]
    return tuple(result)
