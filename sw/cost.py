"""Predicted cycles of a program: an event-driven model at the level of instructions.

Every queue issues in order, when its thresholds are met and its engine is free; LOAD, STORE and
the instruction fetch share the memory port, at the memory's rate, a burst at a time. Pipelines are
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

from . import sequential_cost
from .conflicts import read_waits, row_words, write_waits

__all__ = ["LATENCY", "Estimate", "estimate", "requests", "transfer_cycles", "work_cycles"]

LOAD_BURST_BEATS = 32
"""Beats of the longest read request of a LOAD."""

_TURN = (64, 0, 0, 0, 4)
"""Beats that a queue moves before another gets the memory port: reads come in bursts, writes
one by one."""

FETCH_DEPTH = 4
"""Instructions that a queue holds in advance."""

BEGIN = 3
"""Cycles from the last threshold's being met to the first work of an instruction."""

ISSUE = (1, 0, 1, 0, 2)
"""Cycles between the last work of an instruction and the first of the next, a queue."""

LATENCY = (4, 8, 8, 24, 7)
"""Cycles from the last work of an instruction to its retirement, without the array's rows and
the memory's latency, a queue."""

END = 5
"""Cycles from the last retirement to the end of the run."""

FILL_LEAD = 30
"""Cycles before the end of a fill in which what follows it is asked for."""

_REQUEST_TURN = 2.5
"""Cycles of a request's turn between the mover and main memory, beside the latency."""

_FURTHER_BEAT = 8
"""Cycles that a small request's turn takes longer for each beat behind its first."""

_TILE_LEAD = 2
"""Cycles from the beginning of a tile's reading to the first pixel that may meet it."""

START = 60
"""Cycles from the run command to the first instruction, without the memory's latency."""


