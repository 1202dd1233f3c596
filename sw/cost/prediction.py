"""What the cost model predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from systolith.hw.isa import Queue

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A predicted run.

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
