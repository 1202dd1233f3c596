"""What is measured against which oracle, what may differ, and the measuring."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, sqrt
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from systolith.importer import import_model
from systolith.importer.modules import CENTERED_AVERAGE
from systolith.integer_reference import execute

from . import onnx_runtime
from .executorch_xnnpack import by_executorch
from .litert import by_litert
from .onnx_runtime import by_onnx_runtime
from .samples import FUNCTIONS, OPERATORS, Levels, Reference, Sample
from .torch_engines import by_engine, by_reference_graph

__all__ = ["FBGEMM", "ONEDNN", "ONNX_RUNTIME", "ORACLES", "QNNPACK", "VARIANTS", "WEIGHTED", "Cell",
           "Oracle", "measure", "ours", "samples"]

WEIGHTED = ("conv2d", "conv_transpose2d", "linear")
"""Functions that have weights."""

ADD = 2.3e-5
FLOAT = 2e-5
"""What the roundings of float32 move across a tie, where an oracle computes with real numbers."""


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """An independent implementation and the contract's words on it.

    `bias` and `multiplier_bits` are our arithmetic, `seven_bits` gives the oracle activations whose
    products cannot saturate its 16-bit sums, `centered` says how it rounds averages, and
    `float_average` that it takes them in float, whose ties fall anywhere. `limits` are fractions
    of all outputs by operator of PyTorch, 0 where none is named.
    """

    name: str
    run: Callable[[Sample], Levels]
    bias: str
    multiplier_bits: int = 24
    operators: tuple[str, ...] = tuple(FUNCTIONS)
    seven_bits: bool = False
    centered: bool = False
    float_average: bool = False
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def arithmetic(self) -> str:
        """Our side of the comparison."""
        return f"{self.bias}, {self.multiplier_bits} bits"


def _limits(weighted: float, **others: float) -> dict[str, float]:
    return dict.fromkeys(WEIGHTED, weighted) | others


def _but(*without: str) -> tuple[str, ...]:
    return tuple(name for name in FUNCTIONS if name not in without)


QNNPACK = Oracle(name="QNNPACK", run=by_engine("qnnpack"), bias="int32", centered=True,
                 limits=_limits(1.3e-6, add=ADD))
FBGEMM = Oracle(name="FBGEMM", run=by_engine("fbgemm"), bias="exact", seven_bits=True,
                limits=_limits(6e-7, add=ADD))
# What it makes of transposed convolutions is a row of `own_ways`.
ONEDNN = Oracle(name="oneDNN", run=by_engine("onednn"), bias="exact", seven_bits=True,
                operators=_but("conv_transpose2d"),
                limits=_limits(1e-5, add=ADD))
ONNX_RUNTIME = Oracle(name="ONNX Runtime", run=by_onnx_runtime, bias="int32", float_average=True,
                      operators=onnx_runtime.OPERATORS, limits={"add": ADD, "mul": FLOAT})

ORACLES = (
    QNNPACK, FBGEMM, ONEDNN,
    Oracle(name="PT2E graph", run=by_reference_graph, bias="exact", centered=True,
           float_average=True, limits=_limits(FLOAT, add=ADD, mul=FLOAT)),
    ONNX_RUNTIME,
    Oracle(name="ExecuTorch", run=by_executorch, bias="int32", centered=True, float_average=True,
           operators=_but("cat", "bilinear", "conv_transpose2d"), limits={"add": ADD}),
    # Its XNNPACK takes neither averages nor hardswish, and concatenates one scale only.
    Oracle(name="LiteRT", run=by_litert, bias="int32",
           operators=_but("avg_pool2d", "bilinear", "cat", "conv_transpose2d", "hardswish"),
           limits={"add": ADD}),
)
"""Each with the arithmetic that agrees with it."""

VARIANTS = (
    replace(FBGEMM, bias="int32", limits=_limits(2.6e-3)),
    replace(ONEDNN, bias="int32", limits=_limits(2.6e-3)),
    replace(ONNX_RUNTIME, multiplier_bits=18, limits=_limits(5e-5)),
    replace(ONNX_RUNTIME, multiplier_bits=16, limits=_limits(1.8e-4)),
    replace(QNNPACK, multiplier_bits=18, limits=_limits(5e-5)),
    replace(QNNPACK, multiplier_bits=16, limits=_limits(3e-4)),
)
"""What another arithmetic than the oracle's costs; for layers with weights."""


