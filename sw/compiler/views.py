"""Where pixels lie in the scratchpad, and software-managed rings of words."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

__all__ = ["RingCache", "Tile", "View"]


@dataclass(frozen=True)
class Tile:
    """Output pixels [top, bottom) x [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def pixels(self) -> int:
        """Pixels, which is also the number of accumulator words."""
        return self.height * self.width


@dataclass(frozen=True, kw_only=True)
class View:
    """A feature's buffer: `capacity` rows of `groups` channel groups of `width` words.

    A ring in rows: row y lies in slot `(y - first_row) % capacity`. Coordinates are the feature's
    own; negative ones and those beyond its size are padding. `first_group`, `first_column` are the
    coordinates of the first word. With `circular` channel groups take turns in the buffer.
    """

    base: int
    capacity: int
    groups: int
    width: int
    first_row: int = 0
    first_column: int = 0
    first_group: int = 0
    circular: bool = False

    @property
    def row_pitch(self) -> int:
        """Words from a row to the next."""
        return self.groups * self.width

    @property
    def group_pitch(self) -> int:
        """Words from a channel group to the next."""
        return self.width

    @property
    def words(self) -> int:
        """Words of the whole buffer."""
        return self.capacity * self.row_pitch

    def address(self, group: int, row: int, column: int) -> int:
        """Word address of a pixel."""
        slot = (row - self.first_row) % self.capacity
        column -= self.first_column
        group -= self.first_group
        if self.circular:
            group %= self.groups
        assert 0 <= group < self.groups and 0 <= column < self.width, (self, group, row, column)
        return self.base + slot * self.row_pitch + group * self.group_pitch + column

    def runs(self, first: int, count: int, step: int = 1) -> Iterator[tuple[int, int]]:
        """Cut rows first, first + step, … into runs (index, length) without a wrap inside."""
        begin = 0
        for index in range(1, count):
            row = first + index * step
            if ((row - self.first_row) // self.capacity
                    != (row - step - self.first_row) // self.capacity):
                yield begin, index - begin
                begin = index
        yield begin, count - begin

    def wraps(self, low: int, high: int) -> bool:
        """Whether rows [low, high) cross the end of the ring."""
        return ((low - self.first_row) // self.capacity
                != (high - 1 - self.first_row) // self.capacity)


class RingCache:
    """Blocks of words in a memory that is filled round and round; new blocks evict the oldest."""

    def __init__(self, words: int):
        self.words = words
        self._head = 0
        self._blocks: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def find(self, key: Hashable) -> int | None:
        """Address of a block that is still there."""
        block = self._blocks.get(key)
        return None if block is None else block[0]

    def place(self, key: Hashable, words: int) -> int:
        """Make room for a block and return its address."""
        assert 0 < words <= self.words, (key, words, self.words)
        if self._head + words > self.words:
            self._head = 0
        low, high = self._head, self._head + words
        for other in [name for name, (start, size) in self._blocks.items()
                      if start < high and low < start + size]:
            del self._blocks[other]
        self._blocks[key] = (low, words)
        self._head = high
        return low
