"""Images side by side: a batch of a network without spatial axes becomes the pixels of one map.

A linear layer on one image uses each weight once, so that fetching weights takes all the time. With
N images as N pixels it is a pointwise convolution, and a weight that is there works N times.
"""

from dataclasses import fields, replace

from .errors import ModelError
from .graph import Add, Conv2d, Graph, Linear, Multiply, Node, Requantize, Table

__all__ = ["side_by_side"]


def side_by_side(graph: Graph, count: int) -> Graph:
    """The same network for `count` images at once: every tensor (C,) becomes (C, 1, count).

    Raises `ModelError` when a tensor has more axes than channels, or an operator mixes elements in
    another way than a linear layer does.
    """
    if count < 1:
        raise ModelError(f"a batch of {count} images cannot be compiled: give batch a positive "
                         "number")
    for node in graph.nodes:
        wide = [name for name in (*node.inputs, node.output) if len(graph.tensors[name].shape) != 1]
        if wide or not isinstance(node, Linear | Add | Multiply | Requantize | Table):
            raise ModelError(f"{node.op} '{node.name}' does not work on {count} images at once, "
                             "only networks of linear layers do: compile with batch=1, and run "
                             "batches of any size, image by image")
    return replace(
        graph, nodes=[_pointwise(node) for node in graph.nodes],
        tensors={name: replace(tensor, shape=(*tensor.shape, 1, count))
                 for name, tensor in graph.tensors.items()})


def _pointwise(node: Node) -> Node:
    if not isinstance(node, Linear):
        return node
    values = {item.name: getattr(node, item.name) for item in fields(node) if item.init}
    return Conv2d(**values | {"weight": node.weight[:, :, None, None]})
