"""Lowering of operators that move data: on the array, as products with ones and zeros.

A 1x1 convolution whose weights are rows of the unit matrix copies channels to wherever they are
wanted, and its offset and stride cut and pad; nothing is rounded, because the requantizer passes
the sum of one value on as it is. Concatenation costs nothing where only dense convolutions read it:
they sum over several inputs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from systolith import graph as g

from .ir import Feature, Source

__all__ = ["channel_copy", "cut", "joined", "padded", "shuffled", "zero_insertion_padding"]


def channel_copy(channels: Sequence[int], available: int) -> NDArray[np.int8]:
    """Weights [O, I, 1, 1] by which output channel o is input channel `channels[o]`; -1 is none."""
    weight = np.zeros((len(channels), available, 1, 1), np.int8)
    for output, channel in enumerate(channels):
        if channel >= 0:
            weight[output, channel] = 1
    return weight


def joined(node: g.Concat, features: Sequence[Feature], axis: int
           ) -> tuple[tuple[Source, ...], tuple[NDArray[np.int8], ...]]:
    """Sources and weights that put features behind each other along an axis (0 = channels)."""
    sizes = [(feature.channels, feature.height, feature.width)[axis] for feature in features]
    starts = np.cumsum([0, *sizes])
    sources, weights = [], []
    for feature, start in zip(features, starts, strict=False):
        if axis == 0:
            channels = np.arange(starts[-1]) - start
            channels[(channels < 0) | (channels >= feature.channels)] = -1
            sources.append(Source(feature=feature.name))
        else:
            # Beyond its edges a feature is 0, and adds nothing to the others.
            channels = np.arange(feature.channels)
            offset = (-int(start), 0) if axis == 1 else (0, -int(start))
            sources.append(Source(feature=feature.name, offset=offset, pad_value=0))
        weights.append(channel_copy(channels.tolist(), feature.channels))
    return tuple(sources), tuple(weights)


def cut(node: g.Slice, feature: Feature) -> tuple[Source, NDArray[np.int8]]:
    """Source and weights that take a box out of a feature."""
    whole = (slice(None),) * 3
    channels, rows, columns = (*node.slices, *whole)[:3]
    top, _, row_step = rows.indices(feature.height)
    left, _, column_step = columns.indices(feature.width)
    return (Source(feature=feature.name, offset=(top, left), stride=(row_step, column_step)),
            channel_copy(range(*channels.indices(feature.channels)), feature.channels))


def padded(node: g.Pad, feature: Feature) -> tuple[Source, NDArray[np.int8]]:
    """Source and weights that put a border around a feature."""
    top, _, left, _ = node.padding
    return (Source(feature=feature.name, offset=(-top, -left), pad_value=node.value),
            channel_copy(range(feature.channels), feature.channels))


def shuffled(node: g.ChannelShuffle, feature: Feature) -> tuple[Source, NDArray[np.int8]]:
    """Source and weights that transpose the channels seen as [groups, C / groups]."""
    channels = np.arange(feature.channels).reshape(node.groups, -1).T.reshape(-1)
    return Source(feature=feature.name), channel_copy(channels.tolist(), feature.channels)


def zero_insertion_padding(node: g.ConvTranspose2d) -> tuple[int, int]:
    """Rows above and columns left of the input with its pixels set apart, of which the transposed
    convolution is an ordinary one with the kernel turned around."""
    return tuple(node.dilation[axis] * (node.kernel[axis] - 1) - node.padding[2 * axis]
                 for axis in (0, 1))  # type: ignore[return-value]
