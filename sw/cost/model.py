"""Predicted cycles of a program: an event-driven model at the level of instructions.

Every queue issues in order, when its instruction has been fetched, its thresholds are met and its
engine is free; LOAD, STORE and the instruction fetch share the memory port, a request at a time
(`port`, `loading`, `fetching`). Pipelines are constants below. The compiler chooses by it,
and `systolith bench` prints it beside the RTL.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from systolith.hw.config import Config
from systolith.hw.isa import (
    Array,
    End,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    Queue,
    Store,
    Vector,
    VectorMode,
)
from systolith.hw.ports import scratchpad_latency, tile_wait

from .accumulating import Additions, additions, half_read, read_end, through_array
from .conflicts import operand_pace, read_pace, reads_operands, write_waits
from .fetching import NEVER, Fetching
from .loading import LOAD_WINDOW_BEATS, REQUEST, Loading
from .port import MemoryPort
from .prediction import Estimate
from .sequential import sequential_estimate
from .slowing import slowed
from .work import row_words, transfer_cycles, work_cycles

__all__ = ["LATENCY", "estimate"]

_MET = 1
"""Cycles from a retirement to its being known in front of the engines."""

_DELIVERED = 2
"""Cycles from an instruction's arrival in front of its engine to its being known there."""

_ACCEPTED = (3, 2, 2, 4, 11)
"""Cycles from an engine's taking an instruction to its first work, a queue; in STORE's are two of
reading the scratchpad. Those of ARRAY, VECTOR and POST have a register less in a relaxed core."""

ISSUE = (1 - REQUEST, 0, 0, 1, 2)
"""Cycles between the last work of an instruction and the first of the next, a queue. Requests of
LOADs follow each other."""

LATENCY = (4, 5, 6, 28, 1)
"""Cycles from the last work of an instruction to its retirement, without the array's rows, a queue;
in those of ARRAY, VECTOR and POST are two of reading the scratchpad."""

END = 5
"""Cycles from the last retirement to the end of the run."""

START = 6
"""Cycles from the run command to the first request for an instruction, without reading the
descriptor."""

_WAITING_BEATS, _WAITING_WORDS = 3, 4
"""What a LOAD can take before the words of a FILL in front of it are written."""

_RESUME = 5
"""Cycles from the last of those to the next beat that is taken."""

_TILE_LEAD = 2
"""Cycles from the beginning of a tile's reading to the first pixel that may meet it."""

_WEIGHTS_LEAD = 1
"""Cycles from the beginning of the reading of the vector unit's weights to the first word that may
meet them, beside one a weight."""

_HELD = (Queue.ARRAY, Queue.VECTOR, Queue.POST)
"""Whose engines hold the next instruction while they are at one, except in a relaxed core."""

_CHOICE, _REQUEST = len(Queue), len(Queue) + 1
"""The fetch's events, beside those of the queues: it chooses a queue, and its request is chosen."""


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
        return sequential_estimate(config, lists)
    return _Model(config, lists, latency).run()


