"""Boards and the bitstream build, without the tools that take minutes."""

import json
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from systolith import bitstreams
from systolith.bitstreams import build_boards, load_bitstream, print_builds
from systolith.boards import build as board_build
from systolith.boards import flow, pll
from systolith.boards.board import FAMILIES, Placement
from systolith.boards.build import board_named, check_timing, identity
from systolith.boards.catalog import BOARDS
from systolith.boards.fit import estimate_fit
from systolith.boards.sdram_pads import PAD_NS, pad_timing
from systolith.boards.top import HeldReset
from systolith.errors import BuildError, ConfigError, MissingExtraError
from systolith.hw.config import PRESETS
from systolith.hw.export import rtlil_text
from systolith.hw.multiplier import MultiplierBudget, demand
from systolith.hw.sdram_chips import MT48LC16M16A2_7E
from systolith.summary import terminal

ON_ARTY = PRESETS["tiny"].replace(clock_mhz=50.0, memory_size=64 << 10)
"""With a main memory that the chip has blocks for, and whose words are soon written down."""


@pytest.mark.parametrize("wanted", (40, 66.6667, 80, 90, 100, 108.3333, 125))
@pytest.mark.parametrize("source", (25, 48))
def test_ecp5_dividers_stay_in_their_limits(source, wanted):
    found = pll.ecp5_dividers(source, wanted)
    assert found.mhz == pytest.approx(source * found.feedback / found.reference)
    assert found.mhz == pytest.approx(wanted, rel=0.005)
    assert 400 <= found.mhz * found.output <= 800
    assert source / found.reference >= 3.125


def test_dividers_as_the_vendors_tools_choose_them():
    assert pll.ecp5_dividers(25, 100) == pll.Dividers(1, 4, 4, 100)
    assert pll.ice40_dividers(12, 24) == pll.Dividers(1, 64, 32, 24)
    found = pll.gowin_dividers(27, 54)
    assert (found.reference, found.feedback) == (1, 2)
    assert 400 <= found.mhz * found.output <= 1200


@pytest.mark.parametrize("dividers", (pll.ecp5_dividers, pll.ice40_dividers, pll.gowin_dividers))
def test_a_clock_that_no_divider_makes_is_refused(dividers):
    with pytest.raises(BuildError, match="cannot make 3333 MHz from 27 MHz"):
        dividers(27, 3333)


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_a_preset_and_a_platform(name):
    board = BOARDS[name]
    assert board.config is PRESETS[name]
    platform = board.platform()
    hertz = platform.default_clk_frequency
    if board.baud is None:
        assert hertz == 48e6
        assert {pin.name for pin in platform.lookup("usb", 0).ios} == {"d_p", "d_n", "pullup"}
    else:
        assert hertz >= 8 * board.baud
        assert platform.lookup("uart", 0)
    if board.sdram is not None:
        assert board.config.memory_size <= board.sdram.size
        assert platform.lookup("sdram", 0)
    assert board.family in FAMILIES


@pytest.mark.parametrize("mhz", (12.5, 25, 40, 43.75, 50, 60, 66.7, 75, 80, 100, 120))
def test_the_sdrams_clock_leaves_room_both_ways(mhz):
    chip, period = MT48LC16M16A2_7E, 1e3 / mhz
    found = pad_timing(chip, mhz)
    late = found.quarters / 4 * period  # the chip's clock behind the core's, at which all changes
    assert chip.tIS + 1 <= late <= period - chip.tIH - 1
    edges = [k for k in range(6) if late + chip.tAC + PAD_NS + 1 <= k * period
             <= late + period + chip.tOH + PAD_NS - 1]
    assert edges == [found.delay]


def test_main_memory_is_what_the_configuration_says():
    board, other = BOARDS["ulx3s-12f"], BOARDS["orangecrab-25f"]
    assert board.memory_chip(board.config) is board.sdram
    assert board.memory_chip(board.config.replace(sdram="")) is None
    with pytest.raises(ConfigError, match='has no GW2AR-18: set sdram = "MT48LC16M16A2-7E", or'):
        board.memory_chip(PRESETS["tang-nano-20k"])
    with pytest.raises(ConfigError, match='has no MT48LC16M16A2-7E: set sdram = "" in the conf'):
        estimate_fit(other, board.config)


