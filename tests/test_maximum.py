"""Max pooling without the vector unit: exact, in few steps, and one row of the layer table."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler_graphs import Builder, check, run_golden
from systolith.bench import bench_graph
from systolith.compiler import compile_graph
from systolith.compiler.ir import Feature, Matrix
from systolith.compiler.maximum import maximum
from systolith.graph import MaxPool
from systolith.hw.config import PRESETS, Config
from systolith.hw.isa import Array, Load, LoadTarget, Post, Queue
from systolith.verifier import read_instructions, verify

BARE = PRESETS["tiny"].replace(vector_taps=0, table=False, residual=False)

CONFIGS: dict[str, Config] = {
    "icebreaker": PRESETS["icebreaker"],
    "tang-nano-9k": PRESETS["tang-nano-9k"],
    "tang-nano-20k": PRESETS["tang-nano-20k"],
    "tiny": BARE,
    "4x8": BARE.replace(columns=8, lanes=2),
    "8x4, 4-bit weights": BARE.replace(rows=8, weight_bits=4, multiplier_bits=18),
    "pure shift": BARE.replace(multiplier_bits=0),
    "16x16": PRESETS["default"].replace(vector_taps=0, memory_size=1 << 20),
}

LEVELS = {"all": range(-128, 128), "ends": (-128, -127, 126, 127), "middle": (-2, -1, 0, 1)}
"""Values of the inputs: where differences are large, and where they are small."""


def _builder(seed: int, config: Config, *shape: int) -> Builder:
    b = Builder(seed, config, shape)
    if config.weight_bits == 4:
        b.weights = lambda *shape: b.rng.integers(-8, 8, shape).astype(np.int8)
    return b


def _compiled(b: Builder, config: Config, *outputs: str, **options: Any) -> None:
    """Compile what was built, and compare it with the reference."""
    graph = b.graph(*outputs)
    program = compile_graph(graph, config, **options)
    verify(program)
    check(graph, program, 1)
    check(graph, program, 2, levels=LEVELS["ends"])


POOLS: dict[str, Callable[[Builder, str], str]] = {
    "2x2": lambda b, x: b.max_pool(x, (2, 2), (2, 2)),
    "2x2, stride 1": lambda b, x: b.max_pool(x, (2, 2), (1, 1), (1, 0, 0, 1)),
    "2x2, stride 3": lambda b, x: b.max_pool(x, (2, 2), (3, 3)),
    "3x3, stride 2": lambda b, x: b.max_pool(x, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3, stride 1": lambda b, x: b.max_pool(x, (3, 3), (1, 1), (1, 1, 1, 1)),
    "3x3, stride 3": lambda b, x: b.max_pool(x, (3, 3), (3, 3), (0, 2, 0, 2)),
    "2x3": lambda b, x: b.max_pool(x, (2, 3), (2, 1), (1, 1, 0, 2)),
    "1x2": lambda b, x: b.max_pool(x, (1, 2), (2, 2)),
    "4x1": lambda b, x: b.max_pool(x, (4, 1), (1, 3), (3, 0, 0, 0)),
    "5x5": lambda b, x: b.max_pool(x, (5, 5), (1, 1), (2, 2, 2, 2)),
    "5x5, stride 2": lambda b, x: b.max_pool(x, (5, 5), (2, 2), (2, 1, 0, 4)),
    "dilated": lambda b, x: b.max_pool(x, (3, 2), (1, 2), (2, 2, 0, 3), (2, 3)),
    "strided": lambda b, x: b.max_pool(x, (1, 1), (2, 3)),
    "all of it": lambda b, x: b.max_pool(x, b.tensors[x].shape[1:], (1, 1)),
    "windows of padding alone": lambda b, x: b.max_pool(x, (2, 2), (1, 1), (1, 6, 7, 1), (9, 9)),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("config", CONFIGS)
def test_pools_at_the_input(config: str, pool: str) -> None:
    # The largest of these programs need more main memory than the smallest board has.
    chosen = CONFIGS[config].replace(memory_size=1 << 20)
    b = _builder(1, chosen, 10, 9, 8)
    POOLS[pool](b, b.input)
    _compiled(b, chosen)


@pytest.mark.parametrize("pool", ["2x2", "3x3, stride 2", "2x3", "dilated", "strided",
                                  "windows of padding alone"])
@pytest.mark.parametrize("config", ["icebreaker", "tang-nano-9k", "tang-nano-20k"])
def test_pools_between_convolutions(config: str, pool: str) -> None:
    """Values behind a ReLU are never below the zero point, with which both may pad; those of the
    other convolution are, and the pool has a copy with its own padding."""
    chosen = CONFIGS[config].replace(memory_size=1 << 20)
    for relu in (True, False):
        b = _builder(2, chosen, 3, 9, 8)
        x = b.conv(b.input, 12, relu=relu)
        beside = b.conv(x, 3, relu=False)
        _compiled(b, chosen, beside, b.conv(POOLS[pool](b, x), 6, padding=(1, 1, 1, 1)))


@pytest.mark.parametrize("config", ["tiny", "small", "icebreaker", "tang-nano-20k"])
def test_a_window_of_padding_alone_is_the_least_value(config: str) -> None:
    """Also behind a ReLU, whose least value is the zero point; with and without the vector unit."""
    chosen = PRESETS[config]
    b = _builder(6, chosen, 3, 4, 4)
    x = b.max_pool(b.conv(b.input, 5, relu=True), (2, 2), (1, 1), (1, 1, 1, 1), (5, 5))
    graph = b.graph(x)
    program = compile_graph(graph, chosen)
    verify(program)
    results, _ = run_golden(program, {"x": np.full((3, 4, 4), 100, np.int8)})
    assert results[x].min() == -128
    _compiled(b, chosen, x)


@st.composite
def _networks(draw: st.DrawFn) -> tuple[str, int, Callable[[Builder], Any], tuple[int, ...]]:
    """A pool of any shape, what is around it, and the input's shape."""
    numbers = {"kernel": st.integers(1, 6), "stride": st.integers(1, 4),
               "dilation": st.integers(1, 3)}
    pool = {name: draw(st.tuples(number, number)) for name, number in numbers.items()}
    padding = draw(st.tuples(*[st.integers(0, 5)] * 4))
    front, behind = draw(st.sampled_from(["", "conv", "relu"])), draw(st.booleans())
    shape = draw(st.tuples(st.integers(1, 18), st.integers(1, 14), st.integers(1, 14)))
    for axis in (0, 1):
        extent = pool["dilation"][axis] * (pool["kernel"][axis] - 1) + 1
        assume(shape[1 + axis] + padding[2 * axis] + padding[2 * axis + 1] >= extent)

    def build(b: Builder) -> None:
        x = b.conv(b.input, 9, (1, 1), relu=front == "relu") if front else b.input
        x = b.max_pool(x, pool["kernel"], pool["stride"], padding, pool["dilation"])
        if behind:
            b.conv(x, 5, relu=False)

    return draw(st.sampled_from(sorted(CONFIGS))), draw(st.integers(0, 999)), build, shape


