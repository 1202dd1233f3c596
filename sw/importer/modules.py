"""Converted FX and eager modules (`torch.ao.quantization`), rewritten in the form that PT2E gives.

The module is traced and run once on the example input, which shows the scale and zero point of
every quantized tensor. Then each operation becomes the float operation on dequantized values with
a quantize and a dequantize behind it, and weights become int8 constants with a dequantize: what
`import_pt2e` lowers. Numbers are taken as they are; nothing is calibrated again.
"""

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, fx, nn

from systolith.importer import rules

__all__ = ["CENTERED_AVERAGE", "from_quantized_modules", "is_quantized_module"]

CENTERED_AVERAGE = "systolith.centered_average"
"""Key of a graph module's `meta`: whether averages take the zero point off before they divide."""

_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "Conv1d": functional.conv1d, "ConvReLU1d": functional.conv1d,
    "Conv2d": functional.conv2d, "ConvReLU2d": functional.conv2d,
    "ConvAdd2d": functional.conv2d, "ConvAddReLU2d": functional.conv2d,
    "ConvTranspose1d": functional.conv_transpose1d, "ConvTranspose2d": functional.conv_transpose2d,
}
_FLOAT_MODULES: dict[str, Callable[[Any], nn.Module]] = {
    "ReLU6": lambda module: nn.ReLU6(),
    "Hardswish": lambda module: nn.Hardswish(),
    "LeakyReLU": lambda module: nn.LeakyReLU(module.negative_slope),
    "Sigmoid": lambda module: nn.Sigmoid(),
    "PReLU": lambda module: _prelu(module),
    "ELU": lambda module: nn.ELU(module.alpha),
    "Softmax": lambda module: nn.Softmax(module.dim),
    "Dropout": lambda module: nn.Identity(),
    "BatchNorm2d": lambda module: _batch_norm(module),
    "BNReLU2d": lambda module: nn.Sequential(_batch_norm(module), nn.ReLU()),
}


def _float_functions() -> dict[Any, Callable[..., Tensor]]:
    """Float forms of the functions on quantized tensors; scale and zero point come last there."""
    quantized = torch.ops.quantized
    return {
        quantized.add: operator.add,
        quantized.add_relu: _add_relu,
        quantized.mul: operator.mul,
        quantized.mul_relu: _mul_relu,
        quantized.cat: torch.cat,
        quantized.add_scalar: operator.add,
        quantized.mul_scalar: operator.mul,
        quantized.hardswish: functional.hardswish,
        quantized.leaky_relu: functional.leaky_relu,
        quantized.sigmoid: torch.sigmoid,
        quantized.relu6: functional.relu6,
        quantized.prelu: functional.prelu,
    }


def _add_relu(a: Any, b: Any) -> Tensor:
    return functional.relu(a + b)


def _mul_relu(a: Any, b: Any) -> Tensor:
    return functional.relu(a * b)


_POSITIONAL = {"add": 2, "add_relu": 2, "mul": 2, "mul_relu": 2, "add_scalar": 2, "mul_scalar": 2,
               "cat": 1, "hardswish": 1, "sigmoid": 1, "leaky_relu": 3, "relu6": 2, "prelu": 2}
"""Arguments of the functions on quantized tensors that stand before scale and zero point."""


def is_quantized_module(model: nn.Module) -> bool:
    """Whether a module was converted by FX or eager mode quantization."""
    if any(".quantized" in type(module).__module__ for module in model.modules()):
        return True
    return isinstance(model, fx.GraphModule) and any(
        node.target is torch.quantize_per_tensor for node in model.graph.nodes)


