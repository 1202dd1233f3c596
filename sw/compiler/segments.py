"""A planned segment as units of work: the walk's steps, cut by output group."""

from collections.abc import Callable, Hashable

from systolith.hw.config import Config
from systolith.hw.isa import Queue

from .blocked import Pixels
from .finish import MainTensor, fill, load, load_packed, post, post_spread, post_total, store
from .ir import Lowered, Matrix, Operation, Point, Window
from .stripes import Segment, Walk
from .tiles import Tiler
from .units import Unit
from .views import Tile, View

__all__ = ["SegmentUnits"]

STORE_WORDS = 64
"""Words that a STORE moves at least before finished rows are written out group by group."""


class SegmentUnits:
    """A sink of `stripes.Walk` that collects units in an order in which they can run.

    Parameters
    ----------
    config, lowered, tensors
        As for `Blocked`.
    segment
        What to do.
    layers
        Numbers of the layers of its operations, by output feature.
    views
        Buffers by feature.
    stored
        Features that go to main memory as they are made.
    units
        Receives the units.
    """

    def __init__(self, config: Config, lowered: Lowered,
                 tensors: dict[str, MainTensor | Pixels], segment: Segment,
                 layers: dict[str, int], views: dict[str, View], stored: set[str],
                 units: list[Unit]):
        self.config = config
        self.lowered = lowered
        self.tensors = tensors
        self.segment = segment
        self.layers = layers
        self.views = views
        self.stored = stored
        self.units = units

    def run(self) -> None:
        """Collect the whole segment."""
        Walk(self.segment, self).run()

    def _add(self, engine: Queue, run: Callable[[Tiler], None], feature: str,
             drains: int | None = None) -> int:
        """A unit for the layer that makes `feature`."""
        self.units.append(Unit(engine, run, self.layers[feature], drains=drains))
        return len(self.units) - 1

    def _reader(self, feature: str) -> str:
        """What the segment's first operation that reads `feature` makes, or `feature` itself."""
        return next((operation.output for operation in self.segment.operations
                     if feature in operation.inputs), feature)

    # Sink ---------------------------------------------------------------------------------------

    def begin(self, feature: str) -> None:
        """Fill the columns of padding of all rows of a ring, and words that nothing writes."""
        if not self.segment.pads(feature):
            return
        view, extent = self.views[feature], self.segment.extents[feature]
        shape = self.lowered.features[feature]
        rows = extent.top, extent.top + view.capacity
        real = shape.groups(self.config)
        boxes = [((0, view.groups), columns)
                 for columns in ((extent.left, 0), (shape.width, extent.right))]
        boxes.append(((real, view.groups), (0, shape.width)))
        for groups, columns in boxes:
            if groups[0] < groups[1] and columns[0] < columns[1]:
                self._fill(feature, groups, rows, columns)

    def _fill(self, feature: str, groups: tuple[int, int], rows: tuple[int, int],
              columns: tuple[int, int]) -> None:
        view, value = self.views[feature], self.segment.extents[feature].pad_value
        self._add(Queue.LOAD, lambda tiler: fill(tiler.emitter, view, value, groups, rows, columns),
                  self._reader(feature))

    def pad(self, feature: str, top: int, bottom: int) -> None:
        """Fill whole rows."""
        extent = self.segment.extents[feature]
        self._fill(feature, (0, self.views[feature].groups), (top, bottom),
                   (extent.left, extent.right))

    def load(self, feature: str, top: int, bottom: int) -> None:
        """Bring rows of a feature from main memory."""
        view, tensor = self.views[feature], self.tensors[feature]
        columns = 0, self.lowered.features[feature].width

        def run(tiler: Tiler) -> None:
            if isinstance(tensor, Pixels):
                load_packed(tiler.emitter, tensor.packing, tensor.address, tensor.pitch, view,
                            (top, bottom), columns)
            else:
                load(tiler.emitter, tensor, view, (0, tensor.groups), (top, bottom), columns)

        self._add(Queue.LOAD, run, self._reader(feature))

    def compute(self, operation: Operation, top: int, bottom: int,
                ahead: Callable[[], None]) -> None:
        """Cut a stripe into tiles and output groups."""
        width = self.lowered.features[operation.output].width
        if isinstance(operation, Window) and operation.total:
            self._total(operation)
            return ahead()
        limit = self.config.accumulator_words
        if isinstance(operation, Window):
            limit = self.config.vector_accumulator_words
        parts = -(-width // max(1, limit // (bottom - top)))
        each = -(-width // parts)
        for left in range(0, width, each):
            tile = Tile(top, bottom, left, min(left + each, width))
            if isinstance(operation, Matrix):
                self._matrix(operation, tile)
            else:
                self._words(operation, tile)
            ahead()

    # Tiles --------------------------------------------------------------------------------------

    def _store(self, operation: Operation, last: int, tile: Tile, first: int) -> int:
        """Store groups [first, last) when they are enough or all; returns the first still to do."""
        if operation.output not in self.stored:
            return first
        tensor, view = self.tensors[operation.output], self.views[operation.output]
        assert isinstance(tensor, MainTensor)
        groups = first, min(last, tensor.groups)
        words = (groups[1] - first) * tile.pixels
        wrapped = view.circular and last % view.groups == 0
        if not words or (groups[1] < tensor.groups and words < STORE_WORDS and not wrapped):
            return first
        self._add(Queue.STORE, lambda tiler: store(
            tiler.emitter, tensor, view, groups, (tile.top, tile.bottom), (tile.left, tile.right)),
            operation.output)
        return groups[1]

    def _residual(self, operation: Operation) -> View | None:
        residual = operation.finish.residual
        return None if residual is None else self.views[residual.feature]

    def _matrix(self, operation: Matrix, tile: Tile) -> None:
        config = self.config
        words = config.column_words
        unit = max(1, config.rows // config.columns)
        count = -(-self.lowered.features[operation.output].channels // config.columns)
        pending = 0
        for j in range(count):
            fillers = range(j + 1, -(-count // unit) * unit) if j == count - 1 else range(0)
            self._column(operation, j, tile, fillers)
            if (j + 1) % unit == 0 or fillers:
                group = j // unit * words if unit > 1 else j * words
                pending = self._store(operation, group + words, tile, pending)

    def _column(self, operation: Matrix, j: int, tile: Tile, fillers: range) -> None:
        """One output group, and the fillers that complete its words with the zero point."""
        key: Hashable = (operation.output, tile, j)
        views = [self.views[source.feature] for source in operation.sources]
        destination, operand = self.views[operation.output], self._residual(operation)

        def accumulate(tiler: Tiler) -> None:
            slot = tiler.slots[key] = tiler.acquire(Queue.ARRAY)
            for index, view in enumerate(views):
                groups = tiler.groups_in(operation, index, j)
                tiler.array(operation, index, j, tile, view, slot, groups, index > 0)

        def finish(tiler: Tiler) -> None:
            slot = tiler.slots.pop(key)
            for number in (j, *fillers):
                post(tiler, operation, number, tile, destination, slot=slot, operand_b=operand)
            tiler.release(Queue.ARRAY, slot)

        self._add(Queue.POST, finish, operation.output,
                  self._add(Queue.ARRAY, accumulate, operation.output))

    def _words(self, operation: Operation, tile: Tile) -> None:
        pending = 0
        for group in range(self.lowered.features[operation.output].groups(self.config)):
            if isinstance(operation, Window):
                self._window(operation, group, tile)
            else:
                assert isinstance(operation, Point)
                self._point(operation, group, tile)
            pending = self._store(operation, group + 1, tile, pending)

    def _window(self, operation: Window, group: int, tile: Tile) -> None:
        key: Hashable = (operation.output, tile, group)
        source, destination = self.views[operation.sources[0].feature], self.views[operation.output]
        operand = self._residual(operation)

        def accumulate(tiler: Tiler) -> None:
            slot = tiler.slots[key] = tiler.acquire(Queue.VECTOR)
            tiler.vector(operation, group, tile, source, slot)

        def finish(tiler: Tiler) -> None:
            slot = tiler.slots.pop(key)
            post(tiler, operation, group, tile, destination, slot=slot, operand_b=operand)
            tiler.release(Queue.VECTOR, slot)

        self._add(Queue.POST, finish, operation.output,
                  self._add(Queue.VECTOR, accumulate, operation.output))

    def _point(self, operation: Point, group: int, tile: Tile) -> None:
        source, destination = self.views[operation.sources[0].feature], self.views[operation.output]
        operand = self._residual(operation)
        if operation.product:
            operand = self.views[operation.sources[1].feature]
        if operation.sources[0].spread != (1, 1):
            self._add(Queue.POST, lambda tiler: post_spread(
                tiler, operation, group, tile, destination, source), operation.output)
            return
        self._add(Queue.POST, lambda tiler: post(
            tiler, operation, group, tile, destination, operand_a=source, operand_b=operand),
            operation.output)

    def _total(self, operation: Window) -> None:
        source, destination = self.views[operation.sources[0].feature], self.views[operation.output]
        height = self.lowered.features[operation.sources[0].feature].height
        count = self.lowered.features[operation.output].groups(self.config)
        step = self.config.vector_accumulator_words
        pending = 0
        for first in range(0, count, step):
            pending = self._sums(operation, (first, min(first + step, count)), height, source,
                                 destination, pending)

    def _sums(self, operation: Window, groups: tuple[int, int], height: int, source: View,
              destination: View, pending: int) -> int:
        key: Hashable = (operation.output, groups)

        def accumulate(tiler: Tiler) -> None:
            slot = tiler.slots[key] = tiler.acquire(Queue.VECTOR)
            tiler.total(operation, groups, (0, height), source, slot, False)

        def finish(tiler: Tiler) -> None:
            slot = tiler.slots.pop(key)
            post_total(tiler, operation, groups, slot, destination)
            tiler.release(Queue.VECTOR, slot)

        self._add(Queue.POST, finish, operation.output,
                  self._add(Queue.VECTOR, accumulate, operation.output))
        return self._store(operation, groups[1], Tile(0, 1, 0, 1), pending)