@settings(max_examples=100)
@given(_networks(), st.sampled_from(sorted(LEVELS)), st.booleans())
def test_random_pools(network: tuple[str, int, Callable[[Builder], Any], tuple[int, ...]],
                      levels: str, observe: bool) -> None:
    name, seed, build, shape = network
    config = CONFIGS[name].replace(memory_size=1 << 18)
    b = _builder(seed, config, *shape)
    build(b)
    graph = b.graph()
    program = compile_graph(graph, config, observe=observe)
    verify(program)
    check(graph, program, seed, levels=LEVELS[levels])


@pytest.mark.parametrize("bits", [24, 18, 16, 0])
def test_every_pair_of_values(bits: int) -> None:
    config = PRESETS["small"].replace(vector_taps=0, multiplier_bits=bits)
    b = _builder(1, config, 16, 64, 128)
    b.max_pool("x", (1, 2), (1, 2))
    program = compile_graph(b.graph(), config)
    values = np.arange(-128, 128).astype(np.int8)
    first, second = (value.reshape(16, 64, 64) for value in np.meshgrid(values, values))
    image = np.stack([first, second], axis=-1).reshape(16, 64, 128)
    results, _ = run_golden(program, {"x": image})
    np.testing.assert_array_equal(results["t0"], np.maximum(first, second))


