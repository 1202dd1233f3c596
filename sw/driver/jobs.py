"""Units of work of a session: what they ask of the device, cut into requests.

A job hands out pieces, each one request, no larger than the session wishes at that moment. A piece
that has to be asked anew, perhaps in smaller parts, goes back to its job.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from systolith.errors import Error
from systolith.hw.protocol import EFFECTS, MAX_DATA, Command, words

__all__ = ["Job", "Piece", "RangeJob", "ReadJob", "SingleJob", "TimestampsJob", "WriteJob"]


@dataclass(slots=True, eq=False)
class Piece:
    """One request: its payload, the answer's length, and what its job needs to know it again."""

    job: "Job"
    command: Command
    payload: bytes
    answer_bytes: int
    offset: int = 0
    nbytes: int = 0
    # Kept by the session while the request is on the way.
    sequence: int = 0
    frame: bytes = b""
    attempts: int = 0
    first_sent_at: float = 0.0
    sent_at: float = 0.0
    timed: bool = False
    order: int = 0


class Job:
    """Something that is done when all its pieces are answered.

    Members
    -------
    effect
        It changes something, by one request that is repeated as it is until it is answered.
    remembered
        The device remembers one such request, or forgets it: two are never on the way together.
    patience
        Seconds that the device may need to answer, on top of what the link takes.
    done, error
        Whether it is over, and why it failed if it did.
    result
        The answer, once `done` without an error.
    seconds
        What the last answer took since its request was first sent; None before.
    """

    effect = False
    remembered = False
    patience = 0.0

    def __init__(self) -> None:
        self.done = False
        self.error: Error | None = None
        self.result = b""
        self.seconds: float | None = None

    def take(self, limit: int) -> Piece | None:
        """The next piece of at most `limit` data bytes, or None when nothing is left to ask."""
        raise NotImplementedError

    def put_back(self, piece: Piece) -> None:
        """A piece that was not answered and will be asked anew."""
        raise NotImplementedError

    def answer(self, piece: Piece, payload: bytes) -> None:
        """The answer to a piece."""
        raise NotImplementedError

    def must_follow(self, earlier: "Job") -> bool:
        """Whether this job may only be sent when an earlier one has been answered.

        The device executes in order, so only repetitions matter. A request that reads is executed
        anew when it is repeated, and must not see what came after it. A write may be asked anew
        in smaller pieces, in a new session, and must not undo what came after it.
        """
        return ((self.effect and not earlier.effect)
                or (self.remembered and earlier.remembered)
                or self._touches(earlier) or earlier._touches(self))

    def _touches(self, other: "Job") -> bool:
        """Whether this job writes what the other reads or writes."""
        return False

    def fail(self, error: Error) -> None:
        """End the job without a result."""
        self.done, self.error = True, error


class SingleJob(Job):
    """One request with one answer; whether it has an effect, the protocol says."""

    def __init__(self, command: Command, *arguments: int, answer_bytes: int = 0,
                 patience: float = 0.0):
        super().__init__()
        self.effect = command in EFFECTS
        self.remembered = command in (Command.RUN, Command.RESET)
        self.patience = patience
        self._piece: Piece | None = Piece(self, command, words(*arguments), answer_bytes)

    def take(self, limit: int) -> Piece | None:
        piece, self._piece = self._piece, None
        return piece

    def put_back(self, piece: Piece) -> None:
        self._piece = piece

    def answer(self, piece: Piece, payload: bytes) -> None:
        self.result = payload
        self.done = True


@dataclass(slots=True)
class _Ranges:
    """Byte ranges still to be asked: those put back first, then the untouched rest."""

    total: int
    unit: int = 1
    position: int = 0
    returned: list[tuple[int, int]] = field(default_factory=list)

    def take(self, limit: int) -> tuple[int, int] | None:
        limit = max(self.unit, limit - limit % self.unit)
        if self.returned:
            offset, nbytes = self.returned.pop()
            if nbytes > limit:
                self.returned.append((offset + limit, nbytes - limit))
            return offset, min(nbytes, limit)
        if self.position == self.total:
            return None
        offset = self.position
        nbytes = min(limit, self.total - offset)
        self.position += nbytes
        return offset, nbytes


class RangeJob(Job):
    """A run of bytes at an address, cut into requests of any size.

    `progress` is called with bytes done and bytes in all.
    """

    command: Command

    def __init__(self, address: int, total: int, *, unit: int = 1,
                 progress: Callable[[int, int], None] | None = None):
        super().__init__()
        self.address = address
        self.total = total
        self._ranges = _Ranges(total, unit)
        self._answered = 0
        self._progress = progress
        self.done = total == 0

    def take(self, limit: int) -> Piece | None:
        taken = self._ranges.take(min(limit, MAX_DATA))
        return None if taken is None else self._piece(*taken)

    def _piece(self, offset: int, nbytes: int) -> Piece:
        raise NotImplementedError

    def put_back(self, piece: Piece) -> None:
        self._ranges.returned.append((piece.offset, piece.nbytes))

    def answer(self, piece: Piece, payload: bytes) -> None:
        self._answered += piece.nbytes
        self.done = self.done or self._answered == self.total
        if self._progress is not None:
            self._progress(self._answered, self.total)

    def _overlaps(self, other: "RangeJob") -> bool:
        return (self.address < other.address + other.total
                and other.address < self.address + self.total)


class ReadJob(RangeJob):
    """Bytes of main memory to the host."""

    def __init__(self, address: int, total: int, *,
                 progress: Callable[[int, int], None] | None = None):
        super().__init__(address, total, progress=progress)
        self._buffer = bytearray(total)

    def _piece(self, offset: int, nbytes: int) -> Piece:
        return Piece(self, Command.READ, words(self.address + offset, nbytes), nbytes, offset,
                     nbytes)

    def answer(self, piece: Piece, payload: bytes) -> None:
        self._buffer[piece.offset:piece.offset + piece.nbytes] = payload
        super().answer(piece, payload)
        if self.done and self.error is None:
            self.result = bytes(self._buffer)


class WriteJob(RangeJob):
    """Bytes from the host to main memory."""

    def __init__(self, address: int, data: bytes | bytearray | memoryview,
                 progress: Callable[[int, int], None] | None = None):
        self._data = memoryview(data).cast("B")
        super().__init__(address, len(self._data), progress=progress)

    def _piece(self, offset: int, nbytes: int) -> Piece:
        return Piece(self, Command.WRITE,
                     words(self.address + offset) + self._data[offset:offset + nbytes], 0, offset,
                     nbytes)

    def _touches(self, other: Job) -> bool:
        return isinstance(other, ReadJob | WriteJob) and self._overlaps(other)


class TimestampsJob(RangeJob):
    """Entries of the timestamp log, eight bytes each."""

    def __init__(self, count: int):
        super().__init__(0, 8 * count, unit=8)
        self._buffer = bytearray(8 * count)

    def _piece(self, offset: int, nbytes: int) -> Piece:
        return Piece(self, Command.TIMESTAMPS, words(offset // 8, nbytes // 8), nbytes, offset,
                     nbytes)

    def answer(self, piece: Piece, payload: bytes) -> None:
        self._buffer[piece.offset:piece.offset + piece.nbytes] = payload
        super().answer(piece, payload)
        if self.done and self.error is None:
            self.result = bytes(self._buffer)
