"""What stands behind the last quantized tensor: float operations for the host."""

from collections.abc import Callable
from typing import Any

from torch import fx

from systolith import graph as ir
from systolith.importer import rules
from systolith.importer.fx import arguments, is_constant, layer_name, operator_name, value_shape
from systolith.importer.lowering import HANDLERS, Lowering
from systolith.importer.weighted import float_linear
from systolith.tail import linear_arguments

__all__ = ["TAIL_OPERATORS", "lower_results"]

_Translation = Callable[[dict[str, Any], fx.Node], tuple[str, dict[str, Any]]]


def _axis(values: dict[str, Any], node: fx.Node) -> int:
    return int(values["dim"]) % len(value_shape(node.all_input_nodes[0]))


def _argmax(values: dict[str, Any], node: fx.Node) -> tuple[str, dict[str, Any]]:
    if values["dim"] is None:
        raise rules.BatchAxis(layer=layer_name(node), operator="argmax")
    return "argmax", {"axis": _axis(values, node), "keepdims": bool(values["keepdim"])}


def _reshape(values: dict[str, Any], node: fx.Node) -> tuple[str, dict[str, Any]]:
    return "reshape", {"shape": list(value_shape(node)[1:])}


def _clamp(values: dict[str, Any], node: fx.Node) -> tuple[str, dict[str, Any]]:
    return "clamp", {"low": values["min"], "high": values["max"]}


def _scaled(values: dict[str, Any], node: fx.Node) -> tuple[str, dict[str, Any]]:
    other = values["other"]
    if not isinstance(other, int | float):
        raise rules.TailOperator(layer=layer_name(node), operator=operator_name(node))
    alpha = float(values.get("alpha", 1) or 1)
    factor, offset = {"add": (1.0, alpha * other), "sub": (1.0, -alpha * other),
                      "mul": (float(other), 0.0), "div": (1.0 / other if other else 0.0, 0.0)}[
                          operator_name(node)]
    return "scale", {"factor": factor, "offset": offset}


TAIL_OPERATORS: dict[str, _Translation] = {
    "add": _scaled,
    "argmax": _argmax,
    "clamp": _clamp,
    "div": _scaled,
    "flatten": _reshape,
    "log_softmax": lambda values, node: ("log_softmax", {"axis": _axis(values, node)}),
    "mul": _scaled,
    "permute": lambda values, node: ("permute", {"axes": [int(axis) for axis in values["dims"]]}),
    "relu": lambda values, node: ("relu", {}),
    "reshape": _reshape,
    "sigmoid": lambda values, node: ("sigmoid", {}),
    "softmax": lambda values, node: ("softmax", {"axis": _axis(values, node)}),
    "squeeze": _reshape,
    "sub": _scaled,
    "tanh": lambda values, node: ("tanh", {}),
    "unsqueeze": _reshape,
    "view": _reshape,
}
"""Operators that run on the host behind the network, and their form in numpy."""


class _Tail:
    def __init__(self, lowering: Lowering):
        self.lowering = lowering
        self.outputs: list[str] = []
        self.operations: list[ir.TailOperation] = []
        self._done: dict[fx.Node, str] = {}

    def result(self, node: fx.Node, consumer: fx.Node) -> str:
        """Name of the float value of a node."""
        if node not in self._done:
            self._done[node] = self._result(node, consumer)
        return self._done[node]

    def _result(self, node: fx.Node, consumer: fx.Node) -> str:
        lowering = self.lowering
        if lowering.quantization(node) is not None:
            tensor, _ = lowering.exact(node, consumer)
            if tensor not in self.outputs:
                self.outputs.append(tensor)
            shape = value_shape(node)
            if len(shape) == 3:  # sequences are (C, 1, L) inside
                return self._append("reshape", tensor, node, {"shape": list(shape[1:])})
            return tensor
        name = operator_name(node)
        if name in ("dropout", "alias", "clone", "contiguous", "detach"):
            return self.result(node.args[0], node)
        if name == "linear":
            levels, scale, bias = float_linear(lowering, node)
            return self._append("linear", self.result(node.args[0], node), node,
                                linear_arguments(levels, scale, bias))
        if name not in TAIL_OPERATORS or self._computes(node):
            if node.op == "call_function" and name not in HANDLERS:
                raise rules.TailOperator(layer=layer_name(node), operator=name)
            raise lowering.needs_scale(node, consumer)
        operation, values = TAIL_OPERATORS[name](arguments(node), node)
        source = self.result(node.args[0], node)
        return self._append(operation, source, node, values)

    def _append(self, operation: str, source: str, node: fx.Node,
                values: dict[str, Any]) -> str:
        output = self.lowering.builder.unique(f"{layer_name(node)}.host")
        self.operations.append(ir.TailOperation(op=operation, inputs=(source,), output=output,
                                                arguments=values))
        return output

    def _computes(self, node: fx.Node) -> bool:
        """Whether the operator combines several computed values."""
        return len([item for item in node.all_input_nodes if not is_constant(item)]) != 1


def lower_results(lowering: Lowering, output: fx.Node
                  ) -> tuple[list[str], list[ir.TailOperation], list[str]]:
    """Quantized outputs, float operations behind them, and the names of the results."""
    tail = _Tail(lowering)
    results = []
    for node in output.all_input_nodes:
        results.append(tail.result(node, output))
    return tail.outputs, tail.operations, results
