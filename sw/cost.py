"""Predicted cycles of a program: an event-driven model at the level of instructions.

Every queue issues in order, when its thresholds are met and its engine is free; LOAD, STORE and
the instruction fetch share the memory port, one beat a cycle, a burst at a time. Pipelines are
constants below. The compiler chooses by it, and `systolith bench` prints it beside the RTL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from systolith.hw.config import Config
from systolith.hw.isa import (
    INSTRUCTION_BYTES,
    Array,
    End,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
)

__all__ = ["LATENCY", "Estimate", "estimate", "transfer_cycles", "work_cycles"]

BURST_BEATS = 64
"""Beats that one master moves before another gets the memory port."""

FETCH_DEPTH = 4
"""Instructions that a queue holds in advance."""

BEGIN = 3
"""Cycles from the last threshold's being met to the first work of an instruction."""

ISSUE: Mapping[Queue, int] = {Queue.LOAD: 1, Queue.ARRAY: 0, Queue.VECTOR: 1, Queue.POST: 0,
                              Queue.STORE: 2}
"""Cycles between the last work of an instruction and the first of the next."""

LATENCY: Mapping[Queue, int] = {Queue.LOAD: 4, Queue.ARRAY: 8, Queue.VECTOR: 8, Queue.POST: 14,
                                Queue.STORE: 4}
"""Cycles from the last work of an instruction to its retirement, without the array's rows."""

START = 60
"""Cycles from the run command to the first instruction, without the memory's latency."""


