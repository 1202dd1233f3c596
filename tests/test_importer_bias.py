"""The questions that integer biases raise, each a test by name."""

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization.pt2e.observer import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from frontend import inputs, seeded, xnnpack
from operators import IMAGE
from systolith.errors import ModelError
from systolith.graph import Conv2d, Graph, Linear
from systolith.importer import import_model
from systolith.importer.builder import Builder
from systolith.integer import Quantization, bias_report
from systolith.integer_reference import execute, reference
from systolith.quantizer import quantize

SOURCE = Quantization(scale=0.02, zero=-11)


def layer(weight: np.ndarray, scale: object, bias: object, target: Quantization,
          mode: str = "exact") -> Graph:
    """A graph of one linear layer."""
    builder = Builder(bias=mode, multiplier_bits=24)
    tensor = builder.input("x", (weight.shape[1],), SOURCE)
    output = builder.weighted(Linear, "layer", tensor, SOURCE, target, weight=weight,
                              weight_scale=scale, float_bias=bias)
    graph = builder.graph([output], [], [])
    graph.validate()
    return graph


@pytest.mark.parametrize("per_channel", [True, False])
def test_int32_bias_of_every_channel_is_the_formula(per_channel: bool) -> None:
    images = inputs((8, *IMAGE), 1)
    model = seeded(nn.Sequential(nn.Conv2d(4, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1)), 1)
    quantized = xnnpack(model, images, per_channel=per_channel)
    floats = [parameter.detach().double().numpy() for name, parameter
              in model.named_parameters() if name.endswith("bias")]
    for mode in ("exact", "int32"):
        graph = import_model(quantized, images, bias=mode)
        for node, real in zip(graph.weighted(), floats, strict=True):
            assert isinstance(node, Conv2d)
            source = graph.tensors[node.inputs[0]]
            beta = real / (np.float64(np.float32(source.scale)) * node.weight_scale)
            sums = node.weight.sum(axis=(1, 2, 3), dtype=np.int64)
            np.testing.assert_array_equal(node.bias, np.rint(beta) - source.zero_point * sums)
            kept = np.rint((beta - np.rint(beta)) * node.multiplier) * (mode == "exact")
            np.testing.assert_array_equal(node.rounding, kept)
            assert np.any(np.abs(beta - np.rint(beta)) > 0.3), "there is something to keep"


@pytest.mark.parametrize("epsilon", [1.1920929e-7, 1e-12])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("mode", ["exact", "int32"])
def test_zero_weights_give_the_bias_exactly(epsilon: float, per_channel: bool, mode: str) -> None:
    """QNNPACK returns 0.0 for 3.0 here: its int32 bias overflows."""
    biases = np.array([0.5, 3.0, 300.0, -300.0])
    target = Quantization(scale=2.5, zero=3)
    scale = np.full(4 if per_channel else 1, epsilon, np.float32)
    graph = layer(np.zeros((4, 8), np.int8), scale, biases, target, mode)
    x = np.random.default_rng(1).integers(-128, 128, (64, 8)).astype(np.int8)
    expected = np.rint(biases / 2.5) + 3
    np.testing.assert_array_equal(execute(graph, x)["layer"], np.tile(expected, (64, 1)))
    for row in bias_report(graph):
        assert row.enlargement_error == 0, "zeros stay zeros at any scale"
        assert abs(row.error) < 1e-4
    enlarged = [row.enlargement > 1 for row in bias_report(graph)]
    assert enlarged[2] and enlarged[3], "this test is about biases that do not fit"


class Epsilon(Quantizer):
    """Affine activations and symmetric weights with observers as PyTorch sets them up."""

    def __init__(self, per_channel: bool):
        super().__init__()
        self.per_channel = per_channel

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        activation = QuantizationSpec(
            dtype=torch.int8, observer_or_fake_quant_ctr=HistogramObserver, quant_min=-128,
            quant_max=127, qscheme=torch.per_tensor_affine)
        weight = QuantizationSpec(
            dtype=torch.int8, quant_min=-127, quant_max=127,
            observer_or_fake_quant_ctr=(
                PerChannelMinMaxObserver if self.per_channel else MinMaxObserver),
            qscheme=torch.per_channel_symmetric if self.per_channel else (
                torch.per_tensor_symmetric), ch_axis=0 if self.per_channel else None)
        for node in model.graph.nodes:
            if "conv2d" in str(node.target):
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: activation, node.args[1]: weight},
                    output_qspec=activation, _annotated=True)
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        pass


