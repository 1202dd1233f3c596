"""The whole core against the golden model."""

import pytest

from systolith.hw.core import Core
from systolith.sim.bench import run_bench
from systolith.sim.programs import CONFIGS


@pytest.mark.parametrize("name", ("tiny", "bare"))
def test_core(name):
    config = CONFIGS[name]
    run_bench(Core(config, watched=True), "benches.core_bench",
              parameters={"config": config.to_dict(), "programs": 8})
