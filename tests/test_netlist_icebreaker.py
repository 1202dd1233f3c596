"""The iCEBreaker's netlist behind its serial line, driven over a pseudo-terminal.

The cells are yosys' models, but for the PLL, which passes the clock of its pad on, and the pads.
`pytest -m slow -k icebreaker -s` prints figures.
"""

import numpy as np
import pytest

import systolith
from netlist_driving import run_random_programs
from one_clock_netlist import library, run_network, simulated
from systolith import models
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from trained_digits import trained_digits

AROUND = """
`define SB_DFF_INIT initial Q = 0;
`define ICE40_DEFAULT_ASSIGNMENT_V(v) = v
`define ICE40_DEFAULT_ASSIGNMENT_0 = 1'b0
`define ICE40_DEFAULT_ASSIGNMENT_1 = 1'b1
module SB_PLL40_PAD(input PACKAGEPIN, RESETB, BYPASS, output PLLOUTGLOBAL, LOCK);
  parameter FEEDBACK_PATH = "", DIVR = 0, DIVF = 0, DIVQ = 0, FILTER_RANGE = 0;
  assign PLLOUTGLOBAL = PACKAGEPIN;
  assign LOCK = 1;
endmodule
module SB_IO(inout PACKAGE_PIN, input LATCH_INPUT_VALUE, CLOCK_ENABLE, INPUT_CLK, OUTPUT_CLK,
             OUTPUT_ENABLE, D_OUT_0, D_OUT_1, output D_IN_0, D_IN_1);
  parameter [5:0] PIN_TYPE = 0;
  parameter IO_STANDARD = "", PULLUP = 0;
  generate if (PIN_TYPE[5:2] != 0) assign PACKAGE_PIN = D_OUT_0; endgenerate
  assign D_IN_0 = PACKAGE_PIN;
endmodule
module board(input clk, rx, output tx);
  wire rx_pad = rx, tx_pad;
  assign tx = tx_pad;
  top netlist(.clk12_0__io(clk), .uart_0__rx__io(rx_pad), .uart_0__tx__io(tx_pad));
endmodule
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The netlist's library."""
    return library("icebreaker", tmp_path_factory.mktemp("icebreaker"), AROUND,
                   {"SB_PLL40_PAD", "SB_IO"})


@pytest.mark.slow
def test_the_netlist_runs_keyword_spotting(compiled):
    """One inference of MLPerf Tiny's network, which takes mostly its way through the line."""
    config = PRESETS["icebreaker"]
    quantized, images = models.load_quantized("dscnn-kws")
    program = systolith.compile(import_model(
        quantized, images, bias=config.bias, multiplier_bits=config.multiplier_bits),
        config=config, name="dscnn-kws")
    _, cycles = run_network("icebreaker", compiled, program, images[:1].numpy())
    assert cycles < 600_000


@pytest.mark.slow
def test_the_netlist_runs_the_digits_model(compiled):
    """One image of each digit, through residual add, max pool and everything else of the model."""
    program, data, expected = trained_digits("icebreaker")
    first = [int(np.flatnonzero(data.test_labels == digit)[0]) for digit in range(10)]
    levels, _ = run_network("icebreaker", compiled, program, data.test_images[first])
    assert np.array_equal(levels.argmax(axis=1), expected[first].argmax(axis=1))
    assert np.array_equal(levels.argmax(axis=1), np.arange(10))


@pytest.mark.slow
def test_the_netlist_runs_random_programs(compiled):
    run_random_programs(simulated("icebreaker", compiled), PRESETS["icebreaker"], (70, 71))
