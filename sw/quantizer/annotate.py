"""`SystolithQuantizer`: which values of an exported graph get a scale, and which share one."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torchao.quantization.pt2e import FakeQuantize
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from systolith.errors import ModelError
from systolith.importer.fx import arguments, is_constant, operator_name
from systolith.quantizer.observers import (
    ActivationObserver,
    BiasFakeQuantize,
    PerChannelWeightObserver,
    RangeObserver,
    ScaleLink,
    TensorWeightObserver,
)

__all__ = ["LAYERS", "SystolithQuantizer"]

_KEY = "quantization_annotation"
LAYERS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear")
"""Operators with weights, whose biases are rounded to int32."""
_BOUNDS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max")
_SUMS = ("add", "sub", "mul")
_FUNCTIONS = ("elu", "gelu", "hardswish", "leaky_relu", "mish", "prelu", "silu", "softplus",
              "selu", "exp", "sqrt", "abs")
_FIXED = {"sigmoid": (1 / 256, -128), "hardsigmoid": (1 / 256, -128), "tanh": (1 / 128, 0)}
_AVERAGES = ("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean")
_SHARING = ("max_pool1d", "max_pool2d", "adaptive_max_pool2d", "flatten", "view", "reshape",
            "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "slice", "select",
            "narrow", "pad", "constant_pad_nd", "upsample_nearest1d", "upsample_nearest2d",
            "upsample_bilinear2d",
            "channel_shuffle", "dropout", "contiguous", "clone", "amax", *_BOUNDS)
_PARTS = ("chunk", "split", "split_with_sizes")


class SystolithQuantizer(Quantizer):
    """A PT2E quantizer that leaves nothing between two layers in float.

    Activations are int8, affine, one scale a tensor; weights int8 (or 4-bit levels), symmetric,
    with a floor under each channel's scale; biases int32 in units of input scale times weight
    scale, really rounded. Use it with `prepare_pt2e` or, with `qat=True`, `prepare_qat_pt2e`.

    Parameters
    ----------
    per_channel
        One weight scale an output channel, or one a layer.
    weight_bits
        8 for levels within +-127, 4 for +-7.
    qat
        Plain fake-quantize modules instead of observers.
    multiplier_bits
        None, or 18, 16 or 0: weight scales are rounded up to where a requantize multiplier of that
        width is exact.
    """

    def __init__(self, *, per_channel: bool = True, weight_bits: int = 8, qat: bool = False,
                 multiplier_bits: int | None = None):
        super().__init__()
        if weight_bits not in (4, 8):
            raise ModelError(f"weight_bits must be 4 or 8, not {weight_bits}")
        if multiplier_bits not in (None, 24, 18, 16, 0):
            raise ModelError("multiplier_bits must be None, 24, 18, 16 or 0, "
                             f"not {multiplier_bits}")
        self.per_channel = per_channel
        self.weight_bits = weight_bits
        self.qat = qat
        self.multiplier_bits = None if multiplier_bits == 24 else multiplier_bits
        self._activation = self._activation_spec()

    # Specifications -----------------------------------------------------------------------------

    def _activation_spec(self) -> QuantizationSpec:
        observer = (FakeQuantize.with_args(observer=RangeObserver) if self.qat
                    else ActivationObserver.with_args())
        return QuantizationSpec(
            dtype=torch.int8, observer_or_fake_quant_ctr=observer, quant_min=-128, quant_max=127,
            qscheme=torch.per_tensor_affine)

    def _weight_spec(self, axis: int, per_channel: bool) -> QuantizationSpec:
        kind = PerChannelWeightObserver if per_channel else TensorWeightObserver
        limit = (1 << (self.weight_bits - 1)) - 1
        axis_given = {"ch_axis": axis} if per_channel else {}
        observer: Any = kind.with_args(eps=torch.finfo(torch.float32).tiny)
        if self.qat:
            observer = FakeQuantize.with_args(observer=kind,
                                              eps=torch.finfo(torch.float32).tiny, **axis_given)
        scheme = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
        return QuantizationSpec(
            dtype=torch.int8, observer_or_fake_quant_ctr=observer, quant_min=-limit,
            quant_max=limit, qscheme=scheme, ch_axis=axis if per_channel else None)

    # Annotation ---------------------------------------------------------------------------------

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate every operator that the hardware runs."""
        for node in model.graph.nodes:
            if node.op != "call_function" or _KEY in node.meta:
                continue
            self._annotate(operator_name(node), node)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: what cannot run is refused by the importer, by name."""

    def _annotate(self, name: str, node: fx.Node) -> None:
        if name in LAYERS:
            self._layer(name, node)
        elif name in _SUMS:
            self._sum(node)
        elif name in _FUNCTIONS or name in _AVERAGES or name == "batch_norm":
            self._mark(node, self._inputs(node.args[0]), None)
            self._result(_last(node), self._activation)
        elif name in _FIXED:
            scale, zero_point = _FIXED[name]
            self._mark(node, self._inputs(node.args[0]), FixedQParamsQuantizationSpec(
                dtype=torch.int8, scale=scale, zero_point=zero_point, quant_min=-128,
                quant_max=127, qscheme=torch.per_tensor_affine))
        elif name == "cat":
            self._concat(node)
        elif name in _PARTS:
            self._mark(node, self._inputs(node.args[0]), None)
        elif name in _SHARING or (name == "getitem" and operator_name(node.args[0]) in _PARTS):
            self._share(node)

    def _layer(self, name: str, node: fx.Node) -> None:
        values = arguments(node)
        source, weight, bias = values["input"], values["weight"], values["bias"]
        transposed = "transpose" in name
        # The scales of a grouped transposed layer would lie along the channels of one group.
        per_channel = self.per_channel and not (transposed and values["groups"] != 1)
        inputs = self._inputs(source)
        inputs[weight] = self._weight_spec(1 if transposed else 0, per_channel)
        if isinstance(bias, fx.Node):
            inputs[bias] = DerivedQuantizationSpec(
                derived_from=[(source, node), (weight, node)], derive_qparams_fn=_derived_scale,
                dtype=torch.int32, quant_min=-(1 << 31), quant_max=(1 << 31) - 1,
                qscheme=torch.per_channel_symmetric if per_channel else (
                    torch.per_tensor_symmetric), ch_axis=0 if per_channel else None)
        self._mark(node, inputs, None)
        self._result(_last(node), self._activation)

    def _sum(self, node: fx.Node) -> None:
        operands = [item for item in node.args[:2]
                    if isinstance(item, fx.Node) and not is_constant(item)]
        if not operands or (len(operands) == 1 and operator_name(operands[0]) in LAYERS
                            and operator_name(node) != "mul"):
            return  # a constant behind a layer joins its bias; `_last` has gone past it
        self._mark(node, self._inputs(*operands), None)
        self._result(_last(node), self._activation)

    def _concat(self, node: fx.Node) -> None:
        tensors: Any = node.args[0]
        first = (tensors[0], node)
        inputs = self._inputs(tensors[0])
        for item in tensors[1:]:
            inputs.setdefault(item, SharedQuantizationSpec(first))
        self._mark(node, inputs, SharedQuantizationSpec(first))

    def _share(self, node: fx.Node) -> None:
        source: Any = node.args[0]
        if operator_name(node) == "getitem":
            # The parts of a split share the scale of what was split.
            self._mark(node, {}, SharedQuantizationSpec((source.args[0], source)))
            return
        if getattr(node.meta.get("val"), "ndim", 0) > 4:
            return  # the middle of a channel shuffle is no tensor of its own
        if _is_quantized(source):
            self._mark(node, self._inputs(source), SharedQuantizationSpec((source, node)))
            return
        while operator_name(source) in _SHARING and not _is_quantized(source):
            source = source.args[0]
        if _is_quantized(source) and source.op != "placeholder":
            self._mark(node, {}, SharedQuantizationSpec(source))

    def _inputs(self, *sources: fx.Node) -> dict[Any, Any]:
        """Specifications of an operator's inputs; a fixed scale is taken over from its maker."""
        specs: dict[Any, Any] = {}
        for source in sources:
            made = source.meta.get(_KEY)
            fixed = made is not None and isinstance(made.output_qspec, FixedQParamsQuantizationSpec)
            specs[source] = SharedQuantizationSpec(source) if fixed else self._activation
        return specs

    def _mark(self, node: fx.Node, inputs: dict[Any, Any], output: Any) -> None:
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output,
                                                 _annotated=True)

    def _result(self, node: fx.Node, spec: Any) -> None:
        if _KEY in node.meta:
            node.meta[_KEY].output_qspec = spec
        else:
            self._mark(node, {}, spec)

    # Links between observers --------------------------------------------------------------------

    def prepare_obs_or_fq_callback(self, model: fx.GraphModule,
                                   edge_or_node_to_obs_or_fq: dict[Any, Any]) -> None:
        """Tell weights and biases the scales around them, once the observers exist."""
        found = edge_or_node_to_obs_or_fq
        for node in model.graph.nodes:
            if node.op != "call_function" or operator_name(node) not in LAYERS:
                continue
            source, weight, *rest = node.args
            bias = rest[0] if rest and isinstance(rest[0], fx.Node) else None
            if (source, node) not in found or (weight, node) not in found:
                continue
            link = ScaleLink(found[(source, node)], _result_observer(node, found),
                             _fetcher(model, bias), self.multiplier_bits)
            observer = found[(weight, node)]
            getattr(observer, "activation_post_process", observer).link = (link,)
            if bias is not None and (bias, node) in found:
                found[(bias, node)] = BiasFakeQuantize(found[(source, node)], observer)