def test_main_memory_of_block_ram_on_a_board_with_sdram(tmp_path):
    board = BOARDS["tang-nano-20k"]
    config = PRESETS["tiny"].replace(memory_size=16 << 10, vector_taps=0, table=False,
                                     clock_mhz=27.0)
    board_build.write_design(board, config, 1, tmp_path)
    pins = (tmp_path / "top.cst").read_text()
    assert "uart_0" in pins and "sdram" not in pins
    assert estimate_fit(board, config).block_ram == 8 + estimate_fit(
        board, config.replace(sdram="GW2AR-18")).block_ram


def test_a_clock_without_room_for_the_sdram():
    with pytest.raises(BuildError, match="at 140 MHz no phase of the clock is safe for MT48LC16"):
        pad_timing(MT48LC16M16A2_7E, 140)


def test_an_unknown_board_is_named():
    with pytest.raises(ConfigError, match="no board 'ulx4': choose one of ulx3s-85f"):
        board_named("ulx4")


def test_identity_follows_configuration_and_board():
    board = BOARDS["icebreaker"]
    config = board.config.replace(clock_mhz=24.0)
    names = {identity(board, config), identity(board, config.replace(timestamps=32)),
             identity(board, config.replace(clock_mhz=48.0)),
             identity(BOARDS["tang-nano-9k"], config)}
    assert len(names) == 4
    assert identity(board, config) in names


def test_identity_is_the_design_not_its_sources(tmp_path, monkeypatch):
    board, config = BOARDS["ulx3s-12f"], PRESETS["ulx3s-12f"]
    files = {"top.il": b"design", "top.lpf": b"pins", "build_top.sh": b"not used"}
    monkeypatch.setattr(board_build, "_design", lambda *args: (board.platform(), files))
    first = identity(board, config)
    files["build_top.sh"] = b"another script"
    assert identity(board, config) == first
    files["top.lpf"] = b"other pins"
    assert identity(board, config) != first


def test_a_reset_ends_once_and_for_all():
    held = HeldReset(8)
    seen = []

    async def bench(ctx):
        for running in (0, 0, *40 * (1,), 0, *20 * (1,)):
            ctx.set(held.running, running)
            await ctx.tick()
            seen.append(ctx.get(held.reset))

    simulator = Simulator(held)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == [1, 1, *7 * [1], *33 * [0], *8 * [1], *13 * [0]]


class _Memories(wiring.Component):
    """A memory in one clock domain and, beside it, one between two."""

    crossing: In(1)
    o: Out(8)

    def __init__(self, crosses):
        super().__init__()
        self._crosses = crosses

    def elaborate(self, platform):
        m = Module()
        m.domains.other = ClockDomain()
        m.submodules.memory = memory = Memory(shape=8, depth=16, init=[])
        write = memory.write_port(domain="other" if self._crosses else "sync")
        read = memory.read_port()
        m.d.comb += [write.en.eq(self.crossing), self.o.eq(read.data), read.en.eq(1)]
        return m


def test_collisions_are_given_up_inside_a_domain_only():
    for crosses in (False, True):
        text = rtlil_text(_Memories(crosses))
        assert "COLLISION_X_MASK 1'0" in text
        changed = flow.without_collisions(text)
        assert ("COLLISION_X_MASK 1'1" in changed) is not crosses
        assert len(changed) == len(text)


def test_multipliers_go_to_the_widest_products_first():
    config = PRESETS["small"]
    wanted = demand(config)
    assert wanted["array"] == (64, 0)
    assert wanted["requantizer"] == (0, 4 * config.lanes)
    wide = sum(wanted["requantizer"]) + sum(wanted["residual"])
    budget = MultiplierBudget("ecp5", wide + 3, config)
    assert [budget.take("array") for _ in range(4)] == [True, True, True, False]
    assert budget.take("requantizer")
    assert not budget.take("vector")


def _step(*command):
    return flow.Step("synthesis", command, "top.rpt")


