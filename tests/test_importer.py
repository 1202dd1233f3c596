"""Import of models that the ordinary PyTorch calls made, compared layer by layer with PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import systolith
from frontend import inputs, layer_differences, seeded, xnnpack
from operators import IMAGE, OPERATORS, Around
from systolith.graph import AveragePool, Conv2d, MaxPool, Pad, Requantize, UpsampleBilinear
from systolith.importer import import_model, rules
from systolith.integer_reference import reference
from systolith.quantizer import quantize

# The PT2E reference graph computes in float32: arithmetic contract, last column of its table.
ROUNDING = 2e-5
# What the stock quantizer leaves in float, or does not take at all.
XNNPACK_OPERATORS = sorted(set(OPERATORS) - {
    "average pool", "batch norm", "batch norm behind an add", "batch norm of a vector", "cat",
    "cat height", "conv asymmetric kernel", "conv even same",
    "conv transposed", "conv transposed groups", "elu", "gelu", "hardsigmoid", "hardswish",
    "leaky relu", "mish", "prelu", "prelu by channel", "prelu of a vector", "separate bias",
    "silu", "squeeze and excite", "sub", "upsample bilinear"})
# An average at its input's scale meets exact ties, where the float graph is noisy.
TIES = 0.1


def assert_agrees(model: Any, images: torch.Tensor, *, seed: int, **options: Any) -> Any:
    """Every tensor within the contract's table, and the results of the whole within one step."""
    graph = import_model(model, images[:1], **options)
    found = layer_differences(model, graph, images)
    assert found, "nothing was compared"
    for tensor, (different, elements, largest) in found.items():
        node = graph.producer(tensor)
        same_scale = isinstance(node, AveragePool | UpsampleBilinear) and (
            graph.tensors[node.inputs[0]].scale == graph.tensors[tensor].scale)
        limit = TIES * elements if same_scale else max(2, ROUNDING * elements)
        assert different <= limit and largest <= 1, (
            f"seed {seed}, {tensor}: {different} of {elements}, up to {largest}")
    return graph


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_by_our_quantizer(name: str) -> None:
    make, shape = OPERATORS[name]
    model, images = seeded(make(), 1), inputs((16, *shape), 1)
    quantized = quantize(model, [images])
    graph = assert_agrees(quantized, images, seed=1)
    ours = reference(graph, images.numpy())
    with torch.no_grad():
        real = model(images).numpy()
    assert ours.shape == real.shape
    # A wrong constant would survive a comparison of integers made from it; this one it would not.
    assert np.sqrt(np.mean((ours - real) ** 2)) < 0.04 * real.std()


@pytest.mark.parametrize("name", XNNPACK_OPERATORS)
def test_operator_by_xnnpack_quantizer(name: str) -> None:
    make, shape = OPERATORS[name]
    model, images = seeded(make(), 2), inputs((16, *shape), 2)
    assert_agrees(xnnpack(model, images), images, seed=2)


@pytest.mark.parametrize("per_channel, qat", [(True, False), (False, False), (True, True)])
def test_xnnpack_network(per_channel: bool, qat: bool) -> None:
    images = inputs((16, *IMAGE), 3)
    quantized = xnnpack(seeded(Network(), 3), images, per_channel=per_channel, qat=qat)
    graph = assert_agrees(quantized, images, seed=3)
    assert all(np.any(node.rounding) for node in graph.weighted())
    integers = import_model(quantized, images, bias="int32")
    for exact, integer in zip(graph.weighted(), integers.weighted(), strict=True):
        assert not np.any(integer.rounding)
        np.testing.assert_array_equal(exact.bias, integer.bias)


@pytest.mark.parametrize("per_channel", [True, False])
def test_four_bit_weights(per_channel: bool) -> None:
    """Stored as int8 with a narrow range: one program for int8, one for int4, the same numbers."""
    images = inputs((16, *IMAGE), 14)
    quantized = xnnpack(seeded(Network(), 14), images, per_channel=per_channel, weight_limit=7)
    graph = assert_agrees(quantized, images, seed=14)
    assert max(int(np.abs(node.weight).max()) for node in graph.weighted()) == 7
    expected = reference(graph, images)
    for config in ("small", "int4"):
        program = systolith.compile(quantized, images[:1], config=config)
        with systolith.open("golden", config=program.config) as device:
            np.testing.assert_array_equal(device.run(program, images.numpy()), expected)


