"""Verilog export and the cocotb runner, tried on a stand-in with and without mistakes in it."""

import re
from pathlib import Path

import pytest

from stand_ins import Accumulate
from systolith.hw.export import verilog
from systolith.sim.bench import BenchFailure, run_bench

BENCH = "benches.accumulate_bench"


def test_verilog_is_deterministic_and_names_the_top():
    first, second = verilog(Accumulate(), "accumulate"), verilog(Accumulate(), "accumulate")
    assert first == second
    assert first.startswith("module accumulate(")
    for port in ("i__payload", "i__valid", "i__ready", "o__payload", "clk", "rst"):
        assert re.search(rf"(input|output) .*\b{port};", first), port


def test_verilog_has_no_implicit_sensitivity_lists_and_folds_initial_memory():
    text = verilog(Accumulate())
    assert "always @*" not in text and "always_comb" in text
    assert len(re.findall(r"\[\d+\] = ", text)) == 0
    assert "word < 64" in text


@pytest.mark.parametrize("stall", (0.0, 0.4, 0.9))
def test_bench_passes(stall):
    result = run_bench(Accumulate(), BENCH, parameters={"stall": stall, "count": 300})
    assert result.tests == ("totals_come_in_order", "silent_without_input")


@pytest.mark.parametrize(("defect", "words"), (
    ("unstable", "payload changed before it was accepted"),
    ("drop", "payload changed before it was accepted"),
    ("sum", "assert"),
))
def test_bench_finds_a_mistake(defect, words):
    with pytest.raises(BenchFailure, match=words) as caught:
        run_bench(Accumulate(defect), BENCH, parameters={"stall": 0.4, "count": 300}, seed=5)
    message = str(caught.value)
    assert "seed 5" in message
    wave = re.search(r"^waveform: (.*)$", message, re.M)
    log = re.search(r"^log: (.*)$", message, re.M)
    assert wave and log
    assert Path(wave[1]).stat().st_size > 1000
    assert "totals_come_in_order" in Path(log[1]).read_text()
