"""The SoC's RTL, verilated, as a device: steps of many cycles, main memory and byte link inside.

The library is built once for each configuration and version of the sources (`systolith.sim.build`).
Everything is deterministic: the same calls give the same cycles.
"""

import ctypes
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from systolith.errors import DeviceError, InputError, LinkError
from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, Queue
from systolith.hw.protocol import Counter
from systolith.hw.sdram_chips import SDRAM_CHIPS, SDRAM_READ_DELAY

from .build import Model, build, require, verilog_of, verilog_of_config, waveform_format
from .sdram import SdramSettings, settings_of

__all__ = ["RunResult", "VerilatedDevice", "build_library", "default_latency", "has_sdram"]

_HARNESS = Path(__file__).parent / "device" / "device.cpp"
_IDLE, _BYTES = 1, 2
_CYCLES_PER_CALL = 200_000


class _Memory(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint64), ("latency", ctypes.c_uint32),
                ("bytes_per_cycle", ctypes.c_uint32)]


class _Chip(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint64), ("settings", SdramSettings)]


def _options(memory: ctypes.Structure, *values: int) -> ctypes.Structure:
    """What a device is created with, whose memory is of either kind."""
    class Options(ctypes.Structure):
        _fields_ = [("memory", type(memory)), ("link_cycles_per_byte", ctypes.c_uint32),
                    ("stall_per_mille", ctypes.c_uint32), ("seed", ctypes.c_uint64)]

    return Options(memory, *values)


class _Status(ctypes.Structure):
    _fields_ = [("cycle", ctypes.c_uint64), ("busy", ctypes.c_uint32), ("error", ctypes.c_uint32),
                ("error_queue", ctypes.c_uint32), ("error_address", ctypes.c_uint32)]


def default_latency(config: Config) -> int:
    """Cycles from a request to its first beat of a plain simulated memory, unless it is given: few
    for a sequential core, whose memory is on the chip (`hw/sequential/spram.py`)."""
    return 2 if config.sequential else 50


def has_sdram(config: Config, memory_latency: int | None,
              memory_bytes_per_cycle: int | None) -> bool:
    """Whether a device with these options has its configuration's SDRAM as main memory."""
    return bool(config.sdram) and memory_latency is None and memory_bytes_per_cycle is None


class RunResult:
    """How a run ended.

    Members: `finished` (False: the cycle limit came first), `error` (`ErrorCode`), `error_queue`
    (`Queue`), `error_address` (byte address of the instruction), `cycles` (clock cycles since the
    start was accepted).
    """

    def __init__(self, finished: bool, status: _Status, cycles: int):
        self.finished = finished
        self.error = ErrorCode(status.error)
        self.error_queue = Queue(status.error_queue) if self.error else None
        self.error_address = status.error_address if self.error else None
        self.cycles = cycles

    def __repr__(self) -> str:
        return (f"RunResult(finished={self.finished}, error={self.error.name}, "
                f"error_queue={self.error_queue}, error_address={self.error_address}, "
                f"cycles={self.cycles})")


def build_library(config: Config, *, trace: bool = False, component: Any = None,
                  sdram: bool = False) -> Path:
    """Build the shared library of `SoC(config, direct=True)`, or of a component with its ports.

    With `sdram` it is `SdramSoC(config)`: the controller belongs to it, and the chip is outside.

    Raises `BuildError` and `MissingExtraError`.
    """
    if component is None:
        require("amaranth")
        from systolith.hw.sdram_soc import SdramSoC
        from systolith.hw.soc import SoC

        verilog = verilog_of_config(
            "SoC with SDRAM" if sdram else "SoC direct", config,
            lambda: SdramSoC(config) if sdram else SoC(config, direct=True))
    else:
        verilog = verilog_of(component)
    counters = re.search(r"output \[(\d+):0\] counters;", verilog)
    assert counters, "the component has no output named counters"
    count = (int(counters[1]) + 1) // 32
    retired = [int(counter) for counter in Counter if counter.name.endswith("_RETIRED")
               and counter < count]
    return build(Model(
        verilog=verilog + _registered_inputs(verilog), top="registered", sources=(_HARNESS,),
        shared=True, trace=trace,
        verilator_flags=("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert",
                         "--no-timing"),
        defines=("-DVL_TIME_CONTEXT", f"-DBEAT={config.memory_bytes_per_beat}",
                 f"-DSDRAM={int(sdram)}", f"-DCOUNTERS={count}",
                 f"-DRETIRED={''.join(f'{index},' for index in retired)}")))


