"""The memory arbiter."""

import gc

import pytest

from systolith.hw.arbiter import MemoryArbiter
from systolith.hw.config import PRESETS
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("preset", "readers", "writers"), (("tiny", 2, 1), ("default", 3, 2)))
def test_arbiter(preset, readers, writers):
    config = PRESETS[preset]
    run_bench(MemoryArbiter(config, readers, writers), "benches.arbiter_bench", parameters={
        "beat": config.memory_bytes_per_beat, "readers": readers, "writers": writers})


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_master_counts_are_checked():
    with pytest.raises(ValueError, match="readers must be between 1 and 8, not 0"):
        MemoryArbiter(PRESETS["tiny"], 0, 1)
    with pytest.raises(ValueError, match="writers must be between 1 and 8, not 9"):
        MemoryArbiter(PRESETS["tiny"], 1, 9)
    gc.collect()  # so that the discarded component's warning falls inside this test
