"""Fetch, decoding, thresholds, errors and the log, with engines played by the bench."""

import pytest

from control_unit import OpenControlUnit
from systolith.hw.config import PRESETS
from systolith.sim.bench import run_bench

SHAPES = {
    "tiny": PRESETS["tiny"].replace(memory_size=1 << 16, timestamps=16),
    "default": PRESETS["default"].replace(memory_size=80 << 10),
    "bare": PRESETS["small"].replace(memory_size=1 << 16, memory_bytes_per_beat=64, vector_taps=0,
                                     table=False, residual=False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_control_unit(shape):
    config = SHAPES[shape]
    run_bench(OpenControlUnit(config), "benches.control_bench",
              parameters={"config": config.to_dict()})
