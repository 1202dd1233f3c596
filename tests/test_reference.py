"""The integer reference against PyTorch's integers, float32 arithmetic and ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from systolith.errors import InputError
from systolith.graph import Graph, TailOperation, TensorType
from systolith.importer.builder import Builder
from systolith.integer import Quantization
from systolith.integer_reference import exact_type, execute, reference
from systolith.nodes import (
    ChannelShuffle,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Linear,
    MaxPool,
    Pad,
    Slice,
    Table,
    Upsample,
)
from systolith.tail import TAIL_OPERATIONS, linear_arguments, run_tail

Levels = NDArray[np.int8]


def float32_requantize(accumulator: torch.Tensor, multiplier: Any, zero: int) -> Levels:
    """The frameworks' way: int32 to float32, one product, round half to even, clamp."""
    value = accumulator.to(torch.int64).to(torch.float32)
    shape = (1, -1) + (1,) * (value.ndim - 2)
    product = value * torch.from_numpy(np.asarray(multiplier, np.float32)).reshape(shape)
    return (torch.round(product) + zero).clamp(-128, 127).to(torch.int8).numpy()


class Layer:
    """A random layer in a graph of its own, and the integers that it stands for."""

    def __init__(self, kind: Any, weight_shape: tuple[int, ...], image: tuple[int, ...],
                 seed: int, **options: Any):
        rng = np.random.default_rng(seed)
        channels = weight_shape[0]
        self.source = Quantization(scale=float(np.float32(rng.uniform(0.01, 0.1))),
                                   zero=int(rng.integers(-128, 128)))
        self.target = Quantization(scale=float(np.float32(rng.uniform(0.05, 2.0))),
                                   zero=int(rng.integers(-128, 128)))
        self.weight = rng.integers(-127, 128, weight_shape).astype(np.int8)
        self.scale = rng.uniform(1e-4, 1e-2, channels).astype(np.float32)
        self.bias = rng.integers(-20000, 20000, channels)
        self.x = rng.integers(-128, 128, (3, *image)).astype(np.int8)
        builder = Builder(bias="int32", multiplier_bits=24)
        tensor = builder.input("x", image, self.source)
        output = builder.weighted(
            kind, "layer", tensor, self.source, self.target, weight=self.weight,
            weight_scale=self.scale, integer_bias=self.bias,
            float_bias=self.bias * np.float64(self.source.scale) * self.scale, **options)
        self.graph = builder.graph([output], [], [])
        self.graph.validate()

    @property
    def output(self) -> Levels:
        """What the reference computes."""
        return execute(self.graph, self.x)["layer"]

    def expected(self, function: Any, **options: Any) -> Levels:
        """The same by a float64 operator of PyTorch on integers and float32 arithmetic."""
        x = torch.from_numpy(self.x.astype(np.float64) - self.source.zero)
        weight = torch.from_numpy(self.weight.astype(np.float64))
        total = function(x, weight, bias=torch.from_numpy(self.bias.astype(np.float64)), **options)
        real = np.float32(self.source.scale) * self.scale / np.float32(self.target.scale)
        return float32_requantize(total, real, self.target.zero)


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((8, 6, 3, 3), (6, 9, 11), {}),
    "stride": ((8, 6, 3, 3), (6, 9, 11), {"stride": (2, 3), "padding": (2, 1)}),
    "dilation": ((8, 6, 2, 3), (6, 9, 11), {"dilation": (3, 2), "padding": (1, 2)}),
    "groups": ((8, 3, 3, 3), (6, 9, 11), {"groups": 2, "padding": (1, 1)}),
    "depthwise": ((6, 1, 5, 3), (6, 9, 11), {"groups": 6, "padding": (2, 1), "stride": (1, 2)}),
    "depthwise multiplier": ((12, 1, 3, 3), (6, 9, 11), {"groups": 6}),
    "pointwise": ((16, 40, 1, 1), (40, 5, 5), {}),
    "deep": ((4, 300, 3, 3), (300, 6, 6), {"padding": (1, 1)}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_convolution_equals_float32_arithmetic(name: str, seed: int) -> None:
    weight_shape, image, options = CONVOLUTIONS[name]
    high, wide = options.get("padding", (0, 0))
    layer = Layer(Conv2d, weight_shape, image, seed,
                  **{**options, "padding": (high, high, wide, wide)})
    np.testing.assert_array_equal(layer.output, layer.expected(F.conv2d, **options))


@pytest.mark.parametrize("seed", range(3))
def test_asymmetric_padding(seed: int) -> None:
    layer = Layer(Conv2d, (8, 6, 4, 3), (6, 9, 11), seed, padding=(0, 3, 2, 1))

    def padded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (2, 1, 0, 3)), weight, bias)
    np.testing.assert_array_equal(layer.output, layer.expected(padded))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_transposed_convolution_equals_float32_arithmetic(groups: int, seed: int) -> None:
    layer = Layer(ConvTranspose2d, (8, 6 // groups, 3, 4), (6, 5, 7), seed, groups=groups,
                  stride=(2, 3), padding=(1, 1, 2, 2), output_padding=(1, 0), dilation=(1, 2))

    def transposed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        # PyTorch keeps the input channels first.
        torchs = weight.reshape(groups, 8 // groups, 6 // groups, 3, 4).transpose(1, 2)
        return F.conv_transpose2d(x, torchs.reshape(6, 8 // groups, 3, 4), bias, stride=(2, 3),
                                  padding=(1, 2), output_padding=(1, 0), dilation=(1, 2),
                                  groups=groups)
    np.testing.assert_array_equal(layer.output, layer.expected(transposed))


@pytest.mark.parametrize("width", [10, 1500])
@pytest.mark.parametrize("seed", range(3))
def test_linear_equals_float32_arithmetic(width: int, seed: int) -> None:
    layer = Layer(Linear, (20, width), (width,), seed)
    np.testing.assert_array_equal(layer.output, layer.expected(F.linear))


def test_sums_are_exact_where_float32_is_not() -> None:
    """128 * 127 * 1033 is just beyond 2^24: the wider type must be chosen, and then be right."""
    weight = np.full((1, 1033), 127, np.int8)
    assert exact_type(weight) is np.float64
    assert exact_type(weight[:, :1032]) is np.float32
    layer = Layer(Linear, (1, 4000), (4000,), 0)
    layer.x[:] = -128
    layer.x[:, 0] = 127
    np.testing.assert_array_equal(layer.output, layer.expected(F.linear))


@pytest.mark.parametrize("seed", range(4))
def test_convolution_equals_onnx_runtime(seed: int) -> None:
    groups = (1, 6)[seed % 2]
    layer = Layer(Conv2d, (12, 6 // groups, 3, 3), (6, 14, 13), seed, groups=groups,
                  padding=(1, 1, 1, 1), stride=(2, 1))
    constants = {
        "xs": np.float32(layer.source.scale), "xz": np.int8(layer.source.zero),
        "w": layer.weight, "ws": layer.scale, "wz": np.zeros(12, np.int8),
        "ys": np.float32(layer.target.scale), "yz": np.int8(layer.target.zero),
        "b": layer.bias.astype(np.int32)}
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
                            ["y"], pads=[1, 1, 1, 1], strides=[2, 1], group=groups)
    graph = helper.make_graph(
        [node], "layer",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [3, 6, 14, 13])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [3, 12, 7, 13])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(layer.output, session.run(None, {"x": layer.x})[0])


def single(node: Any, shapes: dict[str, tuple[int, ...]]) -> Graph:
    """A graph of one node whose tensors all have one scale."""
    tensors = {name: TensorType(shape=shape, scale=0.5, zero_point=-7)
               for name, shape in shapes.items()}
    graph = Graph(inputs=[name for name in shapes if name != "y"], outputs=["y"], nodes=[node],
                  tensors=tensors)
    graph.validate()
    return graph


def random_levels(seed: int, *shape: int) -> Levels:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def test_moving_nodes() -> None:
    x = random_levels(1, 2, 6, 5, 4)
    one = {"name": "n", "inputs": ("x",), "output": "y"}
    torchs = torch.from_numpy(x.astype(np.float32))
    cases = [
        (MaxPool(**one, kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 0)),
         F.max_pool2d(F.pad(torchs, (1, 0, 1, 0), value=-128.0), (3, 2), (2, 1))),
        (MaxPool(**one, kernel=(2, 2), stride=(1, 1), dilation=(3, 2)),
         F.max_pool2d(torchs, 2, 1, 0, (3, 2))),
        (Slice(**one, start=(1, 0, 1), stop=(6, 5, 4), step=(2, 3, 1)), torchs[:, 1::2, ::3, 1:]),
        (Pad(**one, padding=(1, 2, 3, 0), value=9), F.pad(torchs, (3, 0, 1, 2), value=9.0)),
        (Upsample(**one, factor=(2, 3)), F.interpolate(torchs, scale_factor=(2, 3))),
        (ChannelShuffle(**one, groups=3), torch.channel_shuffle(torchs, 3)),
    ]
    for node, expected in cases:
        graph = single(node, {"x": x.shape[1:], "y": tuple(expected.shape[1:])})
        np.testing.assert_array_equal(execute(graph, x)["y"], expected.numpy(), err_msg=node.op)


def test_table_and_concat() -> None:
    x, other = random_levels(2, 2, 6, 5, 4), random_levels(3, 2, 6, 5, 4)
    table = random_levels(4, 256)
    looked = execute(single(Table(name="n", inputs=("x",), output="y", table=table),
                            {"x": (6, 5, 4), "y": (6, 5, 4)}), x)["y"]
    for level in (-128, -1, 0, 127):
        assert np.all(looked[x == level] == table[level + 128])
    joined = execute(single(Concat(name="n", inputs=("x", "z", "x"), output="y", axis=1),
                            {"x": (6, 5, 4), "z": (6, 5, 4), "y": (6, 15, 4)}),
                     {"x": x, "z": other})["y"]
    np.testing.assert_array_equal(joined, np.concatenate([x, other, x], 2))


def build(function: Any, *kinds: Quantization, shape: tuple[int, ...] = (4, 30, 30)) -> Graph:
    """A graph of one arithmetic node made by the builder."""
    builder = Builder(bias="exact", multiplier_bits=24)
    names = [builder.input(f"x{index}", shape, kind) for index, kind in enumerate(kinds)]
    graph = builder.graph([function(builder, *names)], [], [])
    graph.validate()
    return graph


def real(levels: Levels, kind: Quantization) -> NDArray[np.float64]:
    return (levels.astype(np.float64) - kind.zero) * np.float64(np.float32(kind.scale))


def nearest(values: NDArray[np.float64], kind: Quantization) -> Levels:
    steps = np.rint(values / np.float64(np.float32(kind.scale))) + kind.zero
    return np.clip(steps, kind.low, kind.high).astype(np.int8)


# No simple ratios: exact ties would have to be right, and here they would be PyTorch's noise.
A = Quantization(scale=0.0371828, zero=-12)
B = Quantization(scale=0.0021414, zero=100)
Y = Quantization(scale=0.0514159, zero=5)


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -1.0), (-0.5, 3.0)])
def test_add_rounds_once(factors: tuple[float, float]) -> None:
    a, b = random_levels(5, 4, 4, 30, 30), random_levels(6, 4, 4, 30, 30)
    graph = build(lambda builder, x, z: builder.add(
        "add", x, z, A, B, Y, factor_a=factors[0], factor_b=factors[1]), A, B)
    ours = execute(graph, {"x0": a, "x1": b})["add"]
    expected = nearest(factors[0] * real(a, A) + factors[1] * real(b, B), Y)
    # The multipliers have 22 bits: what lies within their error of a tie may go either way.
    assert (ours != expected).mean() < 3e-4
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_multiply_by_channel() -> None:
    a, b = random_levels(7, 4, 4, 30, 30), random_levels(8, 4, 4, 1, 1)
    builder = Builder(bias="exact", multiplier_bits=24)
    x, gate = builder.input("x", (4, 30, 30), A), builder.input("gate", (4, 1, 1), B)
    graph = builder.graph([builder.multiply("mul", gate, x, B, A, Y)], [], [])
    graph.validate()
    ours = execute(graph, {"x": a, "gate": b})["mul"]
    np.testing.assert_array_equal(ours, nearest(real(a, A) * real(b, B), Y))


