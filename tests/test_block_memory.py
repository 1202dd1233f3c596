"""Main memory of block RAM by `benches/block_memory_bench.py`."""

import pytest

from systolith.hw.block_memory import BlockMemory
from systolith.hw.config import PRESETS
from systolith.sim.bench import run_bench


@pytest.mark.parametrize("beat", (4, 16))
def test_block_memory(beat):
    config = PRESETS["tiny"].replace(memory_bytes_per_beat=beat, memory_size=8192)
    run_bench(BlockMemory(config), "benches.block_memory_bench",
              parameters={"beat": beat, "size": 8192})
