"""Lowers a converted PT2E graph: every quantize node becomes integer nodes.

A converted graph is float code between dequantize and quantize nodes. Rounding to levels is
monotone, so a quantize can be moved up through everything that only selects, moves or bounds
values, until it meets the operator that computes; that operator and the quantize together are one
integer node. The handlers of the operators register here.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from systolith import graph as ir
from systolith.errors import ModelError
from systolith.importer import rules
from systolith.importer.builder import Builder
from systolith.importer.fx import (
    arguments,
    constant,
    is_constant,
    layer_name,
    operator_name,
    value_shape,
)
from systolith.integer import Quantization

__all__ = ["CLAMPS", "HANDLERS", "SELECTORS", "Lowering", "handles", "internal_shape"]

Handler = Callable[["Lowering", fx.Node, Quantization], str]

HANDLERS: dict[str, Handler] = {}
"""Handler of each operator: it computes `quantize(operator(...))` and returns the tensor."""

SELECTORS: set[str] = set()
"""Operators whose output values are all input values, so that they need no scale of their own."""

CLAMPS: dict[str, Callable[[dict[str, Any]], tuple[float, float]]] = {
    "clamp": lambda a: (_or(a["min"], -np.inf), _or(a["max"], np.inf)),
    "clamp_max": lambda a: (-np.inf, a["max"]),
    "clamp_min": lambda a: (a["min"], np.inf),
    "hardtanh": lambda a: (a["min_val"], a["max_val"]),
    "relu": lambda a: (0.0, np.inf),
    "relu6": lambda a: (0.0, 6.0),
}
"""Operators that are the output bounds of whatever comes before; their bounds by arguments."""

_LEVELS = {torch.int8: 0, torch.uint8: 128}


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)


def handles(*operators: str, selects: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler. Its docstring says in the table of operators how they run."""
    def register(handler: Handler) -> Handler:
        for name in operators:
            HANDLERS[name] = handler
            if selects:
                SELECTORS.add(name)
        return handler
    return register


def internal_shape(shape: tuple[int, ...], name: str) -> ir.Shape:
    """(C,), or (C, H, W) with H = 1 for sequences, of a shape with batch axis."""
    if len(shape) == 2:
        return shape[1:]
    if len(shape) == 3:
        return (shape[1], 1, shape[2])
    if len(shape) == 4:
        return shape[1:]
    raise rules.Rank(layer=name, shape=shape)


class _Unjudged(ModelError):
    """Follows from a refusal already noted: says nothing new."""


