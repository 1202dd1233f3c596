"""The post-processor in several geometries, against the contract pixel by pixel."""

import pytest

from systolith.hw.config import PRESETS, Config
from systolith.hw.post import RESULTS, PostProcessor, Stages
from systolith.sim.bench import run_bench

SMALL = {"scratchpad_banks": 2, "scratchpad_bank_words": 256, "accumulator_words": 32,
         "vector_accumulator_words": 64, "parameter_words": 16, "weight_words": 256}
ONE_BANK = {**SMALL, "scratchpad_banks": 1}

CONFIGS = {
    "tiny": PRESETS["tiny"].replace(parameter_words=16),
    "16x16": Config(**SMALL),
    "16x8": Config(rows=16, columns=8, lanes=4, **ONE_BANK),
    "4x8": Config(rows=4, columns=8, lanes=4, multiplier_bits=18, **SMALL),
    "4x16 by 2": Config(rows=4, columns=16, lanes=2, bias="int32", **SMALL),
    "8x8 bare": Config(rows=8, columns=8, lanes=8, vector_taps=0, table=False, residual=False,
                       multiplier_bits=0, **ONE_BANK),
    "16x4 no table": Config(rows=16, columns=4, lanes=2, table=False, multiplier_bits=16, **SMALL),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_post_processor(name):
    config = CONFIGS[name]
    result = run_bench(PostProcessor(config), "benches.post_bench",
                       parameters={"config": config.to_dict(), "instructions": 40})
    assert result.tests == ("random_streams", "latency", "throughput", "table_entries",
                            "short_instructions", "errors")


@pytest.mark.parametrize("name", CONFIGS)
def test_results_hold_what_is_in_the_pipeline(name):
    assert Stages(CONFIGS[name]).write < RESULTS
