"""First layers: a network input of few channels is packed by LOAD to fill the array's rows.

The input lies in memory as plain padded pixels. A kernel is then a rectangle of kh rows and
kw * channels bytes. It is cut into columns of bytes; of each column LOAD packs several kernel rows
into one word, so that a pass covers as many products as the array has rows. The convolution becomes
one over these packed features, with the weights moved accordingly.
"""

from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np

from systolith.hw.config import Config

from .ir import Feature, Lowered, Matrix, Packing, Source

__all__ = ["pack_inputs"]

_TRADE_OFFS = (0.0, 0.25, 1.0, 4.0)
"""Weights of the memory's cycles against the array's that are tried."""


@dataclass(frozen=True)
class _Column:
    """`width` bytes from byte `first` on, `rows` kernel rows a word, in `passes` passes."""

    first: int
    width: int
    rows: int
    passes: int


@dataclass(frozen=True)
class _Shape:
    """What decides the cut of a kernel."""

    kernel_rows: int
    row_bytes: int
    channels: int
    stride: tuple[int, int]
    output: tuple[int, int]  # height, width
    array_rows: int
    groups: int              # output column groups
    beat: int
    beat_cycles: int

    def row_step(self, column: _Column) -> int:
        """Image rows from a packed row to the next."""
        return self.stride[0] if column.passes == 1 else gcd(self.stride[0], column.rows)

    def packed_rows(self, column: _Column) -> int:
        """Rows of the packed feature."""
        step = self.row_step(column)
        return ((self.output[0] - 1) * self.stride[0]
                + (column.passes - 1) * column.rows) // step + 1

    def array(self, columns: tuple[_Column, ...]) -> float:
        """Cycles of the array."""
        pixels = self.output[0] * self.output[1]
        return float(sum(column.passes for column in columns) * pixels * self.groups)

    def memory(self, columns: tuple[_Column, ...]) -> float:
        """Cycles of the memory port."""
        total = 0.0
        for column in columns:
            beats = 1 + (column.width - 1) / self.beat
            total += self.packed_rows(column) * self.output[1] * column.rows * beats
        return total * self.beat_cycles


def _cut(shape: _Shape, trade_off: float) -> tuple[_Column, ...]:
    """The columns of least cost for one trade-off."""

    @cache
    def best(first: int) -> tuple[float, tuple[_Column, ...]]:
        if first == shape.row_bytes:
            return 0.0, ()
        found: tuple[float, tuple[_Column, ...]] | None = None
        for rows in range(1, min(shape.kernel_rows, shape.array_rows) + 1):
            passes = -(-shape.kernel_rows // rows)
            rows = -(-shape.kernel_rows // passes)
            width = min(shape.array_rows // rows, shape.row_bytes - first)
            column = _Column(first, width, rows, passes)
            cost = shape.array((column,)) + trade_off * shape.memory((column,))
            rest, columns = best(first + width)
            if found is None or cost + rest < found[0]:
                found = cost + rest, (column, *columns)
        assert found is not None
        return found

    return best(0)[1]


def pack_inputs(lowered: Lowered, config: Config) -> None:
    """Pack the inputs that one convolution alone reads and that fill few of the array's rows."""
    for name in lowered.inputs:
        readers = lowered.consumers(name)
        if len(readers) != 1 or name in lowered.outputs:
            continue
        (operation,) = readers
        if (isinstance(operation, Matrix) and operation.channel_groups == 1
                and [source.feature for source in operation.sources] == [name]
                and operation.inputs.count(name) == 1
                and _gains(operation, lowered.features[name], config)):
            _pack(lowered, operation, lowered.features[name], config)


def _gains(operation: Matrix, feature: Feature, config: Config) -> bool:
    source = operation.sources[0]
    return (2 * feature.channels <= config.rows and source.kernel != (1, 1)
            and source.dilation == (1, 1))


def _pack(lowered: Lowered, operation: Matrix, feature: Feature, config: Config) -> None:
    source, (weight,) = operation.sources[0], operation.weights
    output = lowered.features[operation.output]
    height, width = source.kernel
    shape = _Shape(
        kernel_rows=height, row_bytes=width * feature.channels, channels=feature.channels,
        stride=source.stride, output=(output.height, output.width), array_rows=config.rows,
        groups=-(-output.channels // config.columns), beat=config.memory_bytes_per_beat,
        beat_cycles=config.memory_beat_cycles)
    cuts = [_cut(shape, trade_off) for trade_off in _TRADE_OFFS]
    columns = min(cuts, key=lambda cut: max(shape.array(cut), shape.memory(cut))
                  + 0.1 * shape.memory(cut))

    rows = source.span(0, 0, output.height)
    across = source.span(1, 0, output.width)
    padding = (-rows[0], max(0, rows[1] - feature.height), -across[0],
               max(0, across[1] - feature.width))
    pitch = (feature.width + padding[2] + padding[3]) * feature.channels
    nbytes = (feature.height + padding[0] + padding[1]) * pitch
    # [O, C, kh, kw] -> [O, kh, bytes of a kernel row]
    flat = weight.transpose(0, 2, 3, 1).reshape(len(weight), height, -1)
    sources, weights, end = [], [], nbytes
    for index, column in enumerate(columns):
        step = shape.row_step(column)
        packed = Feature(
            name=f"{feature.name}#{index}", tensor=feature.tensor,
            channels=column.rows * column.width, height=shape.packed_rows(column),
            width=output.width, zero_point=feature.zero_point)
        packing = Packing(
            tensor=feature.name, chunks=column.rows, chunk_bytes=column.width,
            first=(0, column.first), step=(step, source.stride[1] * feature.channels))
        lowered.features[packed.name] = packed
        lowered.packings[packed.name] = packing
        end = max(end, ((packed.height - 1) * step + column.rows - 1) * pitch + column.first
                  + (output.width - 1) * packing.step[1] + column.width)
        sources.append(Source(
            feature=packed.name, kernel=(column.passes, 1), stride=(source.stride[0] // step, 1),
            dilation=(column.rows // step if column.passes > 1 else 1, 1),
            pad_value=feature.zero_point))
        part = np.zeros((len(weight), column.passes * column.rows, column.width), np.int8)
        part[:, :height] = flat[:, :, column.first:column.first + column.width]
        tiles = part.reshape(len(weight), column.passes, column.rows * column.width)
        weights.append(np.ascontiguousarray(tiles.transpose(0, 2, 1)[..., None]))
    operation.sources = tuple(sources)
    operation.weights = tuple(weights)
    lowered.pixels[feature.name] = padding, end - nbytes
