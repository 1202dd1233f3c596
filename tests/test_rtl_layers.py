"""Layers of every kind on the verilated RTL, against the integer reference and the golden model."""

import numpy as np
import pytest

from compiler_graphs import Builder, check
from systolith.bench import bench_graph
from systolith.compiler import compile_graph
from systolith.hw.config import PRESETS

LAYERS = {
    "depthwise 3x3": lambda b: b.conv("x", 12, groups=12),
    "depthwise 3x3, stride 2": lambda b: b.conv("x", 12, groups=12, stride=(2, 2),
                                                padding=(0, 1, 0, 1)),
    "depthwise 5x5": lambda b: b.conv("x", 12, (5, 5), groups=12),
    "depthwise 5x5, stride 2": lambda b: b.conv("x", 12, (5, 5), groups=12, stride=(2, 2)),
    "depthwise, dilated": lambda b: b.conv("x", 12, groups=12, dilation=(2, 2)),
    "two channels a group": lambda b: b.conv("x", 24, groups=6),
    "depthwise with a multiplier": lambda b: b.conv("x", 24, groups=12),
    "dilated": lambda b: b.conv("x", 10, dilation=(2, 3)),
    "10x4": lambda b: b.conv("x", 10, (10, 4), stride=(2, 2), padding=(4, 5, 1, 1)),
    "1x7 and 7x1": lambda b: b.conv(b.conv("x", 9, (1, 7)), 10, (7, 1)),
    "padding on one side": lambda b: b.conv("x", 10, padding=(3, 0, 0, 2)),
    "strided 1x1": lambda b: b.conv("x", 20, (1, 1), stride=(2, 2)),
    "max pool with padding": lambda b: b.max_pool("x", (3, 3), (2, 2), (1, 1, 1, 1)),
    "average pool": lambda b: b.average_pool("x", (2, 2), (2, 2)),
    "residual": lambda b: b.add(b.conv("x", 12), "x", relu=True),
    "table": lambda b: b.table(b.conv("x", 12)),
    "product by channel": lambda b: b.multiply("x", b.average_pool("x")),
    "concatenation": lambda b: b.concat("x", b.requantize("x"), b.max_pool(
        "x", (3, 3), (1, 1), (1, 1, 1, 1))),
    "concatenation of rows": lambda b: b.concat(b.requantize("x"), "x", axis=1),
    "convolution of a concatenation": lambda b: b.conv(b.concat(
        b.conv("x", 7), b.conv("x", 9, (1, 1))), 10),
    "slice": lambda b: b.slice("x", slice(3, 10), slice(1, 9, 2), slice(2, None)),
    "border": lambda b: b.pad("x", 1, 2, 0, 3),
    "upsampling": lambda b: b.upsample("x", 2, 3),
    "one weight a channel": lambda b: b.conv("x", 12, (1, 1), groups=12),
    "bilinear upsampling": lambda b: b.conv(b.upsample_bilinear(b.conv("x", 10)), 6),
    "channel shuffle": lambda b: b.shuffle("x", 4),
    "transposed": lambda b: b.conv_transpose("x", 10, stride=(2, 2), padding=(1, 1, 1, 1),
                                             output_padding=(1, 1)),
    "transposed 2x2": lambda b: b.conv_transpose("x", 9, (2, 2), stride=(2, 2)),
    "transposed, cut": lambda b: b.conv_transpose("x", 9, (2, 3), stride=(1, 3),
                                                  padding=(2, 1, 3, 0), dilation=(1, 2)),
    "transposed depthwise": lambda b: b.conv_transpose("x", 12, stride=(2, 2), groups=12),
    "classifier": lambda b: b.linear(b.flatten(b.average_pool(b.conv("x", 20))), 10),
}


@pytest.mark.parametrize("preset", ("tiny", "small"))
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer, preset):
    config = PRESETS[preset]
    seed = sorted(LAYERS).index(layer)
    b = Builder(seed, config, (12, 11, 14))
    LAYERS[layer](b)
    graph = b.graph()
    check(graph, compile_graph(graph, config), seed)
    image = np.random.default_rng(seed).integers(-128, 128, (12, 11, 14)).astype(np.int8)
    result = bench_graph(graph, {"x": image}, name=layer, config=config, memory_latency=9)
    assert result["bit_exact"]
