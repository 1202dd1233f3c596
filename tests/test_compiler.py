"""Compiled programs on the golden model against the integer reference, to the bit."""

from collections.abc import Callable

import numpy as np
import pytest

from compiler_graphs import CONFIGS, Builder, check
from compiler_networks import NETWORKS
from systolith.compiler import compile_graph
from systolith.hw.isa import Array, Queue
from systolith.program import Program
from systolith.verifier import read_instructions, verify


def _conv(b: Builder) -> None:
    b.conv("x", 19, stride=(2, 1))


def _pointwise_wide(b: Builder) -> None:
    b.conv("x", 40, (1, 1))


def _dilated(b: Builder) -> None:
    b.conv("x", 20, (3, 5), dilation=(2, 1), padding=(4, 0, 3, 1))


def _grouped(b: Builder) -> None:
    b.conv("x", 48, groups=4)


def _depthwise(b: Builder) -> None:
    b.conv("x", 24, groups=24, stride=(2, 1))


def _depthwise_5x5(b: Builder) -> None:
    b.conv("x", 24, (5, 5), groups=24, stride=(2, 2))


def _depthwise_dilated(b: Builder) -> None:
    b.conv("x", 24, groups=24, dilation=(2, 3))


def _max_pool(b: Builder) -> None:
    b.max_pool("x", (3, 3), (2, 2), (1, 1, 1, 1))


def _max_pool_5x4(b: Builder) -> None:
    b.max_pool("x", (5, 4), (1, 3), (2, 0, 1, 1))


def _average_pool(b: Builder) -> None:
    b.average_pool("x", (2, 3), (2, 3))


def _global_average(b: Builder) -> None:
    b.average_pool("x")


def _two_paddings(b: Builder) -> None:
    # One reader pads with the zero point, the other with the least integer.
    x = b.conv("x", 20, relu=False)
    b.add(b.conv(x, 20), b.max_pool(x, (3, 3), (1, 1), (1, 1, 1, 1)))


def _residual(b: Builder) -> None:
    b.add(b.conv("x", 24, relu=False), "x", relu=True)


def _residual_of_two(b: Builder) -> None:
    b.add(b.conv("x", 40, relu=False), b.conv("x", 40, (1, 1), relu=False))


def _twice_itself(b: Builder) -> None:
    b.add("x", "x", relu=True)


def _depthwise_residual(b: Builder) -> None:
    b.add(b.conv("x", 24, groups=24, relu=False), "x")


def _convolution_table(b: Builder) -> None:
    b.table(b.conv("x", 24, relu=False))


def _tables(b: Builder) -> None:
    b.table(b.requantize(b.table("x")))


def _squeeze_excite(b: Builder) -> None:
    scale = b.table(b.conv(b.average_pool("x"), 24, (1, 1)))
    b.multiply("x", scale)


def _product(b: Builder) -> None:
    b.multiply(b.conv("x", 24), "x")


def _flat(b: Builder) -> None:
    b.linear(b.linear(b.flatten("x"), 33, relu=True), 10)


def _chain(b: Builder) -> None:
    x = b.conv("x", 40)
    x = b.add(b.conv(x, 40, relu=False), x, relu=True)
    x = b.average_pool(b.max_pool(x, (2, 2), (2, 2)))
    b.linear(b.flatten(x), 10)


def _inverted_residual(b: Builder) -> None:
    x = b.conv(b.conv("x", 72, (1, 1)), 72, groups=72)
    b.add(b.conv(x, 24, (1, 1), relu=False), "x")


CASES = [_conv, _pointwise_wide, _dilated, _grouped, _depthwise, _depthwise_5x5, _depthwise_dilated,
         _max_pool, _max_pool_5x4, _average_pool, _global_average, _two_paddings, _residual,
         _residual_of_two, _twice_itself, _depthwise_residual, _convolution_table, _tables,
         _squeeze_excite, _product, _flat, _chain, _inverted_residual]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__[1:])