def test_features_larger_than_the_scratchpad() -> None:
    """Steps go through main memory, and rows that do not fit block by block."""
    config = CONFIGS["tang-nano-9k"].replace(memory_size=1 << 18)
    for shape in ((24, 20, 20), (5, 4, 700)):
        b = _builder(3, config, *shape)
        b.conv(b.max_pool(b.max_pool("x", (3, 3), (1, 1), (1, 1, 1, 1)), (2, 2), (2, 2)), 4)
        _compiled(b, config)
        _compiled(b, config, observe=True)
    config = CONFIGS["8x4, 4-bit weights"]
    b = _builder(3, config, 20, 28, 24)
    b.max_pool("x", (4, 6), (1, 1), (0, 4, 2, 2), (2, 2))
    _compiled(b, config)


def test_addition_and_table_behind_a_pool() -> None:
    config = BARE.replace(residual=True, table=True)
    b = _builder(4, config, 8, 8, 8)
    x = b.table(b.max_pool("x", (2, 2), (2, 2)))
    y = b.add(b.conv("x", 8, stride=(2, 2)), b.max_pool("x", (3, 3), (2, 2), (1, 1, 1, 1)))
    z = b.add(b.max_pool(y, (3, 3), (1, 1), (1, 1, 1, 1)), x)
    _compiled(b, config, x, y, z)


# Steps ------------------------------------------------------------------------------------------

def _steps(size: tuple[int, int], config: Config = BARE, **pool: Any
           ) -> tuple[list[Feature], list[Matrix]]:
    """What is made on the way, and by which operations."""
    node = MaxPool(name="pool", inputs=("x",), output="y", **pool)
    feature = Feature(name="x", tensor="x", channels=1, height=size[0], width=size[1], zero_point=0)
    _, height, width = node.output_shape(((1, *size),))
    made, last = maximum(node, feature, (height, width), -128, config)
    return [feature for feature, _ in made], [*(operation for _, operation in made), last]


