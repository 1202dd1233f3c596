"""The systolic array and its engine."""

import pytest
from systolith.hw.array import SystolicArray, partial_sum_width
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (16, 8), (4, 8), (16, 16)])
def test_array(rows, columns):
    array = SystolicArray(rows, columns, 10)
    assert array.latency == rows + 2
    run_bench(array, "benches.array_bench", parameters={
        "rows": rows, "columns": columns, "latency": array.latency})


@pytest.mark.parametrize("rows", [4, 8, 16, 32, 64])
def test_partial_sums_cannot_overflow(rows):
    width = partial_sum_width(rows)
    assert rows * 128 * 128 < 1 << (width - 1)