def test_operators_equal_the_reference(case: Callable[[Builder], None], config: str) -> None:
    b = Builder(11, CONFIGS[config], (24, 12, 13))
    case(b)
    graph = b.graph()
    program = compile_graph(graph, CONFIGS[config])
    verify(program)
    check(graph, program, 12)
    kept = compile_graph(graph, CONFIGS[config], observe=True)
    verify(kept)
    check(graph, kept, 13)


def _random_graph(seed: int, config: str) -> Builder:
    """A network of up to six random layers on a random shape."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(value) for value in (rng.integers(1, 50), rng.integers(4, 24),
                                           rng.integers(4, 24)))
    b = Builder(seed, CONFIGS[config], shape)
    x = "x"
    for _ in range(rng.integers(1, 7)):
        channels, height, width = b.tensors[x].shape
        kernel = (int(rng.integers(1, min(height, 5) + 1)), int(rng.integers(1, min(width, 5) + 1)))
        stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        padding = tuple(int(rng.integers(0, kernel[axis])) for axis in (0, 0, 1, 1))
        match rng.integers(0, 7):
            case 0 | 1:
                x = b.conv(x, int(rng.integers(1, 60)), kernel, stride=stride, padding=padding)
            case 2:
                x = b.conv(x, channels, kernel, stride=stride, padding=padding, groups=channels)
            case 3:
                x = b.max_pool(x, kernel, stride, padding)
            case 4:
                x = b.average_pool(x, kernel, stride, padding)
            case 5:
                x = b.add(b.conv(x, channels, relu=False), x, relu=True)
            case 6:
                x = b.table(x)
    return b


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_equal_the_reference(seed: int, config: str) -> None:
    graph = _random_graph(seed, config).graph()
    program = compile_graph(graph, CONFIGS[config])
    verify(program)
    check(graph, program, seed)
    check(graph, compile_graph(graph, CONFIGS[config], observe=True), seed)


@pytest.mark.parametrize(("network", "config"), [
    ("resnet8", "default"), ("resnet8", "tiny"), ("dscnn", "small"), ("dscnn", "16x8"),
    ("mobilenetv1", "default"), ("autoencoder", "4x8"), ("autoencoder", "default")])
def test_networks_equal_the_reference(network: str, config: str) -> None:
    graph = NETWORKS[network](CONFIGS[config])
    program = compile_graph(graph, CONFIGS[config], name=network)
    verify(program)
    check(graph, program, 1)
    assert program.macs == graph.macs


def test_block_in_stripes_keeps_its_middle_on_chip() -> None:
    # 40 x 40 x 144 does not fit into the small scratchpad's 64 KiB, stripes of it do.
    b = Builder(3, CONFIGS["small"], (24, 40, 40))
    x = b.conv(b.conv("x", 144, (1, 1)), 144, groups=144)
    b.add(b.conv(x, 24, (1, 1), relu=False), "x")
    graph = b.graph()
    program = compile_graph(graph, CONFIGS["small"])
    report = verify(program)
    assert report.bytes_stored == 24 * 40 * 40
    check(graph, program, 4)


def test_wide_rows_are_cut_into_columns() -> None:
    b = Builder(3, CONFIGS["tiny"], (6, 7, 150))
    b.conv(b.conv("x", 9), 5, stride=(2, 2))
    graph = b.graph()
    program = compile_graph(graph, CONFIGS["tiny"])
    verify(program)
    check(graph, program, 4)


@pytest.mark.parametrize("config", ["16x8", "16x4"])
def test_blocks_leave_half_finished_words_alone(config: str) -> None:
    # The array has fewer columns than a word has channels, and the later ones need all blocks.
    chosen = CONFIGS["16x8"].replace(columns=int(config[3:]))
    b = Builder(7, chosen, (100, 6, 60))
    x = b.conv("x", 24, relu=False)
    b.add(x, b.conv("x", 24, (1, 1), relu=False))
    graph = b.graph()
    program = compile_graph(graph, chosen)
    verify(program)
    check(graph, program, 8)


def test_spread_input_goes_through_main_memory() -> None:
    # With zeros between its pixels it is four times as large as the tensor, and more than fits.
    b = Builder(1, CONFIGS["tiny"], (12, 16, 16))
    b.conv_transpose(b.conv("x", 12), 9, (2, 2), stride=(2, 2))
    graph = b.graph()
    program = compile_graph(graph, CONFIGS["tiny"], observe=True)
    verify(program)
    check(graph, program, 5)
    assert "t1@apart" in [region.name for region in program.regions]


def test_regions_live_during_layers() -> None:
    b = Builder(2, CONFIGS["tiny"], (4, 20, 20))
    b.conv(b.conv(b.conv(b.conv("x", 8), 8), 8), 4)
    program = compile_graph(b.graph(), CONFIGS["tiny"])
    assert len(program.stages) < len(program.layers) == 4
    lives = {region.name: (region.first_layer, region.last_layer) for region in program.regions}
    assert lives["x"] == lives["t3"] == (0, 3)


def test_two_outputs_and_keep() -> None:
    b = Builder(5, CONFIGS["default"], (16, 8, 8))
    x = b.conv("x", 32)
    y = b.conv(x, 16, relu=False)
    graph = b.graph(x, y)
    for observe in (False, True):
        program = compile_graph(graph, CONFIGS["default"], observe=observe)
        verify(program)
        check(graph, program, 6)
        assert [tensor.name for tensor in program.outputs] == [x, y]


def _passes(program: Program) -> int:
    lists = read_instructions(program.config, program.image)
    return sum(i.count_2 * i.count_3 * i.count_4 * (i.count_0 * i.count_1)
               for i in lists[Queue.ARRAY] if isinstance(i, Array))


@pytest.mark.parametrize(("config", "channels", "kernel", "stride", "best"), [
    ("default", 3, (7, 7), 2, 10), ("default", 3, (3, 3), 1, 2), ("default", 1, (10, 4), 2, 3),
    ("small", 3, (3, 3), 1, 4), ("tiny", 1, (3, 3), 1, 3)])
def test_first_layers_are_packed(config: str, channels: int, kernel: tuple[int, int], stride: int,
                                 best: int) -> None:
    chosen = CONFIGS[config]
    b = Builder(9, chosen, (channels, 20, 20))
    # Many output channels make the array's passes matter more than loads.
    y = b.conv("x", 8 * chosen.columns, kernel, stride=(stride, stride), padding=(1, 2, 3, 0))
    graph = b.graph()
    program = compile_graph(graph, chosen)
    verify(program)
    check(graph, program, 10)
    _, height, width = graph.tensors[y].shape
    assert _passes(program) == best * height * width * 8
    assert program.inputs[0].layout == "pixels"


@pytest.mark.parametrize("seed", range(16))
def test_packed_shapes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = CONFIGS[sorted(CONFIGS)[seed % len(CONFIGS)]]
    shape = tuple(int(rng.integers(low, high)) for low, high in ((1, 9), (5, 30), (5, 30)))
    kernel = tuple(int(rng.integers(1, 6)) for _ in range(2))
    b = Builder(seed, config, shape)
    b.conv("x", int(rng.integers(1, 40)), kernel, padding=tuple(map(int, rng.integers(0, 4, 4))),
           stride=tuple(map(int, rng.integers(1, 4, 2))))
    graph = b.graph()
    program = compile_graph(graph, config)
    verify(program)
    check(graph, program, seed)


def test_predictions_add_up() -> None:
    graph = NETWORKS["resnet8"](CONFIGS["default"])
    program = compile_graph(graph, CONFIGS["default"])
    assert all(layer.predicted_cycles > 0 for layer in program.layers)
    array = [layer for layer in program.layers if layer.engine == "array"]
    assert sum(layer.predicted_cycles for layer in array) == program.predicted_cycles
    least = sum(layer.macs for layer in program.layers) // CONFIGS["default"].multipliers
    assert least < program.predicted_cycles < 2 * least
