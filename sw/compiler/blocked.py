"""The executor for anything of any size: from main memory to main memory, block by block.

For each tile of output pixels and each output group, blocks of input channel groups with the halo
around the tile come into a ring in the scratchpad, the array or the vector unit accumulates over
them, and the finished words go back. Nothing need fit but one channel group of one tile.
"""

from dataclasses import dataclass

from systolith.hw.config import Config
from systolith.hw.isa import Queue

from . import rules
from .finish import MainTensor, fill, load, load_packed, post, post_spread, store
from .ir import Feature, Lowered, Matrix, Operation, Packing, Point, Source, Window
from .tiles import Tiler
from .views import RingCache, Tile, View

__all__ = ["Blocked", "Pixels"]


@dataclass(frozen=True)
class Pixels:
    """A network input in layout "pixels": its address, bytes a row, and how a feature packs it."""

    address: int
    pitch: int
    packing: Packing


class Blocked:
    """Runs one operation after the other through blocks.

    Parameters
    ----------
    tiler
        Emits the arithmetic.
    lowered
        The network.
    tensors
        Where features lie in main memory; packed ones are `Pixels`.
    """

    def __init__(self, tiler: Tiler, lowered: Lowered, tensors: dict[str, MainTensor | Pixels]):
        self.tiler = tiler
        self.config: Config = tiler.config
        self.lowered = lowered
        self.tensors = tensors
        self._blocks = RingCache(self.config.scratchpad_words)
        self._quarter = self.config.scratchpad_words // 4

    def run(self, operation: Operation) -> None:
        """Emit a whole operation."""
        self._blocks = RingCache(self.config.scratchpad_words)
        if isinstance(operation, Matrix):
            self._matrix(operation)
        elif isinstance(operation, Window):
            if operation.total:
                self._total(operation)
            else:
                self._window(operation)
        else:
            assert isinstance(operation, Point)
            self._point(operation)

    # Blocks -------------------------------------------------------------------------------------

    def _feature(self, name: str) -> Feature:
        return self.lowered.features[name]

    def _place(self, key: object, groups: tuple[int, int], rows: tuple[int, int],
               columns: tuple[int, int]) -> View:
        count, height, width = (high - low for low, high in (groups, rows, columns))
        base = self._blocks.place(key, count * height * width)
        return View(base=base, capacity=height, groups=count, width=width, first_row=rows[0],
                    first_column=columns[0], first_group=groups[0])

    def _block(self, name: str, groups: tuple[int, int], rows: tuple[int, int],
               columns: tuple[int, int], pad_value: int) -> View:
        """A box of a feature, padding included, brought on chip unless it is there."""
        key = (name, groups, rows, columns, pad_value)
        count, height, width = (high - low for low, high in (groups, rows, columns))
        base = self._blocks.find(key)
        if base is not None:
            return View(base=base, capacity=height, groups=count, width=width, first_row=rows[0],
                        first_column=columns[0], first_group=groups[0])
        view = self._place(key, groups, rows, columns)
        feature = self._feature(name)
        inside_rows = max(rows[0], 0), min(rows[1], feature.height)
        inside_columns = max(columns[0], 0), min(columns[1], feature.width)
        inside_groups = groups[0], min(groups[1], feature.groups(self.config))
        if (inside_groups, inside_rows, inside_columns) != (groups, rows, columns):
            fill(self.tiler.emitter, view, pad_value, groups, rows, columns)
        if inside_rows[0] < inside_rows[1] and inside_columns[0] < inside_columns[1]:
            tensor = self.tensors[name]
            if isinstance(tensor, Pixels):
                load_packed(self.tiler.emitter, tensor.packing, tensor.address, tensor.pitch, view,
                            inside_rows, inside_columns)
            else:
                load(self.tiler.emitter, tensor, view, inside_groups, inside_rows, inside_columns)
        return view

    def _source_block(self, source: Source, groups: tuple[int, int], tile: Tile) -> View:
        return self._block(source.feature, groups, source.span(0, tile.top, tile.bottom),
                           source.span(1, tile.left, tile.right), source.pad_value)

    def _words(self, source: Source, tile: Tile) -> int:
        """Words of one channel group of a source's block."""
        rows = source.span(0, tile.top, tile.bottom)
        columns = source.span(1, tile.left, tile.right)
        return (rows[1] - rows[0]) * (columns[1] - columns[0])

    def _split(self, operation: Operation, limit: int, words: int = 1) -> list[Tile]:
        """Tiles of at most `limit` pixels whose blocks fit; `words` a pixel are staged."""
        feature = self._feature(operation.output)
        limit = min(limit, self._quarter // words)
        width = min(feature.width, limit)
        height = min(feature.height, limit // width)

        def fits() -> bool:
            tile = Tile(0, height, 0, width)
            return all(self._words(source, tile) <= self._quarter for source in operation.sources)

        while not fits():
            if height > 1:
                height = -(-height // 2)
            elif width > 1:
                width = -(-width // 2)
            else:
                raise rules.window_too_large(operation, self.config)
        return [Tile(top, min(top + height, feature.height), left, min(left + width, feature.width))
                for top in range(0, feature.height, height)
                for left in range(0, feature.width, width)]

    def _operand(self, operation: Operation, groups: tuple[int, int], tile: Tile) -> View | None:
        residual = operation.finish.residual
        if residual is None:
            return None
        return self._block(residual.feature, groups, (tile.top, tile.bottom),
                           (tile.left, tile.right), 0)

    def _stage(self, groups: tuple[int, int], tile: Tile, kept: int = 0) -> View:
        """Room for finished words, at the scratchpad's end where `kept` words of it are."""
        if not kept:
            return self._place("output", groups, (tile.top, tile.bottom), (tile.left, tile.right))
        return View(base=self.config.scratchpad_words - kept, capacity=tile.height,
                    groups=groups[1] - groups[0], width=tile.width, first_row=tile.top,
                    first_column=tile.left, first_group=groups[0])

    def _store(self, operation: Operation, view: View, groups: tuple[int, int], tile: Tile) -> None:
        tensor = self.tensors[operation.output]
        assert isinstance(tensor, MainTensor)
        groups = groups[0], min(groups[1], tensor.groups)
        store(self.tiler.emitter, tensor, view, groups, (tile.top, tile.bottom),
              (tile.left, tile.right))

    # Operations ---------------------------------------------------------------------------------

    def _matrix(self, operation: Matrix) -> None:
        config = self.config
        words = config.column_words
        unit = max(1, config.rows // config.columns)  # output groups a word
        tiles = self._split(operation, config.accumulator_words, words)
        kept = 0
        if unit > 1:
            # A word is finished in several turns, and no block of the later ones may take its
            # place.
            kept = max(tile.pixels for tile in tiles)
            self._blocks = RingCache(config.scratchpad_words - kept)
        for tile in tiles:
            for first in range(0, self.tiler.groups_out(operation), unit):
                group = first * config.columns // config.rows
                groups = group, group + words
                slot = -1
                for j in range(first, first + unit):
                    if self.tiler.groups_in(operation, 0, j) != (0, 0):
                        if slot >= 0:
                            self.tiler.release(Queue.ARRAY, slot)
                        slot = self.tiler.acquire(Queue.ARRAY)
                        self._accumulate(operation, j, tile, slot)
                    if j == first:
                        stage = self._stage(groups, tile, kept)
                    operand = self._operand(operation, groups, tile)
                    post(self.tiler, operation, j, tile, stage, slot=slot, operand_b=operand)
                self.tiler.release(Queue.ARRAY, slot)
                self._store(operation, stage, groups, tile)

    def _accumulate(self, operation: Matrix, j: int, tile: Tile, slot: int) -> None:
        accumulate = False
        for index, source in enumerate(operation.sources):
            low, high = self.tiler.groups_in(operation, index, j)
            # Blocks are cut alike for all output groups, so that they are found again.
            step = self._quarter // self._words(source, tile)
            for first in range(low // step * step, high, step):
                end = min(first + step, self._feature(source.feature).groups(self.config))
                view = self._source_block(source, (first, end), tile)
                self.tiler.array(operation, index, j, tile, view, slot,
                                 (max(first, low), min(end, high)), accumulate)
                accumulate = True

    def _window(self, operation: Window) -> None:
        for tile in self._split(operation, self.config.vector_accumulator_words):
            for group in range(self.tiler.groups_out(operation)):
                groups = group, group + 1
                view = self._source_block(operation.sources[0], groups, tile)
                slot = self.tiler.acquire(Queue.VECTOR)
                self.tiler.vector(operation, group, tile, view, slot)
                stage = self._stage(groups, tile)
                operand = self._operand(operation, groups, tile)
                post(self.tiler, operation, group, tile, stage, slot=slot, operand_b=operand)
                self.tiler.release(Queue.VECTOR, slot)
                self._store(operation, stage, groups, tile)

    def _total(self, operation: Window) -> None:
        source = operation.sources[0]
        feature = self._feature(source.feature)
        step = max(1, self._quarter // feature.width)
        tile = Tile(0, 1, 0, 1)
        for group in range(self.tiler.groups_out(operation)):
            groups = group, group + 1
            slot = self.tiler.acquire(Queue.VECTOR)
            for row in range(0, feature.height, step):
                rows = row, min(row + step, feature.height)
                view = self._block(source.feature, groups, rows, (0, feature.width), 0)
                self.tiler.total(operation, groups, rows, view, slot, row > 0)
            stage = self._stage(groups, tile)
            operand = self._operand(operation, groups, tile)
            post(self.tiler, operation, group, tile, stage, slot=slot, operand_b=operand)
            self.tiler.release(Queue.VECTOR, slot)
            self._store(operation, stage, groups, tile)

    def _point(self, operation: Point) -> None:
        for tile in self._split(operation, self._quarter):
            for group in range(self.tiler.groups_out(operation)):
                groups = group, group + 1
                stage = self._stage(groups, tile)
                operand_a = self._source_block(operation.sources[0], groups, tile)
                if operation.sources[0].spread != (1, 1):
                    post_spread(self.tiler, operation, group, tile, stage, operand_a)
                    self._store(operation, stage, groups, tile)
                    continue
                operand_b: View | None
                if operation.product and operation.broadcast:
                    operand_b = self._block(operation.sources[1].feature, groups, (0, 1), (0, 1), 0)
                elif operation.product:
                    operand_b = self._source_block(operation.sources[1], groups, tile)
                else:
                    operand_b = self._operand(operation, groups, tile)
                post(self.tiler, operation, group, tile, stage, operand_a=operand_a,
                     operand_b=operand_b)
                self._store(operation, stage, groups, tile)
