"""Netlists of boards with one clock, behind their serial line, driven over a pseudo-terminal.

A netlist is the one that placement gets. Around it is a module `board` with the pins `clk`, `rx`
and `tx`, whose clock is the core's: what stands for the PLL passes it on. A board with two clocks
has the same one twice.
"""

import ctypes
import json
import time
import weakref
from pathlib import Path

import numpy as np

import systolith
from netlist_driving import PATIENCE, driven
from systolith.boards import build as board_build
from systolith.boards import flow
from systolith.boards.catalog import BOARDS
from systolith.sim.build import Model, build
from systolith.sim.netlist.convert import yosys_models, yosys_verilog

__all__ = ["library", "run_network", "simulated"]

HARNESS = Path(__file__).parent / "benches" / "one_clock_netlist.cpp"
BOOT_CYCLES = 3000


class Netlist:
    """The board as a device of bytes (`systolith.driver.simulate.ByteDevice`)."""

    def __init__(self, library, bit_cycles):
        self._library = ctypes.CDLL(str(library))
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        for name, result, arguments in (
                ("create", pointer, [ctypes.c_uint32]), ("destroy", None, [pointer]),
                ("broken", u64, [pointer]), ("step", u64, [pointer, u64, u64]),
                ("write", None, [pointer, ctypes.c_char_p, u64]),
                ("read", u64, [pointer, pointer, u64])):
            function = getattr(self._library, f"board_{name}")
            function.restype, function.argtypes = result, arguments
        self._board = ctypes.c_void_p(self._library.board_create(bit_cycles))
        weakref.finalize(self, self._library.board_destroy, self._board)
        self.cycle = 0
        self.step(BOOT_CYCLES)

    def link_write(self, data):
        self._library.board_write(self._board, bytes(data), len(data))

    def link_read(self, limit=65536):
        buffer = ctypes.create_string_buffer(limit)
        count = self._library.board_read(self._board, buffer, limit)
        return buffer.raw[:count]

    def step(self, cycles, *, until_bytes=0):
        passed = self._library.board_step(self._board, cycles, until_bytes)
        self.cycle += passed
        assert not self._library.board_broken(self._board), "a byte without a stop bit"
        return passed


def library(name, folder, around, own, change=lambda netlist: None):
    """The netlist of board `name`, made in `folder` by the first step of its build, and compiled.

    `around` is Verilog of the module `board` and of all cells `own`; the others are yosys'.
    `change` may change the netlist, as yosys' JSON, to what those cells have.
    """
    board = BOARDS[name]
    identity = board_build.identity(board, board.config)
    platform = board_build.write_design(board, board.config, identity, folder)
    flow.run_step(flow.steps(board, platform)[0], folder)
    netlist = json.loads((folder / "top.json").read_text())
    change(netlist)
    kinds = {cell["type"] for cell in netlist["modules"]["top"]["cells"].values()}
    models = yosys_models(board.family, sorted(kinds - {*own, "$scopeinfo"}))
    return build(Model(
        verilog=around + models + yosys_verilog(netlist), top="board", sources=(HARNESS,),
        shared=True, verilator_flags=("-O3", "--x-assign", "fast", "--x-initial", "fast",
                                      "--no-assert", "--no-timing"),
        defines=("-DVL_TIME_CONTEXT",)))


def simulated(name, compiled):
    """The simulated board `name`."""
    board = BOARDS[name]
    hertz = (board.config.clock_mhz * 1e6 if board.one_clock
             else board.platform().default_clk_frequency)
    return Netlist(compiled, round(hertz / board.baud))


def run_network(name, compiled, program, batch):
    """Results of a batch, which are the golden model's, and an inference's cycles."""
    config = BOARDS[name].config
    with systolith.open("golden", config=config) as golden:
        expected = golden.run(program, batch, dequantize=False)
    device = simulated(name, compiled)
    with driven(device, config) as machine:
        begun, cycle = time.monotonic(), device.cycle
        levels = machine.run(program, batch, dequantize=False, deadline=PATIENCE)
        cycles = machine.last_run.cycles
    print(f"\n{device.cycle - cycle:,} cycles in {time.monotonic() - begun:.0f} s, {cycles:,} of "
          f"them an inference")
    assert np.array_equal(levels, expected)
    return levels, cycles