@pytest.mark.parametrize(("pool", "sizes"), [
    # One step for each further value along an axis, and one that adds.
    ({"kernel": (2, 2), "stride": (2, 2)}, [(6, 12), (6, 6)]),
    ({"kernel": (3, 3), "stride": (2, 2)}, [(5, 11)] * 2 + [(5, 5)] * 2),
    # The axis with the larger stride comes first.
    ({"kernel": (2, 2), "stride": (1, 3)}, [(12, 4), (11, 4)]),
    # Nothing is computed between the rows that are read.
    ({"kernel": (1, 2), "stride": (4, 1)}, [(3, 11)]),
    ({"kernel": (1, 1), "stride": (2, 2)}, []),
    # Windows of 2, 4 and 5 values, and of 2, 3, 6 and 12.
    ({"kernel": (5, 1), "stride": (1, 1)}, [(10, 12), (8, 12), (8, 12)]),
    ({"kernel": (12, 1), "stride": (1, 1)}, [(4, 12), (4, 12), (2, 12), (1, 12)]),
])
def test_few_values_are_computed(pool: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    made, operations = _steps((12, 12), **pool)
    assert [(feature.height, feature.width) for feature in made] == sizes
    assert len(operations) == len(sizes) + 1


def test_long_windows_take_few_steps() -> None:
    for size, steps in ((7, 3), (8, 3), (16, 4), (100, 7), (999, 10)):
        made, _ = _steps((1, size), kernel=(1, size), stride=(1, size))
        assert len(made) == steps


@pytest.mark.parametrize("bits", [24, 18, 16, 0])
def test_every_finish_suits_the_sequential_core(bits: int) -> None:
    """Its circuits shift by 16 and more, where multipliers have 16 bits or more."""
    _, operations = _steps((9, 9), BARE.replace(multiplier_bits=bits), kernel=(3, 3),
                           stride=(2, 2))
    for operation in operations:
        assert operation.finish.shift == max(bits, 1)
        assert 2 * int(operation.finish.multiplier[0]) == 1 << max(bits, 1)
        assert all(set(np.unique(weight)) <= {-2, 2} for weight in operation.weights)


@pytest.mark.parametrize("name", ["icebreaker", "tang-nano-20k"])
def test_few_instructions(name: str) -> None:
    config = CONFIGS[name].replace(columns=4)  # for which the numbers below are
    b = _builder(1, config, 16, 8, 8)
    b.max_pool(b.max_pool("x", (2, 2), (2, 2)), (2, 2), (2, 2))
    program = compile_graph(b.graph(), config)
    lists = read_instructions(config, program.image)
    # A pair of tiles for differences and one for sums, a record for each, whoever takes them.
    targets = [i.target for i in lists[Queue.LOAD] if isinstance(i, Load)]
    assert targets.count(LoadTarget.WEIGHT) == targets.count(LoadTarget.PARAMETER) == 2
    # Rows are not cut: a channel group is six sources in three steps.
    assert sum(isinstance(i, Array) for i in lists[Queue.ARRAY]) == 2 * 4 * 6
    assert sum(isinstance(i, Post) for i in lists[Queue.POST]) == 2 * 4 * 3


def test_a_pool_is_one_layer() -> None:
    for config in ("icebreaker", "tang-nano-20k"):
        b = _builder(1, CONFIGS[config], 4, 8, 8)
        b.conv(b.max_pool(b.conv("x", 8), (2, 2), (2, 2)), 4)
        graph = b.graph()
        program = compile_graph(graph, CONFIGS[config])
        assert [layer.name for layer in program.layers] == ["layer0", "layer1", "layer2"]
        assert [layer.op for layer in program.layers] == ["Conv2d", "MaxPool", "Conv2d"]
        assert all(layer.predicted_cycles > 0 for layer in program.layers)
        assert (sum(layer.predicted_cycles for layer in program.layers)
                == program.predicted_cycles)
        assert program.macs == graph.macs
        for region in program.regions:
            assert 0 <= region.first_layer <= region.last_layer < 3


# RTL --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("config", ["tang-nano-20k", "icebreaker", "tang-nano-9k"])
def test_on_rtl(config: str) -> None:
    chosen = CONFIGS[config].replace(memory_size=1 << 16)
    b = _builder(5, chosen, 3, 9, 8)
    x = b.max_pool(b.conv("x", 8), (3, 3), (2, 2), (1, 1, 1, 1))
    b.conv(b.max_pool(x, (2, 2), (1, 2)), 5, relu=False)
    graph = b.graph()
    levels = np.array(LEVELS["ends"])
    image = np.random.default_rng(5).choice(levels, (3, 9, 8)).astype(np.int8)
    result = bench_graph(graph, {"x": image}, name="pools", config=chosen)
    assert result["bit_exact"]
    layers = result["layers"]
    assert [layer["op"] for layer in layers] == ["Conv2d", "MaxPool", "MaxPool", "Conv2d"]
    assert sum(layer["cycles"] for layer in layers) == result["total"]["cycles"]
    # No value of the pools is left to the sequential core's program, which takes far longer.
    for layer in layers[1:3]:
        assert 0.8 < layer["cycles"] / layer["predicted_cycles"] < 1.25, layer