@dataclass(frozen=True)
class Estimate:
    """What the model predicts.

    `cycles` of the whole run; `marks`, the cycles at which marked instructions retire, in order;
    `busy` cycles of work of each queue; `beats` moved over the memory port, `fetch_beats` of them
    for instructions.
    """

    cycles: int
    marks: tuple[int, ...]
    busy: Mapping[Queue, int]
    beats: int
    fetch_beats: int

    def layers(self) -> list[int]:
        """Cycles between marks; the last goes on to the end of the run."""
        ends = [*self.marks[:-1], self.cycles]
        return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def work_cycles(config: Config, instruction: Instruction) -> int:
    """Cycles of an instruction's work in an engine that does not use the memory port."""
    match instruction:
        case Array():
            pixels = instruction.count_0 * instruction.count_1
            passes = instruction.count_2 * instruction.count_3 * instruction.count_4
            return passes * max(pixels, config.rows)
        case Vector():
            return (instruction.count_0 * instruction.count_1 * instruction.count_2
                    * instruction.count_3)
        case Post():
            width = config.columns if instruction.source == PostSource.ARRAY else config.rows
            return instruction.count_0 * instruction.count_1 * -(-width // config.lanes)
        case Fill():
            return instruction.words * instruction.rows * instruction.planes
    return 0


def transfer_cycles(config: Config, instruction: Instruction) -> tuple[int, int]:
    """Beats of a transfer, and the cycles that it takes at least."""
    beat = config.memory_bytes_per_beat
    match instruction:
        case Load():
            word = {LoadTarget.WEIGHT: config.weight_word_bytes,
                    LoadTarget.PARAMETER: config.parameter_word_bytes}.get(
                        LoadTarget(instruction.target), config.rows)
            lines = instruction.rows * instruction.planes
            length, step = instruction.chunk_bytes, instruction.row_step
            if instruction.chunks > 1:
                step = instruction.chunk_step
            touched = _touched(instruction.source, length, step, beat)
            beats = int(touched * instruction.chunks * lines)
            row_words = -(-length * instruction.chunks // word)
            parts = max(1, word // config.rows) if word > config.rows else 1
            return beats, max(beats, row_words * lines * parts)
        case Store():
            lines = instruction.rows * instruction.planes
            touched = _touched(instruction.destination, instruction.row_bytes,
                               instruction.destination_row_step, beat)
            words = -(-instruction.row_bytes // config.rows)
            beats = int(touched * lines)
            return beats, max(beats, words * lines)
    return 0, 0


def _touched(address: int, length: int, step: int, beat: int) -> float:
    """Mean number of beats that a piece of `length` bytes touches."""
    if length % beat == 0 and address % beat == 0 and step % beat == 0:
        return length // beat
    if step % beat == 0:
        return (address % beat + length + beat - 1) // beat
    return 1 + (length - 1) / beat


def estimate(config: Config, lists: Mapping[Queue, Sequence[Instruction]], *,
             latency: int = 50) -> Estimate:
    """Predict a run.

    Parameters
    ----------
    config
        The accelerator.
    lists
        The instructions of each queue, END included.
    latency
        Cycles from a memory request to its data.

    Raises
    ------
    ValueError
        When the thresholds cannot all be met.
    """
    return _Model(config, lists, latency).run()


class _Model:
    def __init__(self, config: Config, lists: Mapping[Queue, Sequence[Instruction]], latency: int):
        self.config = config
        self.lists = lists
        self.latency = latency
        self.port = START + latency
        self.fetch_beats = max(1, INSTRUCTION_BYTES // config.memory_bytes_per_beat)
        self.fetched = dict.fromkeys(Queue, START + 2 * latency)
        self.issued: dict[Queue, list[int]] = {queue: [] for queue in Queue}
        self.retired: dict[Queue, list[int]] = {queue: [] for queue in Queue}
        self.free = dict.fromkeys(Queue, 0)
        self.left = dict.fromkeys(Queue, 0)
        self.busy = dict.fromkeys(Queue, 0)
        self.ready: dict[Queue, int | None] = {}
        self.beats = self.fetches = 0
        self.marks: list[int] = []

    def run(self) -> Estimate:
        """Issue everything in the order of time."""
        remaining = sum(map(len, self.lists.values()))
        while remaining:
            best: tuple[int, Queue] | None = None
            for queue in Queue:
                index = len(self.issued[queue])
                if index == len(self.lists[queue]):
                    continue
                time = self._time(queue, index)
                if time is not None and (best is None or time < best[0]):
                    best = time, queue
            if best is None:
                raise ValueError("the program's thresholds cannot all be met")
            remaining -= self._step(*best)
        end = max(times[-1] for times in self.retired.values())
        return Estimate(end, tuple(self.marks), self.busy, self.beats, self.fetches)

    def _time(self, queue: Queue, index: int) -> int | None:
        """When the queue's next instruction, or its next burst, can begin."""
        if self.left[queue]:
            return max(self.port, self.free[queue])
        instruction = self.lists[queue][index]
        cached = self.ready.get(queue)
        if cached is None:
            cached = self.fetched[queue]
            for other, count in enumerate(instruction.waits):
                if not count:
                    continue
                times = self.retired[Queue(other)]
                if len(times) < count:
                    return None
                cached = max(cached, times[count - 1] + BEGIN)
            self.ready[queue] = cached
        return max(cached, self.free[queue])

    def _step(self, time: int, queue: Queue) -> int:
        """Issue an instruction or a burst of it; returns 1 when the instruction is complete."""
        index = len(self.issued[queue])
        instruction = self.lists[queue][index]
        if isinstance(instruction, Load | Store):
            if not self.left[queue]:
                beats, cycles = transfer_cycles(self.config, instruction)
                self.left[queue] = beats
                self.slack = {**getattr(self, "slack", {}), queue: cycles - beats}
                self.free[queue] = time
                return 0
            burst = min(self.left[queue], BURST_BEATS)
            self.left[queue] -= burst
            self.port = time + burst
            self.beats += burst
            self.busy[queue] += burst
            self.free[queue] = time + burst
            if self.left[queue]:
                return 0
            time += burst + self.slack[queue]
            self._retire(queue, index, time, self.latency if queue == Queue.LOAD else 0)
            return 1
        work = work_cycles(self.config, instruction)
        self.busy[queue] += work
        begin = time
        if queue == Queue.ARRAY and time > self.free[queue] and work:
            begin += self.config.rows  # nothing hides the first tile's way into the array
        self._retire(queue, index, begin + work,
                     self.config.rows if queue == Queue.ARRAY and work else 0)
        return 1

    def _retire(self, queue: Queue, index: int, end: int, more: int) -> None:
        instruction = self.lists[queue][index]
        self.free[queue] = end + ISSUE[queue]
        self.issued[queue].append(end)
        last = self.retired[queue][-1] if index else 0
        if isinstance(instruction, End):
            retired = max(last, end) + 1
        else:
            retired = max(last + 1, end + LATENCY[queue] + more)
        self.retired[queue].append(retired)
        self.ready[queue] = None
        if instruction.mark:
            self.marks.append(retired)
        # The place in the queue that became free is filled again.
        ahead = index + FETCH_DEPTH
        if ahead < len(self.lists[queue]):
            self.port += self.fetch_beats
            self.beats += self.fetch_beats
            self.fetches += self.fetch_beats
        following = index + 1
        if following >= FETCH_DEPTH and following < len(self.lists[queue]):
            asked = self.issued[queue][following - FETCH_DEPTH]
            self.fetched[queue] = asked + self.latency + self.fetch_beats
