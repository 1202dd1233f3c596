"""Instruction lists with thresholds that follow from what every instruction reads and writes.

Instructions are emitted in an order that computes the right result when executed one after the
other. The emitter remembers, for every word of every memory, which instruction of each queue wrote
and read it last, and gives each new instruction the thresholds that keep the hazards in order.
Thresholds only point backwards in the order of emission, so that a program cannot deadlock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import End, Instruction, Queue

__all__ = ["Emitter", "Memory", "Region", "words_of"]


class Memory(IntEnum):
    """Memories in which two instructions can meet."""

    SCRATCHPAD = 0
    WEIGHT = 1
    VECTOR_WEIGHT = 2
    PARAMETER = 3
    TABLE = 4
    ARRAY_ACCUMULATOR = 5
    VECTOR_ACCUMULATOR = 6
    MAIN = 7


_WRITERS: dict[Memory, tuple[Queue, ...]] = {
    Memory.SCRATCHPAD: (Queue.LOAD, Queue.POST),
    Memory.WEIGHT: (Queue.LOAD,),
    Memory.VECTOR_WEIGHT: (Queue.LOAD,),
    Memory.PARAMETER: (Queue.LOAD,),
    Memory.TABLE: (Queue.LOAD,),
    Memory.ARRAY_ACCUMULATOR: (Queue.ARRAY,),
    Memory.VECTOR_ACCUMULATOR: (Queue.VECTOR,),
    Memory.MAIN: (Queue.STORE,),
}

_READERS: dict[Memory, tuple[Queue, ...]] = {
    Memory.SCRATCHPAD: (Queue.ARRAY, Queue.VECTOR, Queue.POST, Queue.STORE),
    Memory.WEIGHT: (Queue.ARRAY,),
    Memory.VECTOR_WEIGHT: (Queue.VECTOR,),
    Memory.PARAMETER: (Queue.POST,),
    Memory.TABLE: (Queue.POST,),
    Memory.ARRAY_ACCUMULATOR: (Queue.POST,),
    Memory.VECTOR_ACCUMULATOR: (Queue.POST,),
    Memory.MAIN: (Queue.LOAD,),
}


@dataclass(frozen=True)
class Region:
    """Words of a memory: `base` plus every combination of `counts` times `strides`.

    MAIN is counted in words of `rows` bytes from the emitter's `main_base`.
    """

    memory: Memory
    base: int
    counts: tuple[int, ...]
    strides: tuple[int, ...] = (1,)


def words_of(array: NDArray[np.int32], region: Region) -> NDArray[np.int32]:
    """The words of a region as a view of an array over the whole memory."""
    last = region.base + sum((count - 1) * stride for count, stride in
                             zip(region.counts, region.strides, strict=True))
    assert 0 <= region.base <= last < len(array), (region, len(array))
    # The constructor is much quicker than as_strided, and this is called very often.
    return np.ndarray(region.counts, np.int32, array, 4 * region.base,
                      tuple([4 * stride for stride in region.strides]))


class _Timeline:
    """Retired-count thresholds a word: the last write and read of each queue that can."""

    def __init__(self, memory: Memory, words: int):
        self.written = {queue: np.zeros(words, np.int32) for queue in _WRITERS[memory]}
        self.read = {queue: np.zeros(words, np.int32) for queue in _READERS[memory]}

class Emitter:
    """Collects a program.

    Parameters
    ----------
    config
        Sizes of the memories.
    main_words
        Words of `rows` bytes of main memory in which tensors are stored and loaded again.
    """

    def __init__(self, config: Config, main_words: int = 0):
        self.config = config
        self.lists: dict[Queue, list[Instruction]] = {queue: [] for queue in Queue}
        self.layers: dict[Queue, list[int]] = {queue: [] for queue in Queue}
        self.layer = 0
        vector = config.vector_taps > 0
        sizes = {
            Memory.SCRATCHPAD: config.scratchpad_words,
            Memory.WEIGHT: config.weight_words,
            Memory.VECTOR_WEIGHT: config.vector_weight_words if vector else 0,
            Memory.PARAMETER: config.parameter_words,
            Memory.TABLE: 256 // config.rows if config.table else 0,
            Memory.ARRAY_ACCUMULATOR: 2 * config.accumulator_words,
            Memory.VECTOR_ACCUMULATOR: 2 * config.vector_accumulator_words if vector else 0,
            Memory.MAIN: main_words,
        }
        self._timelines = {memory: _Timeline(memory, words) for memory, words in sizes.items()}
        self.relocations: list[tuple[Queue, int, str]] = []

    def emit(self, cls: type[Instruction], *, reads: Iterable[Region] = (),
             writes: Sequence[Region] = (), queue: Queue | None = None,
             relocate: str = "", **fields: Any) -> None:
        """Append an instruction of class `cls` with the given fields, for the current `layer`.

        `reads` and `writes` are all words it touches in the memories of `Memory` (constants in
        main memory excepted). `relocate` names a field that holds an address relative to the
        tensors' base.
        """
        queue = cls.queues[0] if queue is None else queue
        waits = [0] * len(Queue)
        index = len(self.lists[queue]) + 1
        views = []
        for region in reads:
            timeline = self._timelines[region.memory]
            for writer, array in timeline.written.items():
                # POST may read the scratchpad before its own earlier write has arrived.
                waits[writer] = max(waits[writer], int(words_of(array, region).max()))
            views.append(words_of(timeline.read[queue], region))
        for region in writes:
            timeline = self._timelines[region.memory]
            for other, array in (*timeline.written.items(), *timeline.read.items()):
                if other != queue:
                    waits[other] = max(waits[other], int(words_of(array, region).max()))
            views.append(words_of(timeline.written[queue], region))
        for view in views:
            view[...] = index
        if relocate:
            self.relocations.append((queue, index - 1, relocate))
        self.lists[queue].append(cls(
            wait_load=waits[0], wait_array=waits[1], wait_vector=waits[2], wait_post=waits[3],
            wait_store=waits[4], **fields))
        self.layers[queue].append(self.layer)

    def mark(self, stages: Sequence[int]) -> list[int]:
        """Mark the last POST of each stage; returns the stages in the order of their marks.

        `stages` holds the stage of every layer.
        """
        last = {stages[layer]: index for index, layer in enumerate(self.layers[Queue.POST])}
        order = sorted(last, key=lambda stage: last[stage])
        instructions = self.lists[Queue.POST]
        for index in last.values():
            instructions[index] = replace(instructions[index], mark=1)
        return order

    def finish(self, tensor_base: int) -> None:
        """Close the lists with END and make tensor addresses absolute."""
        for queue, index, name in self.relocations:
            instruction = self.lists[queue][index]
            value = getattr(instruction, name) + tensor_base
            self.lists[queue][index] = replace(instruction, **{name: value})
        for queue in Queue:
            self.lists[queue].append(End())
            self.layers[queue].append(self.layer)
