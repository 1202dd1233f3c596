"""Which words of which memories an instruction reads and writes, from its fields alone.

Sets of words are closed forms of loop nests: a slice where they are consecutive, else a sorted
array. The verifier rests on them, and so do programs whose thresholds are derived. Walks whose
addresses leave the memory and wrap around into it are refused here, though hardware defines them.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import (
    Array,
    End,
    ErrorCode,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    VectorMode,
    strides_of,
)
from systolith.hw.units import missing_unit

__all__ = ["STEP_LIMIT", "Access", "InvalidInstructionError", "Words", "accesses", "memory_sizes"]

STEP_LIMIT = 1 << 24
"""Loop iterations an instruction may have: more would keep the hardware busy past its watchdog."""

Words = slice | NDArray[np.int64]

_ADDRESS_BITS = 20
_MAIN_BITS = 32


class InvalidInstructionError(Exception):
    """An instruction that the hardware would stop at: the code, and why as part of a sentence."""

    def __init__(self, code: ErrorCode, reason: str):
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, eq=False)
class Access:
    """Words of one memory that an instruction reads or writes.

    `memory` is one of `memory_sizes`; words of "main" are bytes. `mask` has a bit for each byte of
    a scratchpad word that is meant, None for whole words.
    """

    memory: str
    write: bool
    words: Words
    mask: int | None = None


def memory_sizes(config: Config) -> dict[str, int]:
    """Words of every memory, main memory in bytes."""
    return {
        "main": config.memory_size,
        "scratchpad": config.scratchpad_words,
        "weights": config.weight_words,
        "vector_weights": config.vector_weight_words,
        "parameters": config.parameter_words,
        "table": 256 // config.rows,
        "accumulators": 2 * config.accumulator_words,
        "vector_accumulators": 2 * config.vector_accumulator_words,
    }


def _offsets(counts: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[np.int64] | None:
    """All offsets of a loop nest, sorted, or None where they are consecutive."""
    low = high = 0
    offsets: NDArray[np.int64] | None = None
    for stride, count in sorted(zip(strides, counts, strict=True), key=lambda item: abs(item[0])):
        if count == 1 or stride == 0:
            continue
        if offsets is None and abs(stride) > high - low + 1:
            offsets = np.arange(low, high + 1)
        if offsets is not None:
            shifts = np.arange(count) * stride
            if abs(stride) > high - low:  # copies behind each other, without overlap
                offsets = np.sort(shifts)[:, None] + offsets
                offsets = offsets.ravel()
            else:
                offsets = np.unique(shifts[:, None] + offsets)
        low += min(0, (count - 1) * stride)
        high += max(0, (count - 1) * stride)
        if offsets is not None and len(offsets) == high - low + 1:
            offsets = None
    return offsets


_cached_offsets = lru_cache(maxsize=1024)(_offsets)


class _Checker:
    """The sets of one configuration's memories."""

    def __init__(self, config: Config):
        self.config = config
        self.sizes = memory_sizes(config)

    def walk(self, memory: str, base: int, counts: tuple[int, ...],
             strides: tuple[int, ...]) -> Words:
        """Words of a loop nest; refuses those outside the memory."""
        if prod(counts) > STEP_LIMIT:
            raise InvalidInstructionError(
                ErrorCode.WATCHDOG, f"takes more than {STEP_LIMIT} steps in {memory}")
        size = self.sizes[memory]
        low, high = base, base
        for count, stride in zip(counts, strides, strict=True):
            low += min(0, (count - 1) * stride)
            high += max(0, (count - 1) * stride)
        if low < 0 or high >= size:
            raise InvalidInstructionError(
                ErrorCode.ADDRESS, f"reaches from {memory} word {low} to {high}, outside of its "
                f"{size}")
        # Bytes of main memory make large sets that hardly repeat: not worth a place in the cache.
        offsets = (_offsets if memory == "main" else _cached_offsets)(counts, strides)
        return slice(low, high + 1) if offsets is None else base + offsets

    def steps(self, memory: str, base: int, counts: tuple[int, ...], steps: tuple[int, ...],
              run: int = 1, run_stride: int = 1) -> Words:
        """Words of a loop nest given by steps, `run` of them at each of its addresses."""
        bits = _MAIN_BITS if memory == "main" else _ADDRESS_BITS
        strides = strides_of(counts, steps, bits)
        return self.walk(memory, base, (run, *counts), (run_stride, *strides))

    def linear(self, memory: str, start: int, count: int) -> slice:
        """Consecutive words; refuses those outside the memory."""
        if start + count > self.sizes[memory]:
            raise InvalidInstructionError(
                ErrorCode.ADDRESS,
                f"reaches {memory} word {start + count - 1}, which has {self.sizes[memory]}")
        return slice(start, start + count)

    # Instructions -------------------------------------------------------------------------------

    def load(self, i: Load) -> list[Access]:
        _check_counts(chunk_bytes=i.chunk_bytes, chunks=i.chunks, rows=i.rows, planes=i.planes)
        config = self.config
        memory, word_bytes = {
            LoadTarget.SCRATCHPAD: ("scratchpad", config.rows),
            LoadTarget.WEIGHT: ("weights", config.weight_word_bytes),
            LoadTarget.VECTOR_WEIGHT: ("vector_weights", config.rows),
            LoadTarget.PARAMETER: ("parameters", config.parameter_word_bytes),
            LoadTarget.TABLE: ("table", config.rows),
        }[LoadTarget(i.target)]
        words = -(-i.chunks * i.chunk_bytes // word_bytes)
        return [
            Access("main", False, self.steps(
                "main", i.source, (i.chunks, i.rows, i.planes),
                (i.chunk_step, i.row_step, i.plane_step), run=i.chunk_bytes)),
            Access(memory, True, self.steps(
                memory, i.destination, (words, i.rows, i.planes),
                (1, i.destination_row_step, i.destination_plane_step))),
        ]

    def fill(self, i: Fill) -> list[Access]:
        _check_counts(words=i.words, rows=i.rows, planes=i.planes)
        return [Access("scratchpad", True, self.steps(
            "scratchpad", i.destination, (i.words, i.rows, i.planes),
            (1, i.row_step, i.plane_step)))]

    def array(self, i: Array) -> list[Access]:
        counts = (i.count_0, i.count_1, i.count_2, i.count_3, i.count_4)
        _check_counts(**{f"count_{level}": count for level, count in enumerate(counts)})
        targets = self.linear("accumulators", i.accumulator, prod(counts[:2]))
        return [
            Access("weights", False,
                   self.linear("weights", i.weight, prod(counts[2:]) * self.config.rows)),
            Access("scratchpad", False, self.steps(
                "scratchpad", i.activation, counts,
                (i.step_0, i.step_1, i.step_2, i.step_3, i.step_4))),
            *([Access("accumulators", False, targets)] if i.accumulate else []),
            Access("accumulators", True, targets),
        ]

    def vector(self, i: Vector) -> list[Access]:
        counts = (i.count_0, i.count_1, i.count_2, i.count_3)
        _check_counts(**{f"count_{level}": count for level, count in enumerate(counts)},
                      taps=i.taps, stride=i.stride)
        if i.taps > self.config.vector_taps:
            raise InvalidInstructionError(
                ErrorCode.LENGTH, f"has {i.taps} taps, more than {self.config.vector_taps}")
        emitted = 1 if i.reduce else max(0, (i.count_0 - i.taps) // i.stride + 1)
        result = []
        if emitted:
            targets = self.linear("vector_accumulators", i.accumulator, emitted * i.count_1)
            result = [Access("vector_accumulators", True, targets)]
            if i.accumulate:
                result.insert(0, Access("vector_accumulators", False, targets))
        if i.mode == VectorMode.MAC:
            taps = i.count_2 * i.count_3 * (1 if i.reduce else i.taps)
            result.append(Access("vector_weights", False,
                                 self.linear("vector_weights", i.weight, taps)))
        words = self.steps("scratchpad", i.activation, counts,
                           (i.step_0, i.step_1, i.step_2, i.step_3))
        return [Access("scratchpad", False, words), *result]

    def post(self, i: Post) -> list[Access]:
        _check_counts(count_0=i.count_0, count_1=i.count_1)
        config = self.config
        channels = config.columns if i.source == PostSource.ARRAY else config.rows
        pixels = i.count_0 * i.count_1
        mask = None
        if channels < config.rows:
            if i.byte_offset % channels or i.byte_offset >= config.rows:
                raise InvalidInstructionError(
                    ErrorCode.ADDRESS, f"writes {channels} bytes at byte {i.byte_offset} of a word "
                    f"of {config.rows}")
            mask = ((1 << channels) - 1) << i.byte_offset
        result = [Access("parameters", False,
                         self.linear("parameters", i.parameter, channels // config.lanes))]
        if i.source == PostSource.ARRAY:
            result.append(Access("accumulators", False,
                                 self.linear("accumulators", i.accumulator, pixels)))
        elif i.source == PostSource.VECTOR:
            result.append(Access("vector_accumulators", False,
                                 self.linear("vector_accumulators", i.accumulator, pixels)))
        if i.use_table:
            result.append(Access("table", False, slice(0, self.sizes["table"])))
        writes = self.steps("scratchpad", i.destination, *self.post_nest(i, "destination"))
        for operand in operands(i):
            words = self.steps("scratchpad", getattr(i, operand), *self.post_nest(i, operand))
            if _meet(words, writes) and self._reads_own_writes(i, operand):
                raise InvalidInstructionError(
                    ErrorCode.NONE, f"reads words of {operand} that it may have written itself")
            result.append(Access("scratchpad", False, words, mask))
        if i.use_add and self.config.sequential:
            _check_addition(pixels, _all(words), _all(writes))
        return [*result, Access("scratchpad", True, writes, mask)]

    def post_nest(self, i: Post, walk: str) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
        """Counts, steps, words a pixel and their distance, of destination or operands."""
        channels = self.config.columns if i.source == PostSource.ARRAY else self.config.rows
        wide = max(1, channels // self.config.rows)
        steps = (getattr(i, f"{walk}_step_0"), getattr(i, f"{walk}_step_1"))
        return (i.count_0, i.count_1), steps, wide, i.word_step

    def _reads_own_writes(self, i: Post, operand: str) -> bool:
        """Whether a pixel's operand lies where an earlier pixel of the instruction goes."""
        orders = []
        for walk in (operand, "destination"):
            counts, steps, wide, word_step = self.post_nest(i, walk)
            strides = strides_of(counts, steps, _ADDRESS_BITS)
            x, y = np.arange(counts[0]) * strides[0], np.arange(counts[1])[:, None] * strides[1]
            words = getattr(i, walk) + (y + x)[..., None] + np.arange(wide) * word_step
            orders.append(words.ravel() & ((1 << _ADDRESS_BITS) - 1))
        reads, writes = orders
        first = np.full(self.sizes["scratchpad"], len(writes), np.int64)
        first[writes[::-1]] = np.arange(len(writes))[::-1]
        return bool((first[reads] < np.arange(len(reads))).any())

    def store(self, i: Store) -> list[Access]:
        _check_counts(row_bytes=i.row_bytes, rows=i.rows, planes=i.planes)
        words, tail = divmod(i.row_bytes, self.config.rows)
        writes = self.steps("main", i.destination, (i.rows, i.planes),
                            (i.destination_row_step, i.destination_plane_step), run=i.row_bytes)
        reads = []
        counts = (words + (tail > 0), i.rows, i.planes)
        steps = (1, i.source_row_step, i.source_plane_step)
        strides = strides_of(counts, steps, _ADDRESS_BITS)
        if words:
            reads.append(Access("scratchpad", False, self.walk(
                "scratchpad", i.source, (words, i.rows, i.planes), strides)))
        if tail:
            reads.append(Access("scratchpad", False, self.walk(
                "scratchpad", i.source + words, (i.rows, i.planes), strides[1:]),
                (1 << tail) - 1))
        return [*reads, Access("main", True, writes)]


def operands(i: Post) -> list[str]:
    """Names of the operands that a POST reads from the scratchpad."""
    result = []
    if i.source in (PostSource.SCRATCHPAD, PostSource.PRODUCT):
        result.append("operand_a")
    if i.source == PostSource.PRODUCT or i.use_add:
        result.append("operand_b")
    return result


def _meet(first: Words, second: Words) -> bool:
    """Whether the ranges of two sets overlap."""
    low_1, high_1 = _range(first)
    low_2, high_2 = _range(second)
    return low_1 <= high_2 and low_2 <= high_1


def _check_addition(pixels: int, operand: NDArray[np.int64], writes: NDArray[np.int64]) -> None:
    """The sequential core writes all values, and adds operand b to them there after that
    (`hw/sequential/adding.py`)."""
    if len(writes) < pixels:
        raise InvalidInstructionError(
            ErrorCode.NONE, "writes a word twice, to which a sequential core cannot add")
    if np.isin(operand, writes).any():
        raise InvalidInstructionError(
            ErrorCode.NONE, "writes words of operand_b, before which a sequential core cannot add")


def _all(words: Words) -> NDArray[np.int64]:
    return np.arange(words.start, words.stop) if isinstance(words, slice) else words


def _range(words: Words) -> tuple[int, int]:
    if isinstance(words, slice):
        return words.start, words.stop - 1
    return int(words[0]), int(words[-1])


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count == 0:
            raise InvalidInstructionError(ErrorCode.LENGTH, f"has {name} 0")


def _check_units(config: Config, i: Instruction) -> None:
    """Refuse an instruction that needs a unit which the configuration leaves out."""
    missing = missing_unit(config, i)
    if missing:
        raise InvalidInstructionError(
            ErrorCode.DECODE, f"needs a {missing}, which the configuration does not have")


@lru_cache(maxsize=16)
def _checker(config: Config) -> _Checker:
    return _Checker(config)


def accesses(config: Config, queue: Queue, i: Instruction) -> list[Access]:
    """What an instruction in `queue` reads and writes, reads first.

    Raises `InvalidInstructionError` for an instruction that the hardware would stop at, or whose
    effect the hardware does not define.
    """
    if queue not in i.queues:
        raise InvalidInstructionError(
            ErrorCode.DECODE, f"is a {type(i).__name__} and does not belong into its queue")
    _check_units(config, i)
    checker = _checker(config)
    match i:
        case Load():
            return checker.load(i)
        case Fill():
            return checker.fill(i)
        case Array():
            return checker.array(i)
        case Vector():
            return checker.vector(i)
        case Post():
            return checker.post(i)
        case Store():
            return checker.store(i)
        case End():
            return []
    raise AssertionError(f"{type(i).__name__} has no rule")
