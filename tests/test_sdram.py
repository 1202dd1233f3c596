"""The SDRAM controller by `benches/sdram_bench.py`."""

from dataclasses import asdict, replace

import pytest

from systolith.hw.config import PRESETS
from systolith.hw.sdram import SdramController
from systolith.hw.sdram_chips import GW2AR_18_SDRAM, IS42S16160G_7, MT48LC16M16A2_7E
from systolith.sim.bench import run_bench

SIZE = 4 << 20


@pytest.mark.parametrize(("chip", "beat", "clock", "delay"), (
    (IS42S16160G_7, 4, 100e6, 0),
    (MT48LC16M16A2_7E, 8, 140e6, 2),
    (GW2AR_18_SDRAM, 4, 66e6, 1),
))
def test_controller(chip, beat, clock, delay):
    chip = replace(chip, power_up=5000.0)  # the real one is in the test below
    config = PRESETS["small"].replace(memory_bytes_per_beat=beat, memory_size=SIZE)
    run_bench(SdramController(config, chip, clock, read_delay=delay), "benches.sdram_bench",
              parameters={"beat": beat, "chip": asdict(chip), "clock": clock, "delay": delay,
                          "size": SIZE})