def test_requantize_and_bounds() -> None:
    x = random_levels(9, 1, 4, 30, 30)
    bounded = Quantization(scale=0.05, zero=5, low=5, high=60)
    graph = build(lambda builder, a: builder.requantize("q", a, A, bounded), A)
    np.testing.assert_array_equal(execute(graph, x)["q"], nearest(real(x, A), bounded))


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("zero", [-128, -7, 0, 12])
def test_average_rounds_as_the_source_does(centered: bool, zero: int) -> None:
    """2x2 windows, where a quarter of the sums are ties."""
    kind = Quantization(scale=0.05, zero=zero)
    x = random_levels(10, 4, 4, 30, 30)
    graph = build(lambda builder, a: builder.average(
        "pool", a, kind, kind, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0),
        centered=centered), kind)
    total = x.astype(int).reshape(4, 4, 15, 2, 15, 2).sum(axis=(3, 5))
    expected = np.rint(total / 4 - zero) + zero if centered else np.rint(total / 4)
    np.testing.assert_array_equal(execute(graph, x)["pool"], expected)


def test_average_to_another_scale_with_padding() -> None:
    x = random_levels(11, 4, 4, 30, 30)
    graph = build(lambda builder, a: builder.average(
        "pool", a, A, Y, kernel=(3, 3), stride=(2, 1), padding=(1, 1, 1, 1), centered=True), A)
    padded = F.avg_pool2d(torch.from_numpy(real(x, A)), 3, (2, 1), 1).numpy()
    np.testing.assert_array_equal(execute(graph, x)["pool"], nearest(padded, Y))


