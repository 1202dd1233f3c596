"""Random integer graphs for the compiler's tests, and running a program on the golden model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith import graph as g
from systolith.hw.config import PRESETS, Config
from systolith.integer_reference import execute
from systolith.program import Program
from systolith.sim.golden import Golden

CONFIGS: dict[str, Config] = {
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"].replace(memory_size=4 << 20),
    "default": PRESETS["default"].replace(memory_size=4 << 20),
    "16x8": Config(rows=16, columns=8, lanes=4, scratchpad_banks=2, scratchpad_bank_words=512,
                   weight_words=1024, accumulator_words=128, parameter_words=64,
                   vector_accumulator_words=64, vector_weight_words=64, memory_size=4 << 20),
    "4x8": Config(rows=4, columns=8, lanes=2, scratchpad_banks=4, scratchpad_bank_words=512,
                  weight_words=256, accumulator_words=64, parameter_words=64,
                  vector_accumulator_words=64, vector_weight_words=64, memory_size=4 << 20),
}


class Builder:
    """Builds a graph node by node with random constants of sensible magnitude."""

    def __init__(self, seed: int, config: Config, shape: tuple[int, ...]):
        self.rng = np.random.default_rng(seed)
        self.bits = config.multiplier_bits
        self.mode = config.bias
        self.nodes: list[g.Node] = []
        self.tensors: dict[str, g.TensorType] = {}
        self.shape: dict[str, tuple[int, ...]] = {}
        self.input = self.tensor("x", shape)

    def tensor(self, name: str, shape: tuple[int, ...], zero: int | None = None) -> str:
        zero = int(self.rng.integers(-20, 21)) if zero is None else zero
        self.tensors[name] = g.TensorType(shape=shape, scale=0.05, zero_point=zero)
        return name

    def _append(self, cls: type[g.Node], inputs: tuple[str, ...], tensor_zero: int | None, /,
                **fields: Any) -> str:
        index = len(self.nodes)
        node = cls(name=f"layer{index}", inputs=inputs, output=f"t{index}", **fields)
        shape = node.output_shape(tuple(self.tensors[name].shape for name in inputs))
        self.tensor(node.output, shape, tensor_zero)
        self.nodes.append(node)
        return node.output

    def scale(self, fan_in: float, count: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Multipliers and shifts that bring sums of `fan_in` products back to int8."""
        real = self.rng.uniform(0.5, 1.5, count) / (60.0 * np.sqrt(fan_in))
        mantissa, exponent = np.frexp(real)
        if self.bits == 0:
            return np.ones(count, np.int64), (-exponent).astype(np.int64)
        multiplier = np.rint(mantissa * (1 << self.bits)).astype(np.int64)
        multiplier = np.minimum(multiplier, (1 << self.bits) - 1)
        return multiplier, (self.bits - exponent).astype(np.int64)

    def _weighted(self, x: str, weight: NDArray[np.int8], relu: bool) -> dict[str, Any]:
        outputs = len(weight)
        multiplier, shift = self.scale(weight[0].size, outputs)
        zero_in = self.tensors[x].zero_point
        sums = weight.astype(np.int64).reshape(outputs, -1).sum(axis=1)
        bias = self.rng.integers(-3000, 3000, outputs) - zero_in * sums
        half = 1 << max(self.bits - 1, 0)
        rounding = self.rng.integers(-half // 2, half // 2 + 1, outputs)
        if self.mode == "int32" or self.bits == 0:
            rounding = np.zeros(outputs, np.int64)
        zero = int(self.rng.integers(-20, 21))
        unused = np.zeros(outputs)
        return {"weight": weight, "bias": bias.astype(np.int32), "rounding": rounding,
                "multiplier": multiplier, "shift": shift, "zero": zero,
                "low": zero if relu else -128, "float_bias": unused, "weight_scale": unused + 1,
                "enlargement": unused.astype(np.int64), "enlargement_error": unused}

    def weights(self, *shape: int) -> NDArray[np.int8]:
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def conv(self, x: str, outputs: int, kernel: tuple[int, int] = (3, 3), *,
             stride: tuple[int, int] = (1, 1), padding: tuple[int, int, int, int] | None = None,
             dilation: tuple[int, int] = (1, 1), groups: int = 1, relu: bool = True) -> str:
        if padding is None:
            padding = tuple(dilation[axis] * (kernel[axis] - 1) // 2 for axis in (0, 0, 1, 1))
        channels = self.tensors[x].shape[0]
        fields = self._weighted(x, self.weights(outputs, channels // groups, *kernel), relu)
        return self._append(g.Conv2d, (x,), fields["zero"], stride=stride, padding=padding,
                            dilation=dilation, groups=groups, **fields)

    def linear(self, x: str, outputs: int, relu: bool = False) -> str:
        fields = self._weighted(x, self.weights(outputs, self.tensors[x].shape[0]), relu)
        return self._append(g.Linear, (x,), fields["zero"], **fields)

    def add(self, a: str, b: str, relu: bool = False) -> str:
        zero = int(self.rng.integers(-20, 21))
        multiplier = self.rng.integers(1 << 20, 1 << 22, 2)
        return self._append(
            g.Add, (a, b), zero, zero_a=self.tensors[a].zero_point,
            zero_b=self.tensors[b].zero_point, multiplier_a=int(multiplier[0]),
            multiplier_b=-int(multiplier[1]), shift=22, zero=zero, low=zero if relu else -128)

    def multiply(self, a: str, b: str) -> str:
        (multiplier,), (shift,) = self.scale(1.0)
        zero = int(self.rng.integers(-20, 21))
        return self._append(
            g.Multiply, (a, b), zero, zero_a=self.tensors[a].zero_point,
            zero_b=self.tensors[b].zero_point, multiplier=int(multiplier), shift=int(shift),
            zero=zero)

    def max_pool(self, x: str, kernel: tuple[int, int], stride: tuple[int, int],
                 padding: tuple[int, int, int, int] = (0, 0, 0, 0),
                 dilation: tuple[int, int] = (1, 1)) -> str:
        return self._append(g.MaxPool, (x,), self.tensors[x].zero_point, kernel=kernel,
                            stride=stride, padding=padding, dilation=dilation)

    def average_pool(self, x: str, kernel: tuple[int, int] | None = None,
                     stride: tuple[int, int] = (1, 1),
                     padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> str:
        kernel = kernel or self.tensors[x].shape[1:]
        (multiplier,), (shift,) = self.scale(1.0)
        # The scale of a mean: 60 times larger than that of a sum of products.
        shift = max(0, int(shift) - 6)
        return self._append(g.AveragePool, (x,), 4, kernel=kernel, stride=stride,
                            padding=padding, bias=int(self.rng.integers(-50, 50)),
                            multiplier=int(multiplier), shift=shift, zero=4)

    def requantize(self, x: str) -> str:
        (multiplier,), (shift,) = self.scale(1.0)
        return self._append(g.Requantize, (x,), 3, bias=-self.tensors[x].zero_point,
                            multiplier=int(multiplier), shift=max(0, int(shift) - 6), zero=3)

    def table(self, x: str) -> str:
        table = self.rng.integers(-128, 128, 256).astype(np.int8)
        return self._append(g.Table, (x,), None, table=table)

    def concat(self, *inputs: str, axis: int = 0) -> str:
        zero = self.tensors[inputs[0]].zero_point
        for name in inputs:
            assert self.tensors[name].shape, name
            self.tensors[name] = replace(self.tensors[name], zero_point=zero)
        return self._append(g.Concat, inputs, zero, axis=axis)

    def slice(self, x: str, *slices: slice) -> str:
        shape = self.tensors[x].shape
        starts, stops, steps = zip(*(part.indices(size) for part, size in
                                     zip(slices, shape, strict=True)), strict=True)
        return self._append(g.Slice, (x,), self.tensors[x].zero_point, start=starts, stop=stops,
                            step=steps)

    def pad(self, x: str, *padding: int) -> str:
        return self._append(g.Pad, (x,), self.tensors[x].zero_point, padding=padding,
                            value=int(self.rng.integers(-128, 128)))

    def upsample(self, x: str, *factor: int) -> str:
        return self._append(g.Upsample, (x,), self.tensors[x].zero_point, factor=factor)

    def upsample_bilinear(self, x: str) -> str:
        (multiplier,), (shift,) = self.scale(1.0)
        # The scale of sixteen parts of one value.
        return self._append(g.UpsampleBilinear, (x,), 3, bias=-16 * self.tensors[x].zero_point,
                            multiplier=int(multiplier), shift=max(0, int(shift) - 4), zero=3)

    def shuffle(self, x: str, groups: int) -> str:
        return self._append(g.ChannelShuffle, (x,), self.tensors[x].zero_point, groups=groups)

    def conv_transpose(self, x: str, outputs: int, kernel: tuple[int, int] = (3, 3), *,
                       groups: int = 1, **options: Any) -> str:
        channels = self.tensors[x].shape[0]
        fields = self._weighted(x, self.weights(outputs, channels // groups, *kernel), False)
        weight = fields["weight"].astype(np.int64).reshape(outputs, -1)
        fields["bias"] = (fields["bias"] + self.tensors[x].zero_point * weight.sum(axis=1)
                          ).astype(np.int32)
        return self._append(g.ConvTranspose2d, (x,), fields["zero"], groups=groups, **options,
                            **fields)

    def flatten(self, x: str) -> str:
        shape = self.tensors[x].shape
        return self._append(g.Reshape, (x,), self.tensors[x].zero_point,
                            shape=(int(np.prod(shape)),))

    def graph(self, *outputs: str) -> g.Graph:
        graph = g.Graph(inputs=["x"], outputs=list(outputs) or [self.nodes[-1].output],
                        nodes=self.nodes, tensors=self.tensors, bias=self.mode,
                        multiplier_bits=self.bits)
        graph.validate()
        return graph


def run_golden(program: Program, images: dict[str, NDArray[np.int8]], *, order: int | None = None,
               noise: int | None = None) -> tuple[dict[str, NDArray[np.int8]], Any]:
    """Outputs by name and the outcome of one image on the golden model."""
    memory = np.zeros(program.config.memory_size, np.uint8)
    memory[:len(program.image)] = np.frombuffer(program.image, np.uint8)
    for tensor in program.inputs:
        memory[tensor.address:tensor.end] = np.frombuffer(tensor.pack(images[tensor.name]),
                                                          np.uint8)
    outcome = Golden(program.config, noise=noise).run(memory, 0, order=order)
    tensors = [*program.outputs, *(layer.output for layer in program.layers if layer.output)]
    return {tensor.name: tensor.unpack(memory[tensor.address:tensor.end].tobytes())
            for tensor in tensors}, outcome


def check(graph: g.Graph, program: Program, seed: int, *, order: int | None = None,
          levels: Sequence[int] = range(-128, 128)) -> None:
    """Assert that the golden model gives the integer reference's outputs, to the bit.

    Inputs are random `levels`.
    """
    rng = np.random.default_rng(seed)
    images = {name: rng.choice(np.array(levels), graph.tensors[name].shape).astype(np.int8)
              for name in graph.inputs}
    expected = execute(graph, {name: image[None] for name, image in images.items()})
    results, outcome = run_golden(program, images, order=order, noise=seed)
    assert outcome.error == 0, f"seed {seed}: {outcome}"
    for name, values in results.items():
        wrong = np.argwhere(values != expected[name][0])
        if len(wrong):
            first = tuple(wrong[0])
            raise AssertionError(
                f"seed {seed}: tensor {name} {values.shape} differs at {len(wrong)} places, first "
                f"{first}: {values[first]} for {expected[name][0][first]}")
    assert len(outcome.marks) == len(program.stages)
