"""Our quantizer: what it annotates, how it rounds, and that training sees it."""

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from frontend import inputs, seeded
from operators import IMAGE
from systolith.errors import InputError, ModelError
from systolith.importer import import_model
from systolith.integer_reference import reference
from systolith.models.digits import Digits, accuracy, load_data, train
from systolith.quantizer import SystolithQuantizer, fine_tune_classifier, quantize
from systolith.quantizer.flow import fold_batch_norm
from systolith.quantizer.observers import (
    BiasFakeQuantize,
    PerChannelWeightObserver,
    RangeObserver,
    scale_floor,
    snap_scale,
)


@pytest.fixture(scope="module")
def digits() -> tuple[Digits, torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Trained model, training images and labels, held-out images and labels."""
    model, data = train()
    return (model, torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels),
            data.test_images, data.test_labels)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 6, 3, stride=2), nn.Flatten(), nn.Linear(72, 10))


def test_digits_keep_their_accuracy(digits) -> None:  # type: ignore[no-untyped-def]
    model, images, _, test_images, test_labels = digits
    with torch.no_grad():
        real = accuracy(model(torch.from_numpy(test_images)).numpy(), test_labels)
    assert real >= 0.97
    quantized = quantize(model, images[:256].split(64))
    graph = import_model(quantized, images[:1])
    integers = reference(graph, test_images)
    assert accuracy(integers, test_labels) >= real - 0.006
    with torch.no_grad():
        framework = quantized(torch.from_numpy(test_images)).numpy()
    step = graph.tensors[graph.outputs[0]].scale
    different = np.rint((integers - framework) / step)
    assert (different != 0).mean() <= 2e-3 and np.abs(different).max() <= 1


def test_training_split_is_held_out() -> None:
    data = load_data()
    assert len(data.test_images) == 1797 // 5
    seen = {image.tobytes() for image in data.train_images}
    assert not any(image.tobytes() in seen for image in data.test_images)
    assert np.array_equal(load_data().test_labels, data.test_labels)
    assert not np.array_equal(load_data(seed=1).test_labels, data.test_labels)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weight_bits", [8, 4])
def test_weights_are_symmetric_and_within_their_bits(per_channel: bool, weight_bits: int) -> None:
    images = inputs((8, *IMAGE), 1)
    quantized = quantize(seeded(small(), 1), [images], per_channel=per_channel,
                         weight_bits=weight_bits)
    graph = import_model(quantized, images)
    limit = (1 << (weight_bits - 1)) - 1
    for node in graph.weighted():
        peaks = np.abs(node.weight.reshape(node.channels, -1).astype(int)).max(axis=1)
        assert peaks.max() == limit
        assert (peaks.min() == limit) == per_channel, "every channel uses its whole range, or not"
        assert (len(set(node.weight_scale)) > 1) == per_channel


@pytest.mark.parametrize("per_channel", [True, False])
def test_biases_are_integers_in_the_converted_model(per_channel: bool) -> None:
    images = inputs((8, *IMAGE), 2)
    model = seeded(small(), 2)
    quantized = quantize(model, [images], per_channel=per_channel)
    levels = [value for name, value in quantized.named_buffers() if name.endswith("_levels")]
    assert len(levels) == 3 and all(value.dtype == torch.int32 for value in levels)
    folded = dict(fold_batch_norm(model).named_parameters())
    graph = import_model(quantized, images)
    for node, found in zip(graph.weighted(), levels, strict=True):
        source = graph.tensors[node.inputs[0]]
        exact = folded[f"{node.name}.bias"].detach().double().numpy() / (
            np.float64(np.float32(source.scale)) * node.weight_scale)
        # The scale of the product is a float32 in PyTorch.
        assert np.abs(found.numpy() - exact).max() <= 0.5 + np.abs(exact).max() * 2e-7
        assert not np.any(node.rounding), "the model's bias is the integer: nothing to keep"


def test_scale_floor_is_the_contract() -> None:
    bias = torch.tensor([0.0, 300.0, -300.0])
    floor = scale_floor(torch.tensor(0.02), torch.tensor(2.5), bias)
    expected = np.maximum(2.5 * 2 ** -16 / 0.02, np.abs(bias.numpy()) / (0.02 * 2 ** 30))
    np.testing.assert_allclose(floor.numpy(), expected, rtol=1.1e-3)
    assert torch.all(bias.abs() / (0.02 * floor) < 2 ** 30)


@pytest.mark.parametrize("bits", [18, 16, 12, 0])
def test_snapped_scales_have_exact_multipliers(bits: int) -> None:
    generator = torch.Generator().manual_seed(5)
    scale = torch.exp(3 * torch.randn(2000, generator=generator) - 5)
    s_x, s_y = torch.tensor(0.0371), torch.tensor(0.0129)
    snapped = snap_scale(scale, s_x, s_y, bits)
    real = ((s_x * snapped) / s_y).numpy().astype(np.float64)
    significand, _ = np.frexp(real)
    steps = np.ldexp(significand, max(bits, 1))
    np.testing.assert_array_equal(steps, np.rint(steps), f"bits {bits}")
    growth = (snapped / scale).numpy()
    largest = 1 + 16 * 2.0 ** (1 - bits) if bits else 2 + 1e-6
    assert growth.min() >= 1 - 1e-6 and growth.max() <= largest


@pytest.mark.parametrize("bits", [18, 16])
def test_a_narrow_multiplier_loses_nothing_with_snapped_scales(bits: int) -> None:
    images = inputs((32, *IMAGE), 3)
    model = seeded(nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)), 3)
    quantized = quantize(model, [images], multiplier_bits=bits)
    wide = reference(import_model(quantized, images), images, dequantize=False)
    narrow = reference(import_model(quantized, images, multiplier_bits=bits), images,
                       dequantize=False)
    np.testing.assert_array_equal(wide, narrow)
    plain = quantize(model, [images])
    changed = reference(import_model(plain, images, multiplier_bits=bits), images,
                        dequantize=False) != reference(import_model(plain, images), images,
                                                       dequantize=False)
    assert bits == 18 or np.any(changed), "without snapping 16 bits do change something"


def bias_module(scale_x: float, weight: torch.Tensor) -> BiasFakeQuantize:
    source = RangeObserver(dtype=torch.int8, quant_min=-128, quant_max=127, averaging_constant=1.0)
    source(torch.tensor([0.0, 255.0 * scale_x]))
    observer = PerChannelWeightObserver(dtype=torch.int8, quant_min=-127, quant_max=127, ch_axis=0,
                                        qscheme=torch.per_channel_symmetric)
    observer(weight)
    return BiasFakeQuantize(source, observer)


def test_training_sees_the_rounded_bias() -> None:
    weight = torch.tensor([[12.7], [127.0]])
    module = bias_module(1.0, weight)
    bias = torch.tensor([0.26, 2.6], requires_grad=True)
    module.train()
    rounded = module(bias)
    np.testing.assert_allclose(rounded.detach().numpy(), [0.3, 3.0], rtol=1e-5)
    (rounded * torch.tensor([2.0, 3.0])).sum().backward()
    np.testing.assert_array_equal(bias.grad.numpy(), [2.0, 3.0])
    module.disable_fake_quant()
    np.testing.assert_array_equal(module(bias).detach().numpy(), bias.detach().numpy())


def test_training_with_quantization(digits) -> None:  # type: ignore[no-untyped-def]
    model, images, labels, test_images, test_labels = digits
    seen: list[int] = []
    tune = fine_tune_classifier(
        list(zip(images[:512].split(64), labels[:512].split(64), strict=True)), epochs=2)

    def fine_tune(prepared: nn.Module) -> None:
        biases = [part for part in prepared.modules() if isinstance(part, BiasFakeQuantize)]
        seen.append(len(biases))
        before = [value.detach().clone() for value in prepared.parameters()]
        tune(prepared)
        assert any(not torch.equal(old, new)
                   for old, new in zip(before, prepared.parameters(), strict=True))

    quantized = quantize(model, images[:128].split(64), qat=True, fine_tune=fine_tune)
    assert seen == [5], "every layer's bias is rounded in the loop"
    graph = import_model(quantized, images[:1])
    assert accuracy(reference(graph, test_images), test_labels) >= 0.97
    # What was trained is what runs: the last forward of the fake-quantized model, as integers.
    assert not any(np.any(node.rounding) for node in graph.weighted())


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_training_with_and_without_the_bias_in_the_loop(digits, weight_bits: int) -> None:  # type: ignore[no-untyped-def]
    """What was trained is what runs only where training rounds the biases, too."""
    model, images, labels, test_images, test_labels = digits
    tune = fine_tune_classifier(
        list(zip(images[:512].split(64), labels[:512].split(64), strict=True)), epochs=2)
    accuracies, changed = {}, {}
    for in_the_loop in (True, False):
        trained: list[np.ndarray] = []

        def fine_tune(prepared: nn.Module, keep: bool = in_the_loop,
                      trained: list[np.ndarray] = trained) -> None:
            for part in prepared.modules():
                if isinstance(part, BiasFakeQuantize) and not keep:
                    part.disable_fake_quant()
            tune(prepared)
            prepared.train()
            with torch.no_grad():
                trained.append(prepared(torch.from_numpy(test_images)).numpy())

        quantized = quantize(model, images[:128].split(64), qat=True, fine_tune=fine_tune,
                             weight_bits=weight_bits)
        graph = import_model(quantized, images[:1])
        integers = reference(graph, test_images)
        step = graph.tensors[graph.outputs[0]].scale
        accuracies[in_the_loop] = accuracy(integers, test_labels)
        changed[in_the_loop] = float((np.rint((integers - trained[0]) / step) != 0).mean())
    print(f"{weight_bits}-bit weights: accuracy {accuracies[True]:.4f} with the bias in the loop, "
          f"{accuracies[False]:.4f} without; logits that conversion changes: {changed[True]:.2%} "
          f"and {changed[False]:.2%}")
    assert min(accuracies.values()) >= 0.97
    assert changed[True] <= 2e-3
    assert changed[False] >= 0.01, "the loop makes no difference: it is not tested"


@pytest.mark.parametrize("qat", [False, True])
def test_quantizer_for_those_who_call_pt2e_themselves(qat: bool) -> None:
    images = inputs((8, *IMAGE), 4)
    model = seeded(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)), 4)
    exported = torch.export.export(model, (images,)).module(check_guards=False)
    prepared = (prepare_qat_pt2e if qat else prepare_pt2e)(exported, SystolithQuantizer(qat=qat))
    prepared(images)
    graph = import_model(convert_pt2e(prepared), images)
    assert [node.op for node in graph.nodes] == ["Conv2d", "Conv2d"]
    assert not any(np.any(node.rounding) for node in graph.weighted())


def test_the_float_model_is_not_changed() -> None:
    model = seeded(small(), 5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, [inputs((8, *IMAGE), 5)])
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_folding_keeps_the_function() -> None:
    model = seeded(small(), 6)
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    folded = fold_batch_norm(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = inputs((8, *IMAGE), 6)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-5)


def test_batches_of_any_size_run_after_calibration() -> None:
    quantized = quantize(seeded(small(), 7), [inputs((1, *IMAGE), 7)])
    images = inputs((5, *IMAGE), 8)
    with torch.no_grad():
        assert quantized(images).shape == (5, 10)
    assert reference(import_model(quantized), images).shape == (5, 10)


def test_wrong_arguments() -> None:
    model = small()
    with pytest.raises(InputError, match="at least one batch"):
        quantize(model, [])
    with pytest.raises(InputError, match="at least one batch"):
        quantize(model, [inputs((0, *IMAGE), 1)])
    with pytest.raises(ModelError, match="qat=True needs fine_tune"):
        quantize(model, [inputs((2, *IMAGE), 1)], qat=True)
    with pytest.raises(ModelError, match="weight_bits must be 4 or 8, not 3"):
        SystolithQuantizer(weight_bits=3)
    with pytest.raises(ModelError, match="multiplier_bits must be None, 24, 18, 16 or 0, not 12"):
        SystolithQuantizer(multiplier_bits=12)