@dataclass(kw_only=True)
class Cell:
    """One operator against one oracle: how many outputs differ, and by how much at most.

    `function` is what PyTorch calls the operator.
    """

    operator: str
    function: str = ""
    oracle: str
    arithmetic: str
    limit: float
    outputs: int = 0
    different: int = 0
    largest: int = 0

    def count(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Add the differences of two arrays."""
        difference = np.abs(one.astype(np.int16) - other)
        self.outputs += difference.size
        self.different += int(np.count_nonzero(difference))
        self.largest = max(self.largest, int(difference.max(initial=0)))

    @property
    def fraction(self) -> float:
        """Share of the outputs that differ."""
        return self.different / max(self.outputs, 1)

    @property
    def holds(self) -> bool:
        """Whether it lies inside the contract.

        The limit is a rate of rare events, of which three standard deviations more may be seen, in
        whole events; a limit of 0 is 0.
        """
        expected = self.limit * self.outputs
        allowed = ceil(expected + 3 * sqrt(expected))
        return self.different <= allowed and self.largest <= 1


def samples(operator: str, *, seven_bits: bool, images: int) -> Iterator[Sample]:
    """Seeded samples of an operator, without end."""
    for index in count():
        rng = np.random.default_rng((crc32(operator.encode()), index, seven_bits))
        yield OPERATORS[operator](rng, images, seven_bits)


def ours(sample: Sample, *, bias: str, multiplier_bits: int = 24, centered: bool = True
         ) -> Levels:
    """What importer and integer reference make of the sample."""
    exported = torch.export.export(Reference(sample).eval(), sample.floats(), strict=False)
    module: Any = exported.module(check_guards=False)
    module.meta[CENTERED_AVERAGE] = centered
    graph = import_model(module, bias=bias, multiplier_bits=multiplier_bits)
    given = dict(zip(graph.inputs, sample.levels, strict=True))
    return execute(graph, given)[graph.outputs[0]]


def measure(oracle: Oracle, operator: str, outputs: int, *, images: int = 8) -> list[Cell]:
    """Compare at least that many outputs of one operator.

    Returns one cell; two where the oracle rounds averages in float, for ties and for all others;
    none where it has no such operator.

    Raises
    ------
    ImportError
        Where the oracle is not installed.
    """
    cells: list[Cell] = []
    for sample in samples(operator, seven_bits=oracle.seven_bits, images=images):
        if sample.operator not in oracle.operators:
            return []
        if cells and sum(cell.outputs for cell in cells) >= outputs:
            return [cell for cell in cells if cell.outputs]
        mine = ours(sample, bias=oracle.bias, multiplier_bits=oracle.multiplier_bits,
                    centered=oracle.centered)
        theirs = oracle.run(sample)
        common = {"oracle": oracle.name, "arithmetic": oracle.arithmetic,
                  "function": sample.operator}
        if not cells:
            cells = [Cell(operator=operator, limit=oracle.limits.get(sample.operator, 0.0),
                          **common)]
            if oracle.float_average and sample.operator in ("avg_pool2d", "bilinear"):
                cells += [Cell(operator=f"{operator}, ties", limit=1.0, **common)]
        if len(cells) == 2:
            ties = _ties(sample)
            cells[1].count(mine[ties], theirs[ties])
            mine, theirs = mine[~ties], theirs[~ties]
        cells[0].count(mine, theirs)
    return cells


def _ties(sample: Sample) -> NDArray[np.bool_]:
    """Where the mean of some levels lies half way between two of them."""
    levels = torch.from_numpy(sample.levels[0].astype(np.float64))
    # Exact but for the division by an odd number, which gives no ties.
    means = FUNCTIONS[sample.operator](levels, **sample.options).numpy()
    return means % 1 == 0.5
