"""Order between instructions: who must have retired before an instruction may begin.

Queues overlap, and so do instructions of one queue, between begin and retirement. Two accesses to
the same words, at least one a write, are safe when the first instruction has retired before the
second begins, or when one queue promises their order:

- writes of one queue happen in order, and so do its reads before later writes;
- ARRAY and VECTOR read, add and write their accumulators in order;
- POST does not promise that it reads what its previous instruction wrote: that takes a wait on its
  own queue.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import Queue

from .accesses import Access, Words, memory_sizes

__all__ = ["Clocks", "Conflict", "History", "UnwrittenError"]

_QUEUES = tuple(Queue)

_USERS: dict[str, tuple[tuple[Queue, ...], tuple[Queue, ...]]] = {
    "main": ((Queue.STORE,), (Queue.LOAD,)),
    "scratchpad": ((Queue.LOAD, Queue.POST),
                   (Queue.ARRAY, Queue.VECTOR, Queue.POST, Queue.STORE)),
    "weights": ((Queue.LOAD,), (Queue.ARRAY,)),
    "vector_weights": ((Queue.LOAD,), (Queue.VECTOR,)),
    "parameters": ((Queue.LOAD,), (Queue.POST,)),
    "table": ((Queue.LOAD,), (Queue.POST,)),
    "accumulators": ((Queue.ARRAY,), (Queue.ARRAY, Queue.POST)),
    "vector_accumulators": ((Queue.VECTOR,), (Queue.VECTOR, Queue.POST)),
}
"""Queues that write, and queues that read each memory."""

Clock = tuple[int, ...]
"""Instructions a queue known to have retired, in the order of `Queue`."""


class Clocks:
    """What has retired, at the least, when each instruction begins.

    An instruction's clock joins its predecessor's with its thresholds and with the clocks of the
    instructions that those name. Instructions are added in an order that the thresholds allow.
    """

    def __init__(self) -> None:
        self._clocks: list[list[Clock]] = [[] for _ in _QUEUES]

    def count(self, queue: Queue) -> int:
        """Instructions of a queue added so far."""
        return len(self._clocks[queue])

    def preview(self, queue: Queue, waits: Sequence[int]) -> Clock:
        """The clock that the next instruction of `queue` would have with these thresholds."""
        clocks = [tuple(waits)]
        if self._clocks[queue]:
            clocks.append(self._clocks[queue][-1])
        clocks += [self._clocks[other][wait - 1] for other, wait in enumerate(waits) if wait]
        return tuple(map(max, *clocks)) if len(clocks) > 1 else clocks[0]

    def thresholds(self, queue: Queue, required: Sequence[int]) -> Clock:
        """Fewest thresholds with which the next instruction of `queue` has `required` retired."""
        waits = list(required)
        for other in _QUEUES:
            fewer = [0 if index == other else wait for index, wait in enumerate(waits)]
            clock = self.preview(queue, fewer)
            if all(known >= wanted for known, wanted in zip(clock, required, strict=True)):
                waits = fewer
        return tuple(waits)

    def add(self, queue: Queue, waits: Sequence[int]) -> Clock:
        """Add the next instruction of `queue` and return its clock."""
        clock = self.preview(queue, waits)
        self._clocks[queue].append(clock)
        return clock


@dataclass(frozen=True)
class Conflict:
    """An access that must come after instruction `index` of `queue` has retired."""

    queue: Queue
    index: int
    access: Access
    word: int


class UnwrittenError(Exception):
    """A read of a word that nothing has written: which word of which memory."""

    def __init__(self, access: Access, word: int):
        super().__init__(f"reads {access.memory} word {word}, which nothing has written before")


class History:
    """The last accesses to every word of every memory, by queue.

    A stamp is the number of an instruction in its queue, counted from 1; so an access is ordered
    behind the stamps of a queue when that many of its instructions have retired.

    Parameters
    ----------
    config
        Geometry.
    main
        Bytes of main memory that are followed; `main_start` is the address of the first. Bytes
        before that are constant and always defined, and may not be written.
    """

    def __init__(self, config: Config, main: int, main_start: int = 0):
        self._main_start = main_start
        sizes = memory_sizes(config) | {"main": max(0, main - main_start)}
        self._full = (1 << config.rows) - 1
        self._writes: dict[str, dict[Queue, NDArray[np.int32]]] = {}
        self._reads: dict[str, dict[Queue, NDArray[np.int32]]] = {}
        self._written: dict[str, NDArray[Any]] = {}
        for name, (writers, readers) in _USERS.items():
            self._writes[name] = {queue: np.zeros(sizes[name], np.int32) for queue in writers}
            self._reads[name] = {queue: np.zeros(sizes[name], np.int32) for queue in readers}
            # A bit a byte of scratchpad words, of which POST may write a part; else a bit a word.
            kind = np.uint64 if name == "scratchpad" else np.uint8
            self._written[name] = np.zeros(sizes[name], kind)

    def _words(self, access: Access) -> Words:
        """Words of an access as indices here: main memory without its constant part."""
        words = access.words
        if access.memory != "main":
            return words
        if isinstance(words, slice):
            return slice(max(0, words.start - self._main_start),
                         max(0, words.stop - self._main_start))
        return words[words >= self._main_start] - self._main_start

    def _mask(self, access: Access) -> np.unsignedinteger[Any]:
        if access.memory != "scratchpad":
            return np.uint8(1)
        return np.uint64(self._full if access.mask is None else access.mask)

    def define(self, start: int, count: int) -> None:
        """Declare bytes of main memory as written by the host."""
        begin = max(0, start - self._main_start)
        self._written["main"][begin:max(0, start + count - self._main_start)] = 1

    def defined(self, start: int, count: int) -> NDArray[np.bool_]:
        """Which bytes of main memory the host or an instruction has written."""
        addresses = np.arange(start, start + count)
        result = addresses < self._main_start
        inside = addresses[~result] - self._main_start
        result[~result] = self._written["main"][inside] != 0
        return result

    def check_written(self, access: Access) -> None:
        """Raise `UnwrittenError` unless all that a read reads has been written."""
        mask = self._mask(access)
        missing = self._written[access.memory][self._words(access)] & mask != mask
        if missing.any():
            raise UnwrittenError(access, self._word(access, missing))

    def _word(self, access: Access, wrong: NDArray[np.bool_]) -> int:
        """Address of the first word marked in `wrong`."""
        words = self._words(access)
        position = int(wrong.argmax())
        word = words.start + position if isinstance(words, slice) else int(words[position])
        return word + (self._main_start if access.memory == "main" else 0)

    def required(self, queue: Queue, accesses: Iterable[Access]) -> Clock:
        """What must have retired before an instruction with these accesses may begin."""
        result = [0] * len(_QUEUES)
        for access in accesses:
            words = self._words(access)
            for other, stamps in self._conflicting(queue, access):
                result[other] = max(result[other], int(stamps[words].max(initial=0)))
        return tuple(result)

    def conflict(self, queue: Queue, accesses: Iterable[Access], clock: Clock) -> Conflict | None:
        """The first access that `clock` does not order behind an earlier instruction, if any."""
        for access in accesses:
            words = self._words(access)
            for other, stamps in self._conflicting(queue, access):
                found = stamps[words]
                if found.max(initial=0) > clock[other]:
                    word = self._word(access, found > clock[other])
                    stamp = int(found[(found > clock[other]).argmax()])
                    return Conflict(other, stamp - 1, access, word)
        return None

    def _conflicting(self, queue: Queue,
                     access: Access) -> list[tuple[Queue, NDArray[np.int32]]]:
        """Stamps of the accesses that an access may conflict with and its queue does not order."""
        writes = self._writes[access.memory].items()
        if not access.write:
            ordered = queue != Queue.POST
            return [(other, stamps) for other, stamps in writes
                    if other != queue or not ordered]
        reads = self._reads[access.memory].items()
        return [(other, stamps) for other, stamps in (*writes, *reads) if other != queue]

    def record(self, queue: Queue, number: int, accesses: Iterable[Access]) -> None:
        """Enter the accesses of the instruction with this number (from 1) in its queue."""
        for access in accesses:
            words = self._words(access)
            if access.write:
                self._writes[access.memory][queue][words] = number
                self._written[access.memory][words] |= self._mask(access)
            else:
                self._reads[access.memory][queue][words] = number

    def used(self, memory: str) -> int:
        """Words of a memory that have been written."""
        return int(np.count_nonzero(self._written[memory]))
