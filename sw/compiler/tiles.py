"""Emission of the work of one tile: arithmetic on the engines, constants brought in as needed.

A tile is a rectangle of output pixels that fits into one half of the accumulators. What is not yet
on the chip (weights, parameters, taps, tables) is loaded into rings right before its use, so that a
layer whose constants fit loads them once and any other streams them.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from systolith.hw.config import Config
from systolith.hw.isa import (
    Array,
    Load,
    LoadTarget,
    Queue,
    Vector,
    VectorMode,
    steps_of,
)

from .emitter import Emitter, Memory, Region
from .ir import Feature, Matrix, Operation, Window
from .pack import Image, Tiles, pack_parameters, pack_taps, pack_tiles
from .units import Recorder
from .views import RingCache, Tile, View

__all__ = ["Tiler"]

MAX_PIECE_TILES = 64
"""Weight tiles an ARRAY instruction uses at most, so that streamed weights can run ahead."""

LOAD_UNIT_BYTES = 4096
"""Weights that one LOAD brings at least, where a layer has as many."""

REDUCE_ROWS = 16
"""Passes of one reducing VECTOR instruction, each of which takes a word of ones."""


@dataclass(frozen=True)
class _Piece:
    """Passes of one ARRAY instruction: kernel rows, channel groups, kernel columns from, number."""

    ky: tuple[int, int]
    group: tuple[int, int]
    kx: tuple[int, int]


class Tiler:
    """Emits tiles of operations.

    Parameters
    ----------
    config, emitter, image
        Where instructions and constants go.
    features
        All features by name.

    Attributes
    ----------
    slots
        Accumulator halves of tiles that POST has still to drain, under the caller's keys.
    """

    def __init__(self, config: Config, emitter: Emitter | Recorder, image: Image,
                 features: dict[str, Feature]):
        self.config = config
        self.emitter = emitter
        self.image = image
        self.features = features
        self.slots: dict[Hashable, int] = {}
        self._weights = RingCache(config.weight_words)
        self._taps = RingCache(config.vector_weight_words)
        self._parameters = RingCache(config.parameter_words)
        self._table: str | None = None
        self._tiles: dict[tuple[str, int], tuple[Tiles, int]] = {}
        self._constants: dict[tuple[str, str], int] = {}
        self._free = {Queue.ARRAY: deque((0, config.accumulator_words)),
                      Queue.VECTOR: deque((0, config.vector_accumulator_words))}
        self.max_tiles = max(1, min(config.weight_words // config.rows // 4, MAX_PIECE_TILES))

    def restart(self, emitter: Emitter | Recorder) -> "Tiler":
        """A tiler with empty on-chip memories that shares the constants in the image."""
        other = Tiler(self.config, emitter, self.image, self.features)
        other._tiles, other._constants = self._tiles, self._constants
        return other

    # Constants ----------------------------------------------------------------------------------

    def tiles(self, operation: Matrix, index: int) -> tuple[Tiles, int]:
        """Weight tiles of source `index` and their address in the image."""
        key = (operation.output, index)
        if key not in self._tiles:
            tiles = pack_tiles(operation.weights[index], operation.channel_groups, self.config)
            self._tiles[key] = (tiles, self.image.add(tiles.data, shared=operation.light))
        return self._tiles[key]

    def _weight(self, operation: Matrix, index: int, j: int, piece: _Piece) -> int:
        """Weight memory address of a piece's first tile, loaded when it is not there."""
        tiles, address = self.tiles(operation, index)
        first = tiles.index(j, piece.ky[0], piece.group[0], piece.kx[0])
        count = piece.ky[1] * piece.group[1] * piece.kx[1]
        # Whole output groups follow each other in memory: bring several at once if they are small.
        rows, word = self.config.rows, self.config.weight_word_bytes
        unit_tiles = min(self.max_tiles, -(-LOAD_UNIT_BYTES // (rows * word)))
        size = tiles.count(j)
        begin, end = first, first + count
        if size == count and size < unit_tiles and len(set(tiles.groups)) == 1:
            together = unit_tiles // size
            start = j // together * together
            stop = min(start + together, len(tiles.groups))
            begin, end = tiles.first[start], tiles.first[stop - 1] + size
        key = (address, begin, end)
        place = self._weights.find(key)
        if place is None:
            words = (end - begin) * rows
            place = self._weights.place(key, words)
            self._load(LoadTarget.WEIGHT, Memory.WEIGHT, address + begin * rows * word, place,
                       words, word)
        return place + (first - begin) * rows

    def _load(self, target: LoadTarget, memory: Memory, source: int, place: int, words: int,
              word: int) -> None:
        self.emitter.emit(Load, target=target, source=source, chunk_bytes=words * word,
                          destination=place, writes=[Region(memory, place, (words,))])

    def _constant(self, operation: Operation, kind: str, make: Callable[[], bytes]) -> int:
        """Address in the image of an operation's constants, made on first use."""
        key = (operation.output, kind)
        if key not in self._constants:
            self._constants[key] = self.image.add(make(), shared=operation.light)
        return self._constants[key]

    def parameter(self, operation: Operation, j: int, width: int, count: int) -> int:
        """Parameter memory address of output group j of `count` groups of `width` channels.

        With `uniform` records all groups share one.
        """
        lanes, word = self.config.lanes, self.config.parameter_word_bytes
        each = -(-width // lanes)
        uniform = operation.finish.uniform
        if uniform:
            j, count = 0, 1
        address = self._constant(operation, "parameters", lambda: pack_parameters(
            operation.finish, count * width, self.config))
        together = max(1, self.config.parameter_words // 4 // each)
        start = j // together * together
        stop = min(start + together, count)
        key = (address, start)
        place = self._parameters.find(key)
        if place is None:
            words = (stop - start) * each
            place = self._parameters.place(key, words)
            self._load(LoadTarget.PARAMETER, Memory.PARAMETER, address + start * each * word, place,
                       words, word)
        return place + (j - start) * each

    def use_table(self, operation: Operation) -> list[Region]:
        """Bring the operation's table onto the chip, if it has one; what POST reads of it."""
        table = operation.finish.table
        if table is None:
            return []
        words = 256 // self.config.rows
        if self._table != operation.output:
            self._table = operation.output
            address = self._constant(operation, "table", table.tobytes)
            self._load(LoadTarget.TABLE, Memory.TABLE, address, 0, words, self.config.rows)
        return [Region(Memory.TABLE, 0, (words,))]

    def _tap(self, operation: Window, group: int, chunk: int, chunks: list[tuple[int, int]],
             height: int) -> int:
        """Vector weight memory address of a chunk of a group's taps."""
        assert operation.weight is not None
        rows, weight = self.config.rows, operation.weight
        address = self._constant(operation, "taps", lambda: pack_taps(weight, chunks, self.config))
        size = weight.shape[1] * weight.shape[2]
        together = max(1, self.config.vector_weight_words // 4 // size)
        start = group // together * together
        stop = min(start + together, -(-len(weight) // rows))
        key = (operation.output, start)
        place = self._taps.find(key)
        if place is None:
            place = self._taps.place(key, (stop - start) * size)
            self._load(LoadTarget.VECTOR_WEIGHT, Memory.VECTOR_WEIGHT,
                       address + start * size * rows, place, (stop - start) * size, rows)
        return place + (group - start) * size + chunks[chunk][0] * height

    # Array --------------------------------------------------------------------------------------

    def groups_out(self, operation: Operation) -> int:
        """Output groups of an operation: array columns at a time, or words.

        Rounded up to whole words, so that every byte of a word is written.
        """
        channels = self.features[operation.output].channels
        if not isinstance(operation, Matrix):
            return -(-channels // self.config.rows)
        unit = max(self.config.columns, self.config.rows)
        return -(-channels // unit) * unit // self.config.columns

    def groups_in(self, operation: Matrix, index: int, j: int) -> tuple[int, int]:
        """Input channel groups that output group j reads of a source; none for filler groups."""
        tiles, _ = self.tiles(operation, index)
        return tiles.groups[j] if j < len(tiles.groups) else (0, 0)

    def acquire(self, queue: Queue) -> int:
        """Accumulator words of the array or the vector unit: a half that no tile occupies."""
        return self._free[queue].popleft()

    def release(self, queue: Queue, slot: int) -> None:
        """Give a half back, behind the POST that drains it."""
        self._free[queue].append(slot)

    def _pieces(self, kernel: tuple[int, int], groups: tuple[int, int],
                whole: bool) -> Iterator[_Piece]:
        """Cut the passes of [ky][group][kx] into instructions whose tiles lie together."""
        height, width = kernel
        first, number = groups[0], groups[1] - groups[0]
        limit = self.max_tiles
        if whole and number * width <= limit:
            step = max(1, limit // (number * width))
            for ky in range(0, height, step):
                yield _Piece((ky, min(step, height - ky)), (first, number), (0, width))
            return
        for ky in range(height):
            if width <= limit:
                step = limit // width
                for group in range(0, number, step):
                    yield _Piece((ky, 1), (first + group, min(step, number - group)), (0, width))
                continue
            for group in range(number):
                for kx in range(0, width, limit):
                    yield _Piece((ky, 1), (first + group, 1), (kx, min(limit, width - kx)))

    def array(self, operation: Matrix, index: int, j: int, tile: Tile, view: View, slot: int,
              groups: tuple[int, int], accumulate: bool) -> None:
        """Accumulate channel groups [from, to) of source `index` into words from `slot` on."""
        whole = groups == self.groups_in(operation, index, j)
        source = operation.sources[index]
        for piece in self._pieces(source.kernel, groups, whole):
            weight = self._weight(operation, index, j, piece)
            low = tile.top * source.stride[0] + source.offset[0] + piece.ky[0] * source.dilation[0]
            high = (low + (tile.height - 1) * source.stride[0]
                    + (piece.ky[1] - 1) * source.dilation[0] + 1)
            if not view.wraps(low, high):
                self._passes(operation, index, piece, tile, 0, tile.height, low, view, slot, weight,
                             accumulate)
            else:
                each = piece.group[1] * piece.kx[1] * self.config.rows
                for ky in range(piece.ky[1]):
                    single = _Piece((piece.ky[0] + ky, 1), piece.group, piece.kx)
                    row = low + ky * source.dilation[0]
                    for begin, number in view.runs(row, tile.height, source.stride[0]):
                        self._passes(operation, index, single, tile, begin, number,
                                     row + begin * source.stride[0], view, slot,
                                     weight + ky * each, accumulate or ky > 0)
            accumulate = True

    def _passes(self, operation: Matrix, index: int, piece: _Piece, tile: Tile, begin: int,
                number: int, row: int, view: View, slot: int, weight: int,
                accumulate: bool) -> None:
        """One ARRAY instruction: `number` rows of the tile from `begin` on, input rows from `row`.
        """
        source = operation.sources[index]
        column = (tile.left * source.stride[1] + source.offset[1]
                  + piece.kx[0] * source.dilation[1])
        counts = (tile.width, number, piece.kx[1], piece.group[1], piece.ky[1])
        strides = (source.stride[1], source.stride[0] * view.row_pitch, source.dilation[1],
                   view.group_pitch, source.dilation[0] * view.row_pitch)
        steps = steps_of(counts, strides)
        activation = view.address(piece.group[0], row, column)
        across = ((tile.width - 1) * source.stride[1] + (piece.kx[1] - 1) * source.dilation[1] + 1)
        words = piece.ky[1] * piece.group[1] * piece.kx[1] * self.config.rows
        accumulator = slot + begin * tile.width
        pixels = number * tile.width
        if source.stride[0] <= source.dilation[0] * piece.ky[1]:
            rows = ((number - 1) * source.stride[0] + (piece.ky[1] - 1) * source.dilation[0] + 1)
            region = Region(Memory.SCRATCHPAD, activation, (across, piece.group[1], rows),
                            (1, view.group_pitch, view.row_pitch))
        else:
            region = Region(Memory.SCRATCHPAD, activation,
                            (across, piece.group[1], number, piece.ky[1]),
                            (1, view.group_pitch, strides[1], strides[4]))
        self.emitter.emit(
            Array, activation=activation, count_0=counts[0], step_0=steps[0], count_1=counts[1],
            step_1=steps[1], count_2=counts[2], step_2=steps[2], count_3=counts[3],
            step_3=steps[3], count_4=counts[4], step_4=steps[4], weight=weight,
            accumulator=accumulator, accumulate=int(accumulate),
            reads=[region, Region(Memory.WEIGHT, weight, (words,))],
            writes=[Region(Memory.ARRAY_ACCUMULATOR, accumulator, (pixels,))])

    # Vector unit --------------------------------------------------------------------------------

    def _chunks(self, operation: Window) -> list[tuple[int, int]]:
        """Kernel columns (first, number) that the unit's taps take at once."""
        source = operation.sources[0]
        most = self.config.vector_taps if source.dilation[1] == 1 else 1
        width = source.kernel[1]
        return [(first, min(most, width - first)) for first in range(0, width, most)]

    def vector(self, operation: Window, group: int, tile: Tile, view: View, slot: int) -> None:
        """Windows of one channel group into accumulator words from `slot` on."""
        source = operation.sources[0]
        chunks = self._chunks(operation)
        accumulate = False
        for chunk, (kx, taps) in enumerate(chunks):
            weight = 0
            if operation.weight is not None:
                weight = self._tap(operation, group, chunk, chunks, source.kernel[0])
            low, high = source.span(0, tile.top, tile.bottom)
            column = tile.left * source.stride[1] + source.offset[1] + kx * source.dilation[1]
            if not view.wraps(low, high):
                self._windows(operation, group, tile, 0, tile.height, low, column, taps,
                              source.kernel[0], view, slot, weight, accumulate)
            else:
                for ky in range(source.kernel[0]):
                    row = low + ky * source.dilation[0]
                    for begin, number in view.runs(row, tile.height, source.stride[0]):
                        self._windows(operation, group, tile, begin, number,
                                      row + begin * source.stride[0], column, taps, 1, view, slot,
                                      weight + ky * taps, accumulate or ky > 0)
            accumulate = True

    def _windows(self, operation: Window, group: int, tile: Tile, begin: int, number: int,
                 row: int, column: int, taps: int, height: int, view: View, slot: int, weight: int,
                 accumulate: bool) -> None:
        source = operation.sources[0]
        # One tap reads only the words it needs; more taps share the words between windows.
        step, stride = (source.stride[1], 1) if taps == 1 else (1, source.stride[1])
        counts = ((tile.width - 1) * stride + taps, number, height)
        strides = (step, source.stride[0] * view.row_pitch, source.dilation[0] * view.row_pitch)
        steps = steps_of(counts, strides)
        activation = view.address(group, row, column)
        accumulator = slot + begin * tile.width
        reads = [Region(Memory.SCRATCHPAD, activation, counts, strides)]
        maximum = operation.weight is None
        if not maximum:
            reads.append(Region(Memory.VECTOR_WEIGHT, weight, (taps * height,)))
        self.emitter.emit(
            Vector, mode=VectorMode.MAX if maximum else VectorMode.MAC, taps=taps, stride=stride,
            activation=activation, count_0=counts[0], step_0=steps[0], count_1=counts[1],
            step_1=steps[1], count_2=counts[2], step_2=steps[2],
            weight=0 if maximum else weight, accumulator=accumulator, accumulate=int(accumulate),
            reads=reads,
            writes=[Region(Memory.VECTOR_ACCUMULATOR, accumulator, (number * tile.width,))])

    def total(self, operation: Window, groups: tuple[int, int], rows: tuple[int, int], view: View,
              slot: int, accumulate: bool) -> None:
        """Sum rows [from, to) of channel groups [from, to), one accumulator word a group."""
        feature = self.features[operation.sources[0].feature]
        number = groups[1] - groups[0]
        most = min(REDUCE_ROWS, self.config.vector_weight_words // 4)
        weight = self._taps.find("ones")
        if weight is None:
            address = self._constant(operation, "ones", lambda: bytes([1]) * (
                most * self.config.rows))
            weight = self._taps.place("ones", most)
            self._load(LoadTarget.VECTOR_WEIGHT, Memory.VECTOR_WEIGHT, address, weight, most,
                       self.config.rows)
        row = rows[0]
        while row < rows[1]:
            end = min(row + most, rows[1])
            while view.wraps(row, end):
                end -= 1
            counts = (feature.width, number, end - row)
            strides = (1, view.group_pitch, view.row_pitch)
            steps = steps_of(counts, strides)
            activation = view.address(groups[0], row, 0)
            self.emitter.emit(
                Vector, mode=VectorMode.MAC, reduce=1, activation=activation, count_0=counts[0],
                step_0=steps[0], count_1=counts[1], step_1=steps[1], count_2=counts[2],
                step_2=steps[2], weight=weight, accumulator=slot, accumulate=int(accumulate),
                reads=[Region(Memory.SCRATCHPAD, activation, counts, strides),
                       Region(Memory.VECTOR_WEIGHT, weight, (end - row,))],
                writes=[Region(Memory.VECTOR_ACCUMULATOR, slot, (number,))])
            row, accumulate = end, True
