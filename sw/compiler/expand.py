"""Operations that the engines have not, written as several that they have.

The integers stay the same; a layer's last part keeps its name and its tensor.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from systolith import graph as g
from systolith.errors import refuse_all
from systolith.hw.config import Config

from . import rules

__all__ = ["expand"]


def expand(graph: g.Graph, config: Config) -> g.Graph:
    """The graph with such operations replaced; itself where it has none.

    Raises ModelError for every one that the configuration cannot run.
    """
    if not any(isinstance(node, g.UpsampleBilinear) for node in graph.nodes):
        return graph
    refuse_all([rules.needs_byte_weights(node) for node in graph.nodes
                if isinstance(node, g.UpsampleBilinear) and config.weight_bits != 8])
    expanded = replace(graph, nodes=[], tensors=dict(graph.tensors))
    for node in graph.nodes:
        if isinstance(node, g.UpsampleBilinear):
            _bilinear(expanded, node)
        else:
            expanded.nodes.append(node)
    expanded.validate()
    return expanded


def _append(graph: g.Graph, kind: type[g.Node], name: str, inputs: tuple[str, ...],
            **values: Any) -> str:
    """Append a node that keeps its inputs' scale, and name its output."""
    node = kind(name=name, inputs=inputs, output=name, **values)
    graph.nodes.append(node)
    graph.tensors[name] = replace(graph.tensors[inputs[0]],
                                  shape=node.output_shape(graph.shapes(node)))
    return name


def _edges_repeated(graph: g.Graph, name: str, tensor: str) -> str:
    """A tensor with its outer rows, then its outer columns, once more."""
    for axis, (first, last) in ((1, ("top", "bottom")), (2, ("left", "right"))):
        shape = graph.tensors[tensor].shape
        parts = []
        for side, place in ((first, 0), (last, shape[axis] - 1)):
            start, stop = [0, 0, 0], list(shape)
            start[axis], stop[axis] = place, place + 1
            parts.append(_append(graph, g.Slice, f"{name}@{side}", (tensor,), start=tuple(start),
                                 stop=tuple(stop), step=(1, 1, 1)))
        tensor = _append(graph, g.Concat, f"{name}@{first}-{last}", (parts[0], tensor, parts[1]),
                         axis=axis)
    return tensor


def _bilinear(graph: g.Graph, node: g.UpsampleBilinear) -> None:
    """A transposed convolution of stride 2: a pixel gives 1, 3, 3, 1 parts to four in a row."""
    channels = graph.tensors[node.inputs[0]].shape[0]
    zero = graph.tensors[node.inputs[0]].zero_point
    tensor = _edges_repeated(graph, node.name, node.inputs[0])
    line = np.array([1, 3, 3, 1], np.int8)

    def each(value: int, dtype: type) -> Any:
        return np.full(channels, value, dtype)

    graph.nodes.append(g.ConvTranspose2d(
        name=node.name, inputs=(tensor,), output=node.output, groups=channels, stride=(2, 2),
        # The two lines outside of the image, and what the repeated edge gives beyond them.
        padding=(3, 3, 3, 3), weight=np.tile(np.outer(line, line), (channels, 1, 1, 1)),
        bias=each(node.bias + 16 * zero, np.int32), rounding=each(0, np.int64),
        multiplier=each(node.multiplier, np.int64), shift=each(node.shift, np.int64),
        zero=node.zero, low=node.low, high=node.high, float_bias=each(0, np.float64),
        weight_scale=each(1, np.float64), enlargement=each(0, np.int64),
        enlargement_error=each(0, np.float64)))
