"""The memory port as the cost model sees it: who is served when, and when data has arrived.

Reads and writes go into one queue of main memory, in the order of their acceptance, and what was
read comes back in that order: whoever does not take its data holds up everybody behind.
"""

from collections import deque

from systolith.hw.config import Config

__all__ = ["MemoryPort"]

_COMMANDS = 3
"""Commands in main memory, of which the first must have moved before it accepts a read and a write
together."""


class MemoryPort:
    """The arbiter's registers, main memory, and the data on their way.

    `open` is when the arbiter can choose the next read; all that was accepted has moved at `moved`,
    and was taken at `taken`.
    """

    def __init__(self, config: Config, latency: int):
        self.rate = config.memory_beat_cycles
        self.latency = latency
        self.open = self.moved = self.taken = 0
        self._accepted = 0        # when the last command was
        self._was_write = False
        self._begun = 0           # when the last read began to move
        self._ends = deque([0] * _COMMANDS, maxlen=_COMMANDS)  # when the last commands have moved
        depth = config.outstanding_reads
        self._outstanding = deque([0] * depth, maxlen=depth)

    def read(self, time: int, beats: int, begin: int = 0, cycles: int = 0) -> int:
        """A read that is chosen at `time`, whose data is taken from `begin` on, in no less than
        `cycles`. Returns when all was taken."""
        duration = beats * self.rate
        self.open = self._accept(time, write=False)
        self._begun = start = max(self.open, self.moved)
        self.moved = start + duration
        self._ends.append(self.moved)
        self.taken = max(start + self.latency, self.taken, begin) + max(duration, cycles)
        self._outstanding.append(self.taken)
        self.open = max(self.open, self._outstanding[0])
        return self.taken

    def write(self, time: int, most: int) -> tuple[int, int]:
        """Writes of which the first is chosen at `time`: as many as `most` when nothing else moves.
        Returns how many, and when the next can be chosen."""
        together = not self._was_write and time < self._accepted
        accepted = self._accept(time, write=True)
        if together:  # with a read, and before it
            self.moved += self.rate
            self._ends.pop()
            self._ends.extend((self._begun + self.rate, self.moved))
            return 1, accepted
        count = most if self.moved <= accepted else 1
        self.moved = max(accepted, self.moved) + count * self.rate
        self._ends.extend(self.moved - back * self.rate
                          for back in reversed(range(min(count, _COMMANDS))))
        self._accepted = self.moved - self.rate if count > 1 else accepted
        return count, self._accepted

    def _accept(self, time: int, *, write: bool) -> int:
        """When main memory accepts what is chosen at `time`: a write together with the read that
        waits as well, a read behind the write."""
        if write and not self._was_write and time < self._accepted:
            accepted = self._accepted
        else:
            accepted = max(time + 1, self._ends[0])
            if self._was_write and not write and time < self._accepted:
                accepted = max(accepted, self._accepted + 1)
        self._accepted, self._was_write = accepted, write
        return accepted
