"""Runs designs side by side on random inputs: `benches/netlist_compare.cpp`."""

import ctypes
from pathlib import Path

import numpy as np

from systolith.sim.build import Model, build

_MAIN = Path(__file__).parent / "benches" / "netlist_compare.cpp"


def check_copies(verilog, outputs, seeds):
    """The module `compare` of `verilog` never says `wrong` in 20,000 cycles a seed, and every one
    of its `outputs` bits of `seen` is 1 at some time."""
    library = ctypes.CDLL(str(build(Model(
        verilog=verilog, top="compare", sources=(_MAIN,), shared=True,
        verilator_flags=("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing"),
        defines=("-DVL_TIME_CONTEXT",)))))
    library.compare_run.restype = ctypes.c_uint64
    seen, wrong = (np.zeros(-(-outputs // 32), np.uint32) for _ in range(2))
    for seed in seeds:
        cycles = library.compare_run(
            ctypes.c_uint64(seed), ctypes.c_uint64(20_000),
            seen.ctypes.data_as(ctypes.c_void_p), wrong.ctypes.data_as(ctypes.c_void_p))
        different = np.flatnonzero(np.unpackbits(wrong.view(np.uint8), bitorder="little"))
        assert cycles == 20_000, f"seed {seed}: bits {different} differ in cycle {cycles}"
        assert np.unpackbits(seen.view(np.uint8)).sum() == outputs, "outputs that were never 1"
