"""Gowin's multipliers and block RAM, and the Tang Nano boards, without the tools that take minutes.
"""

import json
import random
import re
from pathlib import Path

import apycula
import pytest
from amaranth import Cat, Module, Mux, Signal
from amaranth.build import Subsignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from apycula.chipdb import load_chipdb

from netlist_compare import check_copies
from netlist_parts import add_memory
from systolith.boards import build as board_build
from systolith.boards import flow
from systolith.boards.catalog import BOARDS
from systolith.hw.config import PRESETS
from systolith.hw.export import rtlil_text
from systolith.hw.multiplier import MultiplierBudget, demand, registered_product
from systolith.sim.build import verilog_of
from systolith.sim.netlist.convert import yosys_models, yosys_verilog
from systolith.sim.netlist.gowin import MODELS, OWN, join_contents

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
    check_copies("\n".join((MODELS, plain, cells, f"""
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


def test_the_sequential_cores_requantizer_has_no_multipliers_of_its_own():
    found = demand(PRESETS["tang-nano-9k"])
    assert found["requantizer"] == (0, 0)
    assert found["array"] == (32, 0)


MEMORIES = (
    # bits a word, words, bits that are written together, whether a port reads and writes
    (36, 512, 9, None), (18, 1024, 9, None), (9, 2048, 9, None), (36, 512, 36, "kept"),
    (18, 1024, 9, "kept"), (9, 2048, 9, "old"), (18, 1024, 9, "new"),
    (4, 4096, 4, None), (2, 8192, 2, None), (1, 16384, 1, None),
)
BITS = sum(memory[0] for memory in MEMORIES)


class _Memories(wiring.Component):
    """Memories of all the shapes and kinds of ports that block RAM has."""

    def __init__(self):
        source = random.Random(3)
        self._init = [[source.getrandbits(bits) for _ in range(words)]
                      for bits, words, _, _ in MEMORIES]
        super().__init__({"i": In(256), "o": Out(BITS)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(Cat(
            add_memory(m, self.i, *memory, init, k)
            for k, (memory, init) in enumerate(zip(MEMORIES, self._init, strict=True))))
        return m


def test_cells_do_what_the_design_does(tmp_path):
    """Block RAM, by its models, and look-up tables, by the commands that make boards' netlists.
    Words that are read and written at once are kept apart by logic here."""
    board = BOARDS["tang-nano-9k"]
    platform = board.platform()
    (tmp_path / "top.il").write_text(rtlil_text(_Memories()))
    (tmp_path / "top_luts.v").write_text(platform.file_templates["{{name}}_luts.v"])
    flow.run_step(flow.steps(board, platform)[0], tmp_path)
    netlist = json.loads((tmp_path / "top.json").read_text())
    join_contents(netlist)
    cells = netlist["modules"]["top"]["cells"].values()
    kinds = [cell["type"] for cell in cells]
    used = {kind: kinds.count(kind) for kind in OWN if kind in kinds}
    assert sum(used.values()) == len(MEMORIES) and len(used) == 4, used
    # Placement knows the delays of no others. Inputs that are open do not matter.
    assert {kind for kind in kinds if kind.startswith("LUT")} == {"LUT4"}
    for cell in cells:
        for pin in range(4 if cell["type"] == "LUT4" else 0):
            if not cell["connections"].get(f"I{pin}"):
                table = int(cell["parameters"]["INIT"], 2)
                assert all(table >> k & 1 == table >> (k ^ 1 << pin) & 1 for k in range(16))
    check_copies("\n".join((
        MODELS, yosys_models("gowin", sorted({*kinds} - {*OWN, "$scopeinfo"})),
        verilog_of(_Memories(), "rtl"), yosys_verilog(netlist, name="cells"), f"""
        module compare(input clk, rst, input [255:0] i, output [{BITS - 1}:0] seen, wrong);
        wire [{BITS - 1}:0] other;
        rtl plain(.clk(clk), .rst(rst), .i(i), .o(seen));
        cells primitives(.clk(clk), .rst(rst), .i(i), .o(other));
        assign wrong = seen ^ other;
        endmodule
    """)), BITS, range(1, 5))


BOARD_FACTS = {
    # pins of clock, rx and tx; clocks in MHz; oscillator's limits; die
    "tang-nano-20k": (("4", "70", "69"), (60.75, 27), (500, 1250), "GW2A-18C"),
    "tang-nano-9k": (("52", "18", "17"), (54,), (400, 1200), "GW1N-9C"),
}


@pytest.fixture(scope="module", params=BOARD_FACTS)
def elaborated(request, tmp_path_factory):
    """A board, the folder of its design as the tools read it, and its platform."""
    board = BOARDS[request.param]
    folder = tmp_path_factory.mktemp("tang")
    return board, folder, board_build.write_design(board, board.config, 1, folder)


def test_pins_are_those_of_the_board(elaborated):
    board, folder, _ = elaborated
    places = dict(line.removeprefix("IO_LOC ").rstrip(";").split()
                  for line in (folder / "top.cst").read_text().splitlines()
                  if line.startswith("IO_LOC"))
    pins = {name: place for name, place in places.items() if "sdram" not in name}
    names = ('"clk27_0__io"', '"uart_0__rx__io"', '"uart_0__tx__io"')
    assert pins == dict(zip(names, BOARD_FACTS[board.name][0], strict=True))
    assert len(places) == len(pins) + (55 if board.sdram else 0)


def test_pads_of_the_sdram_are_those_that_apycula_knows():
    family = Path(apycula.__file__).parent / "GW2A-18C.msgpack.xz"
    wires = load_chipdb(str(family)).sip_cst["GW2AR-18C"]["QFN88"]
    known = {name: f"IO{'R' if column else 'L'}{row + 1}{letter}"
             for name, row, column, letter, _ in wires}
    theirs = {"clk": "O_sdram_clk", "clk_en": "O_sdram_cke", "cs": "O_sdram_cs_n",
              "ras": "O_sdram_ras_n", "cas": "O_sdram_cas_n", "we": "O_sdram_wen_n",
              "dqm": "O_sdram_dqm[{}]", "a": "O_sdram_addr[{}]", "ba": "O_sdram_ba[{}]",
              "dq": "IO_sdram_dq[{}]"}
    resource = BOARDS["tang-nano-20k"].platform().lookup("sdram")
    ours = {theirs[item.name].format(k): place for item in resource.ios
            if isinstance(item, Subsignal) for k, place in enumerate(item.ios[0].names)}
    assert ours == known


def test_clocks_are_constrained(elaborated):
    board, folder, _ = elaborated
    lines = (folder / "top.sdc").read_text().split("\n")
    periods = [float(line.split()[2]) for line in lines if line.startswith("create_clock")]
    assert sorted(periods) == pytest.approx(sorted(1e3 / mhz for mhz in BOARD_FACTS[board.name][1]))


def test_the_oscillator_of_the_pll_stays_in_its_limits(elaborated):
    """Those of the data sheets (DS226, DS117), of which the divider's output is a part."""
    board, folder, _ = elaborated
    text = (folder / "top.il").read_text()
    found = {name: int(re.search(rf"parameter \\{name} (\d+)", text)[1])
             for name in ("IDIV_SEL", "FBDIV_SEL", "ODIV_SEL")}
    mhz = 27 * (found["FBDIV_SEL"] + 1) / (found["IDIV_SEL"] + 1)
    assert mhz == pytest.approx(board.config.clock_mhz, rel=0.005)
    lowest, highest = BOARD_FACTS[board.name][2]
    assert lowest <= mhz * found["ODIV_SEL"] <= highest


def test_one_clock_makes_whole_bits():
    """A bit of the line is a whole number of cycles where the line runs at the core's clock."""
    for board in BOARDS.values():
        if board.one_clock:
            assert board.config.clock_mhz * 1e6 % board.baud == 0, board.name


def test_all_products_get_multipliers(elaborated):
    board, folder, _ = elaborated
    text = (folder / "top.il").read_text()
    wanted = demand(board.config).values()
    assert text.count("cell \\MULT9X9 ") == sum(narrow for narrow, _ in wanted)
    assert text.count("cell \\MULT18X18 ") == sum(wide for _, wide in wanted)


def test_tools_are_told_die_and_package(elaborated):
    board, _, platform = elaborated
    die = BOARD_FACTS[board.name][3]
    synthesis, placement, packing = flow.steps(board, platform)
    assert f"-family {die[:4].lower()} " in synthesis.command[-1]
    options = list(placement.command)
    assert options[options.index("--device") + 1] == platform.part
    assert f"family={die}" in options
    assert "top.sdc" in options
    assert packing.command[1:3] == ("-d", die)