def _derived_scale(observers: Iterable[Any]) -> tuple[Tensor, Tensor]:
    (source, _), (weight, _) = (observer.calculate_qparams() for observer in observers)
    scale = source * weight
    return scale, torch.zeros_like(scale, dtype=torch.int64)


def _last(node: fx.Node) -> fx.Node:
    """The node whose output is quantized: past batch norm, a constant bias and bounds."""
    while len(node.users) == 1:
        (user,) = node.users
        name = operator_name(user)
        constants = [item for item in user.args if isinstance(item, fx.Node) and item is not node]
        layer = operator_name(node) in LAYERS
        if name in _BOUNDS or (layer and name == "batch_norm") or (
                layer and name in ("add", "sub") and constants and user.args[0] is node
                and all(map(is_constant, constants))):
            node = user
        else:
            break
    return node


def _is_quantized(node: Any) -> bool:
    """Whether a value will have a scale: made by an annotated node, or an input of the network."""
    return isinstance(node, fx.Node) and (
        node.op == "placeholder" or (
            _KEY in node.meta and (node.meta[_KEY].output_qspec is not None
                                   or operator_name(node) in _PARTS)))


def _result_observer(node: fx.Node, found: dict[Any, Any]) -> Any:
    """Observer of a layer's output, behind batch norm and bounds."""
    for _ in range(8):
        if node in found:
            return found[node]
        if len(node.users) != 1:
            return None
        (node,) = node.users
    return None


def _fetcher(model: fx.GraphModule, bias: fx.Node | None) -> Callable[[], Tensor | None]:
    if bias is None or bias.op != "get_attr":
        return _no_bias
    parameter: Any = model
    for part in str(bias.target).split("."):
        parameter = getattr(parameter, part)
    return _Parameter(parameter)


def _no_bias() -> None:
    return None


class _Parameter:
    """Returns a parameter; a deep copy of the model copies the reference with it."""

    def __init__(self, value: Tensor):
        self.value = value

    def __call__(self) -> Tensor:
        return self.value
