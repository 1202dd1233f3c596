"""The model of an SDR SDRAM chip, which checks every rule of the data sheet (`device/sdram.h`)."""

import ctypes
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from systolith.errors import DeviceError
from systolith.hw.sdram_chips import SdramChip

from .build import build_plain

__all__ = ["SdramModel", "SdramSettings", "settings_of"]

_SOURCE = Path(__file__).parent / "device" / "sdram.cpp"
_NANOSECONDS = ("tRCD", "tRP", "tRAS", "tRC", "tRFC", "tRRD", "tWR", "tREFI", "power_up")
_REFRESH_NS = 64e6
_PINS = ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq_oe", "dq")


class SdramSettings(ctypes.Structure):
    """What `device/sdram.h` wants to know of a chip and its clock."""

    _fields_ = [("clock_ns", ctypes.c_double), *((name, ctypes.c_double) for name in _NANOSECONDS),
                *((name, ctypes.c_uint32) for name in (
                    "tMRD", "cas_latency", "initial_refreshes", "data_bytes", "row_bits",
                    "column_bits", "refreshes", "delay"))]


class _Pins(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in _PINS]


def settings_of(chip: SdramChip, clock_hz: float, *, delay: int = 0) -> SdramSettings:
    """The model's settings for a chip at a clock; words arrive `delay` cycles late."""
    return SdramSettings(
        1e9 / clock_hz, *(getattr(chip, name) for name in _NANOSECONDS), chip.tMRD, chip.CL,
        chip.initial_refreshes, chip.data_bits // 8, chip.row_bits, chip.column_bits,
        round(_REFRESH_NS / chip.tREFI), delay)


class SdramModel:
    """One chip, a cycle at a time.

    Parameters
    ----------
    chip
        Geometry and timing.
    clock_hz
        Of its clock.
    delay
        Cycles by which words arrive late at the controller.

    Members: `memory`, its bytes by row, bank and column; `fault`, what went wrong first, or "".
    """

    def __init__(self, chip: SdramChip, clock_hz: float, *, delay: int = 0):
        library: Any = ctypes.CDLL(str(build_plain(_SOURCE)))
        pointer = ctypes.c_void_p
        for name, result, arguments in (
                ("create", pointer, [pointer]), ("destroy", None, [pointer]),
                ("memory", pointer, [pointer]), ("fault", ctypes.c_char_p, [pointer]),
                ("refreshes", ctypes.c_uint64, [pointer]),
                ("tick", ctypes.c_uint32, [pointer, pointer, pointer])):
            function = getattr(library, f"sdram_{name}")
            function.restype, function.argtypes = result, arguments
        self._library = library
        handle = library.sdram_create(ctypes.byref(settings_of(chip, clock_hz, delay=delay)))
        if not handle:
            raise DeviceError(f"no room for the {chip.size} bytes of {chip.name}: "
                              "simulate a smaller chip")
        self._handle = pointer(handle)
        self._finalizer = weakref.finalize(self, library.sdram_destroy, self._handle)
        address = library.sdram_memory(self._handle)
        self.memory = np.ctypeslib.as_array((ctypes.c_uint8 * chip.size).from_address(address))
        self._pins, self._word = _Pins(), ctypes.c_uint32()

    def tick(self, *pins: int) -> int | None:
        """One cycle with the pins CKE, CS#, RAS#, CAS#, WE#, BA, A, DQM, output enable and data of
        the controller. Returns the word that reaches the controller in the next cycle, if any."""
        self._pins.__init__(*pins)  # type: ignore[misc]
        arrives = self._library.sdram_tick(self._handle, ctypes.byref(self._pins),
                                           ctypes.byref(self._word))
        return self._word.value if arrives else None

    @property
    def fault(self) -> str:
        """The first broken rule, with its cycle, or nothing."""
        return self._library.sdram_fault(self._handle).decode()

    @property
    def refreshes(self) -> int:
        """AUTO REFRESH commands so far."""
        return self._library.sdram_refreshes(self._handle)