class _Model:
    """The machine in the middle of a run; queues are plain numbers here, for speed."""

    def __init__(self, config: Config, lists: Mapping[Queue, Sequence[Instruction]], latency: int):
        number = len(Queue)
        self.config = config
        self.lists = [lists[queue] for queue in Queue]
        late = scratchpad_latency(config) - 2
        self.accepted = [*_ACCEPTED[:-1], _ACCEPTED[-1] + late]
        for queue in _HELD:
            self.accepted[queue] -= config.relaxed
        self.latency = (LATENCY[0], *(cycles + late for cycles in LATENCY[1:-1]), LATENCY[-1])
        self.port = MemoryPort(config, latency)
        self.fetching = Fetching(config, [len(items) for items in self.lists], self.port, START)
        self.loading = Loading(config, self.port)
        # As long before its first word as a LOAD can ask for data, which wait for it.
        self.ahead = latency + LOAD_WINDOW_BEATS * self.port.rate
        self.load_was_last = False  # of those that the port's reads take turns for
        self.pace = 1.0      # cycles a beat of the LOAD under way
        self.density = 0.0   # words a beat that it writes into the scratchpad
        self.written = 0     # when the last word of LOADs and FILLs is
        self.filled = 0      # when the last word of FILLs is
        self.waiting = 0     # beats that LOADs have taken since then
        self.tile_lead = _TILE_LEAD + tile_wait(config)
        self.tile_read = 0   # when the array's loader has read its last tile
        self.pass_begun = 0  # when the array's last pass began
        self.weights_taken = 0  # when the vector unit has begun with its last weights
        # From when to when the array and the post-processor are at which instruction, of late.
        self.passes: deque[tuple[int, int, Array]] = deque()
        self.results: deque[tuple[int, int, Post]] = deque()
        self.added: list[Additions] = []  # to accumulators, of late
        self.windows: Additions | None = None  # by what the vector unit is at
        self.retired: list[list[int]] = [[] for _ in range(number)]
        self.work: list[list[int]] = [[] for _ in range(number)]
        self.begun = [0] * number  # when the last instruction did
        self.free = [0] * number   # when the next one can, or can go on
        self.left = [0] * number   # what is still to do of one that goes on
        self.ready: list[int | None] = [None] * number
        # What a queue waits for, with an unknown time: that a list has so many items.
        self.lacks: list[tuple[list[int], int]] = [
            (delivered, 1) for delivered in self.fetching.delivered]
        self.beats = 0
        self.marks: list[int] = []

    def run(self) -> Estimate:
        """Issue everything in the order of time."""
        fetching, lacks, left = self.fetching, self.lacks, self.left
        queues = range(len(Queue))
        times = [*(self._time(queue) for queue in queues), fetching.choice, fetching.asks]
        remaining = sum(map(len, self.lists))
        while remaining:
            time = min(times)
            if time == NEVER:
                raise ValueError("the program's thresholds cannot all be met")
            chosen = times.index(time)
            if chosen == Queue.LOAD and left[chosen] and times[_REQUEST] == time and (
                    fetching.hurries or self.load_was_last):
                chosen = _REQUEST
            if chosen == _CHOICE:
                fetching.choose()
            elif chosen == _REQUEST:
                if not fetching.hurries:
                    self.load_was_last = False
                fetching.request()
            else:
                times[chosen] = NEVER
                remaining -= self._step(chosen, time, min(times))
                times[chosen] = self._time(chosen)
            for queue in queues:
                if times[queue] == NEVER:
                    awaited, count = lacks[queue]
                    if len(awaited) >= count:
                        times[queue] = self._time(queue)
            if left[Queue.LOAD]:
                times[Queue.LOAD] = self._time(Queue.LOAD)
            times[_CHOICE], times[_REQUEST] = fetching.choice, fetching.asks
        end = max(retired[-1] for retired in self.retired)
        return Estimate(end, tuple(self.marks), dict(zip(Queue, self.retired, strict=True)),
                        dict(zip(Queue, self.work, strict=True)),
                        self.beats + fetching.beats, fetching.beats)

    def _time(self, queue: int) -> int:
        """When the queue's next instruction, or its next burst, can begin."""
        free = self.free[queue]
        if self.left[queue]:
            if queue == Queue.LOAD and self.loading.left:
                return max(self.loading.asked, self.port.open)
            return free
        ready = self.ready[queue]
        if ready is None:
            ready = self._ready(queue)
            if ready is None:
                return NEVER
            self.ready[queue] = ready
            if queue in _HELD and not self.config.relaxed:
                # The engine takes it when it has begun the one before.
                self.fetching.leave(queue, max(ready - self.accepted[queue], self.begun[queue]))
        return ready if ready > free else free

    def _ready(self, queue: int) -> int | None:
        """When the queue's next instruction is there and its thresholds are met."""
        index, delivered = len(self.retired[queue]), self.fetching.delivered[queue]
        if index >= len(delivered):
            self.lacks[queue] = delivered, index + 1
            return None
        ready = delivered[index] + _DELIVERED
        for other, count in enumerate(self.lists[queue][index].waits):
            if count:
                times = self.retired[other]
                if len(times) < count:
                    self.lacks[queue] = times, count
                    return None
                met = times[count - 1] + _MET
                if met > ready:
                    ready = met
        return ready + self.accepted[queue]

    def _step(self, queue: int, time: int, until: int) -> int:
        """Issue an instruction or a part of its work; returns 1 when it is complete. Nothing else
        happens before `until`."""
        instruction = self.lists[queue][len(self.retired[queue])]
        if self.left[queue]:
            match instruction:
                case Load():
                    return self._load(time, until, instruction)
                case Fill():
                    return self._fill(time, instruction)
                case Store():
                    return self._store(time, until, instruction)
                case Vector():
                    return self._windows(time, instruction)
                case Post():
                    return self._results(time, instruction)
        self.begun[queue] = time
        if queue not in _HELD or self.config.relaxed:
            self.fetching.leave(queue, time - self.accepted[queue])
        match instruction:
            case Load():
                beats, cycles = transfer_cycles(self.config, instruction)
                self.loading.begin(time, instruction)
                self.pace = cycles / beats
                self.density = (row_words(instruction, self.config.rows) * instruction.rows
                                * instruction.planes / beats)
                self.work[queue].append(cycles)
                self.beats += beats
                self.left[queue] = 1
            case Store():
                beats, cycles = transfer_cycles(self.config, instruction)
                self.work[queue].append(cycles)
                self.beats += beats
                self.left[queue] = beats
                self.free[queue] = time
            case Fill():
                return self._fill(time, instruction)
            case Array():
                end = self._passes(time, self.ready[queue] or 0, instruction)
                self.passes.append((time, end, instruction))
                self.added.append(additions(self.config, instruction, time, end))
                return self._retire(queue, end - time, end, end + through_array(self.config))
            case Vector():
                self.begun[queue], self.left[queue] = self._weights(time, instruction)
                self._forget(time)
                return self._windows(time, instruction)
            case Post():
                self.results.append((time, time, instruction))
                self.left[queue] = work_cycles(self.config, instruction)
                self._forget(time)
                return self._results(time, instruction)
            case End():
                return self._retire(queue, 0, time, time - self.accepted[queue])
        return 0

    def _results(self, time: int, instruction: Post) -> int:
        """Go on until the results are there, when by now nobody else has begun who is in the way of
        what they are made from."""
        queue = Queue.POST
        begun, cycles = self.begun[queue], self.left[queue]
        if reads_operands(instruction):
            cycles = slowed(begun, cycles, (
                (since, until, 1 / operand_pace(self.config, instruction, array))
                for since, until, array in self.passes)) - begun
        end = begun + cycles
        half = half_read(self.config, instruction)
        if half is not None:
            others = [*self.added, self.windows] if self.windows else self.added
            end = read_end(begun, cycles, half, others)
        self.results[-1] = begun, end, instruction
        if time < end:
            self.free[queue] = end
            return 0
        self.left[queue] = 0
        return self._retire(queue, end - begun, end, end)

    def _load(self, time: int, until: int, instruction: Load) -> int:
        """Ask for data, as much as can be before `until`."""
        loading, port = self.loading, self.port
        to_scratchpad = instruction.target == LoadTarget.SCRATCHPAD
        while True:
            beats = loading.burst
            cycles = round(beats * self.pace)
            if to_scratchpad:
                first = max(port.moved + port.latency, port.taken, self.written)
                cycles = self._written(first, instruction, beats * self.density, cycles) - first
            taken = loading.ask(time, self._room(beats), cycles)
            self.written = max(taken, self.written)
            self.load_was_last = True
            if not loading.left:
                self.left[Queue.LOAD] = 0
                return self._retire(Queue.LOAD, None, time, self.written)
            time = max(loading.asked, port.open)
            if time >= until:
                return 0

    def _room(self, beats: int) -> int:
        """From when on there is room for the next beats of LOADs, behind a FILL."""
        room = _WAITING_BEATS + round(_WAITING_WORDS / self.density) - self.waiting
        self.waiting += beats
        return self.filled + _RESUME - max(0, room) if beats > room else 0

    def _store(self, time: int, until: int, instruction: Store) -> int:
        """Write beats, as many as can be before `until`."""
        queue, port = Queue.STORE, self.port
        most = max(1, min(self.left[queue], (until - time) // port.rate))
        beats, self.free[queue] = port.write(time, most)
        self.left[queue] -= beats
        if self.left[queue]:
            return 0
        done = max(self.free[queue], self.begun[queue] + self.work[queue][-1])
        return self._retire(queue, None, done, done)

    def _fill(self, time: int, instruction: Fill) -> int:
        """Go on until what follows can be asked for: when the last rows wait to be written, and not
        earlier than makes a difference, by when the post-processor may have begun to write too."""
        queue, work = Queue.LOAD, work_cycles(self.config, instruction)
        begin = max(self.begun[queue], self.written)
        end = self._written(begin, instruction, work, work)
        rows = instruction.rows * instruction.planes
        place = max(self.begun[queue] + rows, self.loading.place(begin, end - begin, rows))
        known = max(place, end - self.ahead)
        if time < known:
            self.left[queue] = 1
            self.free[queue] = known
            return 0
        self.left[queue] = 0
        self.loading.fill(begin, end - begin, rows)
        self.written = self.filled = end
        self.waiting = 0
        return self._retire(queue, end - begin, place + REQUEST, end)

    def _written(self, begin: int, instruction: Load | Fill, words: float, cycles: int) -> int:
        """When `words` are written into the scratchpad that come from `begin` on in `cycles`."""
        if not self.results or self.results[-1][1] <= begin:
            return begin + cycles
        while self.results[0][1] <= begin:
            self.results.popleft()
        spells = []
        for since, until, post in self.results:
            pace = words * (1 + write_waits(self.config, instruction, post)) / cycles
            spells.append((since, until, 1 / max(1.0, pace)))
        return slowed(begin, cycles, spells)

    def _forget(self, time: int) -> None:
        """Forget passes and additions that nobody meets who is at work at `time`."""
        for queue in (Queue.VECTOR, Queue.POST):
            if self.left[queue]:
                time = min(time, self.begun[queue])
        self.added = [other for other in self.added if other.end > time]
        while self.passes and self.passes[0][1] <= time:
            self.passes.popleft()

    def _weights(self, time: int, instruction: Vector) -> tuple[int, int]:
        """When an instruction of the vector unit begins, and its cycles: its weights are read when
        the pass before has begun with its own."""
        work = work_cycles(self.config, instruction)
        if instruction.mode != VectorMode.MAC:
            return time, work
        passes = instruction.count_2 * instruction.count_3
        weights = (1 if instruction.reduce else instruction.taps) + _WEIGHTS_LEAD
        read = max((self.ready[Queue.VECTOR] or 0) - 1, self.weights_taken + 1)
        return (max(time, read + weights),
                work + (passes - 1) * max(0, weights + 1 - work // passes))

    def _windows(self, time: int, instruction: Vector) -> int:
        """Go on until all words are read, when by now the array has not begun to read as well."""
        queue = Queue.VECTOR
        begun, cycles = self.begun[queue], self.left[queue]
        end = begun + cycles
        if time >= end:
            end = slowed(begun, cycles, (
                (since, until, read_pace(self.config, instruction, array))
                for since, until, array in self.passes))
        self.windows = additions(self.config, instruction, begun, end)
        if time < end:
            self.free[queue] = end
            return 0
        self.left[queue] = 0
        self.added.append(self.windows)
        self.windows = None
        passes = instruction.count_2 * instruction.count_3
        if instruction.mode == VectorMode.MAC:
            self.weights_taken = end - (end - begun) // passes
        return self._retire(queue, end - begun, end, end)

    def _passes(self, time: int, ready: int, instruction: Array) -> int:
        """When the last pixel of the passes enters the array.

        The loader takes a cycle a row for a tile, begins when the tile before is read and its pass
        has begun, and is ahead of the pixels by as much as it gained in longer passes.
        """
        rows, lead = self.config.rows, self.tile_lead
        step = max(rows, lead + 1)  # between two tiles
        pixels = instruction.count_0 * instruction.count_1
        others = instruction.count_2 * instruction.count_3 * instruction.count_4 - 1
        load = max(self.tile_read, self.pass_begun + 1, ready - 1)  # of the first tile
        first = last = max(time, load + lead)
        if others:
            second = max(load + rows, first + 1)
            load = second + step * (others - 1)  # of the last tile, when none waits for its pass
            last = max(first + pixels * others, load + lead)
            load = max(load, last - max(pixels, step) + 1)
        self.tile_read = load + rows
        self.pass_begun = last
        return last + pixels

    def _retire(self, queue: int, work: int | None, end: int, done: int) -> int:
        """The engine is free at `end`, and the instruction's work, unless it is known, done at
        `done`. Returns 1."""
        retired = self.retired[queue]
        instruction = self.lists[queue][len(retired)]
        if work is not None:
            self.work[queue].append(work)
        self.free[queue] = end + ISSUE[queue]
        last = retired[-1] if retired else 0
        if isinstance(instruction, End):
            at = max(last, done) + END
        else:
            at = max(last + 1, done + self.latency[queue])
        retired.append(at)
        self.ready[queue] = None
        if instruction.mark:
            self.marks.append(at)
        index = len(retired)
        # Nothing comes behind the end.
        self.lacks[queue] = (self.fetching.delivered[queue], index + 1)
        return 1
