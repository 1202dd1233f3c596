"""The requantizer lane against `numerics.requantize`, for every width and bias mode."""

import pytest

from systolith.hw.config import PRESETS
from systolith.hw.export import verilog
from systolith.hw.requantize import REQUANTIZE_LATENCY, Requantizer, rounding_width
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("bits", "bias"), [
    (24, "exact"), (24, "int32"), (18, "exact"), (16, "int32"), (0, "exact"), (0, "int32")])
def test_lane(bits, bias):
    config = PRESETS["tiny"].replace(multiplier_bits=bits, bias=bias)
    result = run_bench(Requantizer(config), "benches.requantize_bench",
                       parameters={"bits": bits, "bias": bias, "count": 8000})
    assert result.tests == ("any_record", "ties")


def test_latency_is_stated():
    # The bench looks for results exactly this many cycles behind their accumulators.
    assert REQUANTIZE_LATENCY == 12


def test_absent_fields_have_no_ports():
    config = PRESETS["tiny"].replace(multiplier_bits=0, bias="int32")
    text = verilog(Requantizer(config))
    assert "input [31:0] bias" in text
    assert "multiplier" not in text and "rounding" not in text
    assert rounding_width(config) == 0 and rounding_width(PRESETS["tiny"]) == 25
