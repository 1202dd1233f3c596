"""The order of work inside a segment: stripes of rows, made when a consumer asks for them.

A segment is a run of operations whose features lie in row rings in the scratchpad. The last
operation is made stripe by stripe; each stripe asks for the rows it reads, which the operation in
front, or a load, then makes. So a ring holds only the rows between what is made and what is still
read, and a block's wide middle never leaves the chip. The same walk first measures the rings and
later emits the instructions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .ir import Operation, Source

__all__ = ["Extent", "Segment", "Sink", "Walk", "stripe_count"]


@dataclass(frozen=True)
class Extent:
    """Rows [top, bottom) and columns [left, right) of a feature's buffer, padding included."""

    top: int
    bottom: int
    left: int
    right: int
    pad_value: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left


@dataclass(kw_only=True)
class Segment:
    """Operations executed together.

    Parameters
    ----------
    operations
        In order.
    height
        Rows of a stripe of the last operation.
    limits
        Rows that a stripe of each operation has at most, by output feature.
    loaded
        Features that come from main memory.
    whole
        Features whose buffers hold all rows, because other segments use them too.
    present
        Those of them that an earlier segment made.
    extents, heights
        Buffer extents, and numbers of real rows, by feature.
    """

    operations: list[Operation]
    height: int
    limits: dict[str, int]
    loaded: set[str]
    whole: set[str]
    present: set[str]
    extents: dict[str, Extent]
    heights: dict[str, int]

    def reads(self, feature: str) -> bool:
        """Whether an operation of the segment reads a feature."""
        return any(feature in operation.inputs for operation in self.operations)

    def pads(self, feature: str) -> bool:
        """Whether a feature's padding is read from the buffer that this segment fills."""
        return feature in self.whole or self.reads(feature)


class Sink(Protocol):
    """What a walk drives."""

    def begin(self, feature: str) -> None:
        """The first rows of a feature are about to be made."""

    def load(self, feature: str, top: int, bottom: int) -> None:
        """Bring rows of a feature from main memory."""

    def pad(self, feature: str, top: int, bottom: int) -> None:
        """Fill whole rows of padding."""

    def compute(self, operation: Operation, top: int, bottom: int,
                ahead: Callable[[], None]) -> None:
        """Make rows of an operation's output; call `ahead` when other work may come between."""


def stripe_count(rows: int, limit: int) -> int:
    """Stripes of at most `limit` rows."""
    return -(-rows // limit)


class Walk:
    """One pass over a segment.

    Parameters
    ----------
    segment
        What to do.
    sink
        Receives the steps.

    Attributes
    ----------
    capacities
        Rows that the ring of each feature needs, known after `run`.
    stripes
        Heights of the stripes of each operation, by output feature.
    """

    def __init__(self, segment: Segment, sink: Sink):
        self.segment = segment
        self.sink = sink
        self._producers = {operation.output: operation for operation in segment.operations}
        self._made: dict[str, int] = {}
        self._done = {operation.output: 0 for operation in segment.operations}
        self._readers: dict[str, list[tuple[Operation, Source | None]]] = {}
        for operation in segment.operations:
            for source in operation.sources:
                self._readers.setdefault(source.feature, []).append((operation, source))
            if operation.finish.residual is not None:
                self._readers.setdefault(operation.finish.residual.feature, []).append(
                    (operation, None))
        for name in segment.present:
            self._made[name] = segment.extents[name].bottom
        self.capacities: dict[str, int] = {}
        self.stripes: dict[str, list[int]] = {}

    def run(self) -> None:
        """Make all rows of the segment's last operation, then what nobody asked for."""
        last = self.segment.operations[-1]
        height = self.segment.heights[last.output]
        top = 0
        while top < height:
            top = min(top + self.segment.height, height)
            self._request(last.output, top)
        for operation in self.segment.operations:
            self._request(operation.output, self.segment.extents[operation.output].bottom
                          if operation.output in self.segment.whole
                          else self.segment.heights[operation.output])
        # Later segments read the padding of what this one has loaded for them.
        for name in sorted(self.segment.loaded & self.segment.whole):
            self._request(name, self.segment.extents[name].bottom)

    def _request(self, feature: str, bottom: int) -> None:
        """Make sure that rows up to `bottom` are there."""
        extent = self.segment.extents[feature]
        if feature not in self._made:
            self._made[feature] = extent.top if self.segment.pads(feature) else 0
            self.sink.begin(feature)
        height = self.segment.heights[feature]
        while self._made[feature] < bottom:
            made = self._made[feature]
            if made < 0:
                self._advance(feature, 0)
                self.sink.pad(feature, made, 0)
            elif made >= height:
                self._advance(feature, bottom)
                self.sink.pad(feature, made, bottom)
            elif feature in self._producers:
                self._compute(self._producers[feature], min(bottom, height))
            else:
                self._advance(feature, min(bottom, height))
                self.sink.load(feature, made, self._made[feature])

    def _compute(self, operation: Operation, bottom: int) -> None:
        """Make the next stripe of an operation on the way to row `bottom`."""
        feature = operation.output
        top = self._done[feature]
        limit = self.segment.limits[feature]
        rows = -(-(bottom - top) // stripe_count(bottom - top, limit))
        bottom = top + rows
        for source in operation.sources:
            self._request(source.feature, self._needed(operation, source, bottom))
        if operation.finish.residual is not None:
            self._request(operation.finish.residual.feature, bottom)
        self._advance(feature, bottom)
        self.stripes.setdefault(feature, []).append(rows)
        self.sink.compute(operation, top, bottom, lambda: self._ahead(operation, bottom, rows))
        self._done[feature] = bottom

    def _ahead(self, operation: Operation, bottom: int, rows: int) -> None:
        """Load what the next stripe will read."""
        following = min(bottom + rows, self.segment.heights[operation.output])
        if following == bottom:
            return
        for source in operation.sources:
            if source.feature in self.segment.loaded:
                self._request(source.feature, self._needed(operation, source, following))
        residual = operation.finish.residual
        if residual is not None and residual.feature in self.segment.loaded:
            self._request(residual.feature, following)

    def _needed(self, operation: Operation, source: Source, bottom: int) -> int:
        """Rows of a source that output rows up to `bottom` need."""
        return min(source.span(0, bottom - 1, bottom)[1],
                   self.segment.extents[source.feature].bottom)

    def _advance(self, feature: str, bottom: int) -> None:
        top = self._made[feature]
        self._made[feature] = bottom
        extent = self.segment.extents[feature]
        low = top
        if feature in self.segment.whole:
            low = extent.top
        for operation, source in self._readers.get(feature, ()):
            done = self._done[operation.output]
            if done < self.segment.heights[operation.output]:
                first = done if source is None else source.span(0, done, done + 1)[0]
                low = min(low, max(first, extent.top))
        self.capacities[feature] = max(self.capacities.get(feature, 1), bottom - low)