@dataclass(frozen=True)
class Estimate:
    """What the model predicts.

    `cycles` of the whole run; `marks`, the cycles at which marked instructions retire, in order;
    of each queue `retired`, the cycle in which each instruction does, and `work`, the cycles that
    each occupies its engine; `beats` moved over the memory port, `fetch_beats` of them for
    instructions.
    """

    cycles: int
    marks: tuple[int, ...]
    retired: Mapping[Queue, Sequence[int]]
    work: Mapping[Queue, Sequence[int]]
    beats: int
    fetch_beats: int

    def stages(self) -> list[int]:
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
    beat, rate = config.memory_bytes_per_beat, config.memory_beat_cycles
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
            parts = max(1, word // config.rows) if word > config.rows else 1
            return beats, max(beats * rate, row_words(instruction, word) * lines * parts)
        case Store():
            lines = instruction.rows * instruction.planes
            touched = _touched(instruction.destination, instruction.row_bytes,
                               instruction.destination_row_step, beat)
            words = -(-instruction.row_bytes // config.rows)
            beats = int(touched * lines)
            return beats, max(beats * rate, words * lines)
    return 0, 0


def requests(config: Config, instruction: Load) -> int:
    """Read requests that a LOAD makes: a burst or more for each chunk."""
    touched = _touched(0, instruction.chunk_bytes, 0, config.memory_bytes_per_beat)
    return (-(-int(touched) // LOAD_BURST_BEATS) * instruction.chunks
            * instruction.rows * instruction.planes)


def _scratchpad_words(config: Config, instruction: Load) -> int:
    """Words that a LOAD of activations writes."""
    return row_words(instruction, config.rows) * instruction.rows * instruction.planes


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
    if config.sequential:
        return _sequential(config, lists)
    return _Model(config, lists, latency).run()


def _sequential(config: Config, lists: Mapping[Queue, Sequence[Instruction]]) -> Estimate:
    """The same for a core that does one instruction at a time."""
    cycles = sequential_cost.START
    beats = fetched = 0
    marks = []
    retired: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    work: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    for queue, instruction in sequential_cost.execution_order(lists):
        taken = sequential_cost.instruction_cycles(instruction)
        cycles += taken
        retired[queue].append(cycles)
        work[queue].append(taken)
        fetched += INSTRUCTION_BYTES // config.memory_bytes_per_beat
        beats += transfer_cycles(config, instruction)[0]
        if instruction.mark:
            marks.append(cycles)
    return Estimate(cycles, tuple(marks), retired, work, beats + fetched, fetched)


class _Model:
    """The machine in the middle of a run; queues are plain numbers here, for speed."""

    def __init__(self, config: Config, lists: Mapping[Queue, Sequence[Instruction]], latency: int):
        self.config = config
        self.lists = [lists[queue] for queue in Queue]
        self.latency = latency
        self.port = START + latency
        self.arrived = 0  # when everything that was asked for is there
        self.awaited = 0  # when the last word of a LOAD is
        self.last = -1  # queue that used the port last
        self.tile_read = 0   # when the array's loader has read its last tile
        self.pass_begun = 0  # when the array's last pass began
        self.passes: Array | None = None  # what the array has begun last
        self.results: Post | None = None  # what the post-processor has begun last
        self.rate = config.memory_beat_cycles
        self.fetch_beats = max(1, INSTRUCTION_BYTES // config.memory_bytes_per_beat)
        self.fetch_cycles = self.fetch_beats * self.rate
        # Every queue is filled first, an instruction after the other.
        count = sum(min(FETCH_DEPTH, len(items)) for items in self.lists)
        self.filling = [START + latency + index * (latency + self.fetch_cycles)
                        for index in reversed(range(count))]
        number = len(Queue)
        self.fetched = [START + 2 * latency] * number
        self.issued: list[list[int]] = [[] for _ in range(number)]
        self.retired: list[list[int]] = [[] for _ in range(number)]
        self.free = [0] * number
        self.left = [0] * number   # beats still to move of the instruction that has begun
        self.moves = [0] * number  # its beats in all
        self.takes = [0] * number  # its cycles
        self.work: list[list[int]] = [[] for _ in range(number)]
        self.ready: list[int | None] = [None] * number
        self.beats = self.fetches = count * self.fetch_beats
        self.marks: list[int] = []

    def run(self) -> Estimate:
        """Issue everything in the order of time."""
        remaining = sum(map(len, self.lists))
        while remaining:
            best, chosen = 1 << 62, -1
            for queue in range(len(self.lists)):
                time = self._time(queue)
                # Of two that want the memory port at once, the one that had it last waits.
                if time is not None and (time < best or (time == best and chosen == self.last)):
                    best, chosen = time, queue
            if chosen < 0:
                raise ValueError("the program's thresholds cannot all be met")
            remaining -= self._step(best, chosen)
        end = max(times[-1] for times in self.retired)
        return Estimate(end, tuple(self.marks), dict(zip(Queue, self.retired, strict=True)),
                        dict(zip(Queue, self.work, strict=True)), self.beats, self.fetches)

    def _time(self, queue: int) -> int | None:
        """When the queue's next instruction, or its next burst, can begin."""
        if self.left[queue]:
            return max(self.port, self.free[queue])
        ready = self.ready[queue]
        if ready is None:
            index = len(self.issued[queue])
            if index == len(self.lists[queue]):
                return None
            ready = self.fetched[queue]
            for other, count in enumerate(self.lists[queue][index].waits):
                if count:
                    times = self.retired[other]
                    if len(times) < count:
                        return None
                    ready = max(ready, times[count - 1] + BEGIN)
            self.ready[queue] = ready
        free = self.free[queue]
        return ready if ready > free else free

    def _step(self, time: int, queue: int) -> int:
        """Issue an instruction or a burst of it; returns 1 when the instruction is complete."""
        index = len(self.issued[queue])
        instruction = self.lists[queue][index]
        if isinstance(instruction, Load | Store):
            if not self.left[queue]:
                self.left[queue], cycles = self._transfer(time, instruction)
                self.moves[queue] = self.left[queue]
                self.takes[queue] = cycles
                self.free[queue] = time
                return 0
            while self.filling and self.filling[-1] <= time:
                self.filling.pop()
                time += self.fetch_cycles
            burst = min(self.left[queue], _TURN[queue])
            self.left[queue] -= burst
            moved = time + burst * self.rate
            self.port = self.free[queue] = moved
            if isinstance(instruction, Load) and instruction.target == LoadTarget.SCRATCHPAD:
                moved = time + self._written(
                    time + self.latency, instruction,
                    burst * _scratchpad_words(self.config, instruction) // self.moves[queue],
                    burst * self.rate)
                self.free[queue] = moved
            self.last = queue
            self.beats += burst
            if self.left[queue]:
                return 0
            cycles = self.takes[queue]
            self.work[queue].append(cycles)
            done = moved + cycles - self.moves[queue] * self.rate
            if queue == Queue.LOAD:
                done = self.arrived = max(done + self.latency, self.arrived + cycles)
                self.awaited = done
            self._retire(queue, index, max(moved, done - self.latency), done)
            return 1
        if isinstance(instruction, Array):
            end = self._passes(time, self.ready[queue] or 0, instruction)
            self.passes = instruction
            self.work[queue].append(end - time)
            self._retire(queue, index, end, end + self.config.rows)
            return 1
        work = work_cycles(self.config, instruction)
        if isinstance(instruction, Vector) and self.passes and self.free[Queue.ARRAY] > time:
            work += round(work * read_waits(self.config, instruction, self.passes))
        elif isinstance(instruction, Fill):
            work = self._written(time, instruction, work, work)
        elif isinstance(instruction, Post):
            self.results = instruction
        self.work[queue].append(work)
        end = done = time + work
        if queue == Queue.LOAD:
            done = self.arrived = max(time, self.arrived) + work
            end = max(time, done - FILL_LEAD)
        self._retire(queue, index, end, done)
        return 1

    def _written(self, time: int, instruction: Load | Fill, words: int, cycles: int) -> int:
        """Cycles for `words` to be written into the scratchpad, when without the post-processor it
        takes `cycles`."""
        busy = self.free[Queue.POST] - time
        if busy <= 0 or self.results is None:
            return cycles
        slow = round(words * (1 + write_waits(self.config, instruction, self.results)))
        if slow <= cycles:
            return cycles
        return slow if slow <= busy else busy + cycles * (slow - busy) // slow

    def _passes(self, time: int, ready: int, instruction: Array) -> int:
        """When the last pixel of the passes enters the array.

        The loader takes a cycle a row for a tile, begins when the pass before it has begun, and is
        ahead of the pixels by as much as it gained in longer passes.
        """
        rows = self.config.rows
        pixels = instruction.count_0 * instruction.count_1
        others = instruction.count_2 * instruction.count_3 * instruction.count_4 - 1
        load = max(self.tile_read, self.pass_begun, ready)  # of the first tile
        first = max(time, load + _TILE_LEAD)
        last = max(first + pixels * others, load + rows * others + _TILE_LEAD)
        before = max(first + pixels * (others - 1), load + rows * (others - 1) + _TILE_LEAD)
        self.tile_read = (max(load + rows * others, before) if others else load) + rows
        self.pass_begun = last
        return last + pixels

    def _transfer(self, time: int, instruction: Load | Store) -> tuple[int, int]:
        """Beats, and cycles: many small requests are held up by how many may be on their way."""
        beats, cycles = transfer_cycles(self.config, instruction)
        if isinstance(instruction, Load):
            count, ahead = requests(self.config, instruction), self.config.outstanding_reads
            # Behind another one, the first requests have to wait as well.
            held = count if time < self.awaited else max(0, count - ahead)
            turn = self.latency + _REQUEST_TURN + _FURTHER_BEAT * (beats / count - 1)
            cycles = max(cycles, round(held * turn / ahead))
        return beats, cycles

    def _retire(self, queue: int, index: int, end: int, done: int) -> None:
        """The engine is free at `end`, and the instruction's work done at `done`."""
        instruction = self.lists[queue][index]
        self.free[queue] = end + ISSUE[queue]
        self.issued[queue].append(end)
        last = self.retired[queue][-1] if index else 0
        if isinstance(instruction, End):
            retired = max(last, done) + END
        else:
            retired = max(last + 1, done + LATENCY[queue])
        self.retired[queue].append(retired)
        self.ready[queue] = None
        if instruction.mark:
            self.marks.append(retired)
        # The place in the queue that became free is filled again.
        if index + FETCH_DEPTH < len(self.lists[queue]):
            self.port += self.fetch_cycles
            self.beats += self.fetch_beats
            self.fetches += self.fetch_beats
        following = index + 1
        if FETCH_DEPTH <= following < len(self.lists[queue]):
            asked = self.issued[queue][following - FETCH_DEPTH]
            self.fetched[queue] = asked + self.latency + self.fetch_cycles