def test_a_failing_tool_is_quoted(tmp_path):
    with pytest.raises(BuildError, match=r"failed \(ERROR: no such cell\): see .*top.rpt"):
        flow.run_step(_step(sys.executable, "-c",
                            "print('ERROR: no such cell'); print('bye'); exit(1)"), tmp_path)
    assert "no such cell" in (tmp_path / "synthesis.log").read_text()


def test_a_failing_tool_that_complains_in_its_log_is_quoted(tmp_path):
    with pytest.raises(BuildError, match=r"failed \(ERROR: Assert failed\): see .*top.rpt"):
        flow.run_step(_step(sys.executable, "-c",
                            "open('top.rpt', 'w').write('ERROR: Assert failed\\n'); exit(1)"),
                      tmp_path)


def test_a_missing_tool_names_its_extra(tmp_path):
    with pytest.raises(MissingExtraError, match=r"nothing is not installed.*systolith\[hw\]"):
        flow.run_step(_step(str(tmp_path / "nothing")), tmp_path)


def test_a_tool_that_hangs_is_stopped(tmp_path):
    with pytest.raises(BuildError, match=r"stopped \(not ended within 1 s"):
        flow.run_step(_step(sys.executable, "-c", "import time; time.sleep(60)"), tmp_path,
                      deadline=1)


_PLACEMENT = """
import sys, time
seed, outcome = int(sys.argv[1]), sys.argv[2]
time.sleep(0.3)  # the last seed's log is looked at until then, if it is there
log = open("top.tim", "w")
if outcome == "diverges":
    for number, left in enumerate([*range(900, 300, -10), *range(320, 440)], 1):
        log.write(f"Info: {number}000 |  9  99 |  7  70 | {left}|  0.2  0.3|\\n")
    log.flush()
    time.sleep(60)
if outcome == "fails":
    sys.exit("ERROR: no place for seed %d" % seed)
open("report.json", "w").write(outcome)
"""


def _place(folder, outcomes, **options):
    """Place with seeds of these outcomes: a part of the clock, or how it fails."""
    def step(seed):
        return flow.Step(
            "placement", (sys.executable, "-c", _PLACEMENT, str(seed), outcomes[seed - 1]),
            "top.tim", ("report.json", "top.tim"))

    attempts = flow.place(step, folder, lambda: float((folder / "report.json").read_text()),
                          **options)
    assert {path.name for path in folder.iterdir()} >= {"report.json", "top.tim"}
    return attempts, float((folder / "report.json").read_text())


def test_seeds_are_tried_until_one_meets_the_timing(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "_LOOK_SECONDS", 0.1)
    attempts, reached = _place(tmp_path, ("fails", "0.8", "1.1", "1.3"))
    assert [(attempt.seed, attempt.reached) for attempt in attempts] == [(1, 0), (2, 0.8), (3, 1.1)]
    assert "no place for seed 1" in attempts[0].failure
    assert reached == 1.1


def test_a_seed_that_is_known_to_be_good_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "_LOOK_SECONDS", 0.1)
    attempts, reached = _place(tmp_path, ("0.7", "1.1", "0.9"), first=3)
    assert [attempt.seed for attempt in attempts] == [3, 1, 2]
    assert reached == 1.1


def test_the_best_seed_is_kept_when_none_is_fast_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "_LOOK_SECONDS", 0.1)
    attempts, reached = _place(tmp_path, ("0.7", "0.9", "diverges", "0.8"))
    assert [attempt.reached for attempt in attempts] == [0.7, 0.9, 0, 0.8]
    assert "310 connections, and then more" in attempts[2].failure
    assert reached == 0.9


def test_nothing_is_left_when_no_seed_is_routed(tmp_path):
    with pytest.raises(BuildError, match="no place for seed 4"):
        _place(tmp_path, 4 * ("fails",))


def test_routing_that_comes_nearer_is_waited_for():
    def log(counts):
        return "".join(f"Info: {k:>9}000 |   4922    26077 |  167   833 | {count:>9}| 1.6 2.1|\n"
                       for k, count in enumerate(counts, 1))

    assert not flow._hopeless("")
    assert not flow._hopeless("Info:    IterCnt |  w/ripup   wo/ripup |  w/r  wo/r |\n")
    assert not flow._hopeless(log([50, *100 * [201]]))
    assert "50 connections" in flow._hopeless(log([50, *101 * [201]]))
    assert not flow._hopeless(log([50, *101 * [201], 40]))
    assert not flow._hopeless(log(range(500, 0, -1)))


