"""The requests of LOAD and the rows of FILL as the cost model sees them: how far they run ahead of
the words that are written."""

from collections import deque

from systolith.hw.config import Config
from systolith.hw.isa import Load

from .port import MemoryPort
from .work import chunk_beats

__all__ = ["LOAD_BURST_BEATS", "LOAD_WINDOW_BEATS", "REQUEST", "Loading"]

LOAD_BURST_BEATS = 32
"""Beats of the longest request, as in `hw/load_request.py`."""

LOAD_WINDOW_BEATS = 128
"""Beats that are outstanding at most, as there."""

REQUEST = 3
"""Cycles from an instruction's first work to its first request at the port."""

_TURN = 3
"""Cycles from a beat's being taken, or a word's being written, to the request that it makes room
for."""

_WRITE = 3
"""Cycles from a row's last beat's being taken to its last word's being written."""


class Loading:
    """Requests, one after the other: bursts of chunks.

    `left` chunks remain to be asked for, the next burst at `asked` at the earliest.
    """

    def __init__(self, config: Config, port: MemoryPort):
        self._config = config
        self._port = port
        depth = config.outstanding_reads
        # When the request can be made for which each makes place, as many behind as these hold.
        self._chunks = deque([0] * (depth + 1), maxlen=depth + 1)
        self._rows = deque([0] * depth, maxlen=depth)
        self._bursts: deque[tuple[int, int]] = deque()   # in the window, with their beats
        self._window = 0  # beats of those
        self._mean = self._rest = 0.0
        self._row = self._row_left = 1  # chunks of a row
        self._beats = 0
        self.left = 0
        self.asked = 0

    def begin(self, time: int, load: Load) -> None:
        """The instruction's first work may be done at `time`."""
        self.left = load.chunks * load.rows * load.planes
        self._mean, self._rest = chunk_beats(self._config, load), 1e-9
        self._row = self._row_left = load.chunks
        self.asked = max(self.asked, time + REQUEST)
        self._next_chunk()

    def _next_chunk(self) -> None:
        total = self._mean + self._rest
        self._beats = int(total)
        self._rest = total - self._beats
        place = self._chunks[0]
        if self._row_left == self._row and self._rows[0] > place:
            place = self._rows[0]
        if self.asked < place:
            self.asked = place

    @property
    def burst(self) -> int:
        """Beats of the next request."""
        return self._beats if self._beats < LOAD_BURST_BEATS else LOAD_BURST_BEATS

    def ask(self, time: int, begin: int, cycles: int) -> int:
        """Have the next burst chosen at `time`; its data is taken from `begin` on, in `cycles` or
        more. Returns when all was taken."""
        burst = self.burst
        taken = self._port.read(time, burst, begin, cycles)
        self._bursts.append((taken, burst))
        self._window += burst
        self.asked = time + 1
        while self._window > LOAD_WINDOW_BEATS - LOAD_BURST_BEATS:
            oldest, beats = self._bursts.popleft()
            self._window -= beats
            self.asked = max(self.asked, oldest + _TURN)
        self._beats -= burst
        if not self._beats:
            self._chunks.append(taken + _TURN)
            self._row_left -= 1
            if not self._row_left:
                self._rows.append(taken + _WRITE + _TURN)
                self._row_left = self._row
            self.left -= 1
            if self.left:
                self._next_chunk()
        return taken

    def place(self, begin: int, cycles: int, rows: int) -> int:
        """When the last of as many rows of a FILL, written from `begin` on in `cycles`, waits for
        that."""
        behind = rows - len(self._rows)
        if behind > 0:
            return begin + cycles * behind // rows
        return self._rows[rows - 1] - _TURN

    def fill(self, begin: int, cycles: int, rows: int) -> None:
        """Have as many rows of a FILL written from `begin` on in `cycles`."""
        self._rows.extend(begin + cycles * (row + 1) // rows + _TURN
                          for row in range(max(0, rows - len(self._rows)), rows))
