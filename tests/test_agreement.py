"""`systolith verify` on purpose made wrong: it names layer, element and who parts ways."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from systolith import agreement, cli
from systolith.compiler import compile_graph
from systolith.graph import Graph
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from systolith.integer_reference import execute
from systolith.program import Program

torch = pytest.importorskip("torch")

from frontend import inputs, seeded  # noqa: E402  needs torch
from operators import IMAGE  # noqa: E402
from systolith.quantizer import quantize  # noqa: E402

CONFIG = PRESETS["tiny"]
IMAGES = inputs((3, *IMAGE), 1)
LAYER, CHANNEL = "2", 1


@pytest.fixture(scope="module")
def model() -> Any:
    nn = torch.nn
    layers = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
                           nn.Conv2d(6, 4, 1))
    return quantize(seeded(layers, 1), [IMAGES])


def with_changed_weight(graph: Graph, *, observe: bool) -> tuple[Program, Graph]:
    """A program with one weight of the middle layer changed in its image, and the graph of that."""
    program = compile_graph(graph, CONFIG, observe=observe)
    node = graph.producer(LAYER)
    # The tile of the first tap and the first input channels, as the array's rows take it.
    tile = node.weight[:CONFIG.columns, :CONFIG.rows, 0, 0].T.tobytes()
    assert program.image.count(tile) == 1
    weight = node.weight.copy()
    weight[CHANNEL, 2, 0, 0] ^= 0x40
    image = program.image.replace(tile, weight[:CONFIG.columns, :CONFIG.rows, 0, 0].T.tobytes())
    nodes = [replace(other, weight=weight) if other is node else other for other in graph.nodes]
    return replace(program, image=image), replace(graph, nodes=nodes)


def expected(graph: Graph, changed: Graph, layer: str) -> tuple[list[int], list[int]]:
    """First element that the change makes different, and both values of it."""
    levels = graph.tensors[graph.inputs[0]].quantize(IMAGES.numpy())
    right, wrong = (execute(each, levels)[layer] for each in (graph, changed))
    index = tuple(int(i) for i in np.argwhere(right != wrong)[0])
    return list(index), [int(right[index]), int(wrong[index])]


def test_nothing_differs(model: Any) -> None:
    result = agreement.verify_model(model, IMAGES, IMAGES.numpy(), config=CONFIG)
    assert result["first_difference"] is None and result["images"] == 3
    for row in result["layers"]:
        assert [row[pair] for pair in agreement.PAIRS] == [0, 0, 0], row


def test_a_changed_weight_is_found(model: Any) -> None:
    graph = import_model(model, IMAGES)
    program, changed = with_changed_weight(graph, observe=True)
    result = agreement.verify_model(model, IMAGES, IMAGES.numpy(), program=program)
    index, values = expected(graph, changed, LAYER)
    assert index[1] == CHANNEL, "the other channels are right"
    assert result["first_difference"] == {"layer": LAYER, "index": index, "values": values,
                                          "between": ["reference", "golden"]}
    rows = {row["name"]: row for row in result["layers"]}
    assert rows["0"]["reference_vs_golden"] == 0 < rows[LAYER]["reference_vs_golden"]
    for row in rows.values():
        assert row["golden_vs_rtl"] == 0, "both run the same bytes"
        assert row["framework_vs_reference"] == 0, "neither reads the program"


def test_hardware_that_differs_is_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program on RTL that computes something else, here another program."""
    graph = import_model(model, IMAGES)
    program, changed = with_changed_weight(graph, observe=True)
    on_rtl = agreement._on_rtl
    monkeypatch.setattr(agreement, "_on_rtl", lambda _, levels: on_rtl(program, levels))
    result = agreement.verify_model(model, IMAGES, IMAGES.numpy(), config=CONFIG)
    index, values = expected(graph, changed, LAYER)
    assert result["first_difference"] == {"layer": LAYER, "index": index, "values": values,
                                          "between": ["golden", "rtl"]}
    assert all(row["reference_vs_golden"] == 0 for row in result["layers"])


def test_a_framework_that_differs_is_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported a layer, and is no fault of the program."""
    from systolith.importer import framework

    real = framework.framework_tensors

    def wrong(*arguments: Any) -> Any:
        found = real(*arguments)
        found[LAYER].flat[7] ^= 1
        return found

    monkeypatch.setattr(framework, "framework_tensors", wrong)
    result = agreement.verify_model(model, IMAGES, IMAGES.numpy(), config=CONFIG, rtl=False)
    assert {row["name"]: row["framework_vs_reference"] for row in result["layers"]} == {
        "0": 0, LAYER: 1, "4": 0}
    assert result["first_difference"] is None
    assert all(row["golden_vs_rtl"] is None for row in result["layers"])


@pytest.mark.parametrize("observe", [True, False])
def test_the_command_prints_it_and_fails(model: Any, observe: bool, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    graph = import_model(model, IMAGES)
    program, changed = with_changed_weight(graph, observe=observe)
    file, images, path = tmp_path / "p.systolith", tmp_path / "x.npy", tmp_path / "m.pt2"
    program.save(file)
    np.save(images, IMAGES.numpy())
    torch.export.save(torch.export.export(model, (IMAGES,)), path)
    monkeypatch.setattr(sys, "argv", ["systolith", "verify", str(path), "--input", str(images),
                                      "--program", str(file), "--no-rtl"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    shown = capsys.readouterr().out
    layer = LAYER if observe else "4"
    index, values = expected(graph, changed, layer)
    assert (f"first difference: layer '{layer}', element {index}: reference has {values[0]}, "
            f"golden has {values[1]}") in shown
    assert ("does not leave in main memory: 0, 2" in shown) == (not observe)
