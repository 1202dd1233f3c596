"""Random instructions over a few regions of every memory, for `programs`.

A proposal is plausible, not always valid: it may read what nobody has written yet.
"""

from math import prod
from typing import Any

import numpy as np

from systolith.hw.config import Config
from systolith.hw.isa import (
    ADD_MULTIPLIER_BITS,
    PARAMETER_BYTES,
    Array,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Store,
    Vector,
    VectorMode,
    steps_of,
)

from .numerics import pack_records

__all__ = ["Proposer"]

_REGIONS = 6
_PARAMETER_SHARE = 4  # of the pool: a quarter holds parameter records
_LARGEST_REGION = 96


class Proposer:
    """Draws instructions.

    `pool` is constant data at byte `start` of main memory: random bytes, and in its last part
    parameter records whose results mostly fall into int8. `regions` are (first word, words) of the
    scratchpad.
    """

    def __init__(self, config: Config, seed: int, start: int, size: int):
        self.config = config
        self.rng = np.random.default_rng([seed, config.hash32])
        self.start = start
        records = size // _PARAMETER_SHARE // PARAMETER_BYTES
        self.data_bytes = size - records * PARAMETER_BYTES
        self.pool = self.rng.integers(0, 256, self.data_bytes, np.uint8).tobytes()
        self.pool += pack_records(
            self.rng.integers(-20000, 20000, records),
            self.rng.integers(-(1 << 23), 1 << 23, records),
            self.rng.integers(1 << 23, 1 << 24, records),
            self.rng.integers(27, 37, records)).tobytes()
        self.records = records
        most = min(_LARGEST_REGION, config.scratchpad_words // 2)
        self.regions = []
        for _ in range(_REGIONS):
            words = int(self.rng.integers(most // 2, most + 1))
            first = int(self.rng.integers(config.scratchpad_words - words + 1))
            self.regions.append((first, words))
        self.words = self._small_memories()
        self.sums: dict[PostSource, list[tuple[int, int]]] = {
            PostSource.ARRAY: [], PostSource.VECTOR: []}
        self.stored: list[tuple[int, int]] = []

    def _small_memories(self) -> dict[LoadTarget, int]:
        """Words of the memories beside the scratchpad that programs use."""
        config = self.config
        words = {
            LoadTarget.WEIGHT: min(config.weight_words, 8 * config.rows),
            LoadTarget.PARAMETER: min(
                config.parameter_words,
                self.records * PARAMETER_BYTES // config.parameter_word_bytes)}
        if config.vector_taps:
            words[LoadTarget.VECTOR_WEIGHT] = min(config.vector_weight_words, 64)
        if config.table:
            words[LoadTarget.TABLE] = 256 // config.rows
        return words

    def _word_bytes(self, target: LoadTarget) -> int:
        return {LoadTarget.WEIGHT: self.config.weight_word_bytes,
                LoadTarget.PARAMETER: self.config.parameter_word_bytes}.get(
                    target, self.config.rows)

    def place_output(self, start: int, end: int) -> None:
        """Tell where instructions may store: bytes from `start` to `end`, scratch space first."""
        self.results = end - sum(words for _, words in self.regions) * self.config.rows
        self.output = (start, self.results)

    # Drawing ------------------------------------------------------------------------------------

    def _int(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both possible."""
        return int(self.rng.integers(low, high + 1))

    def _flag(self, probability: float) -> int:
        return int(self.rng.random() < probability)

    def _region(self) -> tuple[int, int]:
        return self.regions[self._int(0, len(self.regions) - 1)]

    def _byte(self) -> int:
        return self._int(-128, 127)

    def _walk(self, words: int, counts: tuple[int, ...],
              first: tuple[int, ...] = ()) -> tuple[int, tuple[int, ...]]:
        """First address and strides of a nest that stays inside `words` words.

        The innermost strides are `first`, the others random; if nothing fits, they are 0.
        """
        for _ in range(12):
            strides = list(first)
            for _ in counts[len(first):]:
                reach = sum((count - 1) * abs(stride)
                            for count, stride in zip(counts, strides, strict=False)) + 1
                strides.append(int(self.rng.choice((0, 1, 1, -1, reach, self._int(-9, 9)))))
            low, high = _bounds(counts, strides)
            if high - low < words:
                return self._int(-low, words - 1 - high), tuple(strides)
        strides = [*first, *(0 for _ in counts[len(first):])]
        low, high = _bounds(counts, strides)
        return self._int(-low, max(-low, words - 1 - high)), tuple(strides)

    def _steps(self, prefix: str, counts: tuple[int, ...],
               strides: tuple[int, ...]) -> dict[str, int]:
        return {f"{prefix}step_{level}": step
                for level, step in enumerate(steps_of(counts, strides))}

    # Programs -----------------------------------------------------------------------------------

    def first(self) -> list[Instruction]:
        """Loads that define every region and every small memory."""
        config = self.config
        data = self.start

        result: list[Instruction] = []
        for target, words in self.words.items():
            source = data + (self.data_bytes if target == LoadTarget.PARAMETER else 0)
            size = self._word_bytes(target)
            result.append(Load(target=target, source=source, chunk_bytes=size, rows=words,
                               row_step=size, destination=0, destination_row_step=1))
        result += [Load(target=LoadTarget.SCRATCHPAD, source=data + 13 * index,
                        chunk_bytes=words * config.rows, destination=first)
                   for index, (first, words) in enumerate(self.regions)]
        return result

    def last(self) -> list[Instruction]:
        """Stores of every region."""
        result: list[Instruction] = []
        destination = self.results
        for first, words in self.regions:
            size = words * self.config.rows
            result.append(Store(source=first, row_bytes=size, destination=destination))
            destination += size
        return result

    def propose(self) -> Instruction:
        """One random instruction."""
        kinds = [self._load, self._load_small, self._fill, self._array, self._array, self._post,
                 self._post, self._post, self._store]
        if self.config.vector_taps:
            kinds += [self._vector, self._vector]
        return kinds[self._int(0, len(kinds) - 1)]()

    def added(self, instruction: Instruction) -> None:
        """Remember what an accepted instruction leaves behind."""
        match instruction:
            case Array():
                self.sums[PostSource.ARRAY].append(
                    (instruction.accumulator, instruction.count_0 * instruction.count_1))
            case Vector():
                emitted = 1 if instruction.reduce else max(
                    0, (instruction.count_0 - instruction.taps) // instruction.stride + 1)
                self.sums[PostSource.VECTOR].append(
                    (instruction.accumulator, emitted * instruction.count_1))
            case Store():
                self.stored.append((instruction.destination, instruction.row_bytes))

    # Instructions -------------------------------------------------------------------------------

    def _load(self) -> Load:
        first, words = self._region()
        config = self.config
        chunks = self._int(1, 4) if self._flag(0.4) else 1
        chunk_bytes = self._int(1, 3 * config.rows)
        row_words = -(-chunks * chunk_bytes // config.rows)
        counts = (row_words, self._int(1, 5), self._int(1, 3))
        base, strides = self._walk(words, counts, (1,))
        if self.stored and self._flag(0.4):
            source, size = self.stored[self._int(0, len(self.stored) - 1)]
            size = max(1, size)
        else:
            source, size = self.start, self.data_bytes
        chunk_bytes = min(chunk_bytes, size)
        nest = (chunks, *counts[1:])
        offset, source_strides = self._walk(size - chunk_bytes + 1, nest)
        chunk_step, row_step, plane_step = steps_of(nest, source_strides)
        row_words = -(-chunks * chunk_bytes // config.rows)
        _, row, plane = steps_of((row_words, *counts[1:]), strides)
        return Load(
            target=LoadTarget.SCRATCHPAD, source=source + offset, chunk_bytes=chunk_bytes,
            chunks=chunks, chunk_step=chunk_step, rows=counts[1], row_step=row_step,
            planes=counts[2], plane_step=plane_step, destination=first + base,
            destination_row_step=row, destination_plane_step=plane, fill=self._byte(),
            mark=self._flag(0.1))

    def _load_small(self) -> Load:
        """Replace part of the weights, parameters or table."""
        config = self.config
        target = list(self.words)[self._int(0, len(self.words) - 1)]
        words, word_bytes = self.words[target], self._word_bytes(target)
        count = self._int(1, max(1, min(words // 2, 2 * config.rows)))
        size = count * word_bytes
        if target == LoadTarget.PARAMETER:
            spare = self.records - size // PARAMETER_BYTES
            source = self.start + self.data_bytes + PARAMETER_BYTES * self._int(0, spare)
        else:
            source = self.start + self._int(0, self.data_bytes - size)
        size -= self._int(0, word_bytes - 1) * self._flag(0.2)
        return Load(target=target, source=source, chunk_bytes=size,
                    destination=self._int(0, words - count), fill=self._byte())

    def _fill(self) -> Fill:
        first, words = self._region()
        counts = (self._int(1, 8), self._int(1, 4), self._int(1, 3))
        base, strides = self._walk(words, counts, (1,))
        _, row, plane = steps_of(counts, strides)
        return Fill(destination=first + base, value=self._byte(), words=counts[0], rows=counts[1],
                    row_step=row, planes=counts[2], plane_step=plane, mark=self._flag(0.1))

    def _sums(self, memory_words: int, count: int) -> int:
        """Where sums go: one of four places, so that they meet."""
        room = memory_words - count
        return int(self.rng.choice((0, room, room // 2, self._int(0, room))))

    def _array(self) -> Array:
        config = self.config
        first, words = self._region()
        pixels = (self._int(1, min(9, config.accumulator_words // 4)), self._int(1, 4))
        tiles = self.words[LoadTarget.WEIGHT] // config.rows
        passes = (self._int(1, 3), self._int(1, 2), 1 + self._flag(0.2))
        while prod(passes) > tiles:
            passes = (passes[0] - 1, *passes[1:]) if passes[0] > 1 else (1, 1, 1)
        counts = (*pixels, *passes)
        base, strides = self._walk(words, counts)
        return Array(
            activation=first + base, **_counts(counts), **self._steps("", counts, strides),
            weight=self._int(
                0, self.words[LoadTarget.WEIGHT] - prod(passes) * config.rows),
            accumulator=self._sums(2 * config.accumulator_words, prod(pixels)),
            accumulate=self._flag(0.4), mark=self._flag(0.1))

    def _vector(self) -> Vector:
        config = self.config
        first, words = self._region()
        taps = self._int(1, config.vector_taps)
        counts = (self._int(1, 12), self._int(1, 3), self._int(1, 3), 1 + self._flag(0.2))
        reduce, stride = self._flag(0.3), self._int(1, 3)
        base, strides = self._walk(words, counts)
        emitted = 1 if reduce else max(0, (counts[0] - taps) // stride + 1)
        weights = counts[2] * counts[3] * (1 if reduce else taps)
        if emitted * counts[1] > config.vector_accumulator_words:
            counts = (counts[0], 1, *counts[2:])
        return Vector(
            mode=VectorMode(self._flag(0.4)), reduce=reduce, taps=taps, stride=stride,
            activation=first + base, **_counts(counts), **self._steps("", counts, strides),
            weight=self._int(0, max(0, self.words[LoadTarget.VECTOR_WEIGHT] - weights)),
            accumulator=self._sums(2 * config.vector_accumulator_words, emitted * counts[1]),
            accumulate=self._flag(0.4), mark=self._flag(0.1))

    def _post(self) -> Post:
        config = self.config
        sources = [PostSource.ARRAY, PostSource.SCRATCHPAD]
        if config.residual:
            sources.append(PostSource.PRODUCT)
        if config.vector_taps:
            sources.append(PostSource.VECTOR)
        if self._flag(0.5):
            sources = [PostSource.ARRAY]
        source = sources[self._int(0, len(sources) - 1)]
        accumulator, counts = 0, (self._int(1, 9), self._int(1, 4))
        if self.sums.get(source):
            latest = self.sums[source][-4:]
            accumulator, count = latest[self._int(0, len(latest) - 1)]
            inner = self._int(1, max(1, count))
            counts = (inner, max(1, min(4, count // inner)))
            accumulator += self._int(0, max(0, count - prod(counts)))
        channels = config.columns if source == PostSource.ARRAY else config.rows
        wide = max(1, channels // config.rows)
        word_step = self._int(1, 5) if wide > 1 else 0
        fields: dict[str, Any] = {}
        for walk in ("destination", "operand_a", "operand_b"):
            first, words = self._region()
            base, strides = self._walk(words, (wide, *counts), (word_step,))
            fields |= {walk: first + base,
                       **self._steps(f"{walk}_", counts, strides[1:])}
        if self._flag(0.3):  # in place
            fields |= {name.replace("operand_b", "destination"): value
                       for name, value in fields.items() if name.startswith("operand_b")}
        parts = max(1, config.rows // channels)
        limits = sorted((self._byte(), self._byte())) if self._flag(0.3) else (-128, 127)
        largest = (1 << ADD_MULTIPLIER_BITS) - 1
        return Post(
            source=source, use_table=self._flag(0.3) if config.table else 0,
            use_add=self._flag(0.4) if config.residual else 0, count_0=counts[0],
            count_1=counts[1], accumulator=accumulator,
            parameter=self._int(
                0, self.words[LoadTarget.PARAMETER] - channels // config.lanes),
            word_step=word_step, byte_offset=channels % config.rows * self._int(0, parts - 1),
            **fields, zero=self._byte() // 4, low=limits[0], high=limits[1], zero_a=self._byte(),
            zero_b=self._byte(), multiplier_a=self._int(-largest, largest),
            multiplier_b=self._int(-largest, largest), add_shift=self._int(20, 24),
            add_zero=self._byte() // 4, add_low=-128, add_high=self._int(0, 127),
            mark=self._flag(0.1))

    def _store(self) -> Store:
        first, words = self._region()
        config = self.config
        row_bytes = self._int(1, 4 * config.rows)
        counts = (-(-row_bytes // config.rows), self._int(1, 4), self._int(1, 3))
        base, strides = self._walk(words, counts, (1,))
        _, row, plane = steps_of(counts, strides)
        start, end = self.output
        room = min(end - start, 8 * row_bytes)
        offset, target_strides = self._walk(room - row_bytes + 1, counts[1:])
        target = start + offset + self._int(0, end - start - room)
        row_step, plane_step = steps_of(counts[1:], target_strides)
        return Store(
            source=first + base, row_bytes=row_bytes, rows=counts[1], source_row_step=row,
            planes=counts[2], source_plane_step=plane, destination=target,
            destination_row_step=row_step, destination_plane_step=plane_step,
            mark=self._flag(0.1))


def _counts(counts: tuple[int, ...]) -> dict[str, int]:
    return {f"count_{level}": count for level, count in enumerate(counts)}


def _bounds(counts: tuple[int, ...], strides: list[int] | tuple[int, ...]) -> tuple[int, int]:
    reach = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
    return sum(min(0, value) for value in reach), sum(max(0, value) for value in reach)
