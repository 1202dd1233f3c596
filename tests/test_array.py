"""The systolic array and its engine."""

import pytest

from systolith.hw.array import SystolicArray, partial_sum_width
from systolith.hw.array_engine import ArrayEngine
from systolith.hw.config import Config
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("rows", "columns", "paired_bits", "buffered", "stage_rows"), [
    (4, 4, 0, False, 1), (16, 8, 0, True, 1), (4, 8, 0, True, 1), (16, 16, 0, False, 1),
    (4, 4, 4, False, 1), (8, 16, 4, True, 1), (8, 4, 8, False, 1), (4, 16, 8, True, 1),
    (32, 4, 0, True, 1), (4, 4, 0, False, 4), (8, 8, 0, False, 8), (16, 8, 8, False, 16),
    (16, 4, 0, True, 4)])
def test_array(rows, columns, paired_bits, buffered, stage_rows):
    array = SystolicArray(rows, columns, 10, paired_bits=paired_bits, buffered=buffered,
                          stage_rows=stage_rows)
    assert array.latency == rows // stage_rows + (3 if paired_bits == 8 else 2)
    run_bench(array, "benches.array_bench", parameters={
        "rows": rows, "columns": columns, "latency": array.latency, "buffered": buffered,
        "stage_rows": stage_rows, "limit": 8 if paired_bits == 4 else 128})


@pytest.mark.parametrize("rows", [4, 8, 16, 32, 64])
def test_partial_sums_cannot_overflow(rows):
    width = partial_sum_width(rows)
    assert rows * 128 * 128 < 1 << (width - 1)


@pytest.mark.parametrize("geometry", [
    {"rows": 4, "columns": 4, "lanes": 1, "accumulator_words": 16, "weight_words": 64},
    {"rows": 8, "columns": 8, "lanes": 1, "accumulator_words": 32, "weight_words": 128},
    {"rows": 16, "columns": 8, "lanes": 1, "accumulator_words": 64, "weight_words": 256,
     "scratchpad_banks": 2},
    {"rows": 4, "columns": 8, "lanes": 1, "accumulator_words": 16, "weight_words": 64,
     "weight_bits": 4},
    {"rows": 8, "columns": 4, "lanes": 1, "accumulator_words": 16, "weight_words": 64,
     "weight_bits": 4, "paired_columns": True},
    {"rows": 8, "columns": 8, "lanes": 1, "accumulator_words": 32, "weight_words": 128,
     "paired_columns": True},
    {"rows": 4, "columns": 16, "lanes": 1, "accumulator_words": 16, "weight_words": 64},
    {"rows": 8, "columns": 8, "lanes": 1, "accumulator_words": 32, "weight_words": 128,
     "clock_mhz": 60.0},
    {"rows": 4, "columns": 8, "lanes": 1, "accumulator_words": 16, "weight_words": 64,
     "scratchpad_banks": 4, "clock_mhz": 60.0},
], ids=lambda geometry: f"{geometry['rows']}x{geometry['columns']}"
    f"{'-paired' * geometry.get('paired_columns', False)}"
    f"{'-relaxed' * ('clock_mhz' in geometry)}")
def test_array_engine(geometry):
    config = Config(**{"scratchpad_banks": 1, **geometry}, scratchpad_bank_words=256)
    run_bench(ArrayEngine(config), "benches.array_engine_bench", parameters={
        "config": config.to_dict()})
