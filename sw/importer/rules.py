"""Why a model, a layer or an operator is refused: one named rule each.

A rule is an exception whose docstring is the message; `systolith ops` and the documentation print
the same text. Words in braces are filled in where the rule is broken.
"""

from typing import Any

from systolith.errors import ModelError

__all__ = [
    "RULES",
    "AdaptivePool",
    "BatchAxis",
    "BilinearFactor",
    "Broadcast",
    "ChannelAxis",
    "ChannelConstant",
    "ControlFlow",
    "Corrupt",
    "DynamicQuantization",
    "DynamicShape",
    "ExampleKind",
    "ExampleShape",
    "FloatLayer",
    "InputScales",
    "ModelKind",
    "NeedsExample",
    "NeedsScale",
    "NotFinite",
    "NotQuantized",
    "PaddedAverage",
    "PaddingMode",
    "Permute",
    "PickledFile",
    "Rank",
    "Rule",
    "Scale",
    "TailOperator",
    "TensorKind",
    "UnquantizedInput",
    "UnreadableFile",
    "UnsupportedOperator",
    "Untraceable",
    "UpsampleFactor",
    "WeightConstant",
    "WeightZeroPoint",
    "ZeroPoint",
]

RULES: list[type["Rule"]] = []
"""Every rule, in the order of definition."""


class Rule(ModelError):
    """A reason to refuse a model. Subclasses' docstrings are message templates."""

    def __init__(self, **values: Any):
        self.values = values
        super().__init__(self.template().format(**values))

    def __init_subclass__(cls) -> None:
        RULES.append(cls)

    @classmethod
    def template(cls) -> str:
        """The message with names in braces."""
        return " ".join((cls.__doc__ or "").split())


# The model as a whole ---------------------------------------------------------------------------

class ModelKind(Rule):
    """a model of type {kind} cannot be imported: give a converted PT2E, FX or eager module, an
    ExportedProgram or the path of a .pt2 file"""


class NotQuantized(Rule):
    """the model holds no quantized tensor: quantize it with systolith.quantize, or call
    convert_pt2e on the prepared module before compiling"""


class Corrupt(Rule):
    """the model does not hang together at '{layer}' ({reason}): export it again"""


class ControlFlow(Rule):
    """'{layer}' ({operator}) chooses by the data what to compute, which a fixed program cannot:
    replace it by arithmetic, or split the model there"""


class Untraceable(Rule):
    """a model of type {kind} cannot be traced ({reason}): give it an example input that it accepts,
    and keep its forward to tensor operations"""


class NeedsExample(Rule):
    """a module converted by FX or eager mode does not know its input's shape: pass an example
    input"""


class FloatLayer(Rule):
    """'{layer}' was left in float by the conversion: give it a qconfig, and a BackendConfig whose
    pattern has the same bias type as the qconfig's (an int32 bias matches none of PyTorch's)"""


class DynamicShape(Rule):
    """'{layer}' has the dynamic shape {shape}: export the model with fixed sizes behind the batch
    axis"""


class ExampleShape(Rule):
    """the example input has the shape {given}, but input '{name}' of the model is {expected}: give
    an example of that shape behind the batch axis"""


class ExampleKind(Rule):
    """an example input of type {kind} has no shape: give a tensor or an array, or a tuple of them,
    batch first"""


class UnreadableFile(Rule):
    """{path} cannot be read as a .pt2 file ({reason}): write it with torch.export.save"""


class PickledFile(Rule):
    """{path} holds pickled objects ({member}), which loading could execute: write it again with
    torch.export.save from a module of plain tensors"""


# Quantization -----------------------------------------------------------------------------------

class DynamicQuantization(Rule):
    """'{layer}' computes its scale from the data at run time: use static quantization, whose
    scales are known before"""


class NeedsScale(Rule):
    """'{layer}' ({operator}) has no quantized output, though '{consumer}' reads it: quantize the
    model with systolith.quantize (or annotate it with SystolithQuantizer), which gives it a
    scale"""


class UnquantizedInput(Rule):
    """input '{name}' reaches '{layer}' in float: quantize the input, as systolith.quantize does"""


class InputScales(Rule):
    """input '{name}' is quantized in two ways (scales {first:g} and {second:g}): share one
    quantization between its consumers"""


class TensorKind(Rule):
    """'{layer}' is quantized to {kind}: only int8 and uint8 activations, and int8 weights or 4-bit
    ones per channel, are supported"""


class Scale(Rule):
    """'{layer}' has the scale {scale}: it must be a positive, finite, normal float32, so calibrate
    the model again"""


class ZeroPoint(Rule):
    """'{layer}' has the zero point {zero_point}, outside its range {low} to {high}: calibrate the
    model again"""


class WeightZeroPoint(Rule):
    """the weight of '{layer}' has the zero point {zero_point}: use an observer with
    qscheme=torch.per_channel_symmetric or torch.per_tensor_symmetric for weights (for quint4x2, 8
    means 0)"""


class WeightConstant(Rule):
    """the weight of '{layer}' is not a quantized constant: weights must be int8 in the converted
    model, behind one dequantize"""


class ChannelAxis(Rule):
    """the weight of '{layer}' has scales along axis {axis}, not along its output channels (axis
    {expected}): set ch_axis={expected} in its observer"""


class NotFinite(Rule):
    """'{layer}' has a {what} that is not finite: train or load the model again"""


# Operators --------------------------------------------------------------------------------------

class UnsupportedOperator(Rule):
    """operator {operator} at '{layer}' is not supported: replace it by one that `systolith ops`
    lists, or move it behind the last quantized tensor"""


class TailOperator(Rule):
    """operator {operator} at '{layer}' stands behind the last quantized tensor, where it is not
    supported: return its input and compute it in your own code"""


class Rank(Rule):
    """'{layer}' has the shape {shape}: tensors of 2 to 4 axes with the batch first are
    supported"""


class BatchAxis(Rule):
    """'{layer}' ({operator}) works across the batch axis: images must stay independent"""


class Broadcast(Rule):
    """'{layer}' ({operator}) combines the shapes {first} and {second}: only equal shapes, or in a
    product one value a channel, are supported"""


class ChannelConstant(Rule):
    """'{layer}' ({operator}) uses a constant of shape {shape}: only single numbers, or a bias
    right behind a convolution or linear layer, are supported"""


class PaddedAverage(Rule):
    """average pool '{layer}' divides border windows by another count: set count_include_pad=True,
    ceil_mode=False and no divisor_override, or use no padding"""


class AdaptivePool(Rule):
    """adaptive pool '{layer}' makes {output} of {input}, windows of different sizes: choose an
    output that divides the input"""


class PaddingMode(Rule):
    """'{layer}' pads with mode {mode}: use constant padding of height and width"""


class Permute(Rule):
    """'{layer}' permutes the axes of {shape} to {axes}, which moves data: permute only axes of
    size 1"""


class UpsampleFactor(Rule):
    """'{layer}' resizes {input} to {output}: use whole factors"""


class BilinearFactor(Rule):
    """'{layer}' interpolates {input} to {output}: double both sizes with align_corners=False, or
    resize by nearest neighbours"""
