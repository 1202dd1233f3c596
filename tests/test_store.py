"""The store mover, over widths of memory and words."""

import pytest

from systolith.hw.config import PRESETS
from systolith.hw.store import StoreMover
from systolith.sim.bench import run_bench

SHAPES = {
    "tiny": PRESETS["tiny"].replace(memory_size=1 << 14),
    "default": PRESETS["default"].replace(memory_size=1 << 14),
    "wide beat": PRESETS["small"].replace(memory_size=1 << 14, memory_bytes_per_beat=32),
    "narrow beat": PRESETS["default"].replace(memory_size=1 << 14, memory_bytes_per_beat=4,
                                                  scratchpad_banks=1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_store_mover(shape):
    config = SHAPES[shape]
    run_bench(StoreMover(config), "benches.store_bench",
              parameters={"config": config.to_dict(), "count": 150})
