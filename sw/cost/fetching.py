"""The instruction fetch as the cost model sees it: which instruction comes when.

Each queue has a buffer of instructions, which a single unit fills, one request after the other.
A queue with less than half of its places used goes before the others, and its request before
those of LOAD; but the few requests that are on their way to the port keep their order. What lies
behind a list's END is asked for as well, until the END has arrived.
"""

from collections import deque
from collections.abc import Sequence

from systolith.hw.config import Config
from systolith.hw.isa import INSTRUCTION_BYTES

from .port import MemoryPort

__all__ = ["NEVER", "Fetching", "slots"]

NEVER = 1 << 62
"""The time of what nothing that is known so far leads to."""

_CHOICE = 3
"""Cycles from a choice to its request at the port, and to the next choice."""

_WAITING = 3
"""Requests on their way to the port."""

_OUTSTANDING = 16
"""Requests without their data."""

_HANDED = 3
"""Cycles, beside one a beat, from an instruction's being wanted to its place's being free."""


def slots(config: Config) -> int:
    """Places of a queue's buffer, as in `hw/fetch.py`."""
    return 2 if config.rows <= 4 else 8


class Fetching:
    """Instructions on their way to the queues.

    `delivered` holds, a queue, when each instruction arrived in front of its engine; `beats` how
    many were asked for. `choice` is when the next request is chosen. The descriptor is asked for at
    `start`.
    """

    def __init__(self, config: Config, lengths: Sequence[int], port: MemoryPort, start: int):
        self._lengths = lengths
        self._port = port
        self._size = max(1, INSTRUCTION_BYTES // config.memory_bytes_per_beat)
        self._slots = slots(config)
        self._pending: deque[tuple[int, bool, int]] = deque()
        self._outstanding = deque([0] * _OUTSTANDING, maxlen=_OUTSTANDING)
        self._last = 0
        start += port.latency + self._size * port.rate  # as long as the descriptor's reading
        self._next = start  # when the unit is free
        self._chosen = [0] * len(lengths)
        self._places = [start] * len(lengths)
        self._ended = [NEVER] * len(lengths)
        self._filled: list[list[int]] = [[] for _ in lengths]
        self._left: list[list[int]] = [[0] for _ in lengths]
        self.delivered: list[list[int]] = [[] for _ in lengths]
        self.choice = start
        self.beats = 0

    @property
    def asks(self) -> int:
        """When the first of the requests chosen can be chosen at the port."""
        return max(self._pending[0][0], self._port.open) if self._pending else NEVER

    @property
    def hurries(self) -> bool:
        """Whether the first request at the port goes before those of LOAD."""
        return self._pending[0][1]

    def choose(self) -> None:
        """Choose the queue that is asked for, at `choice`."""
        time, half = self.choice, self._slots // 2
        asking = []
        for queue, place in enumerate(self._places):
            if time >= self._ended[queue]:
                self._places[queue] = NEVER
            elif place <= time:
                asking.append(queue)
        if not asking:
            self._plan()
            return
        few = []
        for queue in asking:
            before = self._chosen[queue] - half
            delivered = self.delivered[queue]
            if before < 0 or (before < len(delivered) and delivered[before] <= time):
                few.append(queue)
        among = few or asking
        queue = next((queue for queue in among if queue > self._last), among[0])
        self._last = queue
        self._chosen[queue] += 1
        self._place(queue)
        self._pending.append((time + _CHOICE, bool(few), queue))
        self._next = max(time + _CHOICE, self._outstanding[0])
        self._plan()

    def request(self) -> None:
        """The first request is chosen at the port, at `asks`."""
        time = self.asks
        queue = self._pending.popleft()[2]
        if len(self._pending) == _WAITING - 1:
            self._next = max(self._next, time + 2)
        taken = self._port.read(time, self._size)
        self.beats += self._size
        self._outstanding.append(taken)
        filled, length = self._filled[queue], self._lengths[queue]
        if len(filled) < length:
            filled.append(taken)
            if len(filled) == length:
                self._ended[queue] = taken - self._size + 2
        self._deliver(queue)
        self._plan()

    def leave(self, queue: int, time: int) -> None:
        """The engine takes the queue's next instruction at `time`: another may come behind it."""
        self._left[queue].append(time + 1)
        self._deliver(queue)
        self._plan()

    def _deliver(self, queue: int) -> None:
        delivered, filled, left = self.delivered[queue], self._filled[queue], self._left[queue]
        index = len(delivered)
        while index < len(filled) and index < len(left):
            delivered.append(max(filled[index], left[index]) + self._size + _HANDED)
            index += 1
        if self._places[queue] == NEVER and self._ended[queue] == NEVER:
            self._place(queue)

    def _place(self, queue: int) -> None:
        """When there is a place for the queue's next instruction."""
        index = self._chosen[queue]
        before = index - self._slots
        if before < 0:
            self._places[queue] = 0  # from the start
        else:
            delivered = self.delivered[queue]
            self._places[queue] = delivered[before] if before < len(delivered) else NEVER

    def _plan(self) -> None:
        if len(self._pending) == _WAITING:
            self.choice = NEVER
        else:
            place = min(self._places)
            self.choice = place if place > self._next else self._next
