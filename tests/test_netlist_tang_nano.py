"""The Tang Nano 9K's netlist behind its serial line, driven over a pseudo-terminal.

Logic, registers and distributed memory are yosys' models; block RAM and multipliers are ours, which
`test_gowin.py` checks; the PLL passes the oscillator's clock on. `pytest -m slow -k tang_nano -s`
prints figures.
"""

import pytest

from netlist_driving import run_random_programs
from one_clock_netlist import library, run_network, simulated
from systolith.hw.config import PRESETS
from systolith.models.digits import StridedDigits
from systolith.sim.netlist.gowin import MODELS, OWN, join_contents
from trained_digits import trained_digits

NAME = "tang-nano-9k"
AROUND = MODELS + """
module board(input clk, rx, output tx);
  wire pll_clock = clk, turned_clock = clk, pll_locked = 1;
  wire clk_pad = clk, rx_pad = rx, tx_pad;
  assign tx = tx_pad;
  top netlist(.clk27_0__io(clk_pad), .uart_0__rx__io(rx_pad), .uart_0__tx__io(tx_pad));
endmodule
"""


@pytest.fixture(scope="module")
def netlist(tmp_path_factory):
    """The netlist's library."""
    return library(NAME, tmp_path_factory.mktemp("tang"), AROUND, OWN, join_contents)


@pytest.mark.slow
def test_the_netlist_recognizes_a_digit(netlist):
    """One inference, which takes mostly its way through the line."""
    program, data, _ = trained_digits(NAME, StridedDigits)
    levels, cycles = run_network(NAME, netlist, program, data.test_images[:1])
    assert levels.argmax() == data.test_labels[0]
    assert cycles < 90_000


@pytest.mark.slow
def test_the_netlist_runs_random_programs(netlist):
    run_random_programs(simulated(NAME, netlist), PRESETS[NAME], (80, 81))
