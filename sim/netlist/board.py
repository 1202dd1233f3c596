"""A board's netlist, verilated, with its oscillator, serial line and SDRAM chip, as a byte device.

Everything passes the pins: bytes come and go at the board's baud rate, the chip sees the commands
that the pads drive, at the phase of its clock that the PLL makes. What is simulated is the netlist
before placement, which takes no time.
"""

import ctypes
import re
import weakref
from pathlib import Path
from typing import Any, Protocol

from systolith.boards.board import Board
from systolith.errors import BuildError, DeviceError, LinkError, MissingExtraError
from systolith.hw.config import Config
from systolith.sim.build import Model, build
from systolith.sim.sdram import SdramSettings, settings_of

from .clocks import PllClocks
from .convert import read_design, read_netlist
from .gowin import GowinNetlist

__all__ = ["PAD_NS", "BoardNetlist", "NetlistDevice", "build_netlist", "netlist_of"]

PAD_NS = 5.0
"""What pads and wires take on the way to the SDRAM chip and back, by default: a plausible figure,
not a measured one."""

_HARNESS = Path(__file__).parents[1] / "device" / "netlist.cpp"
_PINS = {
    "oscillator": r"clk\d+_0__io", "rx": "uart_0__rx__io", "tx": "uart_0__tx__io",
    "sdram_clk": "sdram_0__clk__io", "cke": "sdram_0__clk_en__io", "cs_n": "sdram_0__cs__io",
    "ras_n": "sdram_0__ras__io", "cas_n": "sdram_0__cas__io", "we_n": "sdram_0__we__io",
    "ba": "sdram_0__ba__io", "a": "sdram_0__a__io", "dqm": "sdram_0__dqm__io",
    "dq": "sdram_0__dq__io"}
"""The harness' names, and those of the platform's resources."""

_LOCK = """reg [7:0] cycles = 0;
wire pll_locked = cycles == 200;
always @(posedge oscillator) if (!pll_locked) cycles <= cycles + 1;
"""
"""When a PLL says that it is locked: some time after the oscillator began."""

_BOOT_SECONDS = 0.5e-3
"""More than the PLL's lock, the chip's power-up, and the resets take together."""

_CYCLES_PER_CALL = 2_000


class _Options(ctypes.Structure):
    _fields_ = [("chip", SdramSettings), ("memory_size", ctypes.c_uint64),
                *((name, ctypes.c_uint32) for name in ("oscillator_half", "core_half", "turned")),
                *((name, ctypes.c_double) for name in ("unit_ns", "baud", "access_ns", "hold_ns",
                                                       "trip_ns"))]


class BoardNetlist(Protocol):
    """A board's netlist: its ports, the Verilog of its cells and its own, and its PLL's clocks."""

    ports: dict[str, Any]

    def models(self) -> str: ...
    def verilog(self) -> str: ...
    def clocks(self) -> PllClocks: ...


def netlist_of(board: Board, path: Path) -> BoardNetlist:
    """The netlist of a board in yosys' JSON file. Raises `BuildError` when it cannot be read or
    simulated."""
    return GowinNetlist(read_design(path)) if board.family == "gowin" else read_netlist(path)


def build_netlist(netlist: BoardNetlist) -> Path:
    """Compile a board's netlist into a shared library, or find it compiled.

    Raises `BuildError` when it has other pins than a board with a serial line and an SDRAM chip.
    """
    return build(Model(
        verilog=netlist.models() + netlist.verilog() + _board(netlist), top="board",
        sources=(_HARNESS,), shared=True,
        verilator_flags=("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert",
                         "--no-timing", "--pins-inout-enables"),
        defines=("-DVL_TIME_CONTEXT",)))


def _board(netlist: BoardNetlist) -> str:
    """Module `board`: the netlist under the harness' names, and the clocks that its PLL gives."""
    found = {}
    for name, pattern in _PINS.items():
        matching = [port for port in netlist.ports if re.fullmatch(pattern, port)]
        if len(matching) != 1:
            raise BuildError(f"the netlist has no pins for {name} ({pattern}): only boards with a "
                             "serial line and an SDRAM chip are simulated")
        found[matching[0]] = name
    unknown = sorted(set(netlist.ports) - set(found))
    if unknown:
        raise BuildError(f"the netlist has pins {', '.join(unknown)}, which the simulation leaves "
                         "alone: only a serial line and an SDRAM chip are simulated")
    ports = ", ".join(f"{netlist.ports[port]['direction']} "
                      f"[{len(netlist.ports[port]['bits']) - 1}:0] {name}"
                      for port, name in found.items())
    wired = ", ".join(f".{port}({name})" for port, name in found.items())
    return (f"module board(input pll_clock, turned_clock, {ports});\n{_LOCK}"
            f"top netlist({wired});\nendmodule\n")