def test_more_than_a_chip_has_is_not_placed():
    def log(blocks):
        return ("Info: \t          TRELLIS_IO:       4/    197     2%\n"
                f"Info: \t              DP16KD: {blocks:>7}/     56   {blocks / .56:.0f}%\n"
                "Info: \t          MULT18X18D:      28/     28   100%\n")

    assert not flow._hopeless(log(56))
    assert flow._hopeless(log(61)) == "it needs 61 DP16KD of the chip's 56"


def test_a_vendors_tool_that_is_missing_leaves_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = board_build.build_board(BOARDS["arty-a7-35t"], ON_ARTY, folder=tmp_path / "out")
    assert result["bitstream"] is None
    assert {"top.tcl", "top.v", "top.xdc"} <= {path.name for path in (tmp_path / "out").iterdir()}
    print_builds(terminal(), [result])
    assert "unbuilt; run vivado" in " ".join(capsys.readouterr().out.split())


def test_two_builds_in_a_folder_do_not_meet(tmp_path, monkeypatch):
    running, most = 0, 0

    def build(*args):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.1)
        running -= 1

    monkeypatch.setattr(board_build, "identity", lambda *args: 1)
    monkeypatch.setattr(board_build, "_build", build)
    board = BOARDS["arty-a7-35t"]
    with ThreadPoolExecutor(3) as pool:
        builds = [pool.submit(board_build.build_board, board, board.config, folder=tmp_path / "out")
                  for _ in range(3)]
    for one in builds:
        one.result()
    assert most == 1


def test_a_vendors_tool_is_run_and_its_timing_looked_at(tmp_path, monkeypatch):
    tool = tmp_path / "vivado"
    tool.write_text('#!/bin/sh\necho bits > top.bit\necho "$VERDICT" > top_timing.rpt\n')
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("VERDICT", "All user specified timing constraints are met.")
    result = board_build.build_board(BOARDS["arty-a7-35t"], ON_ARTY, folder=tmp_path / "out")
    assert Path(result["bitstream"]).read_text() == "bits\n"
    monkeypatch.setenv("VERDICT", "Timing constraints are not met.")
    with pytest.raises(BuildError, match="arty-a7-35t misses its timing"):
        board_build.build_board(BOARDS["arty-a7-35t"], ON_ARTY, folder=tmp_path / "late")


def test_latches_are_named(tmp_path):
    log = tmp_path / "top.rpt"
    log.write_text("No latch inferred for signal `\\a.b' from process `\\p'.\n")
    flow.check_latches(log)
    log.write_text("Latch inferred for signal `\\a.b' from process `\\p': $auto$1\n")
    with pytest.raises(BuildError, match=r"latches \(\\a\.b\)"):
        flow.check_latches(log)