class Network(nn.Module):
    """Batch norm, a residual add, a depthwise layer, pads, pools and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.branch = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, groups=16)
        self.drop = nn.Dropout()
        self.classify = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.branch(x))
        x = F.relu(self.depthwise(F.pad(x, (0, 1, 0, 1))))
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1)
        return F.softmax(self.classify(self.drop(torch.flatten(x, 1))), -1)


def test_names_structure_and_tail() -> None:
    images = inputs((8, *IMAGE), 4)
    graph = import_model(quantize(seeded(Network(), 4), [images]), images)
    names = [node.name for node in graph.nodes]
    assert names == ["stem", "branch", "add", "depthwise", "max_pool2d", "adaptive_avg_pool2d",
                     "flatten", "classify"]
    assert graph.inputs == ["x"] and graph.outputs == ["classify"]
    assert [operation.op for operation in graph.tail] == ["softmax"]
    depthwise = graph.producer("depthwise")
    assert isinstance(depthwise, Conv2d)
    assert (depthwise.padding, depthwise.stride, depthwise.groups) == ((0, 1, 0, 1), (2, 2), 16)
    # ReLU is a bound: the output's zero point.
    assert depthwise.low == graph.tensors["depthwise"].zero_point
    probabilities = reference(graph, images.numpy())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def x86(model: nn.Module, batch: torch.Tensor) -> Any:
    """The stock flow with the x86 inductor quantizer: uint8 activations."""
    exported = torch.export.export(model.eval(), (batch,)).module(check_guards=False)
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        prepared(batch)
    return convert_pt2e(prepared)


class Chain(nn.Module):
    """What the x86 quantizer leaves no float value in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 8, 3, stride=2)
        self.third = nn.Conv2d(8, 8, 1)
        self.classify = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.third(F.relu(self.second(x)))), 2)
        return self.classify(torch.flatten(x, 1))


def test_x86_inductor_uint8() -> None:
    images = inputs((16, 4, 22, 20), 5)
    quantized = x86(seeded(Chain(), 5), images)
    kinds = {node.args[-1] for node in quantized.graph.nodes
             if "quantize_per_tensor" in str(node.target)}
    assert kinds == {torch.uint8}, "this quantizer is here because it makes uint8"
    graph = assert_agrees(quantized, images, seed=5)
    with torch.no_grad():
        framework = quantized(images).numpy()
    # This quantizer leaves the last layer's output in float: the driver computes that layer.
    assert [operation.op for operation in graph.tail] == ["reshape", "linear"]
    difference = np.abs(reference(graph, images.numpy()) - framework)
    assert difference.max() < 0.02 * framework.std()


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.classify = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.branch(x))
        return self.classify(torch.flatten(F.max_pool2d(x, (12, 10)), 1))


def test_x86_inductor_leaves_residual_sums_in_float() -> None:
    """Its kernels add before they round the convolution: no int8 tensor holds that, so it is said
    which layer and what to do; with our quantizer the same network runs."""
    images = inputs((16, *IMAGE), 15)
    model = seeded(Residual(), 15)
    with pytest.raises(rules.NeedsScale, match=r"'branch' \(conv2d\) has no quantized output, "
                                               r"though 'add' reads it: .*SystolithQuantizer"):
        import_model(x86(model, images), images)
    graph = assert_agrees(quantize(model, [images]), images, seed=15)
    assert [node.op for node in graph.nodes] == ["Conv2d", "Conv2d", "Add", "MaxPool", "Reshape",
                                                 "Linear"]


@pytest.mark.parametrize("name", ["batch norm behind an add", "batch norm of a vector", "flatten",
                                  "prelu by channel", "prelu of a vector", "select",
                                  "upsample bilinear"])
def test_operators_that_the_engines_have_not(name: str) -> None:
    """They run as several others, or in the driver where they are last, to the same integers."""
    make, shape = OPERATORS[name]
    model, images = seeded(make(), 16), inputs((8, *shape), 16)
    quantized = quantize(model, [images])
    program = systolith.compile(quantized, images[:1], config="small")
    with systolith.open("golden", config=program.config) as device:
        np.testing.assert_array_equal(device.run(program, images[:3].numpy()),
                                      reference(quantized, images[:3]))


def test_results_get_their_shape_before_what_follows() -> None:
    images = inputs((8, *IMAGE), 17)
    model = seeded(Around(lambda m, a, b: torch.softmax(torch.flatten(a, 1), 1)), 17)
    quantized = quantize(model, [images])
    graph = import_model(quantized, images)
    assert [operation.op for operation in graph.tail] == ["reshape", "softmax"]
    expected = reference(graph, images)
    assert expected.shape == (8, 960)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    program = systolith.compile(quantized, images[:1], config="small")
    with systolith.open("golden", config=program.config) as device:
        np.testing.assert_array_equal(device.run(program, images.numpy()), expected)


def test_exported_program_and_file(tmp_path: Path) -> None:
    images = inputs((8, *IMAGE), 6)
    quantized = quantize(seeded(Network(), 6), [images])
    expected = reference(import_model(quantized, images), images)
    program = torch.export.export(quantized, (images,))
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    for source in (program, path, str(path)):
        graph = import_model(source)
        np.testing.assert_array_equal(reference(graph, images), expected)
        assert "depthwise" in graph.tensors, "layers keep their names"
    assert path.stat().st_size > 0


