"""Crossings between clocks, in small netlists as yosys writes them."""

import json

import pytest

from systolith.boards.netlist_checks import check_crossings, crossings
from systolith.errors import BuildError

_INPUTS = ("CLK", "DI", "LSR", "A", "B", "RAD", "WCK", "D", "CE", "PRESET", "I0")
_BLUE, _RED = 2, 3  # nets of the clocks


def _cell(kind, parameters=None, **connections):
    return {"type": kind, "parameters": parameters or {}, "connections": {
        port: [bit] for port, bit in connections.items()}, "port_directions": {
        port: "input" if port in _INPUTS else "output" for port in connections}}


def _register(clock, data, output, **more):
    return _cell("TRELLIS_FF", CLK=clock, DI=data, Q=output, **more)


def _found(tmp_path, **cells):
    names = {"blue": _BLUE, "red": _RED} | {
        name: next(cell["connections"][port][0] for port in ("Q", "Z", "DO", "F", "DOUT")
                   if port in cell["connections"]) for name, cell in cells.items()}
    file = tmp_path / "top.json"
    file.write_text(json.dumps({"modules": {"top": {
        "attributes": {"top": "1"}, "cells": cells,
        "netnames": {name: {"bits": [bit]} for name, bit in names.items()}}}}))
    return file, {(item["source"], item["target"]): item["how"] for item in crossings(file)}


def test_two_registers_in_a_row_are_a_synchronizer(tmp_path):
    file, found = _found(tmp_path, origin=_register(_BLUE, 10, 11), first=_register(_RED, 11, 12),
                         second=_register(_RED, 12, 13))
    assert found == {("origin", "first"): "synchronizer"}
    assert check_crossings(file)[0]["source_clock"] == "blue"


@pytest.mark.parametrize("logic", ("before", "between", "behind"))
def test_logic_on_the_way_is_found(tmp_path, logic):
    """In front of the first register it makes glitches; behind it more than one register sees
    what has not settled."""
    cells = {"origin": _register(_BLUE, 10, 11)}
    if logic == "before":
        cells |= {"gate": _cell("LUT4", A=11, B=20, Z=21), "first": _register(_RED, 21, 12),
                  "second": _register(_RED, 12, 13)}
    elif logic == "between":
        cells |= {"first": _register(_RED, 11, 12), "gate": _cell("LUT4", A=12, Z=22),
                  "second": _register(_RED, 22, 13)}
    else:
        cells |= {"first": _register(_RED, 11, 12), "second": _register(_RED, 12, 13),
                  "gate": _cell("LUT4", A=12, Z=22)}
    file, found = _found(tmp_path, **cells)
    assert found == {("origin", "first"): ""}
    with pytest.raises(BuildError, match="without a synchronizer: origin to first"):
        check_crossings(file)


def test_a_register_of_the_wrong_clock_behind_it_is_found(tmp_path):
    _, found = _found(tmp_path, origin=_register(_BLUE, 10, 11), first=_register(_RED, 11, 12),
                      second=_register(_BLUE, 12, 13))
    assert found == {("origin", "first"): "", ("first", "second"): ""}


def test_memories_and_resets_are_told_apart(tmp_path):
    _, found = _found(
        tmp_path, pointer=_register(_RED, 10, 11),
        memory=_cell("TRELLIS_DPR16X4", WCK=_BLUE, RAD=11, DO=12),
        word=_register(_RED, 12, 13), origin=_register(_BLUE, 14, 15),
        released={**_register(_RED, 16, 17, LSR=15), "parameters": {"SRMODE": "ASYNC"}},
        cleared=_register(_RED, 18, 19, LSR=15))
    assert found == {("memory", "word"): "memory", ("origin", "released"): "reset",
                     ("origin", "cleared"): ""}


def test_a_pointer_of_the_other_clock_is_found(tmp_path):
    _, found = _found(
        tmp_path, pointer=_register(_BLUE, 10, 11),
        memory=_cell("TRELLIS_DPR16X4", WCK=_BLUE, RAD=11, DO=12),
        word=_register(_RED, 12, 13))
    assert found == {("memory", "word"): "memory", ("pointer", "word"): ""}


def test_gowins_cells_are_known(tmp_path):
    file, found = _found(
        tmp_path, pointer=_cell("DFFRE", CLK=_RED, D=10, CE=30, Q=11),
        memory=_cell("RAM16SDP4", CLK=_BLUE, RAD=11, DO=12),
        word=_cell("DFF", CLK=_RED, D=12, Q=13), origin=_cell("DFF", CLK=_BLUE, D=14, Q=15),
        first=_cell("DFFS", CLK=_RED, D=15, Q=16), second=_cell("DFF", CLK=_RED, D=16, Q=17),
        released=_cell("DFFP", CLK=_RED, D=18, PRESET=15, Q=19))
    assert found == {("memory", "word"): "memory", ("origin", "first"): "synchronizer",
                     ("origin", "released"): "reset"}
    check_crossings(file)


def test_logic_and_multipliers_of_gowin_cross_too(tmp_path):
    file, found = _found(
        tmp_path, factor=_cell("MULT9X9", CLK=_BLUE, A=10, DOUT=11),
        gate=_cell("LUT3", I0=11, F=12), target=_cell("DFFE", CLK=_RED, D=12, CE=20, Q=13),
        behind=_cell("DFF", CLK=_RED, D=13, Q=14))
    assert found == {("factor", "target"): ""}
    with pytest.raises(BuildError, match="without a synchronizer: factor to target"):
        check_crossings(file)
