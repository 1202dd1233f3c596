"""Units of work and their order: a list scheduler over what each unit reads and writes.

Every queue runs its instructions in order, so the order in which units are emitted decides how
well engines overlap. A first, recording pass over the units in their natural order finds which
depend on each other through the scratchpad and main memory. The scheduler then replays the machine
roughly, engine by engine, and always takes the unit that can begin first.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.cost import LATENCY, transfer_cycles, work_cycles
from systolith.hw.config import Config
from systolith.hw.isa import Fill, Instruction, Load, Queue, Store

from .emitter import Memory, Region, words_of

__all__ = ["Recorder", "Unit", "in_turn", "order"]

HANDOVER = 6
"""Cycles from an engine's retirement to dependent work in another, beyond its latency."""


@dataclass(eq=False)
class Unit:
    """Instructions that are emitted together.

    Parameters
    ----------
    engine
        The queue that does the unit's work; constants that it needs go through LOAD.
    run
        Emits the unit.
    layer
        Number of the layer that it belongs to.
    drains
        The unit whose accumulators this one empties; until then they are occupied.
    alone
        The unit takes and empties accumulators itself, so that none may be occupied around it.

    Attributes
    ----------
    work, beats
        Cycles of its engine and of the memory port, once recorded.
    after
        Units that must be emitted before it.
    """

    engine: Queue
    run: Callable[[Any], None]
    layer: int
    drains: int | None = None
    alone: bool = False
    work: int = 0
    beats: int = 0
    after: set[int] = field(default_factory=set)


class Recorder:
    """Stands in for an `Emitter` and notes what the units depend on.

    Units `begin` in an order that is right when they run one after the other.
    """

    def __init__(self, config: Config, main_words: int, units: Sequence[Unit]):
        self.config = config
        self._units = units
        self._current = 0
        sizes = {Memory.SCRATCHPAD: config.scratchpad_words, Memory.MAIN: main_words}
        self._written = {memory: np.zeros(words, np.int32) for memory, words in sizes.items()}
        self._read = {memory: {queue: np.zeros(words, np.int32) for queue in queues}
                      for memory, words, queues in (
                          (Memory.SCRATCHPAD, config.scratchpad_words,
                           (Queue.ARRAY, Queue.VECTOR, Queue.POST, Queue.STORE)),
                          (Memory.MAIN, main_words, (Queue.LOAD,)))}
        self.layer = 0

    def begin(self, index: int) -> None:
        """What is emitted from now on belongs to unit `index`."""
        self._current = index

    def emit(self, cls: type[Instruction], *, reads: Iterable[Region] = (),
             writes: Sequence[Region] = (), queue: Queue | None = None, relocate: str = "",
             **fields: Any) -> None:
        """Note an instruction of the current unit; the parameters are `Emitter.emit`'s."""
        queue = cls.queues[0] if queue is None else queue
        unit = self._units[self._current]
        instruction = cls(**fields)
        if isinstance(instruction, Load | Store):
            unit.beats += transfer_cycles(self.config, instruction)[1]
        elif isinstance(instruction, Fill):
            unit.beats += work_cycles(self.config, instruction)
        else:
            unit.work += work_cycles(self.config, instruction)
        number = self._current + 1
        views = []
        for region in reads:
            if region.memory not in self._written:
                continue
            readers = self._read[region.memory][queue]
            self._depend(unit, words_of(self._written[region.memory], region))
            view = words_of(readers, region)
            # Readers of one engine stay in order, so that the last one stands for all of them.
            self._depend(unit, view)
            views.append(view)
        for region in writes:
            if region.memory not in self._written:
                continue
            view = words_of(self._written[region.memory], region)
            self._depend(unit, view)
            for readers in self._read[region.memory].values():
                self._depend(unit, words_of(readers, region))
            views.append(view)
        for view in views:
            view[...] = number

    def _depend(self, unit: Unit, view: NDArray[np.int32]) -> None:
        low, high = int(view.min()), int(view.max())
        numbers = {low, high} if high - low <= 1 else set(np.unique(view).tolist())
        unit.after |= {number - 1 for number in numbers if number and number - 1 != self._current}


