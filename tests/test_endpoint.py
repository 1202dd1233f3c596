"""The link endpoint's gateware, by `benches/endpoint_bench.py`."""

import pytest

from systolith.hw.config import PRESETS
from systolith.hw.link.endpoint import Endpoint
from systolith.sim.bench import run_bench

CONFIGS = {
    "tiny": PRESETS["tiny"].replace(memory_size=4096),
    "wide": PRESETS["default"].replace(memory_size=4096 + 3 * 16, memory_bytes_per_beat=16),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_endpoint(name):
    config = CONFIGS[name]
    build = 0x0123456789ABCDEF
    run_bench(Endpoint(config, build=build), "benches.endpoint_bench",
              parameters={"config": config.to_dict(), "build": build}, name="endpoint")