def test_clocks_without_constraints_are_named(tmp_path):
    board, config = replace(BOARDS["ulx3s-85f"], placements={}), PRESETS["ulx3s-85f"]
    clocks = {"core": {"achieved": 61.0, "constraint": config.clock_mhz},
              "oscillator": {"achieved": 99.0, "constraint": 25.0},
              "chip": {"achieved": 700.0, "constraint": config.clock_mhz}}
    report = {"fmax": clocks, "utilization": {"TRELLIS_COMB": {"used": 3, "available": 9}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert board_build._report(board, config, tmp_path, built=True) == {
        "fmax_mhz": {"core": 61.0, "link": 99.0},
        "target_mhz": {"core": config.clock_mhz, "link": 25.0},
        "utilization": {"LUT": {"used": 3, "available": 9}}}
    same = {name: {**clock, "constraint": 25.0} for name, clock in clocks.items()}
    (tmp_path / "report.json").write_text(json.dumps({**report, "fmax": same}))
    found = board_build._report(board, config.replace(clock_mhz=25.0), tmp_path, built=True)
    assert found["fmax_mhz"] == {"core": 61.0, "link": 61.0}
    clocks["gated"] = {"achieved": 99.0, "constraint": 12.0}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(BuildError, match="a clock without a constraint of its own, gated"):
        board_build._report(board, config, tmp_path, built=True)


def test_clocks_of_a_report_are_known_by_what_was_wanted(tmp_path):
    board, config = BOARDS["orangecrab-85f"], PRESETS["orangecrab-85f"]
    clocks = {"core": {"achieved": config.clock_mhz + 6, "constraint": config.clock_mhz + 0.01},
              "link": {"achieved": 99.0, "constraint": 48}}
    (tmp_path / "report.json").write_text(json.dumps({"fmax": clocks, "utilization": {}}))
    report = board_build._report(board, config, tmp_path, built=True)
    assert report["target_mhz"] == {"core": config.clock_mhz, "link": 48.0}
    check_timing({"name": board.name, **report})


def test_a_placement_has_its_seed():
    board = BOARDS["orangecrab-85f"]
    command = flow.steps(board, board.platform(), Placement(seed=7))[1].command
    assert command[command.index("--seed") + 1] == "7"
    assert board.placement(PRESETS["tiny"].replace(rows=8)).seed == 1


def test_missed_timing_fails():
    result = {"name": "b", "fmax_mhz": {"core": 99.0, "link": 50.0},
              "target_mhz": {"core": 100.0, "link": 25.0}}
    with pytest.raises(BuildError, match=r"core reaches 99 of 100 MHz"):
        check_timing(result)
    result["fmax_mhz"]["core"] = 100.0
    check_timing(result)


def test_a_finished_build_is_used_again_unless_it_was_touched(tmp_path):
    product = tmp_path / "top.bit"
    product.write_bytes(b"bits")
    file = tmp_path / "result.json"
    result = {"name": tmp_path.name, "identity": f"{7:016x}", "bitstream": str(product),
              "bitstream_sha256": board_build._sha256(product)}
    file.write_text(json.dumps(result))
    assert board_build._finished(file, 7) == result
    assert board_build._finished(file, 8) is None
    product.write_bytes(b"bots")
    assert board_build._finished(file, 7) is None
    file.write_text("{}")
    assert board_build._finished(file, 7) is None


def _tool(folder, name, text, code):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {text} >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_loading_says_what_to_install_or_check(tmp_path, monkeypatch):
    board = BOARDS["ulx3s-85f"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="needs openFPGALoader: install it"):
        load_bitstream(board, tmp_path / "top.bit")
    _tool(tmp_path, "openFPGALoader", "unable to open ftdi device", 1)
    with pytest.raises(BuildError, match=r"unable to open ftdi device\): check that the board"):
        load_bitstream(board, tmp_path / "top.bit")
    _tool(tmp_path, "openFPGALoader", "done", 0)
    load_bitstream(board, tmp_path / "top.bit")


@pytest.mark.parametrize(("name", "config", "folders"), (
    ("ulx3s-85f", None, ["ulx3s-85f"]), ("ulx3s-85f", "ulx3s-85f-16x16", ["ulx3s-85f-16x16"]),
    ("ulx3s-12f", "tiny", ["ulx3s-12f-tiny"]),
    ("all", None, [name for board in BOARDS for name in (
        board, *{"ulx3s-12f": ("ulx3s-12f-8x4",),
                 "tang-nano-20k": ("tang-nano-20k-8x8",)}.get(board, ()))])))
def test_builds_of_a_board_do_not_share_a_folder(name, config, folders, tmp_path, monkeypatch):
    built = []

    def build(board, config, *, folder, progress):
        built.append(folder.name)
        raise BuildError("enough")

    monkeypatch.setattr(bitstreams, "build_board", build)
    with pytest.raises(BuildError, match=f"{folders[0]}: enough"):
        build_boards(name, config, tmp_path, program=False, console=terminal())
    assert built == folders


def test_all_boards_take_no_options_of_one(tmp_path):
    with pytest.raises(ConfigError, match="are for one board"):
        build_boards("all", None, tmp_path, program=True, console=terminal())