class Lowering:
    """State of one import: what each value of the source graph has become.

    Parameters
    ----------
    module
        The converted graph module.
    builder
        Receives the integer nodes.
    centered_average
        Whether average pools round around the zero point (PT2E, QNNPACK) or around 0 (FBGEMM).
    """

    def __init__(self, module: fx.GraphModule, builder: Builder, *,
                 centered_average: bool = True):
        self.module = module
        self.builder = builder
        self.centered_average = centered_average
        self.refusals: list[ModelError] = []
        self._leaves: dict[fx.Node, tuple[str, Quantization]] = {}
        self._done: dict[tuple[fx.Node, Quantization], str] = {}
        self._inputs: dict[fx.Node, tuple[str, Quantization]] = {}
        self._transparent: dict[fx.Node, fx.Node] = {}
        self._unjudged: set[fx.Node] = set()

    def lower_quantizes(self) -> None:
        """Lower every quantize node in order, collecting refusals, and go on behind each."""
        for node in self.module.graph.nodes:
            name = operator_name(node)
            if "choose_qparams" in name:
                self.refusals.append(rules.DynamicQuantization(layer=layer_name(node)))
            if name != "quantize_per_tensor" or is_constant(node.args[0]):
                continue
            try:
                target = self.quantization_of(node)
            except ModelError as refusal:
                self.refuse(refusal)
                self._unjudged.add(node)
                continue
            if self._is_shuffling(node, target):
                self._transparent[node] = node.args[0]
                continue
            try:
                tensor = self.lower(node.args[0], target)
                self._leaves[node] = tensor, target
                self.builder.origins.setdefault(tensor, node.name)
            except ModelError as refusal:
                self.refuse(refusal)
                self._pretend(node, target)

    def _is_shuffling(self, node: fx.Node, target: Quantization) -> bool:
        """Whether a quantize stands inside a channel shuffle, where it changes nothing."""
        try:
            kind = self.quantization(node.args[0])
            return kind is not None and kind.same_scale(target) and len(value_shape(node)) == 5
        except ModelError:
            return False

    def behind(self, node: Any) -> Any:
        """The value itself where `node` only quantizes and dequantizes it inside a shuffle."""
        while (isinstance(node, fx.Node) and operator_name(node) == "dequantize_per_tensor"
               and node.args[0] in self._transparent):
            node = self._transparent[node.args[0]]
        return node

    def refuse(self, refusal: ModelError) -> None:
        """Note a reason to refuse the model."""
        if not isinstance(refusal, _Unjudged):
            self.refusals.append(refusal)

    def _pretend(self, node: fx.Node, target: Quantization) -> None:
        """After a refusal declare the tensor anyway, so that what follows can be judged too."""
        try:
            shape = internal_shape(value_shape(node), layer_name(node))
        except ModelError:
            self._unjudged.add(node)
            return
        name = self.builder.unique(f"{layer_name(node.args[0])}.refused")
        self.builder.tensors[name] = ir.TensorType(shape=shape, scale=target.scale,
                                                   zero_point=target.zero)
        self._leaves[node] = name, target

    # Values -------------------------------------------------------------------------------------

    def lower(self, node: fx.Node, target: Quantization) -> str:
        """The tensor that holds `quantize(node)`."""
        key = (node, target)
        if key not in self._done:
            self._done[key] = self._lower(node, target)
        return self._done[key]

    def _lower(self, node: fx.Node, target: Quantization) -> str:
        node = self.behind(node)
        if node.op == "placeholder":
            return self._input(node, target)
        name = operator_name(node)
        if name == "dequantize_per_tensor":
            return self._rescale(node, target)
        if name in CLAMPS:
            low, high = self.bounds(node)
            return self.lower(node.args[0], target.within(target.level(low), target.level(high)))
        handler = HANDLERS.get(name)
        if handler is None:
            raise self.unsupported(node)
        return handler(self, node, target)

    def exact(self, node: Any, consumer: fx.Node) -> tuple[str, Quantization]:
        """The tensor that holds a value without any further rounding, and its quantization."""
        kind = self.quantization(node)
        if kind is None:
            raise self.needs_scale(node, consumer)
        return self.lower(node, kind), kind

    def quantization(self, node: Any) -> Quantization | None:
        """The quantization that a float value already has; None when it was computed since."""
        node = self.behind(node)
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        name = operator_name(node)
        if name == "dequantize_per_tensor":
            return None if is_constant(node) else self._leaf(node)[1]
        if name in CLAMPS:
            kind = self.quantization(node.args[0])
            return None if kind is None else _representable(kind, self.bounds(node))
        if name not in SELECTORS:
            return None
        if name == "pad":
            kind = self.quantization(node.args[0])
            return kind if kind and _is_level(kind, _or(arguments(node)["value"], 0.0)) else None
        if name == "cat":
            kinds = [self.quantization(item) for item in arguments(node)["tensors"]]
            return kinds[0] if len(set(kinds)) == 1 else None
        return self.quantization(node.args[0])

    def _leaf(self, node: fx.Node) -> tuple[str, Quantization]:
        """Tensor and quantization behind a dequantize node."""
        source = node.args[0]
        if source in self._unjudged:
            raise _Unjudged
        if source not in self._leaves:
            raise rules.Corrupt(layer=layer_name(node), reason="nothing quantizes its input")
        name, kind = self._leaves[source]
        if not kind.same_scale(self.quantization_of(node)):
            raise rules.Corrupt(layer=layer_name(node),
                                reason="its scale is not that of the quantized tensor")
        return name, kind

    def _rescale(self, node: fx.Node, target: Quantization) -> str:
        tensor, kind = self._leaf(node)
        if kind.same_scale(target) and kind.low >= target.low and kind.high <= target.high:
            return tensor
        return self.builder.requantize(f"{tensor}.requantize", tensor, kind, target)

    def _input(self, node: fx.Node, target: Quantization) -> str:
        if node in self._inputs:
            tensor, kind = self._inputs[node]
            if not kind.same_scale(target):
                raise rules.InputScales(name=node.name, first=kind.scale, second=target.scale)
            if (kind.low, kind.high) == (target.low, target.high):
                return tensor
            return self.builder.requantize(f"{tensor}.clamp", tensor, kind, target)
        tensor = self.builder.input(str(node.target), self.shape(node), target)
        self._inputs[node] = tensor, target
        return tensor

    # Attributes ---------------------------------------------------------------------------------

    def shape(self, node: fx.Node) -> ir.Shape:
        """Shape in the integer graph."""
        return internal_shape(value_shape(node), layer_name(node))

    def bounds(self, node: fx.Node) -> tuple[float, float]:
        """Real bounds of an operator of `CLAMPS`."""
        values = arguments(node)
        if len(node.all_input_nodes) > 1:
            raise self.unsupported(node)
        return CLAMPS[operator_name(node)](values)

    def constant(self, value: Any) -> Any:
        """A constant argument's value: tensors, numbers, lists."""
        return constant(self.module, value)

    def quantization_of(self, node: fx.Node) -> Quantization:
        """Scale, zero point and bounds of a quantize or dequantize node, as int8."""
        values = arguments(node)
        name = layer_name(node.all_input_nodes[0])
        for key in ("scale", "zero_point"):
            if not is_constant(values[key]):
                raise rules.DynamicQuantization(layer=name)
        scale = float(self.constant(values["scale"]))
        zero = int(self.constant(values["zero_point"]))
        if values["dtype"] not in _LEVELS:
            raise rules.TensorKind(layer=name, kind=str(values["dtype"]).removeprefix("torch."))
        offset = _LEVELS[values["dtype"]]
        low, high = int(values["quant_min"]), int(values["quant_max"])
        limits = torch.iinfo(values["dtype"])
        if not limits.min <= low < high <= limits.max:
            raise rules.Corrupt(layer=name, reason=f"its levels reach from {low} to {high}")
        check_scale(scale, name)
        if not low <= zero <= high:
            raise rules.ZeroPoint(layer=name, zero_point=zero, low=low, high=high)
        return Quantization(scale=scale, zero=zero - offset, low=low - offset, high=high - offset)

    # Refusals -----------------------------------------------------------------------------------

    def unsupported(self, node: fx.Node) -> ModelError:
        """The refusal of an operator that no handler takes."""
        operator, name = operator_name(node), layer_name(node)
        if operator in ("cond", "while_loop", "map_impl", "scan"):
            return rules.ControlFlow(layer=name, operator=operator)
        return rules.UnsupportedOperator(layer=name, operator=operator)

    def needs_scale(self, node: Any, consumer: fx.Node) -> ModelError:
        """The refusal of a float value between two computing operators."""
        if not isinstance(node, fx.Node) or is_constant(node):
            value = self.constant(node)
            return rules.ChannelConstant(
                layer=layer_name(consumer), operator=operator_name(consumer),
                shape=tuple(getattr(value, "shape", ())))
        if node.op == "placeholder":
            return rules.UnquantizedInput(name=node.target, layer=layer_name(consumer))
        name = operator_name(node)
        if name in SELECTORS or name in CLAMPS:
            inner = node.args[0]
            inner = inner[0] if isinstance(inner, list | tuple) else inner
            if self.quantization(inner) is None:
                return self.needs_scale(inner, consumer)
        elif name not in HANDLERS:
            return self.unsupported(node)
        return rules.NeedsScale(layer=layer_name(node), operator=name,
                                consumer=layer_name(consumer))


def check_scale(scale: float, name: str) -> None:
    """Refuse scales that are no normal positive float32."""
    if not (np.isfinite(scale) and np.finfo(np.float32).tiny <= scale <= 1e30):
        raise rules.Scale(layer=name, scale=scale)


def _is_level(kind: Quantization, value: float) -> bool:
    level = value / kind.scale + kind.zero
    return kind.low <= round(level) <= kind.high and abs(level - round(level)) < 1e-4


def _representable(kind: Quantization, bounds: tuple[float, float]) -> Quantization | None:
    """`kind` within real bounds, when both are levels or lie outside; None otherwise."""
    for bound in bounds:
        if kind.low < bound / kind.scale + kind.zero < kind.high and not _is_level(kind, bound):
            return None
    return kind.within(kind.level(bounds[0]), kind.level(bounds[1]))