def _registered_inputs(verilog: str) -> str:
    """A module `registered` around module `top`, with a register on every input.

    Verilator evaluates all logic that an input can reach at every call, twice a cycle, and behind a
    stream that is nearly all there is. Behind registers it is evaluated once a cycle. The harness
    sets the inputs of a cycle before the clock edge at which that cycle begins.
    """
    top = verilog[verilog.index("module top("):]
    ports = re.findall(r"^  (input|output) (\[\d+:0\] )?(\w+);$",
                       top[:top.index("endmodule")], re.M)
    inputs = [(width, name) for kind, width, name in ports if kind == "input" and name != "clk"]
    return "\n".join((
        "module registered(",
        ",\n".join(f"  {kind} {width}{name}" for kind, width, name in ports),
        ");",
        *(f"  reg {width}{name}_now;" for width, name in inputs),
        "  always_ff @(posedge clk) begin",
        *(f"    {name}_now <= {name};" for _, name in inputs),
        "  end",
        "  top soc (.clk(clk),",
        ",\n".join([*(f"    .{name}({name}_now)" for _, name in inputs),
                    *(f"    .{name}({name})" for kind, _, name in ports if kind == "output")]),
        "  );",
        "endmodule", ""))


class VerilatedDevice:
    """One SoC in simulation.

    Parameters
    ----------
    config
        What to build.
    memory_latency
        Cycles from an accepted read request to its first beat, at least 1 and by default
        `default_latency`.
    memory_bytes_per_cycle
        Bytes main memory moves a cycle, reads and writes together; at most (and by default) the
        port's width. A configuration with an SDRAM chip has that chip and its controller as main
        memory, unless one of these two is given.
    link_cycles_per_byte
        Cycles between two bytes on the link, in either direction.
    stall_per_mille, seed
        Share of the cycles, in thousandths, in which memory and link stall at random.
    waveform
        File to write a waveform to, in the format `systolith.sim.build.waveform_format` names;
        needs a build of its own and is slow.
    component
        SoC to simulate instead of `SoC(config, direct=True)` or `SdramSoC(config)`.

    Raises `BuildError` and `MissingExtraError` from the build.
    """

    def __init__(self, config: Config, *, memory_latency: int | None = None,
                 memory_bytes_per_cycle: int | None = None, link_cycles_per_byte: int = 1,
                 stall_per_mille: int = 0, seed: int = 1, waveform: Path | str | None = None,
                 component: Any = None):
        memory = (self._chip(config)
                  if has_sdram(config, memory_latency, memory_bytes_per_cycle)
                  else self._memory(config, memory_latency, memory_bytes_per_cycle))
        if link_cycles_per_byte < 1:
            raise InputError(f"link_cycles_per_byte must be 1 or more, not {link_cycles_per_byte}")
        if not 0 <= stall_per_mille < 1000:
            raise InputError(f"stall_per_mille must be between 0 and 999, not {stall_per_mille}")
        self.config = config
        self._library = _load(build_library(config, trace=waveform is not None,
                                            component=component,
                                            sdram=isinstance(memory, _Chip)))
        options = _options(memory, link_cycles_per_byte, stall_per_mille, seed)
        handle = self._library.device_create(ctypes.byref(options))
        if not handle:
            raise DeviceError(f"no room for the {config.memory_size} bytes of main memory of the "
                              "simulated device: choose a smaller memory_size")
        self._handle = ctypes.c_void_p(handle)
        self._finalizer = weakref.finalize(self, self._library.device_destroy, self._handle)
        if waveform is not None and not self._library.device_trace(
                self._handle, str(waveform).encode()):
            raise InputError(f"the waveform {waveform} cannot be written: check the folder; the "
                             f"format is {waveform_format()}")

    @staticmethod
    def _memory(config: Config, latency: int | None, bytes_per_cycle: int | None) -> _Memory:
        """A plain memory on the port."""
        beat = config.memory_bytes_per_beat
        latency = default_latency(config) if latency is None else latency
        rate = beat if bytes_per_cycle is None else bytes_per_cycle
        if not 1 <= rate <= beat:
            raise InputError(f"memory_bytes_per_cycle must be between 1 and {beat}, the width of "
                             f"this configuration's memory port, not {rate}")
        if not 1 <= latency <= 100_000:
            raise InputError(f"memory_latency must be between 1 and 100000 cycles, not {latency}")
        return _Memory(config.memory_size, latency, rate)

    @staticmethod
    def _chip(config: Config) -> _Chip:
        """The configuration's SDRAM chip at the core's clock."""
        chip = SDRAM_CHIPS[config.sdram]
        return _Chip(chip.size, settings_of(chip, config.clock_mhz * 1e6,
                                            delay=SDRAM_READ_DELAY))

    # Life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give memory back and finish the waveform. Closing twice is harmless."""
        self._finalizer()

    def __enter__(self) -> "VerilatedDevice":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _device(self) -> ctypes.c_void_p:
        if not self._finalizer.alive:
            raise LinkError("the simulated device is closed: open it again")
        return self._handle

    def reset(self) -> None:
        """Reset the SoC. Main memory keeps its contents; bytes on the link are lost."""
        self._library.device_reset(self._device)

    # Link ---------------------------------------------------------------------------------------

    def link_write(self, data: bytes) -> None:
        """Queue bytes toward the device; they move as cycles pass."""
        self._library.device_link_write(self._device, bytes(data), len(data))

    def link_read(self, limit: int = 65536) -> bytes:
        """Take at most `limit` of the bytes that the device has sent."""
        buffer = ctypes.create_string_buffer(max(limit, 1))
        count = self._library.device_link_read(self._device, buffer, limit)
        return buffer.raw[:count]

    @property
    def link_unsent(self) -> int:
        """Bytes written that the device has not taken yet."""
        return self._library.device_link_unsent(self._device)

    # Time ---------------------------------------------------------------------------------------

    def step(self, cycles: int, *, until_bytes: int = 0, until_idle: bool = False) -> int:
        """Let at most `cycles` pass. Returns how many did.

        Stops early when `until_bytes` (if not 0) bytes wait to be read, or when the core is idle
        (`until_idle`). Raises `DeviceError` when the SoC accesses main memory in a way its port,
        or the SDRAM chip, does not allow, which is a fault of the gateware.
        """
        stop = (_IDLE if until_idle else 0) | (_BYTES if until_bytes else 0)
        total = 0
        while True:
            # Not in one call, or an interrupt from the keyboard would wait for its end.
            wanted = min(cycles - total, _CYCLES_PER_CALL)
            passed = self._library.device_step(self._device, wanted, stop, until_bytes)
            total += passed
            if passed < wanted or total == cycles:
                break
        fault = self._library.device_fault(self._device).decode()
        if fault:
            raise DeviceError(f"the simulated SoC {fault}, in cycle {self.cycle}: report this as "
                              "a bug")
        return total

    @property
    def cycle(self) -> int:
        """Cycles since the device was made."""
        return self.status.cycle

    # Main memory --------------------------------------------------------------------------------

    def memory_read(self, address: int, size: int) -> bytes:
        """Bytes of main memory, without the SoC's knowledge. Raises `InputError` out of range."""
        self._check(address, size)
        return ctypes.string_at(self._library.device_memory(self._device) + address, size)

    def memory_write(self, address: int, data: bytes) -> None:
        """Put bytes into main memory, without the SoC's knowledge."""
        data = bytes(data)
        self._check(address, len(data))
        ctypes.memmove(self._library.device_memory(self._device) + address, data, len(data))

    def _check(self, address: int, size: int) -> None:
        if not 0 <= address <= address + size <= self.config.memory_size:
            raise InputError(f"{size} bytes at address {address:#x} are not inside the main memory "
                             f"of {self.config.memory_size} bytes")

    # Runs without the link ----------------------------------------------------------------------

    def start(self, base: int) -> None:
        """Begin the run whose descriptor lies at `base`. Raises `DeviceError` when busy."""
        if not self._library.device_start(self._device, base, 100_000):
            raise DeviceError("the simulated core did not accept a start: wait for the run in "
                              "progress, or cancel it")

    def run(self, base: int, max_cycles: int = 1 << 62) -> RunResult:
        """Start, and step until the core is idle or `max_cycles` have passed."""
        self.start(base)
        cycles = self.step(max_cycles, until_idle=True)
        status = self.status
        return RunResult(not status.busy, status, cycles)

    def cancel(self) -> None:
        """Stop the run in progress."""
        self._library.device_cancel(self._device)

    def set_watchdog(self, cycles: int) -> None:
        """Cycles without a retired instruction after which a run is stopped; 0 leaves that to the
        link's watchdog."""
        self._library.device_watchdog(self._device, cycles)

    @property
    def status(self) -> _Status:
        """The core's status: `cycle`, `busy`, `error`, `error_queue`, `error_address`."""
        status = _Status()
        self._library.device_status(self._device, ctypes.byref(status))
        return status

    # Counters -----------------------------------------------------------------------------------

    @property
    def counters(self) -> np.ndarray:
        """The core's counters now, uint32, indexed by `systolith.hw.ports.Counter`."""
        values = np.zeros(self._library.counters, np.uint32)
        self._library.device_counters(self._device, values.ctypes.data_as(ctypes.c_void_p))
        return values

    @property
    def marks(self) -> np.ndarray:
        """One record an entry of the timestamp log (and beyond the log's end): `cycle` in which it
        was written, and all `counters` in that cycle. The log itself starts anew with every run;
        these records stay until `clear_marks`."""
        return self._records(self._library.device_marks)

    def _records(self, function: Any) -> np.ndarray:
        layout = np.dtype([("cycle", "<u8"), ("counters", "<u4", (self._library.counters,))],
                          align=True)
        pointer = ctypes.c_void_p()
        count = function(self._device, ctypes.byref(pointer))
        if not count:
            return np.zeros(0, layout)
        assert pointer.value is not None
        return np.frombuffer(ctypes.string_at(pointer.value, count * layout.itemsize), layout)

    def log_retirements(self, on: bool = True) -> None:
        """Forget the retirements recorded so far, and record them from now on, or no more."""
        self._library.device_log(self._device, on)

    @property
    def retirements(self) -> np.ndarray:
        """While `log_retirements` is on: a record like those of `marks` for every cycle in which
        an instruction retired. The counters of retired instructions tell of which queue."""
        return self._records(self._library.device_retirements)

    def clear_marks(self) -> None:
        """Forget the marks recorded so far."""
        self._library.device_clear_marks(self._device)


def _load(path: Path) -> Any:
    """Load the library and declare its functions."""
    library: Any = ctypes.CDLL(str(path))
    device, u32, u64, pointer = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    for name, result, arguments in (
            ("create", device, [pointer]), ("destroy", None, [device]), ("reset", None, [device]),
            ("memory", pointer, [device]), ("fault", ctypes.c_char_p, [device]),
            ("step", u64, [device, u64, u32, u64]),
            ("start", u32, [device, u32, u64]), ("cancel", None, [device]),
            ("watchdog", None, [device, u32]), ("status", None, [device, pointer]),
            ("counters", None, [device, pointer]),
            ("link_write", None, [device, ctypes.c_char_p, u64]),
            ("link_read", u64, [device, pointer, u64]), ("link_unsent", u64, [device]),
            ("marks", u64, [device, pointer]), ("clear_marks", None, [device]),
            ("log", None, [device, u32]), ("retirements", u64, [device, pointer]),
            ("trace", u32, [device, ctypes.c_char_p]), ("counter_count", u32, [])):
        function = getattr(library, f"device_{name}")
        function.restype, function.argtypes = result, arguments
    library.counters = library.device_counter_count()
    return library
