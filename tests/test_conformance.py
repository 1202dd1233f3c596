"""Outputs counted against independent implementations, and every count inside the contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch.nn.functional as F
from benchmarks.conformance.measure import FBGEMM, ONNX_RUNTIME, ORACLES, QNNPACK, Cell, measure
from benchmarks.conformance.samples import OPERATORS
from benchmarks.conformance.table import Conformance, conformance

from frontend import inputs, layer_differences, seeded, xnnpack
from operators import IMAGE, Around
from systolith.importer import import_model
from systolith.summary import terminal

# torch.ao.quantization announces its end whenever its kernels' tensors are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning",
                                        "ignore::FutureWarning")


@pytest.fixture(scope="module")
def short() -> Conformance:
    """A few ten thousand outputs a cell; ExecuTorch, which compiles for seconds, left out."""
    return conformance(30_000, images=2, slow_outputs=0)


def show(result: Conformance) -> str:
    result.show(terminal())
    return "\n".join(map(str, result.broken))


def test_every_operator_is_inside_the_contract(short: Conformance) -> None:
    assert not short.broken, show(short)
    assert all(cell.outputs >= 20_000 for cell in short.cells if "ties" not in cell.operator)
    measured = {(cell.oracle, cell.operator) for cell in short.cells}
    for oracle in ("QNNPACK", "FBGEMM", "PT2E graph"):
        assert {(oracle, operator) for operator in OPERATORS} <= measured, oracle
    assert ("ONNX Runtime", "depthwise, per channel") in measured


def test_what_is_not_installed_is_named(short: Conformance) -> None:
    measured = {cell.oracle for cell in short.cells}
    assert {oracle.name for oracle in ORACLES} == measured | set(short.missing) | {"ExecuTorch"}


def test_oracles_own_ways_are_not_ours(short: Conformance) -> None:
    rows = {way.what.split()[0]: way for way in short.own_ways}
    assert all(way.ours.holds and way.ours.outputs for way in short.own_ways)
    assert rows["overflows"].cell.fraction == 0.5, "300 and -300 do not fit int32 at this scale"
    assert rows["overflows"].cell.largest > 100
    assert rows["rounds"].cell.different, "float32 cannot hold these biases"


def test_another_bias_arithmetic_is_seen(short: Conformance) -> None:
    """Were both modes one, the table would say nothing."""
    cells = {(cell.oracle, cell.operator): cell for cell in short.variants}
    assert cells["FBGEMM", "depthwise, per channel"].different > 10


@pytest.mark.parametrize("oracle", [QNNPACK, FBGEMM, ONNX_RUNTIME], ids=lambda item: item.name)
def test_one_wrong_output_is_found(oracle) -> None:  # type: ignore[no-untyped-def]
    def wrong(sample):  # type: ignore[no-untyped-def]
        result = oracle.run(sample).copy()
        result.flat[result.size // 2] ^= 2
        return result

    (cell,) = measure(replace(oracle, run=wrong), "conv, per channel", 10_000, images=1)
    assert cell.largest == 2 and not cell.holds


def test_limits_are_rates() -> None:
    def cell(different: int, outputs: int, limit: float) -> Cell:
        return Cell(operator="", oracle="", arithmetic="", limit=limit, outputs=outputs,
                    different=different, largest=int(different > 0))

    assert cell(0, 10**6, 0.0).holds and not cell(1, 10**9, 0.0).holds
    assert cell(119, 10**7, 1e-5).holds is True
    assert not cell(131, 10**7, 1e-5).holds
    counted = cell(0, 0, 0.0)
    counted.count(np.array([-128, 5], np.int8), np.array([127, 5], np.int8))
    assert (counted.different, counted.outputs, counted.largest) == (1, 2, 255)


@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [True, False])
def test_conformance_of_executorchs_quantizer(per_channel: bool) -> None:
    """ExecuTorch has a copy of the XNNPACK quantizer that goes its own way with time."""
    name = "executorch.backends.xnnpack.quantizer.xnnpack_quantizer"
    source = pytest.importorskip(name, reason="`make conformance` tries to install it")
    images = inputs((64, *IMAGE), 1)
    quantized = xnnpack(seeded(Around(add_relu, channels=16), 1), images, per_channel=per_channel,
                        source=source)
    graph = import_model(quantized, images)
    assert [node.op for node in graph.nodes] == ["Conv2d", "Conv2d", "Add"]
    for tensor, (different, elements, largest) in layer_differences(
            quantized, graph, images).items():
        assert different <= max(2, 2e-5 * elements) and largest <= 1, tensor


def add_relu(model, a, b):  # type: ignore[no-untyped-def]
    return F.relu(a + b)


@pytest.mark.slow
def test_conformance_of_millions_of_outputs() -> None:
    result = conformance(3_000_000, images=16, slow_outputs=1_000_000)
    show(result)
    assert not result.broken, show(result)
