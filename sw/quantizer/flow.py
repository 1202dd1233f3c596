"""`systolith.quantize`: float module in, converted PT2E module out."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchao.quantization.pt2e import allow_exported_model_train_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from systolith.errors import InputError, ModelError
from systolith.importer import rules
from systolith.importer.fx import operator_name
from systolith.quantizer.annotate import LAYERS, SystolithQuantizer

__all__ = ["fine_tune_classifier", "fold_batch_norm", "quantize"]


def quantize(model: nn.Module, batches: Iterable[Any], *, per_channel: bool = True,
             weight_bits: int = 8, multiplier_bits: int | None = None,
             qat: bool = False, fine_tune: Callable[[nn.Module], None] | None = None
             ) -> fx.GraphModule:
    """Quantize a float model to int8.

    Parameters
    ----------
    model
        Float module in evaluation mode; it is not changed. Batch norm is folded.
    batches
        Calibration inputs: float tensors or arrays [N, ...], or tuples of them for several inputs.
        A handful of representative batches is enough; all of one shape but for N.
    per_channel, weight_bits, multiplier_bits
        As in `SystolithQuantizer`.
    qat
        Train with quantization, biases included, before converting.
    fine_tune
        With `qat`: called with the prepared model, trains it in place. `fine_tune_classifier`
        makes one for classifiers.

    Returns
    -------
    A converted PT2E module, for `systolith.compile`, `systolith.reference`, or PyTorch itself.

    Raises
    ------
    ModelError
        When the model cannot be exported, or holds numbers that are not finite.
    InputError
        When there is no calibration batch, or one holds no finite numbers.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"quantize takes a float torch.nn.Module, not {type(model).__name__}")
    _check_finite(model)
    examples = [_tensors(batch) for batch in batches]
    if not examples or any(len(tensor) == 0 for batch in examples for tensor in batch):
        raise InputError("calibration needs at least one batch with at least one input")
    for index, batch in enumerate(examples):
        if not all(bool(torch.isfinite(tensor).all()) for tensor in batch):
            raise InputError(f"calibration batch {index} contains NaN or infinite values: clean "
                             "the data")
    if qat != (fine_tune is not None):
        raise ModelError("qat=True needs fine_tune, a function that trains the prepared model, and "
                         "fine_tune needs qat=True")
    folded = fold_batch_norm(model)
    exported = _export(folded, examples[0])
    quantizer = SystolithQuantizer(per_channel=per_channel, weight_bits=weight_bits, qat=qat,
                                   multiplier_bits=multiplier_bits)
    prepared = (prepare_qat_pt2e if qat else prepare_pt2e)(exported, quantizer)
    with torch.no_grad():
        for batch in examples:
            prepared(*batch)
    if fine_tune is not None:
        allow_exported_model_train_eval(prepared)
        fine_tune(prepared)
        prepared.eval()
    return _convert(prepared)


def _convert(prepared: fx.GraphModule) -> fx.GraphModule:
    """`convert_pt2e`, without its search for layers in front of batch norms where there are none.

    That search exports a hundred patterns, which takes tens of seconds.
    """
    norms = [node for node in prepared.graph.nodes if operator_name(node) == "batch_norm"]
    if any(operator_name(node.args[0]) in LAYERS for node in norms):
        return convert_pt2e(prepared)
    for node in norms:
        node.target = _batch_norm
    converted = convert_pt2e(prepared)
    for node in converted.graph.nodes:
        if node.target is _batch_norm:
            node.target = torch.ops.aten.batch_norm.default
    converted.recompile()
    return converted


def _batch_norm(*arguments: Any) -> Tensor:
    return torch.ops.aten.batch_norm.default(*arguments)


def _check_finite(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(
                torch.isfinite(value).all()):
            layer, _, what = name.rpartition(".")
            raise rules.NotFinite(layer=layer or type(model).__name__, what=what)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with every batch norm folded into the convolution before it.

    Training with quantization then sees the very biases that the hardware adds.
    """
    copied = copy.deepcopy(model).eval()
    try:
        traced = fx.symbolic_trace(copied)
    except Exception:  # what cannot be traced is left for the export to fold
        return copied
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(
                modules[str(node.target)], nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        before: Any = node.args[0]
        if (before.op != "call_module" or len(before.users) != 1
                or not isinstance(modules[str(before.target)], nn.Conv1d | nn.Conv2d)):
            continue
        convolution = modules[str(before.target)]
        _replace(copied, str(before.target),
                 fuse_conv_bn_eval(convolution, modules[str(node.target)]))
        _replace(copied, str(node.target), nn.Identity())
    return copied


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def fine_tune_classifier(batches: Iterable[tuple[Any, Any]], *, epochs: int = 1,
                         learning_rate: float = 1e-4) -> Callable[[nn.Module], None]:
    """A `fine_tune` function for classifiers: cross entropy on batches of (inputs, labels).

    Scales are observed during the first half of the epochs, and then held.
    """
    pairs = [(_tensors(inputs), torch.as_tensor(labels)) for inputs, labels in batches]

    def train(model: nn.Module) -> None:
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), learning_rate)
        for epoch in range(epochs):
            if epoch == (epochs + 1) // 2:
                model.apply(_hold_scales)
            for inputs, labels in pairs:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(*inputs), labels).backward()
                optimizer.step()
        model.apply(_hold_scales)

    return train


def _hold_scales(module: nn.Module) -> None:
    disable = getattr(module, "disable_observer", None)
    if disable is not None:
        disable()


def _tensors(batch: Any) -> tuple[Tensor, ...]:
    items = batch if isinstance(batch, tuple | list) else (batch,)
    try:
        return tuple(torch.as_tensor(item, dtype=torch.float32) for item in items)
    except (TypeError, ValueError, RuntimeError):
        kinds = ", ".join(type(item).__name__ for item in items)
        raise InputError(f"a batch of type {kinds} does not hold real numbers: give tensors or "
                         "arrays, batch first") from None


def _export(model: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    # A batch of one would be taken for a constant.
    example = tuple(tensor if len(tensor) > 1 else tensor.repeat_interleave(2, 0)
                    for tensor in example)
    batch = tuple({0: torch.export.Dim.AUTO} for _ in example)
    try:
        program = torch.export.export(model, example, dynamic_shapes=batch, strict=False)
    except Exception as error:  # the exporter raises whatever the model's code makes it raise
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{type(model).__name__} cannot be exported ({reason}): its computation "
                         "must not depend on the data") from None
    return program.module(check_guards=False)
