"""Whole networks on the verilated RTL: equal to the golden model, in a known number of cycles.

Cycles are deterministic. A change of gateware or compiler that moves them changes them here, where
it can be seen; the limits below are the project's goals and stay.
"""

import pytest
from benchmarks.goals import BANDWIDTH_GOALS, GOALS, bandwidth

from compiler_graphs import Builder
from compiler_networks import NETWORKS
from systolith.bench import bench_graph, bench_model
from systolith.hw.config import PRESETS
from systolith.nngen_layers import bench_layers


def measure(graph, config, seed=1, **options):
    """Bench a random graph on a random image, and check what must hold for every bench."""
    import numpy as np

    rng = np.random.default_rng(seed)
    images = {name: rng.integers(-128, 128, graph.tensors[name].shape).astype(np.int8)
              for name in graph.inputs}
    result = bench_graph(graph, images, name="test", config=config, **options)
    check(result)
    return result


def check(result):
    assert result["bit_exact"]
    rows, total = result["layers"], result["total"]
    assert sum(row["macs"] for row in rows) == total["macs"]
    array = [row for row in rows if row["engine"] == "array"]
    assert sum(row["cycles"] for row in array) == total["cycles"]
    assert sum(row["predicted_cycles"] for row in array) == total["predicted_cycles"]
    for row in array:
        stalls = sum(row["stalls"].values())
        assert 0 <= stalls <= row["cycles"], row
        assert row["utilization"] <= (2 if result["config"]["paired_columns"] else 1), row


def check_prediction(result):
    """The compiler knows how long each layer on the array takes, and the whole."""
    total = result["total"]
    assert abs(total["predicted_cycles"] / total["cycles"] - 1) <= 0.01
    for row in result["layers"]:
        if row["engine"] == "array":
            assert abs(row["predicted_cycles"] / row["cycles"] - 1) <= 0.03, row


def large_layer(config):
    """A layer of which weights, input and output are each larger than every memory of `tiny`."""
    b = Builder(3, config, (40, 24, 20))
    b.conv("x", 36, (3, 3), padding=(1, 1, 1, 1))
    return b.graph()


@pytest.mark.parametrize("preset", ("tiny", "default"))
def test_the_same_layer_on_tiny_and_default(preset):
    config = PRESETS[preset]
    graph = large_layer(config)
    tiny = PRESETS["tiny"]
    [layer] = graph.nodes
    memories = max(tiny.onchip_bytes.values())
    assert min(layer.weight.size, 40 * 24 * 20, 36 * 24 * 20) > memories
    measure(graph, config, memory_latency=7 if preset == "tiny" else 50)


@pytest.mark.parametrize(("network", "cycles"), (("resnet8", 52_436), ("dscnn", 13_003)))
def test_cycles_of_small_networks(network, cycles):
    config = PRESETS["default"]
    result = measure(NETWORKS[network](config), config)
    assert result["total"]["cycles"] == cycles
    check_prediction(result)
    for row in result["layers"]:
        assert abs(row["predicted_cycles"] - row["cycles"]) <= 0.03 * row["cycles"] + 20, row


def test_images_side_by_side(tmp_path):
    """A batch of a network of linear layers is one run, and every image its own result."""
    import numpy as np

    import systolith
    from systolith.integer_reference import execute

    config = PRESETS["tiny"]
    b = Builder(5, config, (37,))
    b.linear(b.linear("x", 21, relu=True), 9)
    graph = b.graph()
    program = systolith.compile(graph, config=config, batch=4)
    path = tmp_path / "program"
    program.save(path)
    rng = np.random.default_rng(5)
    levels = rng.integers(-128, 128, (10, 37)).astype(np.int8)
    expected = execute(graph, {"x": levels})[graph.outputs[0]]
    images = graph.tensors["x"].dequantize(levels)
    rows = systolith.load(path).bias_report()
    assert rows == program.bias_report() and len(rows) == 21 + 9
    assert [row.integer_bias for row in rows] == [
        int(bias) for node in graph.nodes for bias in node.bias]
    with systolith.open("golden", config=config) as device:
        results = device.run(systolith.load(path), images, dequantize=False)
        assert np.array_equal(results, expected)
        device.selftest(program)
        with pytest.raises(systolith.Error, match=r"must have shape \(N, 37\), not \(3, 36\)"):
            device.run(program, images[:3, 1:])
    spatial = Builder(6, config, (3, 4, 4))
    spatial.conv("x", 4)
    with pytest.raises(systolith.Error, match="does not work on 4 images at once"):
        systolith.compile(spatial.graph(), config=config, batch=4)


@pytest.mark.slow
@pytest.mark.parametrize("goal", [*GOALS, *BANDWIDTH_GOALS], ids=lambda goal: (
    f"{goal.label}, {goal.config}, {goal.memory_bytes} bytes"))
def test_bench_goals(goal):
    result = goal.run()
    check(result)
    reached = bandwidth(result) if goal in BANDWIDTH_GOALS else result["total"]["utilization"]
    assert reached >= goal.reach
    check_prediction(result)


@pytest.mark.slow
def test_bench_resnet18_with_its_weights_in_sdram():
    """A beat takes the 16-bit chip two cycles; the array alone needs 14.7 million."""
    result = bench_model("resnet18", config="ulx3s-85f")
    check(result)
    assert result["memory"]["sdram"] and result["memory"]["bytes_per_cycle"] == 2
    total = result["total"]
    assert total["cycles"] <= 18_000_000
    assert abs(total["predicted_cycles"] / total["cycles"] - 1) <= 0.03


@pytest.mark.slow
def test_bench_layers_of_nngen():
    for result in bench_layers():
        check(result)
        assert result["total"]["utilization"] > result["yardstick"], result["model"]
