"""Boards' netlists run a digits model behind their serial line, driven over a pseudo-terminal.

The netlist is the one that placement would get. `pytest -m slow -k netlist -s` prints the figures.
"""

import time

import numpy as np
import pytest

import systolith
from netlist_driving import PATIENCE, driven, run_random_programs
from systolith.boards import build as board_build
from systolith.boards import flow
from systolith.boards.catalog import BOARDS
from systolith.hw.config import PRESETS
from systolith.models import digits
from systolith.sim.netlist.board import NetlistDevice, netlist_of
from trained_digits import trained_digits


def synthesized(board, config, folder):
    """The netlist of a board, by the first steps of its build."""
    platform = board_build.write_design(board, config, board_build.identity(board, config), folder)
    flow.synthesize(board.family, flow.steps(board, platform, board.placement(config))[0], folder)
    return netlist_of(board, folder / "top.json")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ("ulx3s-12f", "ulx3s-85f", "tang-nano-20k"))
def test_the_netlist_runs_a_digits_model(preset, tmp_path):
    """The demo's network on an image of each digit."""
    board, config = BOARDS[preset], PRESETS[preset]
    program, data, _ = trained_digits(preset, digits.Digits)
    images = data.test_images[[np.flatnonzero(data.test_labels == digit)[0]
                               for digit in range(10)]]
    with systolith.open("golden", config=config) as golden:
        expected = golden.run(program, images, dequantize=False)

    begun = time.monotonic()
    netlist = synthesized(board, config, tmp_path)
    synthesis = time.monotonic() - begun
    with NetlistDevice(netlist, board, config) as device:
        compiling = time.monotonic() - begun - synthesis
        begun, cycle = time.monotonic(), device.cycle
        with driven(device, config) as opened:
            levels = opened.run(program, images, dequantize=False, deadline=PATIENCE)
            last = opened.last_run
        seconds, cycles = time.monotonic() - begun, device.cycle - cycle
    print(f"\n{preset}, {config.rows}x{config.columns}: synthesis {synthesis:.0f} s, compiled in "
          f"{compiling:.0f} s, {cycles:,} cycles in {seconds:.0f} s "
          f"({cycles / seconds:,.0f} a second), {last.cycles:,} cycles an image, "
          f"{len(program.image):,} bytes of program at {board.baud:,} baud, "
          f"{np.count_nonzero(levels != expected)} of {levels.size} values differ")
    assert np.array_equal(levels, expected)
    assert len(set(levels.argmax(axis=1))) > 5


@pytest.mark.slow
def test_a_gowin_netlist_runs_random_programs(tmp_path):
    board = BOARDS["tang-nano-20k"]
    with NetlistDevice(synthesized(board, board.config, tmp_path), board, board.config) as device:
        run_random_programs(device, board.config, (90, 91))