@pytest.mark.parametrize("zero", [-128, -7, 0, 12])
def test_bilinear_upsampling_is_rounded_once(zero: int) -> None:
    """Every eleventh sum is a tie at equal scales; float64 holds all of them exactly."""
    kind = Quantization(scale=0.05, zero=zero)
    x = random_levels(13, 2, 4, 9, 10)
    twice = F.interpolate(torch.from_numpy(x.astype(np.float64)), scale_factor=2.0,
                          mode="bilinear").numpy()
    graph = build(lambda builder, a: builder.upsample_bilinear("up", a, kind, kind), kind,
                  shape=(4, 9, 10))
    np.testing.assert_array_equal(execute(graph, x)["up"], np.rint(twice))
    graph = build(lambda builder, a: builder.upsample_bilinear("up", a, kind, Y), kind,
                  shape=(4, 9, 10))
    np.testing.assert_array_equal(execute(graph, x)["up"],
                                  nearest((twice - zero) * np.float64(np.float32(0.05)), Y))


def test_batches_of_any_size_are_the_same_images() -> None:
    """The reference works in turns; the cut must not show."""
    layer = Layer(Conv2d, (8, 64, 3, 3), (64, 56, 56), 5, padding=(1, 1, 1, 1))
    x = random_levels(12, 7, 64, 56, 56)
    whole = execute(layer.graph, x)["layer"]
    for index in (0, 3, 6):
        np.testing.assert_array_equal(execute(layer.graph, x[index:index + 1])["layer"][0],
                                      whole[index])


