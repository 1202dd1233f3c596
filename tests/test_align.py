"""The packer, in every ratio of widths that the movers use."""

import gc

import pytest

from systolith.hw.align import Packer
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("inputs", "outputs", "stall_in", "stall_out"), (
    (4, 4, 0.3, 0.3), (8, 16, 0.3, 0.3), (16, 8, 0.0, 0.6), (8, 8, 0.0, 0.3), (4, 16, 0.0, 0.6),
    (16, 4, 0.3, 0.0)))
def test_packer(inputs, outputs, stall_in, stall_out):
    run_bench(Packer(inputs, outputs), "benches.align_bench", parameters={
        "inputs": inputs, "outputs": outputs, "stall_in": stall_in, "stall_out": stall_out})


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize(("inputs", "outputs", "words"), (
    (3, 4, "input_bytes must be a power of two and at least 2, not 3"),
    (4, 1, "output_bytes must be a power of two and at least 2, not 1")))
def test_widths_are_checked(inputs, outputs, words):
    with pytest.raises(ValueError, match=words):
        Packer(inputs, outputs)
    gc.collect()  # so that the discarded component's warning falls inside this test
