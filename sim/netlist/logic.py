"""Cells of logic as equations and processes, which simulate several times faster than as cells.

The meaning is that of yosys' models, with which tests compare it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import groupby
from typing import Any

from .cells import parameter

__all__ = ["Net", "carry", "flip_flops", "lookup", "multiplexer"]

Net = Callable[[int | str], str]

_LOW, _HIGH = "1'b0", "1'b1"


def lookup(table: int, inputs: tuple[str, ...]) -> str:
    """A LUT's output: bit k of `table`, where k has the first of `inputs` as its lowest bit."""
    for place in reversed(range(len(inputs))):
        if inputs[place] in (_LOW, _HIGH):
            halves = _halves(table, len(inputs), place)
            return lookup(halves[inputs[place] == _HIGH],
                          (*inputs[:place], *inputs[place + 1:]))
    return re.sub("[ABCD]", lambda letter: inputs["ABCD".index(letter[0])],
                  _equation(table, len(inputs)))


def _halves(table: int, inputs: int, place: int) -> tuple[int, int]:
    """The tables that are left when input `place` is 0 and 1."""
    halves = [0, 0]
    for k in range(1 << inputs):
        rest = k & (1 << place) - 1 | k >> place + 1 << place
        halves[k >> place & 1] |= (table >> k & 1) << rest
    return halves[0], halves[1]


@cache
def _equation(table: int, inputs: int) -> str:
    """The shortest of the equations that take the inputs A to D out one after the other."""
    ones = (1 << (1 << inputs)) - 1
    if table in (0, ones):
        return f"1'b{int(table != 0)}"
    return min((_without(table, inputs, place) for place in range(inputs)), key=len)


def _without(table: int, inputs: int, place: int) -> str:
    zero, one = _halves(table, inputs, place)
    ones = (1 << (1 << inputs - 1)) - 1
    name = "ABCD"[place]

    def rest(part: int) -> str:
        text = _equation(part, inputs - 1)
        # The inputs behind the one that was taken out have moved up.
        for other in reversed(range(place, inputs - 1)):
            text = text.replace("ABCD"[other], "ABCD"[other + 1])
        return text

    if zero == one:
        return rest(zero)
    if zero == one ^ ones:
        return name if zero == 0 else f"~{name}" if one == 0 else f"({name} ^ {rest(zero)})"
    if zero == 0:
        return f"({name} & {rest(one)})"
    if one == 0:
        return f"(~{name} & {rest(zero)})"
    if zero == ones:
        return f"(~{name} | {rest(one)})"
    if one == ones:
        return f"({name} | {rest(zero)})"
    return f"(({name} & {rest(one)}) | (~{name} & {rest(zero)}))"


def _pins(cell: Mapping[str, Any], net: Net) -> dict[str, str]:
    return {pin: net(bits[0]) for pin, bits in cell["connections"].items() if bits}


def multiplexer(cell: Mapping[str, Any], net: Net) -> Iterator[str]:
    """A LUT4, PFUMX or L6MUX21."""
    pin = _pins(cell, net)
    if cell["type"] == "LUT4":
        inputs = tuple(pin.get(letter, _LOW) for letter in "ABCD")
        yield f"assign {pin['Z']} = {lookup(int(cell['parameters']['INIT'], 2), inputs)};"
    else:
        select, one, zero = (("C0", "ALUT", "BLUT") if cell["type"] == "PFUMX" else
                             ("SD", "D1", "D0"))
        yield f"assign {pin['Z']} = {lookup(0b11001010, (pin[zero], pin[one], pin[select]))};"


def carry(name: str, cell: Mapping[str, Any], net: Net) -> Iterator[str]:
    """A CCU2C: two LUTs, each with a link of a carry chain."""
    pin, settings = _pins(cell, net), cell["parameters"]
    into = pin.get("CIN", _LOW)
    for half in "01":
        table = int(settings[f"INIT{half}"], 2)
        inputs = tuple(pin.get(f"{letter}{half}", _LOW) for letter in "ABCD")
        chained = settings[f"INJECT1_{half}"] != "YES"
        yield f"wire {name}_p{half} = {lookup(table, inputs)};"
        if f"S{half}" in pin:
            yield f"assign {pin[f'S{half}']} = {name}_p{half}{f' ^ {into}' if chained else ''};"
        generate = lookup(table & 0xF, inputs[:2]) if chained else _LOW
        yield (f"wire {name}_c{half} = (~{name}_p{half} & {generate}) | "
               f"({name}_p{half} & {into});")
        into = f"{name}_c{half}"
    if "COUT" in pin:
        yield f"assign {pin['COUT']} = {into};"


def flip_flops(cells: Mapping[str, Mapping[str, Any]], net: Net) -> Iterator[str]:
    """TRELLIS_FFs by name, those with the same clock, enable and reset in one process."""
    def control(item: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
        settings, pin = item[1]["parameters"], _pins(item[1], net)
        enable = {"1": _HIGH, "0": _LOW, "CE": pin.get("CE", _HIGH),
                  "INV": f"~{pin.get('CE')}"}[str(parameter(settings.get("CEMUX", "1 ")))]
        reset = ("~" if settings.get("LSRMUX") == "INV" else "") + pin.get("LSR", _LOW)
        clock = ("neg" if settings.get("CLKMUX") == "INV" else "pos") + f"edge {pin['CLK']}"
        return (clock, reset, enable, settings.get("SRMODE", "LSR_OVER_CE"),
                _HIGH if settings.get("REGSET") == "SET" else _LOW)

    for key, group in groupby(sorted(cells.items(), key=control), control):
        clock, reset, enable, mode, value = key
        flops = [(name, _pins(cell, net)) for name, cell in group]
        for name, pin in flops:
            yield f"reg {name} = {value};"
            yield f"assign {pin['Q']} = {name};"
        asynchronous = f", posedge {reset}" if mode == "ASYNC" and reset != _LOW else ""
        yield f"always @({clock}{asynchronous})"
        if reset != _LOW:
            yield f"if ({reset}) begin"
            yield from (f"{name} <= {value};" for name, _ in flops)
            yield "end else"
        yield f"if ({enable}) begin"
        yield from (f"{name} <= {pin.get('DI', _LOW)};" for name, pin in flops)
        yield "end"
