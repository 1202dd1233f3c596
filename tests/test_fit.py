"""Estimates before synthesis against what the builds took, and the table of builds."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from systolith.bitstreams import fit_boards, write_table
from systolith.boards.catalog import BOARDS
from systolith.boards.fit import CAPACITY, check_fit, estimate_fit
from systolith.cli import app
from systolith.errors import BuildError, ConfigError
from systolith.hw.config import PRESETS

SHAPES = {
    "ulx3s-85f-16x16": ("ulx3s-85f", PRESETS["ulx3s-85f-16x16"]),
    "ulx3s-12f-8x4": ("ulx3s-12f", PRESETS["ulx3s-12f-8x4"]),
    "ulx3s-12f 8x4 unpaired": (
        "ulx3s-12f", PRESETS["ulx3s-12f-8x4"].replace(paired_columns=False)),
    "tang-nano-9k 4x4": ("tang-nano-9k", PRESETS["tang-nano-9k"].replace(columns=4)),
}
BUILT = {
    "orangecrab-25f": {"LUT": 17_827, "FF": 12_623, "multipliers": 28, "block RAM": 53},
    "orangecrab-85f": {"LUT": 27_422, "FF": 19_784, "multipliers": 144, "block RAM": 171},
    "ulx3s-85f": {"LUT": 27_997, "FF": 20_043, "multipliers": 144, "block RAM": 146},
    "ulx3s-85f-16x16": {"LUT": 41_912, "FF": 29_124, "multipliers": 144, "block RAM": 174},
    "ulx3s-12f": {"LUT": 16_628, "FF": 12_731, "multipliers": 28, "block RAM": 54},
    "ulx3s-12f-8x4": {"LUT": 19_002, "FF": 13_642, "multipliers": 28, "block RAM": 56},
    "icebreaker": {"LUT": 4_938, "multipliers": 8, "block RAM": 29},
    "tang-nano-20k": {"LUT": 14_533, "FF": 9_289, "multipliers": 49, "block RAM": 44},
    "tang-nano-9k": {"LUT": 5_702, "FF": 2_697, "multipliers": 32, "block RAM": 26},
    "tang-nano-9k 4x4": {"FF": 2_166, "multipliers": 16, "block RAM": 21},
    "ulx3s-12f 8x4 unpaired": {"LUT": 20_114, "FF": 12_802, "multipliers": 28, "block RAM": 56},
}
"""What nextpnr counted after packing (TRELLIS_COMB is a LUT); unpaired 8x4, 16x16 and the
Tang Nano 9K's 4x4 were not routed."""


@pytest.mark.parametrize("name", BUILT)
def test_estimates_are_within_15_percent_of_builds(name):
    board, config = SHAPES.get(name, (name, PRESETS.get(name)))
    found = check_fit(BOARDS[board], config)
    for resource, taken in BUILT[name].items():
        assert found["resources"][resource]["estimate"] == pytest.approx(taken, rel=0.15), resource
    assert found["fits"]


@pytest.mark.parametrize("name", sorted(
    name for name, board in BOARDS.items() if board.device in CAPACITY))
def test_every_preset_is_expected_to_fit_its_board(name):
    for preset in (preset for preset in PRESETS if preset.startswith(name)):
        assert check_fit(BOARDS[name], PRESETS[preset])["fits"], preset


@pytest.mark.parametrize("change", (
    {"rows": 32}, {"columns": 16}, {"lanes": 8}, {"vector_taps": 5}, {"scratchpad_banks": 16}))
def test_more_takes_more(change):
    board = BOARDS["ulx3s-85f"]
    less = estimate_fit(board, board.config)
    more = estimate_fit(board, board.config.replace(**change))
    assert more.lut > less.lut and more.ff >= less.ff and more.block_ram >= less.block_ram


def test_fewer_multipliers_are_more_logic():
    small = PRESETS["ulx3s-12f"]
    many, few = (estimate_fit(BOARDS[name], small) for name in ("ulx3s-85f", "ulx3s-12f"))
    assert many.multipliers > few.multipliers == 28
    assert few.lut > many.lut


def test_what_does_not_fit_is_refused_with_its_numbers(tmp_path):
    message = r"does not fit ulx3s-12f \(it needs about \d+ of 24288 LUT"
    with pytest.raises(BuildError, match=message):
        fit_boards("ulx3s-12f", "default", console=Console(quiet=True))
    result = CliRunner().invoke(app, ["build", "ulx3s-85f", "--fit", "--json",
                                      str(tmp_path / "fit.json")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "fit.json").read_text())["fits"] is True


def test_chips_of_closed_tools_have_no_estimate():
    with pytest.raises(BuildError, match="only its maker's tools"):
        estimate_fit(BOARDS["arty-a7-35t"], PRESETS["arty-a7-35t"])


def test_an_ice40_has_the_sequential_core():
    board, preset = BOARDS["icebreaker"], PRESETS["icebreaker"]
    assert estimate_fit(board, preset.replace(weight_words=1024)).block_ram == 29 + 4
    assert not check_fit(board, preset.replace(weight_words=1024))["fits"]
    with pytest.raises(BuildError, match="icebreaker needs a configuration with sequential = true"):
        estimate_fit(board, PRESETS["tiny"])
    with pytest.raises(BuildError, match="ulx3s-85f needs a configuration with sequential = false"):
        estimate_fit(BOARDS["ulx3s-85f"], preset)


def test_a_tang_nano_9k_shares_its_block_ram():
    board, preset = BOARDS["tang-nano-9k"], PRESETS["tang-nano-9k"]
    for change, more in (({"memory_size": 22 << 10}, 2), ({"scratchpad_bank_words": 512}, -1),
                         ({"weight_words": 1024}, 2), ({"accumulator_words": 64}, 0)):
        assert estimate_fit(board, preset.replace(**change)).block_ram == 26 + more, change
    assert not check_fit(board, preset.replace(memory_size=22 << 10))["fits"]
    with pytest.raises(BuildError, match="tang-nano-9k needs a configuration with sequential"):
        estimate_fit(board, PRESETS["tang-nano-20k"])


def test_table_is_put_between_the_marks(tmp_path):
    result = {
        "name": "ulx3s-12f", "bitstream": "top.bit", "config": PRESETS["ulx3s-12f"].to_dict(),
        "fmax_mhz": {"core": 61.2, "link": 120.0}, "target_mhz": {"core": 40.0, "link": 25.0},
        "utilization": {"LUT": {"used": 12_345, "available": 24_288},
                        "9x9 multipliers": {"used": 3, "available": 4},
                        "18x18 multipliers": {"used": 1, "available": 2}},
        "peak_gops": 1.28, "seconds": 99.6}
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- builds -->\nold\n<!-- builds -->\nafter\n")
    write_table(page, [result, {**result, "bitstream": None}])
    assert page.read_text() == (
        "before\n<!-- builds -->\n"
        "| board | core | LUT | FF | multipliers | block RAM | core MHz, of wanted | peak GOPS | "
        "seconds to build |\n|---|---|---|---|---|---|---|---|---|\n"
        "| ulx3s-12f | 4×8 | 12,345 of 24,288 |  | 3 of 4, 1 of 2 |  | 61.2 of 40 | 1.28 | 100 |\n"
        "<!-- builds -->\nafter\n")
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="has no table of builds"):
        write_table(page, [result])