class NetlistDevice:
    """One board in simulation, behind its serial line.

    Parameters
    ----------
    netlist
        Of a board with a serial line and an SDRAM chip.
    board
        Which one it is: its oscillator, baud rate and chip.
    config
        Of the core in it.
    pad_ns
        See `PAD_NS`.

    Raises `BuildError` when the netlist cannot be simulated, or its PLL makes another clock, and
    `MissingExtraError` without the packages that describe boards.
    """

    def __init__(self, netlist: BoardNetlist, board: Board, config: Config, *,
                 pad_ns: float = PAD_NS):
        chip = board.memory_chip(config)
        if chip is None:
            raise BuildError(f"this {board.name} has no SDRAM for main memory: only boards with it "
                             "are simulated as a netlist")
        try:
            oscillator_hz = float(board.platform().default_clk_frequency)
        except ImportError as error:
            raise MissingExtraError(f"simulating a board's netlist needs {error.name}: pip install "
                                    "'systolith[hw]'") from None
        clocks = netlist.clocks()
        ratio = clocks.ratio
        clock_hz = oscillator_hz * float(ratio)
        if abs(clock_hz / (config.clock_mhz * 1e6) - 1) > 0.005:
            raise BuildError(f"the netlist's PLL makes {clock_hz / 1e6:g} MHz instead of the "
                             f"configuration's {config.clock_mhz:g}: build it again")
        self._library = _load(build_netlist(netlist))
        parts = (2 * ratio.denominator * clocks.turned).denominator  # whole units of time
        options = _Options(
            settings_of(chip, clock_hz), chip.size, ratio.numerator * parts,
            ratio.denominator * parts, int(2 * ratio.denominator * parts * clocks.turned),
            0.5e9 / oscillator_hz / (ratio.numerator * parts), board.baud, chip.tAC, chip.tOH,
            pad_ns)
        handle = self._library.netlist_create(ctypes.byref(options))
        if not handle:
            raise DeviceError(f"no room for the {chip.size} bytes of the simulated {chip.name}: "
                              "free some memory")
        self._handle = ctypes.c_void_p(handle)
        self._finalizer = weakref.finalize(self, self._library.netlist_destroy, self._handle)
        self.step(round(_BOOT_SECONDS * clock_hz))

    def close(self) -> None:
        """Give memory back. Closing twice is harmless."""
        self._finalizer()

    def __enter__(self) -> "NetlistDevice":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _board(self) -> ctypes.c_void_p:
        if not self._finalizer.alive:
            raise LinkError("the simulated board is closed: open it again")
        return self._handle

    @property
    def cycle(self) -> int:
        """Cycles of the core since power came."""
        return int(self._library.netlist_cycle(self._board))

    def link_write(self, data: bytes) -> None:
        """Queue bytes for the serial line; they move as cycles pass."""
        self._library.netlist_write(self._board, bytes(data), len(data))

    def link_read(self, limit: int = 65536) -> bytes:
        """Take at most `limit` of the bytes that the board has sent."""
        buffer = ctypes.create_string_buffer(max(limit, 1))
        count = self._library.netlist_read(self._board, buffer, limit)
        return buffer.raw[:count]

    def step(self, cycles: int, *, until_bytes: int = 0) -> int:
        """Let at most that many cycles of the core pass, or until so many bytes can be read.

        Returns how many did. Raises `DeviceError` when the board does to its SDRAM what the chip's
        data sheet does not allow, or breaks the rules of the serial line.
        """
        total = 0
        while True:
            # Not in one call, or an interrupt from the keyboard would wait for its end.
            wanted = min(cycles - total, _CYCLES_PER_CALL)
            passed = self._library.netlist_step(self._board, wanted, until_bytes)
            total += passed
            if passed < wanted or total == cycles:
                break
        fault = self._library.netlist_fault(self._board).decode()
        if fault:
            raise DeviceError(f"the simulated board {fault}, in cycle {self.cycle}: report this as "
                              "a bug")
        return total


def _load(path: Path) -> Any:
    """Load the library and declare its functions."""
    library: Any = ctypes.CDLL(str(path))
    board, u64, pointer = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p
    for name, result, arguments in (
            ("create", board, [pointer]), ("destroy", None, [board]),
            ("fault", ctypes.c_char_p, [board]), ("cycle", u64, [board]),
            ("step", u64, [board, u64, u64]), ("write", None, [board, ctypes.c_char_p, u64]),
            ("read", u64, [board, pointer, u64])):
        function = getattr(library, f"netlist_{name}")
        function.restype, function.argtypes = result, arguments
    return library
