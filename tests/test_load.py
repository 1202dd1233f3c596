"""The load mover, over widths of memory, words and targets."""

import pytest

from systolith.hw.config import PRESETS
from systolith.hw.load import LoadMover
from systolith.sim.bench import run_bench

SHAPES = {
    "tiny": PRESETS["tiny"].replace(memory_size=1 << 15, scratchpad_bank_words=512),
    "default": PRESETS["default"].replace(memory_size=1 << 15),
    # A beat of two words; weight words narrower than a word; parameters in many parts.
    "wide beat": PRESETS["small"].replace(
        memory_size=1 << 15, memory_bytes_per_beat=16, columns=4, weight_bits=4),
    # A beat as wide as a word; weight words wider than a word.
    "equal": PRESETS["small"].replace(memory_size=1 << 15, columns=32),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_load_mover(shape):
    config = SHAPES[shape]
    run_bench(LoadMover(config), "benches.load_bench",
              parameters={"config": config.to_dict(), "count": 80})
