"""Reading `torch.fx` graphs: names, shapes, arguments, constants. Nothing here decides anything."""

import operator as python_operator
from typing import Any

import torch
from torch import Tensor, fx

from systolith.importer import rules

__all__ = ["arguments", "constant", "is_constant", "layer_name", "operator_name", "value_shape"]

_MAKERS = ("arange", "full", "linspace", "ones", "scalar_tensor", "zeros")


def operator_name(node: fx.Node) -> str:
    """Name of the operator without overload and in-place mark: "conv2d", "relu", "getitem"."""
    if node.op != "call_function":
        return node.op
    target: Any = node.target
    if target is python_operator.getitem:
        return "getitem"
    schema = getattr(target, "_schema", None)
    if schema is None:
        return getattr(target, "__name__", str(target))
    space, name = schema.name.split("::")
    if space not in ("aten", "quantized_decomposed"):
        return schema.name
    return name if name.startswith("_") else name.rstrip("_")


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments by the operator's own names, defaults filled in."""
    target: Any = node.target
    values = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(node.args):
            values[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            values[argument.name] = node.kwargs[argument.name]
        else:
            values[argument.name] = argument.default_value
    return values


def layer_name(node: fx.Node) -> str:
    """The model's own name of the layer: module path, and the operator where it is not a module."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [entry for entry in stack.values() if isinstance(entry, tuple) and entry[0]]
    name = operator_name(node) if node.op == "call_function" else node.name
    if entries:
        path, kind = entries[-1]
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        # A class of torch.nn stands for its one operator; others are containers.
        return path if kind.startswith("torch.nn.") and "container" not in kind else (
            f"{path}.{name}")
    for argument in node.all_input_nodes[1:]:
        # A converted QAT pattern has lost its place, but its float bias has kept the name.
        if argument.op == "get_attr" and "." in str(argument.target):
            path, _, attribute = str(argument.target).rpartition(".")
            if "bias" in attribute:
                return path
    return name


def value_shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's tensor, batch axis included (as 0 where it is dynamic)."""
    value = node.meta.get("val")
    if value is None:
        value = node.meta.get("tensor_meta")
    if value is None and operator_name(node) in (
            "quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel"):
        return value_shape(node.all_input_nodes[0])
    if value is None or not hasattr(value, "shape"):
        raise rules.Corrupt(layer=layer_name(node), reason="its shape is unknown")
    sizes = list(value.shape)
    if sizes and not isinstance(sizes[0], int):
        sizes[0] = 0
    if any(not isinstance(size, int) for size in sizes):
        raise rules.DynamicShape(layer=layer_name(node), shape=tuple(map(str, value.shape)))
    return tuple(sizes)


def is_constant(node: Any) -> bool:
    """Whether a value depends on no input of the network."""
    if not isinstance(node, fx.Node):
        return not isinstance(node, list | tuple) or all(map(is_constant, node))
    if node.op == "get_attr":
        return True
    if node.op != "call_function":
        return False
    if not node.all_input_nodes:
        return operator_name(node) in _MAKERS
    return all(map(is_constant, node.all_input_nodes))


def constant(module: torch.nn.Module, value: Any) -> Any:
    """The value of a constant argument: attributes are fetched, constant operators evaluated."""
    if isinstance(value, list | tuple):
        return type(value)(constant(module, item) for item in value)
    if not isinstance(value, fx.Node):
        return value
    if value.op == "get_attr":
        found: Any = module
        for part in str(value.target).split("."):
            if not hasattr(found, part):
                raise rules.Corrupt(layer=str(value.target), reason="the constant is missing")
            found = getattr(found, part)
        return found.detach() if isinstance(found, Tensor) else found
    target: Any = value.target
    with torch.no_grad():
        return target(*(constant(module, item) for item in value.args),
                      **{name: constant(module, item) for name, item in value.kwargs.items()})
