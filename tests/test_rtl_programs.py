"""Random programs on the verilated SoC: main memory must be the golden model's, byte for byte.

Programs follow each other on one device without a reset, under random memory stalls, so that
nothing that a run leaves behind may change the next.
"""

import numpy as np
import pytest

from systolith.hw.config import Config
from systolith.sim.golden import Golden
from systolith.sim.programs import CONFIGS, random_program
from systolith.sim.verilated import VerilatedDevice

MAX_CYCLES = 2_000_000


def compare(name: str, seeds: range, *, stall_per_mille: int = 200, latency: int = 7) -> int:
    """Run programs on both; returns the cycles that the RTL took."""
    return compare_config(name, CONFIGS[name], seeds, stall_per_mille=stall_per_mille,
                          latency=latency)


def compare_config(name: str, config: Config, seeds: range, *, stall_per_mille: int = 200,
                   latency: int = 7, max_cycles: int = MAX_CYCLES) -> int:
    """The same for any configuration, called `name` in messages."""
    cycles = 0
    with VerilatedDevice(config, memory_latency=latency, stall_per_mille=stall_per_mille,
                         seed=seeds[0]) as device:
        for seed in seeds:
            program = random_program(config, seed)
            memory = program.memory()
            device.memory_write(0, memory.tobytes())
            outcome = Golden(config).run(memory)
            assert not outcome.error, f"{name}, seed {seed}: golden model stopped with {outcome}"
            result = device.run(0, max_cycles)
            assert result.finished, f"{name}, seed {seed}: no end within {max_cycles} cycles"
            assert not result.error, f"{name}, seed {seed}: {result}"
            left = np.frombuffer(device.memory_read(0, config.memory_size), np.uint8)
            wrong = np.flatnonzero(left != memory)
            assert not len(wrong), (
                f"{name}, seed {seed}: {len(wrong)} bytes of main memory differ, the first at "
                f"{wrong[0]:#x}: RTL {left[wrong[0]]}, golden model {memory[wrong[0]]}")
            cycles += result.cycles
    return cycles


@pytest.mark.parametrize("name", CONFIGS)
def test_random_programs_equal_the_golden_model(name):
    assert compare(name, range(1000, 1020)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_bench_many_random_programs(name):
    for latency in (1, 50):
        compare(name, range(5000 + latency, 5400 + latency), latency=latency)