def test_several_inputs_and_results() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 8, 1)
            self.second = nn.Conv2d(2, 8, 3, padding=1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            total = self.first(x) + self.second(y)
            return {"sum": total, "class": total.mean((2, 3)).argmax(1)}

    x, y = inputs((8, 4, 6, 5), 7), inputs((8, 2, 6, 5), 8)
    quantized = quantize(seeded(Two(), 7), [(x, y)])
    graph = import_model(quantized, (x, y))
    assert graph.inputs == ["x", "y"] and len(graph.results) == 2
    total, chosen = reference(graph, (x.numpy(), y.numpy()))
    with torch.no_grad():
        framework = quantized(x, y)
    np.testing.assert_allclose(total, framework["sum"].numpy(), atol=graph.tensors["add"].scale)
    assert np.mean(chosen == framework["class"].numpy()) >= 7 / 8
    assert chosen.dtype == np.int64 and chosen.shape == (8,)


def test_pads_fold_where_they_feed_the_same_value() -> None:
    images = inputs((8, *IMAGE), 9)

    def nodes(function: Any, behind: int = 0) -> list[Any]:
        model = seeded(Around(function, behind=behind), 9)
        return import_model(quantize(model, [images]), images).nodes

    for node in nodes(lambda m, a, b: F.pad(a, (0, 1, 2, 3)), 8):
        assert not isinstance(node, Pad)
    kept = nodes(lambda m, a, b: F.pad(a, (0, 1, 2, 3), value=0.25), 8)
    assert any(isinstance(node, Pad) for node in kept), "not the zero point: a fill remains"
    pools = nodes(lambda m, a, b: F.max_pool2d(F.pad(F.relu(a), (0, 1, 0, 1)), 3, 2))
    pool = next(node for node in pools if isinstance(node, MaxPool))
    assert pool.padding == (0, 1, 0, 1), "behind ReLU zero is the least level"
    mixed = nodes(lambda m, a, b: F.max_pool2d(F.pad(a, (0, 1, 0, 1)), 3, 2))
    assert any(isinstance(node, Pad) for node in mixed), "zero may win a maximum here"


def test_values_used_twice_are_computed_once() -> None:
    images = inputs((8, *IMAGE), 10)
    model = seeded(Around(lambda m, a, b: F.relu(a) + F.relu(a) * 0.5), 10)
    graph = import_model(quantize(model, [images]), images)
    assert [node.op for node in graph.nodes].count("Conv2d") == 1


def test_narrow_activation_range_becomes_bounds() -> None:
    """Seven-bit activations, as `reduce_range` gives them: levels never leave their range."""
    images = inputs((8, 4, 22, 20), 11)
    quantized = xnnpack(seeded(Chain(), 11), images)
    for node in quantized.graph.nodes:
        if "quantize_per_tensor" in str(node.target):
            zero = max(-64, min(63, node.args[2]))
            node.args = (node.args[0], node.args[1] * 2, zero, -64, 63, torch.int8)
    quantized.recompile()
    graph = import_model(quantized, images)
    assert isinstance(graph.nodes[0], Requantize), "the input's range is applied first"
    from systolith.integer_reference import execute

    extreme = {"x": np.where(images.numpy() > 0, 127, -128).astype(np.int8)}
    for name, values in execute(graph, extreme).items():
        if name != "x":
            assert values.min() >= -64 and values.max() <= 63, name


@pytest.mark.parametrize("multiplier_bits", [24, 18, 16])
def test_narrow_multipliers_stay_close(multiplier_bits: int) -> None:
    images = inputs((16, *IMAGE), 12)
    quantized = quantize(seeded(Network(), 12), [images])
    graph = import_model(quantized, images, multiplier_bits=multiplier_bits)
    assert graph.multiplier_bits == multiplier_bits
    for node in graph.weighted():
        assert node.multiplier.max() < 1 << multiplier_bits
    different = sum(part[0] for part in layer_differences(quantized, graph, images).values())
    elements = sum(part[1] for part in layer_differences(quantized, graph, images).values())
    assert different <= {24: 2e-5, 18: 2e-4, 16: 1e-3}[multiplier_bits] * elements


def test_average_pool_follows_its_own_scale() -> None:
    images = inputs((8, *IMAGE), 13)
    model = seeded(Around(lambda m, a, b: F.adaptive_avg_pool2d(a, 1)), 13)
    graph = import_model(quantize(model, [images]), images)
    pool = next(node for node in graph.nodes if isinstance(node, AveragePool))
    assert graph.tensors[pool.output].scale < graph.tensors[pool.inputs[0]].scale
