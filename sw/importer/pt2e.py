"""Import of a converted PT2E graph module."""

from typing import Any

from torch import fx

from systolith.errors import ModelError, refuse_all
from systolith.graph import Graph

# Importing these registers their handlers.
from systolith.importer import elementwise, movement, pooling, rules, weighted  # noqa: F401
from systolith.importer.builder import Builder
from systolith.importer.fx import layer_name, operator_name, value_shape
from systolith.importer.lowering import CLAMPS, HANDLERS, Lowering
from systolith.importer.modules import CENTERED_AVERAGE
from systolith.importer.passes import simplify
from systolith.importer.tail import TAIL_OPERATORS, lower_results

__all__ = ["import_pt2e"]


def import_pt2e(module: fx.GraphModule, example_input: Any, *, bias: str,
                multiplier_bits: int) -> Graph:
    """Lower the whole module. Raises every reason to refuse it at once."""
    names = {operator_name(node) for node in module.graph.nodes}
    if not any(name.startswith(("quantize_per", "dequantize_per")) for name in names):
        _refuse_float(module)
    _check_example(module, example_input)
    builder = Builder(bias=bias, multiplier_bits=multiplier_bits)
    lowering = Lowering(module, builder, centered_average=module.meta.get(CENTERED_AVERAGE, True))
    lowering.lower_quantizes()
    output = next(node for node in module.graph.nodes if node.op == "output")
    try:
        outputs, tail, results = lower_results(lowering, output)
    except ModelError as refusal:
        lowering.refuse(refusal)
    refuse_all(lowering.refusals)
    graph = builder.graph(outputs, tail, results)
    simplify(graph)
    graph.validate()
    return graph


def _refuse_float(module: fx.GraphModule) -> None:
    """Refuse a model without quantized tensors: for its unsupported operators, if it has some."""
    refuse_all([rules.UnsupportedOperator(layer=layer_name(node), operator=operator_name(node))
                for node in module.graph.nodes if node.op == "call_function"
                and operator_name(node) not in (*HANDLERS, *CLAMPS, *TAIL_OPERATORS)])
    raise rules.NotQuantized


def _check_example(module: fx.GraphModule, example_input: Any) -> None:
    if example_input is None:
        return
    given = example_input if isinstance(example_input, tuple | list) else (example_input,)
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(given) != len(places):
        raise rules.ExampleShape(name=", ".join(node.name for node in places),
                                 given=f"{len(given)} tensors", expected=f"{len(places)} tensors")
    for node, value in zip(places, given, strict=True):
        if not hasattr(value, "shape"):
            raise rules.ExampleKind(kind=type(value).__name__)
        shape, expected = tuple(value.shape), value_shape(node)
        if len(shape) != len(expected) or shape[1:] != expected[1:] or shape[0] < 1:
            raise rules.ExampleShape(name=node.name, given=shape, expected=("N", *expected[1:]))
