"""The integer graph refuses what does not hang together, and counts what it holds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from systolith.errors import ModelError
from systolith.graph import (
    Add,
    AveragePool,
    ChannelShuffle,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Graph,
    Linear,
    MaxPool,
    Multiply,
    Pad,
    Reshape,
    Slice,
    Table,
    TailOperation,
    TensorType,
    Upsample,
    UpsampleBilinear,
)


def constants(channels: int) -> dict[str, object]:
    """Harmless constants of a layer with weights."""
    return {"bias": np.zeros(channels, np.int32), "rounding": np.zeros(channels, np.int64),
            "multiplier": np.full(channels, 1 << 23), "shift": np.full(channels, 30),
            "zero": 3, "float_bias": np.zeros(channels), "weight_scale": np.ones(channels),
            "enlargement": np.zeros(channels, np.int64), "enlargement_error": np.zeros(channels)}


def small_graph() -> Graph:
    """Convolution, add with itself, pool, flatten, linear, softmax."""
    def kind(*shape: int) -> TensorType:
        return TensorType(shape=shape, scale=0.1, zero_point=3)

    return Graph(
        inputs=["x"], outputs=["y"],
        nodes=[
            Conv2d(name="conv", inputs=("x",), output="a", weight=np.ones((4, 2, 3, 3), np.int8),
                   padding=(1, 1, 1, 1), stride=(2, 1), **constants(4)),
            Add(name="add", inputs=("a", "a"), output="b", zero_a=3, zero_b=3,
                multiplier_a=1 << 20, multiplier_b=-(1 << 20), shift=21, zero=3),
            MaxPool(name="pool", inputs=("b",), output="c", kernel=(2, 2), stride=(2, 2)),
            Reshape(name="flatten", inputs=("c",), output="d", shape=(24,)),
            Linear(name="linear", inputs=("d",), output="y", weight=np.ones((5, 24), np.int8),
                   **constants(5)),
        ],
        tensors={"x": kind(2, 8, 6), "a": kind(4, 4, 6), "b": kind(4, 4, 6), "c": kind(4, 2, 3),
                 "d": kind(24), "y": kind(5)},
        tail=[TailOperation(op="softmax", inputs=("y",), output="p", arguments={"axis": 1})],
        results=["p"])


def test_valid_graph() -> None:
    graph = small_graph()
    graph.validate()
    assert graph.macs == 4 * 2 * 9 * 4 * 6 + 5 * 24
    producer = graph.producer("c")
    assert producer is not None and producer.name == "pool"
    assert graph.producer("x") is None
    assert [node.name for node in graph.consumers("a")] == ["add"]
    assert [node.name for node in graph.weighted()] == ["conv", "linear"]
    assert small_graph().results == ["p"]
    assert Graph(inputs=["x"], outputs=["x"], nodes=[], tensors={}).results == ["x"]


def change(index: int, **values: object) -> Callable[[Graph], None]:
    """A fault: fields of one node replaced."""
    def apply(graph: Graph) -> None:
        graph.nodes[index] = replace(graph.nodes[index], **values)
    return apply


def change_tensor(name: str, **values: object) -> Callable[[Graph], None]:
    """A fault: fields of one tensor replaced."""
    def apply(graph: Graph) -> None:
        graph.tensors[name] = replace(graph.tensors[name], **values)
    return apply


def stray(graph: Graph) -> None:
    graph.tensors["stray"] = graph.tensors["x"]


FAULTS = {
    "reads 'late' before": change(1, inputs=("a", "late")),
    "makes 'a' a second time": change(1, output="a"),
    "two nodes are called 'conv'": change(2, name="conv"),
    "declared as (4, 4, 7)": change_tensor("a", shape=(4, 4, 7)),
    "is int16": change_tensor("b", dtype="int16"),
    "has the scale 0.0": change_tensor("b", scale=0.0),
    "has the scale nan": change_tensor("b", scale=float("nan")),
    "zero point 200": change_tensor("c", zero_point=200),
    "has the shape (2, 0, 6)": change_tensor("x", shape=(2, 0, 6)),
    "bounds 5 and 4": change(0, low=5, high=4),
    "has bias of type int64": change(0, bias=np.zeros(4, np.int64)),
    "has (3,) values of shift for 4 channels": change(0, shift=np.full(3, 30)),
    "shift outside 0 to 63": change(0, shift=np.full(4, 64)),
    "multiplier of more than 24 bits": change(0, multiplier=np.full(4, 1 << 24)),
    "rounding constant of more than 25 bits": change(0, rounding=np.full(4, -(1 << 24))),
    "may overflow its 32-bit accumulator in channel 2": change(
        0, bias=np.array([0, 0, -(1 << 31) + 18 * 128, 0], np.int32)),
    "multiplier of more than 22 bits": change(1, multiplier_b=-(1 << 22)),
    "has the shift 32": change(1, shift=32),
    "has 1 inputs": change(1, inputs=("a",)),
    "window of 9 on an axis of 4": change(2, kernel=(9, 1)),
    "cannot give (4, 2, 3) the shape (23,)": change(3, shape=(23,)),
    "takes (23,), but its input is (24,)": change(4, weight=np.ones((5, 23), np.int8)),
    "tensors that no node makes: stray": stray,
    "network output 'none' is made by no node": lambda graph: graph.outputs.append("none"),
    "network result 'none' is made by no node": lambda graph: graph.results.append("none"),
    "softmax behind the network reads 'none'": lambda graph: graph.tail.append(
        TailOperation(op="softmax", inputs=("none",), output="q")),
}


@pytest.mark.parametrize("message", FAULTS)
def test_fault_is_named(message: str) -> None:
    graph = small_graph()
    FAULTS[message](graph)
    with pytest.raises(ModelError) as caught:
        graph.validate()
    assert message in str(caught.value)


def test_accumulator_bound_is_exact() -> None:
    """128 * 18 + |B| may reach 2^31 - 1 and no more."""
    graph = small_graph()
    change(0, bias=np.array([0, 0, (1 << 31) - 1 - 18 * 128, 0], np.int32))(graph)
    graph.validate()


IMAGE = (6, 5, 4)
NAMES = {"name": "n", "inputs": ("x",), "output": "y"}
SHAPES = [
    (ConvTranspose2d(**NAMES, weight=np.ones((6, 3, 3, 2), np.int8), groups=2, stride=(2, 3),
                     padding=(1, 0, 0, 2), output_padding=(1, 0), dilation=(2, 1),
                     **constants(6)), (6, 4 * 2 + 2 * 2 + 1 - 1 + 1, 3 * 3 + 1 + 1 - 2)),
    (AveragePool(**NAMES, kernel=(3, 3), stride=(2, 1), padding=(1, 0, 0, 0), bias=0,
                 multiplier=1, shift=0, zero=0), (6, 2, 2)),
    (Slice(**NAMES, start=(1, 0, 0), stop=(6, 5, 3), step=(2, 1, 2)), (3, 5, 2)),
    (Pad(**NAMES, padding=(1, 2, 3, 4), value=0), (6, 8, 11)),
    (Upsample(**NAMES, factor=(2, 3)), (6, 10, 12)),
    (UpsampleBilinear(**NAMES, bias=0, multiplier=1, shift=0, zero=0), (6, 10, 8)),
    (ChannelShuffle(**NAMES, groups=3), IMAGE),
    (Table(**NAMES, table=np.zeros(256, np.int8)), IMAGE),
]


@pytest.mark.parametrize("node, shape", SHAPES, ids=lambda value: getattr(value, "op", ""))
def test_output_shape(node, shape) -> None:  # type: ignore[no-untyped-def]
    assert node.output_shape((IMAGE,)) == shape


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match=r"cannot join \(6, 5, 4\) and \(6, 5, 3\) along axis 0"):
        Concat(**NAMES).output_shape((IMAGE, (6, 5, 3)))
    with pytest.raises(ModelError, match=r"cannot multiply \(6, 5, 4\) by \(5,\)"):
        Multiply(**NAMES, zero_a=0, zero_b=0, multiplier=1, shift=0, zero=0).output_shape(
            (IMAGE, (5,)))
    with pytest.raises(ModelError, match="6 channels in 4 groups"):
        ChannelShuffle(**NAMES, groups=4).output_shape((IMAGE,))
    with pytest.raises(ModelError, match="cuts"):
        Slice(**NAMES, start=(0, 0, 0), stop=(6, 6, 4), step=(1, 1, 1)).output_shape((IMAGE,))


def test_import_needs_no_torch() -> None:
    import subprocess
    import sys

    code = ("import sys; sys.modules['torch'] = None; import systolith.graph, "
            "systolith.integer, systolith.integer_reference, systolith.importer, "
            "systolith.quantizer, systolith.models")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
