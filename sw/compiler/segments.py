"""Execution of a planned segment: the walk's steps become instructions."""

from collections.abc import Callable

from systolith.hw.config import Config

from .blocked import Pixels
from .finish import MainTensor, fill, load, load_packed, post, post_total, store
from .ir import Lowered, Matrix, Operation, Point, Window
from .stripes import Segment, Walk
from .tiles import Tiler
from .views import Tile, View

__all__ = ["SegmentEmitter"]

STORE_WORDS = 64
"""Words that a STORE moves at least before finished rows are written out group by group."""


class SegmentEmitter:
    """A sink of `stripes.Walk` that emits.

    Parameters
    ----------
    tiler, lowered, tensors
        As for `Blocked`.
    segment
        What to emit.
    views
        Buffers by feature.
    stored
        Features that go to main memory as they are made.
    """

    def __init__(self, tiler: Tiler, lowered: Lowered, tensors: dict[str, MainTensor | Pixels],
                 segment: Segment, views: dict[str, View], stored: set[str]):
        self.tiler = tiler
        self.config: Config = tiler.config
        self.lowered = lowered
        self.tensors = tensors
        self.segment = segment
        self.views = views
        self.stored = stored

    def run(self) -> None:
        """Emit the whole segment."""
        Walk(self.segment, self).run()

    # Sink ---------------------------------------------------------------------------------------

    def begin(self, feature: str) -> None:
        """Fill the columns of padding of all rows of a ring, and words that nothing writes."""
        view = self.views[feature]
        extent = self.segment.extents[feature]
        shape = self.lowered.features[feature]
        rows = extent.top, extent.top + view.capacity
        emitter = self.tiler.emitter
        for columns in ((extent.left, 0), (shape.width, extent.right)):
            if columns[0] < columns[1]:
                fill(emitter, view, extent.pad_value, (0, view.groups), rows, columns)
        real = shape.groups(self.config)
        if real < view.groups:
            fill(emitter, view, extent.pad_value, (real, view.groups), rows, (0, shape.width))

    def pad(self, feature: str, top: int, bottom: int) -> None:
        """Fill whole rows."""
        view, extent = self.views[feature], self.segment.extents[feature]
        fill(self.tiler.emitter, view, extent.pad_value, (0, view.groups), (top, bottom),
             (extent.left, extent.right))

    def load(self, feature: str, top: int, bottom: int) -> None:
        """Bring rows of a feature from main memory."""
        view, shape = self.views[feature], self.lowered.features[feature]
        tensor = self.tensors[feature]
        columns = 0, shape.width
        if isinstance(tensor, Pixels):
            load_packed(self.tiler.emitter, tensor.packing, tensor.address, tensor.pitch, view,
                        (top, bottom), columns)
        else:
            load(self.tiler.emitter, tensor, view, (0, tensor.groups), (top, bottom), columns)

    def compute(self, operation: Operation, top: int, bottom: int,
                ahead: Callable[[], None]) -> None:
        """Emit the tiles of a stripe."""
        width = self.lowered.features[operation.output].width
        if isinstance(operation, Window) and operation.total:
            self._total(operation)
            return ahead()
        limit = self.config.accumulator_words
        if isinstance(operation, Window):
            limit = self.config.vector_accumulator_words
        most = max(1, limit // (bottom - top))
        parts = -(-width // most)
        each = -(-width // parts)
        for left in range(0, width, each):
            tile = Tile(top, bottom, left, min(left + each, width))
            if isinstance(operation, Matrix):
                self._matrix(operation, tile, ahead)
            else:
                self._words(operation, tile, ahead)

    # Tiles --------------------------------------------------------------------------------------

    def _store(self, operation: Operation, groups: tuple[int, int], tile: Tile,
               pending: list[int]) -> None:
        """Store finished groups, several together when they are small; `pending` is the first."""
        if operation.output not in self.stored:
            return
        tensor = self.tensors[operation.output]
        assert isinstance(tensor, MainTensor)
        last = min(groups[1], tensor.groups)
        if last == tensor.groups or (last - pending[0]) * tile.pixels >= STORE_WORDS:
            if pending[0] < last:
                store(self.tiler.emitter, tensor, self.views[operation.output],
                      (pending[0], last), (tile.top, tile.bottom), (tile.left, tile.right))
            pending[0] = last

    def _matrix(self, operation: Matrix, tile: Tile, ahead: Callable[[], None]) -> None:
        config = self.config
        words = max(1, config.columns // config.rows)
        unit = max(1, config.rows // config.columns)
        residual = operation.finish.residual
        operand = None if residual is None else self.views[residual.feature]
        view = self.views[operation.output]
        pending, slot = [0], 0
        for j in range(self.tiler.groups_out(operation)):
            if self.tiler.groups_in(operation, 0, j) != (0, 0):
                slot = self.tiler.array_slot()
                accumulate = False
                for index, source in enumerate(operation.sources):
                    self.tiler.array(operation, index, j, tile, self.views[source.feature], slot,
                                     self.tiler.groups_in(operation, index, j), accumulate)
                    accumulate = True
            post(self.tiler, operation, j, tile, view, slot=slot, operand_b=operand)
            if j == 0:
                ahead()
            if (j + 1) % unit == 0:
                group = (j + 1 - unit) * config.columns // config.rows
                self._store(operation, (group, group + words), tile, pending)

    def _words(self, operation: Operation, tile: Tile, ahead: Callable[[], None]) -> None:
        residual = operation.finish.residual
        operand_b = None if residual is None else self.views[residual.feature]
        view = self.views[operation.output]
        source = self.views[operation.sources[0].feature]
        pending = [0]
        for group in range(self.tiler.groups_out(operation)):
            if isinstance(operation, Window):
                slot = self.tiler.vector(operation, group, tile, source)
                post(self.tiler, operation, group, tile, view, slot=slot, operand_b=operand_b)
            else:
                assert isinstance(operation, Point)
                if operation.product:
                    operand_b = self.views[operation.sources[1].feature]
                post(self.tiler, operation, group, tile, view, operand_a=source,
                     operand_b=operand_b)
            if group == 0:
                ahead()
            self._store(operation, (group, group + 1), tile, pending)

    def _total(self, operation: Window) -> None:
        feature = self.lowered.features[operation.sources[0].feature]
        view = self.views[operation.output]
        source = self.views[operation.sources[0].feature]
        count = self.tiler.groups_out(operation)
        step = self.config.vector_accumulator_words
        pending = [0]
        for first in range(0, count, step):
            groups = first, min(first + step, count)
            slot = self.tiler.vector_slot()
            self.tiler.total(operation, groups, (0, feature.height), source, slot, False)
            post_total(self.tiler, operation, groups, slot, view)
            self._store(operation, groups, Tile(0, 1, 0, 1), pending)