@pytest.mark.parametrize("bias", [0.5, 3.0, 300.0, -300.0])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_zero_weights_from_pytorch(bias: float, per_channel: bool, ours: bool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 3, 3))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, bias)
    images = inputs((8, *IMAGE), 2)
    if ours:
        quantized = quantize(model, [images], per_channel=per_channel)
    else:
        exported = torch.export.export(model.eval(), (images,)).module(check_guards=False)
        prepared = prepare_pt2e(exported, Epsilon(per_channel))
        prepared(images)
        quantized = convert_pt2e(prepared)
    graph = import_model(quantized, images)
    with torch.no_grad():
        framework = quantized(images).numpy()
    result = reference(graph, images)
    np.testing.assert_array_equal(result, framework)
    # The output's scale comes from observing this very value, and holds it to float32's precision.
    np.testing.assert_allclose(result, bias, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("bias", [0.0, 0.4, 250.0])
def test_nearly_zero_channels(size: float, bias: float) -> None:
    """One channel of ordinary weights, one of vanishing ones with a large bias."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        model[0].weight[0] = torch.randn(4, 3, 3, generator=generator)
        model[0].weight[1] = size * torch.randn(4, 3, 3, generator=generator)
        model[0].bias[:] = torch.tensor([0.1, bias])
    images = inputs((8, *IMAGE), 3)
    graph = import_model(quantize(model, [images]), images)
    difference = reference(graph, images) - model(images).detach().numpy()
    step = graph.tensors[graph.outputs[0]].scale
    assert np.abs(difference[:, 1]).max() <= 0.75 * step
    assert all(node.shift.max() <= 46 for node in graph.weighted()), "the floor keeps shifts small"
    assert all(row.enlargement == 1 for row in bias_report(graph)), "handled at the source"


def test_enlargement_of_stock_scales_is_reported() -> None:
    """Scale 1e-7 and bias 300: the weights lose precision, and the report says how much."""
    rng = np.random.default_rng(4)
    weight = rng.integers(-127, 128, (2, 50)).astype(np.int8)
    target = Quantization(scale=2.5, zero=0)
    scale = np.array([0.05, 1e-7], np.float32)
    bias = np.array([10.0, 300.0])
    graph = layer(weight, scale, bias, target)
    rows = bias_report(graph)
    assert (rows[0].enlargement, rows[0].enlargement_error) == (1, 0.0)
    # 300 / (0.02 * 1e-7) = 1.5e11 must come below 2^30: the least power of two is 256.
    assert rows[1].enlargement == 256
    assert 0 < rows[1].enlargement_error < 0.01
    x = rng.integers(-128, 128, (500, 50)).astype(np.int8)
    values = (x.astype(float) + 11) * np.float64(np.float32(0.02))
    real = values @ (weight * scale.astype(float)[:, None]).T + bias
    ours = (execute(graph, x)["layer"].astype(float) - target.zero) * 2.5
    assert np.abs(ours - np.clip(real, -320, 317.5))[:, 1].max() <= (0.5 + rows[1].enlargement_error
                                                                     + 1e-3) * 2.5


def test_enlarged_weights_are_rounded_to_nearest() -> None:
    weight = np.arange(-127, 128, dtype=np.int8)[None]
    scale = np.float32(1e-7)
    bias = 3.5 * 2 ** 30 * 0.02 * 1e-7
    graph = layer(weight, scale, [bias], Quantization(scale=0.1, zero=0))
    (node,) = graph.weighted()
    assert node.enlargement[0] == 2
    np.testing.assert_array_equal(node.weight, np.rint(weight / 4))
    # A quarter, a half, a quarter and nothing of a level lost, in turn; the input reaches 138.
    lost = np.abs(weight / 4 - np.rint(weight / 4)).sum() * 138
    step = 0.02 * np.float64(scale) * 4 / 0.1
    np.testing.assert_allclose(node.enlargement_error, lost * step, rtol=1e-5)


def test_a_bias_that_would_overflow_is_refused_by_name() -> None:
    weight = np.full((2, 1 << 16), 127, np.int8)
    scale = np.float32(1e-5)
    bias = np.array([0.0, 0.95 * 2 ** 30 * 0.02 * 1e-5])
    target = Quantization(scale=1.0, zero=0)
    with pytest.raises(ModelError, match="layer 'layer' could overflow its 32-bit accumulator: "
                                         "channel 1 "):
        layer(weight, scale, bias, target)
    layer(weight, scale, bias * 0.9, target)


def test_report_adds_up() -> None:
    """Integer bias, kept fraction and error together are the float bias again."""
    images = inputs((8, *IMAGE), 5)
    model = seeded(nn.Sequential(nn.Conv2d(4, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1)), 5)
    quantized = xnnpack(model, images)
    for mode, limit in (("exact", 1e-6), ("int32", 0.51)):
        graph = import_model(quantized, images, bias=mode)
        rows = bias_report(graph)
        assert [(row.layer, row.channel) for row in rows] == (
            [("0", channel) for channel in range(32)] + [("2", channel) for channel in range(16)])
        for node in graph.weighted():
            step = graph.tensors[node.inputs[0]].scale * node.weight_scale
            in_accumulator = [row.error for row in rows if row.layer == node.name] * (
                graph.tensors[node.output].scale / step)
            assert np.abs(in_accumulator).max() < limit
            if mode == "int32":
                assert np.abs(in_accumulator).max() > 0.2, "something was lost, and is shown"


def test_integer_biases_of_the_model_are_taken_as_they_are() -> None:
    """Computed again from float32 scales, a bias of millions of steps could come out another."""
    model = seeded(nn.Sequential(nn.Conv2d(4, 2, 1)), 6)
    with torch.no_grad():
        model[0].weight[1] *= 1e-7
        model[0].bias[:] = torch.tensor([0.1, 77.7])
    images = inputs((8, *IMAGE), 6)
    quantized = quantize(model, [images])
    (levels,) = [buffer.numpy() for name, buffer in quantized.named_buffers()
                 if name.endswith("bias_levels")]
    assert levels[1] > 1 << 23
    graph = import_model(quantized, images)
    (node,) = graph.weighted()
    sums = node.weight.sum(axis=(1, 2, 3), dtype=np.int64)
    zero = graph.tensors[graph.inputs[0]].zero_point
    np.testing.assert_array_equal(node.bias, levels - zero * sums)
    assert not np.any(node.rounding)