def from_quantized_modules(model: nn.Module, example_input: Any) -> fx.GraphModule:
    """The graph module that PT2E would have given.

    Parameters
    ----------
    model
        A converted module in evaluation mode.
    example_input
        A float tensor (or a tuple of them) of the network's input shape, batch first.

    Raises
    ------
    ModelError
        `NeedsExample`, `ControlFlow`, `FloatLayer` or `Untraceable`.
    """
    if example_input is None:
        raise rules.NeedsExample
    given = example_input if isinstance(example_input, tuple | list) else (example_input,)
    for value in given:
        if not hasattr(value, "shape"):
            raise rules.ExampleKind(kind=type(value).__name__)
    images = tuple(torch.as_tensor(value)[:1].float() for value in given)
    if any(not len(value) for value in images):
        shapes = [tuple(value.shape) for value in images]
        raise rules.ExampleShape(name="of the model", given=shapes,
                                 expected="a batch of at least one image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.ao.quantization goes in the end
        traced = _trace(model)
        values = _Recorder(traced).record(*images)
    rewritten = _Rewriter(traced, values).graph_module()
    with torch.no_grad():
        exported = torch.export.export(rewritten, images, strict=False)
    result: fx.GraphModule = exported.module(check_guards=False)
    # QNNPACK and float graphs take the zero point off before they divide, the other kernels do not.
    is_float = any("quantized.reference" in type(module).__module__ for module in model.modules())
    result.meta[CENTERED_AVERAGE] = is_float or torch.backends.quantized.engine == "qnnpack"
    return result


class _Tracer(fx.Tracer):
    """Quantized modules are leaves, as torch's own are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m).__name__ in ("QFunctional", "FloatFunctional", "QuantWrapper"):
            return False
        return super().is_leaf_module(m, module_qualified_name) or "quantized" in (
            type(m).__module__)


def _trace(model: nn.Module) -> fx.GraphModule:
    if isinstance(model, fx.GraphModule):
        return model
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except fx.proxy.TraceError as error:
        raise rules.ControlFlow(layer=type(model).__name__, operator=_short(error)) from None
    except Exception as error:  # tracing runs the user's own code
        raise rules.Untraceable(kind=type(model).__name__, reason=_short(error)) from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


class _Recorder(fx.Interpreter):
    """Runs the module and keeps what every node gave."""

    def record(self, *images: Tensor) -> dict[fx.Node, Any]:
        self.values: dict[fx.Node, Any] = {}
        try:
            with torch.no_grad():
                self.run(*images)
        except Exception as error:  # whatever a shape that does not fit makes the model raise
            reason = str(error).split("\n")[0]
            raise rules.Untraceable(kind=type(self.module).__name__, reason=reason[:160]) from None
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        value = self.values[n] = super().run_node(n)
        return value


class _Rewriter:
    """Writes the new graph, node by node."""

    def __init__(self, traced: fx.GraphModule, values: dict[fx.Node, Any]):
        self._traced = traced
        self._values = values
        self._modules = dict(traced.named_modules())
        self._functions = _float_functions()
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._new: dict[fx.Node, Any] = {}

    def graph_module(self) -> fx.GraphModule:
        for node in self._traced.graph.nodes:
            self._new[node] = self._rewrite(node)
        return fx.GraphModule(self._root, self._graph)

    def _rewrite(self, node: fx.Node) -> Any:
        handler: Callable[[fx.Node], Any] = getattr(self, f"_{node.op}")
        result = handler(node)
        value = self._values[node]
        if isinstance(value, Tensor) and value.is_quantized and node.op != "placeholder":
            return self._requantized(result, value)
        return result

    def _argument(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: self._new[node])

    # Nodes --------------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> Any:
        return self._graph.placeholder(str(node.target))

    def _output(self, node: fx.Node) -> Any:
        return self._graph.output(self._argument(node.args[0]))

    def _get_attr(self, node: fx.Node) -> Any:
        value = self._values[node]
        if not isinstance(value, Tensor):
            return value  # a scale or zero point, which the recorded values hold already
        if value.is_quantized:
            value = value.dequantize()
        return self._attribute(str(node.target), value.detach())

    def _call_function(self, node: fx.Node) -> Any:
        target: Any = node.target
        packet = getattr(target, "overloadpacket", target)
        function = self._functions.get(packet)
        name = getattr(packet, "__name__", str(packet))
        if packet is torch.quantize_per_tensor or packet is torch.dequantize:
            return self._argument(node.args[0])
        if str(packet).startswith("quantized.") and function is None:
            raise rules.UnsupportedOperator(layer=node.name, operator=str(packet))
        arguments, named = self._argument(node.args), self._argument(node.kwargs)
        if function is not None:
            arguments = arguments[:_POSITIONAL[name]]
            named = {key: value for key, value in named.items()
                     if key not in ("scale", "zero_point")}
            if name == "cat":
                named = {"dim": node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)}
        return self._call(function or target, arguments, named)

    def _call_method(self, node: fx.Node) -> Any:
        if node.target in ("dequantize", "contiguous"):
            return self._argument(node.args[0])
        return self._graph.call_method(str(node.target), self._argument(node.args),
                                       self._argument(node.kwargs))

    def _call_module(self, node: fx.Node) -> Any:
        name = str(node.target)
        return self._module(name, self._modules[name], self._argument(node.args),
                            self._argument(node.kwargs))

    def _module(self, name: str, module: Any, arguments: tuple[Any, ...],
                named: dict[str, Any]) -> Any:
        kind = type(module).__name__
        if isinstance(module, nn.Sequential):
            for index, part in enumerate(module):
                arguments = (self._module(f"{name}.{index}", part, arguments, {}),)
            return arguments[0]
        if kind in ("Quantize", "DeQuantize"):
            return arguments[0]
        if ".quantized" in type(module).__module__ and ("Conv" in kind or "Linear" in kind):
            return self._weighted(name, module, arguments)
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            raise rules.FloatLayer(layer=name)
        if ".quantized" in type(module).__module__:
            if kind not in _FLOAT_MODULES:
                raise rules.UnsupportedOperator(layer=name, operator=kind)
            module = _FLOAT_MODULES[kind](module)
        self._add_module(name, module)
        return self._graph.call_module(name, arguments, named)

    def _weighted(self, name: str, module: Any, arguments: tuple[Any, ...]) -> Any:
        """A convolution or linear layer with its bias, and the addition and ReLU fused into it."""
        kind = type(module).__name__
        # Reference modules keep weight and bias as attributes, others behind methods.
        get = getattr(module, "get_quantized_weight", None) or module.weight
        weight = self._weight(name, get())
        real = module.bias() if callable(module.bias) else module.bias
        bias = None if real is None else self._attribute(f"{name}.bias", real.detach())
        if "Linear" in kind:
            result = self._call(functional.linear, (arguments[0], weight, bias))
        elif kind in _CONVOLUTIONS:
            options: dict[str, Any] = {
                "stride": module.stride, "padding": module.padding,
                "dilation": module.dilation, "groups": module.groups}
            if "Transpose" in kind:
                options["output_padding"] = module.output_padding
            if getattr(module, "padding_mode", "zeros") != "zeros":
                raise rules.PaddingMode(layer=name, mode=module.padding_mode)
            result = self._call(_CONVOLUTIONS[kind], (arguments[0], weight, bias), options)
        else:
            raise rules.UnsupportedOperator(layer=name, operator=kind)
        if "Add" in kind:
            result = self._call(operator.add, (result, arguments[1]))
        return self._call(functional.relu, (result,)) if "ReLU" in kind else result

    # Constants ----------------------------------------------------------------------------------

    def _weight(self, name: str, weight: Tensor) -> Any:
        if weight.dtype == torch.quint4x2:
            return self._four_bit_weight(name, weight)
        levels = self._attribute(f"{name}.weight", weight.int_repr())
        limits = torch.iinfo(weight.int_repr().dtype)
        decomposed = torch.ops.quantized_decomposed
        if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric,
                                torch.per_channel_affine_float_qparams):
            scales = self._attribute(f"{name}.scales", weight.q_per_channel_scales().float())
            zeros = self._attribute(f"{name}.zeros", weight.q_per_channel_zero_points().long())
            return self._call(decomposed.dequantize_per_channel.default, (
                levels, scales, zeros, weight.q_per_channel_axis(), limits.min, limits.max,
                levels_type(weight)))
        return self._call(decomposed.dequantize_per_tensor.default, (
            levels, weight.q_scale(), weight.q_zero_point(), limits.min, limits.max,
            levels_type(weight)))

    def _four_bit_weight(self, name: str, weight: Tensor) -> Any:
        """Two levels to a byte, the earlier in the lower half; 8 below the unsigned ones."""
        if weight.qscheme() != torch.per_channel_affine_float_qparams:
            raise rules.TensorKind(layer=name, kind="quint4x2 per tensor")
        packed = weight.int_repr().reshape(-1)
        unpacked = torch.stack([packed & 15, packed >> 4], 1).reshape(-1)[:weight.numel()]
        zeros = weight.q_per_channel_zero_points() - 8
        if torch.any(zeros != 0):
            raise rules.WeightZeroPoint(layer=name, zero_point=float(zeros[zeros != 0][0]))
        levels = self._attribute(f"{name}.weight",
                                 (unpacked.to(torch.int8) - 8).reshape(weight.shape))
        scales = self._attribute(f"{name}.scales", weight.q_per_channel_scales().float())
        return self._call(torch.ops.quantized_decomposed.dequantize_per_channel.default, (
            levels, scales, self._attribute(f"{name}.zeros", zeros.long()),
            weight.q_per_channel_axis(), -8, 7, torch.int8))

    def _requantized(self, value: Any, recorded: Tensor) -> Any:
        """What PT2E writes behind an operation with a quantized output."""
        if recorded.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            raise rules.TensorKind(layer=str(value), kind=str(recorded.qscheme()))
        kind = levels_type(recorded)
        limits = torch.iinfo(kind)
        constants = (recorded.q_scale(), recorded.q_zero_point(), limits.min, limits.max, kind)
        decomposed = torch.ops.quantized_decomposed
        levels = self._call(decomposed.quantize_per_tensor.default, (value, *constants))
        return self._call(decomposed.dequantize_per_tensor.default, (levels, *constants))

    def _call(self, function: Any, arguments: tuple[Any, ...],
              named: dict[str, Any] | None = None) -> Any:
        return self._graph.call_function(function, arguments, named or {})

    def _attribute(self, path: str, value: Tensor) -> Any:
        """A constant under its own path, so that layers keep their names."""
        *parents, last = path.split(".")
        module = self._root
        for part in parents:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_buffer(last, value)
        return self._graph.get_attr(path)

    def _add_module(self, path: str, module: nn.Module) -> None:
        *parents, last = path.split(".")
        place = self._root
        for part in parents:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.add_module(last, module)


def levels_type(tensor: Tensor) -> torch.dtype:
    """The integer type of a quantized tensor's values."""
    return tensor.int_repr().dtype


def _batch_norm(module: Any) -> nn.Module:
    result = nn.BatchNorm2d(module.num_features, module.eps).eval()
    state = {name: value for name, value in module.state_dict().items()
             if name not in ("scale", "zero_point")}
    result.load_state_dict(state)
    return result


def _prelu(module: Any) -> nn.Module:
    weight = module.weight.dequantize() if module.weight.is_quantized else module.weight
    result = nn.PReLU(weight.numel())
    result.weight.data = weight.detach().reshape(-1)
    return result
