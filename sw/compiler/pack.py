"""Constants as they lie in main memory: weight tiles, tap weights, parameter records, tables."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import PARAMETER_BYTES

from .ir import Finish

__all__ = ["Image", "Tiles", "pack_parameters", "pack_taps", "pack_tiles", "weight_bytes"]

ALIGNMENT = 64


class Image:
    """The constants of a program, appended one behind the other; the descriptor comes first."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [bytes(ALIGNMENT)]
        self._shared: dict[bytes, int] = {}
        self.size = ALIGNMENT

    def add(self, data: bytes, *, shared: bool = False) -> int:
        """Append `data` at an aligned address, which is returned.

        `shared` data is there once for all who add the same.
        """
        if shared and data in self._shared:
            return self._shared[data]
        address = self.size
        if shared:
            self._shared[data] = address
        padded = data.ljust(-(-len(data) // ALIGNMENT) * ALIGNMENT, b"\0")
        self._parts.append(padded)
        self.size += len(padded)
        return address

    def tobytes(self) -> bytes:
        """Everything so far; the first bytes are the descriptor's place."""
        return b"".join(self._parts)


@dataclass(frozen=True)
class Tiles:
    """Weight tiles of one source: for output column group j, passes [ky][group][kx].

    `groups[j]` is the range of input channel groups that j needs, `first[j]` the index of its
    first tile; `data` the bytes of all tiles, `address` where they lie once placed.
    """

    kernel: tuple[int, int]
    groups: tuple[tuple[int, int], ...]
    first: tuple[int, ...]
    data: bytes

    def index(self, j: int, ky: int, group: int, kx: int) -> int:
        """Tile number of a pass."""
        low, high = self.groups[j]
        return self.first[j] + (ky * (high - low) + group - low) * self.kernel[1] + kx

    def count(self, j: int) -> int:
        """Tiles of output column group j."""
        low, high = self.groups[j]
        return (high - low) * self.kernel[0] * self.kernel[1]


def weight_bytes(values: NDArray[np.int8], config: Config) -> bytes:
    """Weights in the order of the last axis, two to a byte (low first) when they have 4 bits."""
    if config.weight_bits == 8:
        return values.tobytes()
    flat = values.reshape(-1, 2).astype(np.uint8) & 15
    return (flat[:, 0] | flat[:, 1] << 4).tobytes()


def pack_tiles(weight: NDArray[np.int8], channel_groups: int, config: Config) -> Tiles:
    """Tiles of `weight` int8 [O, I / channel_groups, kh, kw]."""
    rows, columns = config.rows, config.columns
    outputs, depth, height, width = weight.shape
    inputs = depth * channel_groups
    count = -(-outputs // columns)
    if channel_groups == 1:
        groups = -(-inputs // rows)
        full = np.zeros((count * columns, groups * rows, height, width), np.int8)
        full[:outputs, :inputs] = weight
        tiles = full.reshape(count, columns, groups, rows, height, width)
        data = weight_bytes(np.ascontiguousarray(tiles.transpose(0, 4, 2, 5, 3, 1)), config)
        size = groups * height * width
        return Tiles((height, width), ((0, groups),) * count,
                     tuple(size * j for j in range(count)), data)
    group_out = outputs // channel_groups
    ranges, first, parts, total = [], [], [], 0
    places: dict[bytes, int] = {}  # of tiles that several column groups have alike, as in pools
    for j in range(count):
        channels = range(j * columns, min((j + 1) * columns, outputs))
        low = (channels[0] // group_out) * depth // rows
        high = -(-((channels[-1] // group_out + 1) * depth) // rows)
        part = np.zeros((height, high - low, width, rows, columns), np.int8)
        for column, channel in enumerate(channels):
            begin = channel // group_out * depth - low * rows
            place = np.arange(begin, begin + depth)
            part[:, place // rows, :, place % rows, column] = weight[channel].transpose(0, 1, 2)
        ranges.append((low, high))
        packed = weight_bytes(part, config)
        first.append(places.setdefault(packed, total))
        if first[-1] == total:
            total += (high - low) * height * width
            parts.append(packed)
    return Tiles((height, width), tuple(ranges), tuple(first), b"".join(parts))


def pack_taps(weight: NDArray[np.int8], chunks: list[tuple[int, int]], config: Config) -> bytes:
    """Tap words of `weight` int8 [C, kh, kw]: [group][chunk][ky][kx of the chunk].

    `chunks` are ranges (first, number) of kernel columns.
    """
    channels, height, width = weight.shape
    groups = -(-channels // config.rows)
    full = np.zeros((groups * config.rows, height, width), np.int8)
    full[:channels] = weight
    taps = full.reshape(groups, config.rows, height, width).transpose(0, 2, 3, 1)
    parts = [np.ascontiguousarray(taps[:, :, first:first + number]).reshape(groups, -1)
             for first, number in chunks]
    return np.concatenate(parts, axis=1).tobytes()


def pack_parameters(finish: Finish, channels: int, config: Config) -> bytes:
    """Records of `channels` channels (a multiple of the lanes); those behind the last have a
    multiplier of 0, which gives the output zero point whatever the accumulator holds.

    Their shift is one that the sequential core's circuits do, as its program takes longer.
    """
    records = np.zeros((channels, PARAMETER_BYTES), np.uint8)
    number = channels if finish.uniform else len(finish.bias)

    def spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.broadcast_to(values, (number,)) if finish.uniform else values

    words = records.view("<i4")
    words[:number, 0] = spread(finish.bias)
    words[:number, 1] = spread(finish.rounding)
    packed = spread(finish.multiplier).astype(np.int64) | spread(finish.shift) << 24
    words[:number, 2] = packed.astype(np.uint32).view(np.int32)
    words[number:, 2] = config.least_add_shift << 24
    return records.tobytes()
