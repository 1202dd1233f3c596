"""The vector unit."""

import gc

import pytest

from systolith.hw.config import Config
from systolith.hw.vector import VectorUnit
from systolith.sim.bench import run_bench


@pytest.mark.parametrize("geometry", [
    {"rows": 4, "columns": 4, "vector_taps": 3},
    {"rows": 8, "columns": 4, "vector_taps": 5},
    {"rows": 4, "columns": 4, "vector_taps": 1, "scratchpad_banks": 2},
    {"rows": 16, "columns": 4, "vector_taps": 7},
], ids=lambda geometry: f"{geometry['rows']}x{geometry['vector_taps']}")
def test_vector_unit(geometry):
    config = Config(**{"scratchpad_banks": 1, **geometry}, lanes=1, scratchpad_bank_words=256,
                    vector_accumulator_words=32, vector_weight_words=64)
    run_bench(VectorUnit(config), "benches.vector_bench", parameters={
        "config": config.to_dict()})


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_no_unit_without_taps():
    with pytest.raises(ValueError, match="has no vector unit: vector_taps is 0"):
        VectorUnit(Config(vector_taps=0))
    gc.collect()  # so that the discarded component's warning falls inside this test