class _Engine:
    """Units of one queue whose predecessors have all been taken."""

    def __init__(self) -> None:
        self.free = 0
        self._waiting: list[tuple[int, int]] = []
        self._ready: list[int] = []

    def add(self, time: int, index: int) -> None:
        """A unit that can begin at `time`."""
        heapq.heappush(self._waiting, (time, index))

    def candidate(self) -> tuple[int, int] | None:
        """The next unit and when it can begin: of those that need not wait, the first in order."""
        while self._waiting and self._waiting[0][0] <= self.free:
            heapq.heappush(self._ready, heapq.heappop(self._waiting)[1])
        if self._ready:
            return self.free, self._ready[0]
        return self._waiting[0] if self._waiting else None

    def take(self) -> None:
        """Remove what `candidate` returned."""
        if self._ready:
            heapq.heappop(self._ready)
        else:
            heapq.heappop(self._waiting)


def in_turn(units: Sequence[Unit]) -> list[int]:
    """The units as they are, tile by tile and layer by layer."""
    return list(range(len(units)))


def order(units: Sequence[Unit]) -> list[int]:
    """Indices of recorded units in the order of emission."""
    followers: list[list[tuple[int, bool]]] = [[] for _ in units]  # (unit, whether it needs data)
    missing = [0] * len(units)
    for index, unit in enumerate(units):
        if unit.drains is not None:
            # A tile begins only when nothing but itself keeps POST from emptying it: two tiles
            # that wait for a third would hold all accumulators for ever.
            early = unit.after - {unit.drains}
            for other in early - units[unit.drains].after:
                followers[other].append((unit.drains, False))
                missing[unit.drains] += 1
            unit.after.add(unit.drains)
        missing[index] += len(unit.after)
        for other in unit.after:
            followers[other].append((index, True))
    engines = {queue: _Engine() for queue in Queue}
    ready = [0] * len(units)
    for index, count in enumerate(missing):
        if not count:
            engines[units[index].engine].add(0, index)
    held = {Queue.ARRAY: 0, Queue.VECTOR: 0}
    memory = 0
    drained: dict[Queue, int] = {Queue.ARRAY: 0, Queue.VECTOR: 0}
    result: list[int] = []
    while len(result) < len(units):
        best: tuple[int, int, int] | None = None  # when it asks for something, unit, its begin
        for queue, engine in engines.items():
            if held.get(queue, 0) == 2:  # both halves of the accumulators wait for POST
                continue
            candidate = engine.candidate()
            if candidate is not None and units[candidate[1]].alone and any(held.values()):
                continue
            if candidate is not None:
                time = candidate[0]
                if queue in drained and held[queue] == 1:
                    time = max(time, drained[queue])
                # Constants depend on nothing: they come while the unit waits for its data.
                beats = 0 if queue in (Queue.LOAD, Queue.STORE) else units[candidate[1]].beats
                asked = max(memory, time - beats - HANDOVER) if beats else time
                if best is None or (min(asked, time), candidate[1]) < best[:2]:
                    best = min(asked, time), candidate[1], time
        assert best is not None, "units depend on each other in a circle"
        _, index, time = best
        unit = units[index]
        engines[unit.engine].take()
        if unit.beats:
            if unit.engine in (Queue.LOAD, Queue.STORE):
                memory = max(memory, time)
            memory += unit.beats
            time = max(time, memory)
        end = time + unit.work
        engines[unit.engine].free = end
        engines[Queue.LOAD].free = memory
        if unit.engine in held and not unit.alone:
            held[unit.engine] += 1
        if unit.drains is not None:
            queue = units[unit.drains].engine
            held[queue] -= 1
            drained[queue] = end + LATENCY[Queue.POST]
        result.append(index)
        known = end + LATENCY[unit.engine] + HANDOVER
        for other, data in followers[index]:
            if data:
                ready[other] = max(ready[other], known)
            missing[other] -= 1
            if not missing[other]:
                engines[units[other].engine].add(ready[other], other)
    return result
