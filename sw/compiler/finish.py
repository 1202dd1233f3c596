"""Emission of POST for a tile, and of the transfers between main memory and scratchpad."""

from itertools import pairwise
from typing import Any

from systolith.hw.isa import Fill, Load, LoadTarget, Post, PostSource, Store

from .emitter import Emitter, Memory, Region
from .ir import Matrix, Operation, Packing, Point
from .tiles import Tiler
from .units import Recorder
from .views import Tile, View

__all__ = ["MainTensor", "fill", "load", "load_packed", "post", "post_spread",
           "post_total", "store"]


def _parameters(tiler: Tiler, operation: Operation, j: int) -> tuple[int, int]:
    """Parameter memory address of output group j and the number of its words."""
    config = tiler.config
    width = config.columns if isinstance(operation, Matrix) else config.rows
    words = -(-width // config.lanes)
    return tiler.parameter(operation, j, width, tiler.groups_out(operation)), words


def _finish_fields(operation: Operation) -> dict[str, Any]:
    finish = operation.finish
    fields: dict[str, Any] = {"zero": finish.zero, "low": finish.low, "high": finish.high,
                              "use_table": int(finish.table is not None)}
    add = finish.residual
    if add is not None:
        fields |= {"use_add": 1, "zero_a": add.zero_a, "zero_b": add.zero_b,
                   "multiplier_a": add.multiplier_a, "multiplier_b": add.multiplier_b,
                   "add_shift": add.shift, "add_zero": add.zero, "add_low": add.low,
                   "add_high": add.high}
    if isinstance(operation, Point) and operation.product:
        fields |= {"zero_a": operation.zeros[0], "zero_b": operation.zeros[1]}
    return fields


def post(tiler: Tiler, operation: Operation, j: int, tile: Tile, destination: View, *,
         slot: int = 0, operand_a: View | None = None, operand_b: View | None = None) -> None:
    """Finish a tile of output group j: accumulators from `slot` on, or operand a.

    Group j is `columns` channels of a matrix operation, and a word of any other. Operand b is the
    residual's or the product's second factor.
    """
    config = tiler.config
    matrix = isinstance(operation, Matrix)
    parameter, parameter_words = _parameters(tiler, operation, j)
    reads = [Region(Memory.PARAMETER, parameter, (parameter_words,)), *tiler.use_table(operation)]
    fields = _finish_fields(operation)
    words, offset = 1, 0
    group = j
    if matrix:
        group = j * config.columns // config.rows
        offset = j * config.columns % config.rows
        words = config.column_words
    broadcast = isinstance(operation, Point) and operation.broadcast
    for begin, number in _runs(tile, [destination, operand_a, None if broadcast else operand_b]):
        row = tile.top + begin
        target = destination.address(group, row, tile.left)
        counts = (tile.width, number, words)
        pixels = number * tile.width
        accumulator = slot + begin * tile.width
        more: dict[str, Any] = {}
        sources: list[Region] = []
        if operand_a is not None:
            at = operand_a.address(group, row, tile.left)
            product = isinstance(operation, Point) and operation.product
            more |= {"source": PostSource.PRODUCT if product else PostSource.SCRATCHPAD,
                     "operand_a": at, "operand_a_step_0": 1,
                     "operand_a_step_1": operand_a.row_pitch - (tile.width - 1)}
            sources.append(Region(Memory.SCRATCHPAD, at, counts[:2], (1, operand_a.row_pitch)))
        elif matrix:
            more |= {"source": PostSource.ARRAY, "accumulator": accumulator}
            sources.append(Region(Memory.ARRAY_ACCUMULATOR, accumulator, (pixels,)))
        else:
            more |= {"source": PostSource.VECTOR, "accumulator": accumulator}
            sources.append(Region(Memory.VECTOR_ACCUMULATOR, accumulator, (pixels,)))
        if operand_b is not None:
            if broadcast:
                at = operand_b.address(group, 0, 0)
                more |= {"operand_b": at}
                sources.append(Region(Memory.SCRATCHPAD, at, (1,)))
            else:
                assert words == 1 or operand_b.group_pitch == destination.group_pitch
                at = operand_b.address(group, row, tile.left)
                more |= {"operand_b": at, "operand_b_step_0": 1,
                         "operand_b_step_1": operand_b.row_pitch - (tile.width - 1)}
                sources.append(Region(Memory.SCRATCHPAD, at, counts,
                                      (1, operand_b.row_pitch, operand_b.group_pitch)))
        tiler.emitter.emit(
            Post, count_0=tile.width, count_1=number, parameter=parameter, destination=target,
            destination_step_0=1, destination_step_1=destination.row_pitch - (tile.width - 1),
            word_step=destination.group_pitch if words > 1 else 0, byte_offset=offset,
            reads=[*reads, *sources],
            writes=[Region(Memory.SCRATCHPAD, target, counts,
                           (1, destination.row_pitch, destination.group_pitch))],
            **fields, **more)


def _runs(tile: Tile, views: list[View | None]) -> list[tuple[int, int]]:
    """Row ranges of a tile in which no buffer wraps."""
    cuts = {0, tile.height}
    for view in views:
        if view is not None:
            cuts |= {begin for begin, _ in view.runs(tile.top, tile.height)}
    edges = sorted(cuts)
    return [(low, high - low) for low, high in pairwise(edges)]


def post_spread(tiler: Tiler, operation: Point, group: int, tile: Tile, destination: View,
                operand: View) -> None:
    """Write a tile of one channel group with every pixel of the operand repeated, or set apart."""
    rows, columns = operation.sources[0].spread
    if operation.gap is not None:
        fill(tiler.emitter, destination, operation.gap, (group, group + 1),
             (tile.top, tile.bottom), (tile.left, tile.right))
    parameter, parameter_words = _parameters(tiler, operation, group)
    for y in range(tile.top, tile.bottom):
        for phase in range(columns):
            first = tile.left + (phase - tile.left) % columns
            count = len(range(first, tile.right, columns))
            if not count or (operation.gap is not None and (phase or y % rows)):
                continue
            target = destination.address(group, y, first)
            at = operand.address(group, y // rows, first // columns)
            tiler.emitter.emit(
                Post, source=PostSource.SCRATCHPAD, count_0=count, parameter=parameter,
                destination=target, destination_step_0=columns, operand_a=at, operand_a_step_0=1,
                reads=[Region(Memory.PARAMETER, parameter, (parameter_words,)),
                       *tiler.use_table(operation), Region(Memory.SCRATCHPAD, at, (count,))],
                writes=[Region(Memory.SCRATCHPAD, target, (count,), (columns,))],
                **_finish_fields(operation))


def post_total(tiler: Tiler, operation: Operation, groups: tuple[int, int], slot: int,
               destination: View) -> None:
    """Finish the sums of whole channel groups [from, to), one accumulator word a group."""
    parameter, parameter_words = _parameters(tiler, operation, 0)
    number = groups[1] - groups[0]
    target = destination.address(groups[0], 0, 0)
    tiler.emitter.emit(
        Post, source=PostSource.VECTOR, count_0=number, accumulator=slot, parameter=parameter,
        destination=target, destination_step_0=destination.group_pitch,
        reads=[Region(Memory.PARAMETER, parameter, (parameter_words,)),
               *tiler.use_table(operation),
               Region(Memory.VECTOR_ACCUMULATOR, slot, (number,))],
        writes=[Region(Memory.SCRATCHPAD, target, (number,), (destination.group_pitch,))],
        **_finish_fields(operation))


# Transfers --------------------------------------------------------------------------------------

class MainTensor:
    """A feature in main memory, layout "grouped": address relative to the tensors' base."""

    def __init__(self, address: int, groups: int, height: int, width: int, word: int):
        self.address = address
        self.groups = groups
        self.height = height
        self.width = width
        self.word = word

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.groups * self.height * self.width * self.word

    def word_index(self, group: int, row: int, column: int) -> int:
        """Index of a pixel's word from the tensors' base."""
        return self.address // self.word + (group * self.height + row) * self.width + column


Axis = tuple[int, int, int]


def _axes(tensor: MainTensor, view: View, groups: int, rows: int, columns: int) -> list[Axis]:
    """(count, stride in main memory, stride in the scratchpad) of contiguous words, rows, planes.

    Axes that are contiguous on both sides are joined, for fewer and longer rows.
    """
    axes = [(columns, 1, 1), (rows, tensor.width, view.row_pitch),
            (groups, tensor.height * tensor.width, view.group_pitch)]
    joined = [axes[0]]
    for count, main, local in axes[1:]:
        size, main_stride, local_stride = joined[-1]
        if count == 1:
            continue
        if size == 1:
            joined[-1] = (count, main, local)
        elif main == size * main_stride and local == size * local_stride:
            joined[-1] = (size * count, main_stride, local_stride)
        else:
            joined.append((count, main, local))
    if joined[0][1:] != (1, 1):
        joined.insert(0, (1, 1, 1))
    return (joined + [(1, 0, 0)] * 2)[:3]


def _boxes(view: View, top: int, bottom: int) -> list[tuple[int, int]]:
    return [(top + begin, top + begin + number) for begin, number in view.runs(top, bottom - top)]


def load(emitter: Emitter | Recorder, tensor: MainTensor, view: View, groups: tuple[int, int],
         rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Copy a box of a tensor, ranges [from, to), from main memory into its buffer."""
    word = tensor.word
    for top, bottom in _boxes(view, *rows):
        source = tensor.word_index(groups[0], top, columns[0])
        place = view.address(groups[0], top, columns[0])
        (width, _, _), (count, main, local), (planes, main_2, local_2) = _axes(
            tensor, view, groups[1] - groups[0], bottom - top, columns[1] - columns[0])
        emitter.emit(
            Load, relocate="source", target=LoadTarget.SCRATCHPAD, source=source * word,
            chunk_bytes=width * word, rows=count, row_step=main * word, planes=planes,
            plane_step=(main_2 - (count - 1) * main) * word, destination=place,
            destination_row_step=local - (width - 1),
            destination_plane_step=local_2 - (count - 1) * local - (width - 1),
            reads=[Region(Memory.MAIN, source, (width, count, planes), (1, main, main_2))],
            writes=[Region(Memory.SCRATCHPAD, place, (width, count, planes), (1, local, local_2))])


def store(emitter: Emitter | Recorder, tensor: MainTensor, view: View, groups: tuple[int, int],
          rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Copy a box of a feature from its buffer to main memory."""
    word = tensor.word
    for top, bottom in _boxes(view, *rows):
        target = tensor.word_index(groups[0], top, columns[0])
        place = view.address(groups[0], top, columns[0])
        (width, _, _), (count, main, local), (planes, main_2, local_2) = _axes(
            tensor, view, groups[1] - groups[0], bottom - top, columns[1] - columns[0])
        emitter.emit(
            Store, relocate="destination", source=place, row_bytes=width * word, rows=count,
            source_row_step=local - (width - 1), planes=planes,
            source_plane_step=local_2 - (count - 1) * local - (width - 1),
            destination=target * word, destination_row_step=main * word,
            destination_plane_step=(main_2 - (count - 1) * main) * word,
            reads=[Region(Memory.SCRATCHPAD, place, (width, count, planes), (1, local, local_2))],
            writes=[Region(Memory.MAIN, target, (width, count, planes), (1, main, main_2))])


def load_packed(emitter: Emitter | Recorder, packing: Packing, address: int, pitch: int, view: View,
                rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Pack rows [from, to) of a feature out of pixels at `address`, `pitch` bytes an image row.

    The pixels are a network input, which no instruction writes.
    """
    width = columns[1] - columns[0]
    for top, bottom in _boxes(view, *rows):
        source = (address + (packing.first[0] + top * packing.step[0]) * pitch
                  + packing.first[1] + columns[0] * packing.step[1])
        place = view.address(0, top, columns[0])
        back = (packing.chunks - 1) * pitch
        across = (width - 1) * packing.step[1]
        emitter.emit(
            Load, relocate="source", target=LoadTarget.SCRATCHPAD, source=source,
            chunk_bytes=packing.chunk_bytes, chunks=packing.chunks, chunk_step=pitch, rows=width,
            row_step=packing.step[1] - back, planes=bottom - top,
            plane_step=packing.step[0] * pitch - across - back, destination=place,
            destination_row_step=1, destination_plane_step=view.row_pitch - (width - 1),
            writes=[Region(Memory.SCRATCHPAD, place, (width, bottom - top), (1, view.row_pitch))])


def fill(emitter: Emitter | Recorder, view: View, value: int, groups: tuple[int, int],
         rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Write one value to a box of a buffer."""
    width, planes = columns[1] - columns[0], groups[1] - groups[0]
    for top, bottom in _boxes(view, *rows):
        place = view.address(groups[0], top, columns[0])
        number = bottom - top
        emitter.emit(
            Fill, destination=place, value=value, words=width, rows=number,
            row_step=view.row_pitch - (width - 1), planes=planes,
            plane_step=view.group_pitch - (number - 1) * view.row_pitch - (width - 1),
            writes=[Region(Memory.SCRATCHPAD, place, (width, number, planes),
                           (1, view.row_pitch, view.group_pitch))])
