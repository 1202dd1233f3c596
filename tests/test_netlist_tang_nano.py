"""The Tang Nanos' netlists behind their serial lines, driven over a pseudo-terminal.

Logic, registers and distributed memory are yosys' models; block RAM and multipliers are ours, which
`test_gowin.py` checks; the PLL passes the oscillator's clock on. `pytest -m slow -k tang_nano -s`
prints figures.
"""

import pytest

from gowin_cells import MODELS, OWN, join_contents
from one_clock_netlist import library, run_network, run_random_programs
from systolith.models.digits import StridedDigits
from trained_digits import trained_digits

AROUND = MODELS + """
module rPLL(input CLKIN, CLKFB, RESET, RESET_P, input [5:0] FBDSEL, IDSEL, ODSEL,
            input [3:0] PSDA, FDLY, DUTYDA, output CLKOUT, LOCK, CLKOUTP, CLKOUTD, CLKOUTD3);
  parameter FCLKIN = "", DYN_IDIV_SEL = "", IDIV_SEL = 0, DYN_FBDIV_SEL = "", FBDIV_SEL = 0,
            DYN_ODIV_SEL = "", ODIV_SEL = 0, PSDA_SEL = "", DYN_DA_EN = "", DUTYDA_SEL = "",
            CLKOUT_FT_DIR = 0, CLKOUTP_FT_DIR = 0, CLKOUT_DLY_STEP = 0, CLKOUTP_DLY_STEP = 0,
            CLKFB_SEL = "", CLKOUT_BYPASS = "", CLKOUTP_BYPASS = "", CLKOUTD_BYPASS = "",
            DYN_SDIV_SEL = 0, CLKOUTD_SRC = "", CLKOUTD3_SRC = "", DEVICE = "";
  assign CLKOUT = CLKIN;
  assign LOCK = 1;
endmodule
module board(input clk, rx, output tx);
  wire clk_pad = clk, rx_pad = rx, tx_pad;
  assign tx = tx_pad;
  top netlist(.clk27_0__io(clk_pad), .uart_0__rx__io(rx_pad), .uart_0__tx__io(tx_pad));
endmodule
"""


CYCLES = {"tang-nano-9k": 90_000, "tang-nano-20k": 20_000}
"""An inference takes fewer."""


@pytest.fixture(scope="module", params=CYCLES)
def compiled(request, tmp_path_factory):
    """A board's name, and its netlist's library."""
    name = request.param
    return name, library(name, tmp_path_factory.mktemp("tang"), AROUND, {*OWN, "rPLL"},
                         join_contents)


@pytest.mark.slow
def test_the_netlist_recognizes_a_digit(compiled):
    """One inference, which takes mostly its way through the line."""
    name, netlist = compiled
    program, data, _ = trained_digits(name, StridedDigits)
    levels, cycles = run_network(name, netlist, program, data.test_images[:1])
    assert levels.argmax() == data.test_labels[0]
    assert cycles < CYCLES[name]


@pytest.mark.slow
def test_the_netlist_runs_random_programs(compiled):
    run_random_programs(*compiled, (80, 81))
