"""Gowin's multipliers and the Tang Nano 20K, without the tools that take minutes."""

import re
from pathlib import Path

import pytest
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from netlist_compare import check_copies
from systolith import sim
from systolith.boards import build as board_build
from systolith.boards import flow
from systolith.boards.catalog import BOARDS
from systolith.hw.config import PRESETS
from systolith.hw.multiplier import MultiplierBudget, registered_product
from systolith.sim.build import verilog_of

MODELS = Path(sim.__file__).parent / "netlist" / "gowin.v"

SHAPES = (
    # bits of both operands, whether each has a sign, whether they pass registers
    (9, 9, True, True, True), (8, 8, True, True, True), (8, 8, False, True, False),
    (9, 5, True, True, False), (18, 18, True, True, True), (17, 12, False, True, False),
    (13, 9, True, False, True),
)
OUTPUTS = sum(2 * (18 if max(a + (not sign_a), b + (not sign_b)) > 9 else 9)
              for a, b, sign_a, sign_b, _ in SHAPES)


class _Platform:
    def __init__(self):
        self.multipliers = MultiplierBudget("gowin", 200, PRESETS["small"])


class _Products(wiring.Component):
    """Products of all kinds, by cells or by what they stand for."""

    def __init__(self, *, primitives):
        self._platform = _Platform() if primitives else None
        super().__init__({"i": In(256), "o": Out(OUTPUTS)})

    def elaborate(self, platform):
        m = Module()
        found = []
        for k, (a, b, sign_a, sign_b, registered) in enumerate(SHAPES):
            bits = [self.i[(37 * k + j) % 256] for j in range(a + b + 3)]
            operands = [Cat(bits[:a]), Cat(bits[a:a + b])]
            operands = [value.as_signed() if sign else value
                        for value, sign in zip(operands, (sign_a, sign_b), strict=True)]
            enables = bits[-3:]
            product = registered_product(
                m, self._platform, "array", f"product{k}", *operands, enable=enables[0],
                **({"a_enable": enables[1], "b_enable": enables[2]} if registered else {}))
            # What is not promised is not compared.
            ready, valid = Signal(), Signal()
            m.d.sync += [ready.eq(enables[1]),
                         valid.eq(enables[0] & (ready if registered else 1))]
            wide = 2 * (18 if max(a + (not sign_a), b + (not sign_b)) > 9 else 9)
            shown = Signal(wide, name=f"shown{k}")
            m.d.comb += shown.eq(Mux(valid, product, 0))
            found.append(shown)
        m.d.comb += self.o.eq(Cat(found))
        return m


def test_multipliers_do_what_products_do():
    plain = verilog_of(_Products(primitives=False), "rtl")
    cells = verilog_of(_Products(primitives=True), "cells")
    assert cells.count("  MULT9X9 #") == 4
    assert cells.count("  MULT18X18 #") == 3
    assert plain.count("MULT") == 0
    check_copies("\n".join((MODELS.read_text(), plain, cells, f"""
        module compare(input clk, rst, input [255:0] i, output [{OUTPUTS - 1}:0] seen, wrong);
        wire [{OUTPUTS - 1}:0] other;
        rtl plain(.clk(clk), .rst(rst), .i(i), .o(seen));
        cells primitives(.clk(clk), .rst(rst), .i(i), .o(other));
        assign wrong = seen ^ other;
        endmodule
    """)), OUTPUTS, range(1, 5))


def test_two_small_multipliers_are_a_large_one():
    config = PRESETS["tiny"]
    budget = MultiplierBudget("gowin", 13, config)
    assert [budget.take("requantizer", 14) for _ in range(5)] == [True] * 4 + [False]
    assert [budget.take("residual", bits) for bits in (12, 12, 12, 9, 9)] == [
        True, True, False, True, False]
    assert not budget.take("array")


@pytest.fixture(scope="module")
def elaborated(tmp_path_factory):
    """Folder of the Tang Nano 20K's design as the tools read it, and its platform."""
    board = BOARDS["tang-nano-20k"]
    folder = tmp_path_factory.mktemp("tang")
    return folder, board_build.write_design(board, board.config, 1, folder)


def test_pins_are_those_of_the_board(elaborated):
    folder, _ = elaborated
    places = dict(line.removeprefix("IO_LOC ").rstrip(";").split()
                  for line in (folder / "top.cst").read_text().splitlines()
                  if line.startswith("IO_LOC"))
    assert places == {'"clk27_0__io"': "4", '"uart_0__rx__io"': "70", '"uart_0__tx__io"': "69"}


def test_both_clocks_are_constrained(elaborated):
    folder, _ = elaborated
    lines = (folder / "top.sdc").read_text().split("\n")
    periods = [float(line.split()[2]) for line in lines if line.startswith("create_clock")]
    mhz = BOARDS["tang-nano-20k"].config.clock_mhz
    assert sorted(periods) == pytest.approx(sorted((1e3 / mhz, 1e3 / 27)))


def test_the_oscillator_of_the_pll_stays_in_its_limits(elaborated):
    """500 to 1250 MHz for the GW2AR (DS226), of which the divider's output is a part."""
    folder, _ = elaborated
    text = (folder / "top.il").read_text()
    found = {name: int(re.search(rf"parameter \\{name} (\d+)", text)[1])
             for name in ("IDIV_SEL", "FBDIV_SEL", "ODIV_SEL")}
    mhz = 27 * (found["FBDIV_SEL"] + 1) / (found["IDIV_SEL"] + 1)
    assert mhz == pytest.approx(BOARDS["tang-nano-20k"].config.clock_mhz, rel=0.005)
    assert 500 <= mhz * found["ODIV_SEL"] <= 1250


def test_all_products_get_multipliers(elaborated):
    folder, _ = elaborated
    config = BOARDS["tang-nano-20k"].config
    text = (folder / "top.il").read_text()
    assert text.count("cell \\MULT18X18 ") == 4 * config.lanes * (1 + config.residual)
    assert text.count("cell \\MULT9X9 ") == (
        config.multipliers + config.residual * config.lanes + config.rows * config.vector_taps)


def test_tools_are_told_die_and_package(elaborated):
    _, platform = elaborated
    synthesis, placement, packing = flow.steps(BOARDS["tang-nano-20k"], platform)
    assert "-family gw2a" in synthesis.command[-1]
    options = list(placement.command)
    assert options[options.index("--device") + 1] == "GW2AR-LV18QN88C8/I7"
    assert "family=GW2A-18C" in options
    assert "top.sdc" in options
    assert packing.command[1:3] == ("-d", "GW2A-18C")
