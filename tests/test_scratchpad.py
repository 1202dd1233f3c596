"""The scratchpad's banks, masks, priorities and latency."""

import pytest

from systolith.hw.config import PRESETS
from systolith.hw.ports import scratchpad_latency
from systolith.hw.scratchpad import Scratchpad, read_groups
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("preset", "changes"), (
    ("tiny", {}), ("default", {}), ("tiny", {"scratchpad_banks": 1}),
    ("small", {"scratchpad_banks": 1})))
def test_scratchpad(preset, changes):
    config = PRESETS[preset].replace(**changes)
    run_bench(Scratchpad(config), "benches.scratchpad_bench", parameters={
        "rows": config.rows, "words": config.scratchpad_words,
        "banks": config.scratchpad_banks, "groups": read_groups(config),
        "latency": scratchpad_latency(config)})
