"""Small simplifications of a fresh integer graph; each leaves what is computed unchanged."""

from dataclasses import replace
from typing import Any

from systolith import graph as ir

__all__ = ["simplify"]


def simplify(graph: ir.Graph) -> None:
    """Drop what no output needs, then move pads into the windows behind them."""
    prune(graph)
    fold_reshapes(graph)
    fold_pads(graph)
    leave_reshapes_to_the_host(graph)
    prune(graph)


def prune(graph: ir.Graph) -> None:
    """Remove nodes and tensors that no output depends on."""
    needed = {*graph.outputs}
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
    graph.nodes = [node for node in graph.nodes if node.output in needed]
    graph.tensors = {name: kind for name, kind in graph.tensors.items()
                     if name in needed or name in graph.inputs}
    graph.origins = {name: origin for name, origin in graph.origins.items()
                     if name in graph.tensors}


def fold_reshapes(graph: ir.Graph) -> None:
    """Let a reshape read the source of the reshape before it."""
    made = {node.output: node for node in graph.nodes}
    for index, node in enumerate(graph.nodes):
        before = made.get(node.inputs[0])
        if isinstance(node, ir.Reshape) and isinstance(before, ir.Reshape):
            graph.nodes[index] = made[node.output] = replace(node, inputs=before.inputs)


def leave_reshapes_to_the_host(graph: ir.Graph) -> None:
    """Let the driver give results a shape for which the accelerator would have to move data."""
    made = {node.output: node for node in graph.nodes}
    for index, name in enumerate(graph.outputs):
        node = made.get(name)
        if not isinstance(node, ir.Reshape) or graph.consumers(name):
            continue
        (source,) = node.inputs
        before, after = ((*shape, 1, 1)[:3] for shape in (graph.tensors[source].shape, node.shape))
        if before == after or source in graph.outputs:
            continue
        graph.outputs[index] = source
        graph.tail.insert(0, ir.TailOperation(op="reshape", inputs=(source,), output=name,
                                              arguments={"shape": list(node.shape)}))


def fold_pads(graph: ir.Graph) -> None:
    """Add a border to the padding of the windows that read it, where both feed one value."""
    made = {node.output: node for node in graph.nodes}
    for index, node in enumerate(graph.nodes):
        before = made.get(node.inputs[0])
        if not isinstance(before, ir.Pad):
            continue
        if isinstance(node, (ir.Conv2d, ir.AveragePool)):
            fed = graph.tensors[before.output].zero_point
        elif isinstance(node, ir.MaxPool):
            fed = -128
        else:
            continue
        if before.value == fed:
            padding: Any = tuple(a + b for a, b in zip(node.padding, before.padding, strict=True))
            graph.nodes[index] = made[node.output] = replace(node, inputs=before.inputs,
                                                             padding=padding)
