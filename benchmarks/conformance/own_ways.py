"""Where an oracle leaves the arithmetic that it otherwise has: measured and shown, not followed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from systolith.integer import Quantization

from .measure import FBGEMM, ONEDNN, ONNX_RUNTIME, QNNPACK, Cell, Oracle, ours, samples
from .samples import Sample

__all__ = ["OwnWay", "own_ways"]

BIASES = (0.5, 3.0, 300.0, -300.0)
EPSILON = float(np.float32(1.1920929e-7))


@dataclass(frozen=True, kw_only=True)
class OwnWay:
    """What an oracle does: its distance from us, and ours from a witness on the same data."""

    what: str
    cell: Cell
    witness: str
    ours: Cell


def own_ways(outputs: int, *, images: int = 8) -> list[OwnWay]:
    """Measure all of them."""
    return [
        _on_all_bits(FBGEMM, ONNX_RUNTIME, "depthwise, per tensor", outputs, images,
                     "saturates 16-bit sums in depthwise layers"),
        _on_all_bits(ONEDNN, ONNX_RUNTIME, "conv, per channel", outputs, images,
                     "saturates 16-bit sums where the processor has no VNNI"),
        _on_all_bits(ONEDNN, QNNPACK, "conv transposed", outputs, images,
                     "has other values than all others"),
        _zero_weights(),
        _halves(),
    ]


def _on_all_bits(oracle: Oracle, other: Oracle, operator: str, outputs: int, images: int,
                 what: str) -> OwnWay:
    theirs = Cell(operator=operator, oracle=oracle.name, arithmetic=oracle.bias, limit=1.0)
    witness = Cell(operator=operator, oracle=other.name, arithmetic=other.bias, limit=0.0)
    for sample in samples(operator, seven_bits=False, images=images):
        witness.limit = other.limits.get(sample.operator, 0.0)
        theirs.count(oracle.run(sample), ours(sample, bias=oracle.bias))
        witness.count(other.run(sample), ours(sample, bias=other.bias))
        if theirs.outputs >= outputs:
            break
    return OwnWay(what=what, cell=theirs, witness=other.name, ours=witness)


def _constant(weight: int, scale: float, bias: NDArray[np.float64],
              target: Quantization) -> Sample:
    """A pointwise convolution of equal weights on an image of equal levels: -64 steps each."""
    source = Quantization(scale=float(np.float32(0.02)), zero=-64)
    return Sample(operator="conv2d", sources=(source,), target=target,
                  levels=(np.full((1, 16, 4, 4), -128, np.int8),),
                  weight=np.full((len(bias), 16, 1, 1), weight, np.int8),
                  weight_scale=np.full(len(bias), scale, np.float32),
                  bias=bias.astype(np.float32))


def _against_numbers(what: str, operator: str, sample: Sample, expected: NDArray[np.float64]
                     ) -> OwnWay:
    """QNNPACK on a constant sample, whose every channel must be one expected level."""
    common = {"operator": operator, "arithmetic": "int32"}
    theirs = Cell(oracle=QNNPACK.name, limit=1.0, **common)
    witness = Cell(oracle="real numbers", limit=0.0, **common)
    mine = ours(sample, bias="int32")
    theirs.count(QNNPACK.run(sample), mine)
    witness.count(np.broadcast_to(expected[:, None, None], mine.shape), mine)
    return OwnWay(what=what, cell=theirs, witness="real numbers", ours=witness)


def _zero_weights() -> OwnWay:
    biases, target = np.array(BIASES), Quantization(scale=2.5, zero=3)
    sample = _constant(0, EPSILON, biases, target)
    return _against_numbers(f"overflows int32 with biases {', '.join(f'{b:g}' for b in BIASES)}",
                            "conv, weights 0", sample, np.rint(biases / 2.5) + target.zero)


def _halves() -> OwnWay:
    """Biases anywhere between integers beyond 2^16, of which the products leave a few steps."""
    step = np.float64(np.float32(0.02)) * np.float64(np.float32(0.001))
    products = -64 * 127 * 16
    target = Quantization(scale=float(np.float32(step)), zero=0)
    units = np.random.default_rng(1).uniform(-120, 120, 2000) - products
    sample = _constant(127, 0.001, units * step, target)
    assert sample.bias is not None
    return _against_numbers("rounds biases in float32", "conv, large biases", sample,
                            np.rint(sample.bias / step) + products)