def test_reference_quantizes_and_runs_the_tail() -> None:
    layer = Layer(Linear, (6, 10), (10,), 3)
    images = (layer.x.astype(np.float32) - layer.source.zero) * np.float32(layer.source.scale)
    np.testing.assert_array_equal(reference(layer.graph, images, dequantize=False), layer.output)
    graph = layer.graph
    graph.tail = [TailOperation(op="softmax", inputs=("layer",), output="p",
                                arguments={"axis": 1})]
    graph.results = ["p", "layer"]
    probabilities, logits = reference(graph, torch.from_numpy(images))
    expected = torch.softmax(torch.from_numpy(logits), 1).numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
    np.testing.assert_array_equal(
        logits, graph.tensors["layer"].dequantize(layer.output))


LINEAR_WEIGHT = torch.arange(-15.0, 15.0).reshape(6, 5)
LINEAR_SCALE = torch.linspace(0.1, 0.9, 6)
TAIL = {
    "argmax": (lambda x: x.argmax(1, keepdim=True), {"axis": 1, "keepdims": True}),
    "clamp": (lambda x: x.clamp(-0.5, None), {"low": -0.5, "high": None}),
    "linear": (lambda x: F.linear(x, LINEAR_WEIGHT * LINEAR_SCALE[:, None], LINEAR_SCALE),
               linear_arguments(LINEAR_WEIGHT.numpy().astype(np.int8), LINEAR_SCALE.numpy(),
                                LINEAR_SCALE.numpy())),
    "log_softmax": (lambda x: torch.log_softmax(x, 1), {"axis": 1}),
    "permute": (lambda x: x.permute(0, 2, 1), {"axes": [0, 2, 1]}),
    "relu": (torch.relu, {}),
    "reshape": (lambda x: x.reshape(3, 20), {"shape": [20]}),
    "scale": (lambda x: x * -2 + 0.25, {"factor": -2.0, "offset": 0.25}),
    "sigmoid": (torch.sigmoid, {}),
    "softmax": (lambda x: torch.softmax(x, 2), {"axis": 2}),
    "tanh": (torch.tanh, {}),
}


@pytest.mark.parametrize("name", sorted(TAIL_OPERATIONS))
def test_tail_equals_pytorch(name: str) -> None:
    function, arguments = TAIL[name]
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)) * 30
    operation = TailOperation(op=name, inputs=("x",), output="y", arguments=arguments)
    (ours,) = run_tail([operation], {"x": x.numpy()}, ["y"])
    expected = function(x).numpy()
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-5 * np.abs(expected).max())


def test_wrong_inputs_are_refused() -> None:
    layer = Layer(Linear, (6, 10), (10,), 3)
    with pytest.raises(InputError, match="input 'x' is missing"):
        execute(layer.graph, {})
    with pytest.raises(InputError, match=r"must be int8 of shape \('N', 10\), not int16"):
        execute(layer.graph, layer.x.astype(np.int16))
    with pytest.raises(InputError, match=r"not int8 of \(3, 9\)"):
        execute(layer.graph, layer.x[:, 1:])
    with pytest.raises(InputError, match="the network has 1 inputs"):
        reference(layer.graph, (layer.x, layer.x))
    two = build(lambda builder, a, b: builder.add("add", a, b, A, B, Y), A, B, shape=(4,))
    with pytest.raises(InputError, match="different batch sizes"):
        execute(two, {"x0": random_levels(1, 2, 4), "x1": random_levels(1, 3, 4)})
