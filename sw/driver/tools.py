"""What `systolith device DEV info|selftest|bench` does."""

import random
from pathlib import Path
from typing import Any

from systolith.errors import DeviceError, InputError
from systolith.hw.config import Config

from .device import Device
from .machine import LinkMachine, Machine
from .opening import open as open_device

__all__ = ["device_action", "info", "measure", "selftest"]

BENCH_BYTES = 64 << 10
ROUND_TRIPS = 200


def device_action(name: str, action: str, *, config: str | Path | Config | None = None,
                  **options: Any) -> dict[str, Any]:
    """Open a device, do `info`, `selftest` or `bench`, and return the result as plain values.

    `config` is what "golden" and "rtl" are made for; other devices say themselves what they are.
    Raises `InputError` for another action, and the device's errors.
    """
    actions = {"info": info, "selftest": selftest, "bench": measure}
    if action not in actions:
        raise InputError(f"no action '{action}': use info, selftest or bench")
    if name.startswith("dask:"):
        raise InputError(f"'{name}' is several devices: name one of them")
    built = name.split(":")[0] in ("golden", "rtl")
    with open_device(name, config=config if built else None, **options) as device:
        return actions[action](device)


def info(device: Device) -> dict[str, Any]:
    """What the device says about itself."""
    identity = device.identity
    return {
        "device": device.name,
        "protocol": identity.version,
        "config_hash": f"{identity.config_hash:016x}",
        "rows": identity.rows, "columns": identity.columns, "lanes": identity.lanes,
        "memory_bytes_per_beat": identity.beat_bytes,
        "memory_size": identity.memory_size,
        "timestamps": identity.timestamps,
        "clock_mhz": identity.clock_khz / 1000,
        "build": f"{identity.build:016x}",
    }


def selftest(device: Device) -> dict[str, Any]:
    """Write random data to pieces of all of main memory, and verify it by CRC and by reading.

    What was in memory is lost. Raises `DeviceError` naming the range that failed.
    """
    machine = device.machine
    source = random.Random(1)
    size = machine.identity.memory_size
    piece = min(4096, size // 16)
    # The same distance apart as address lines would fold them, and both ends.
    places = sorted({0, size - piece, *(1 << bit for bit in range(12, size.bit_length() - 1)
                                        if (1 << bit) + piece <= size)})
    written = {}
    for place in places:
        written[place] = source.randbytes(piece)
        machine.write(place, written[place])
    expected = bytearray()
    for place, data in written.items():
        # Pieces that overlap were overwritten by the later one.
        expected[:] = data
        for other, more in written.items():
            if place < other < place + piece:
                expected[other - place:] = more[:place + piece - other]
        machine.verify(place, bytes(expected))
        if machine.read(place, piece) != bytes(expected):
            raise DeviceError(f"{device.name} reads other bytes than it holds at {place:#x}: check "
                              "the link and the board's memory")
    for place in places:
        machine.fill(place, piece)
    return {"device": device.name, "memory_tested": len(places) * piece, "errors": 0}


def measure(device: Device) -> dict[str, Any]:
    """Bytes a second in both directions, round trips a second, and repetitions.

    What was in memory is lost.
    """
    machine = device.machine
    nbytes = min(BENCH_BYTES, machine.identity.memory_size)
    data = random.Random(2).randbytes(nbytes)
    begun = machine.now()
    machine.write(0, data)
    written = machine.now()
    machine.read(0, nbytes)
    read = machine.now()
    for _ in range(ROUND_TRIPS):
        machine.crc(0, 1)
    end = machine.now()
    machine.fill(0, nbytes)
    return {
        "device": device.name,
        "write_bytes_per_second": _rate(nbytes, written - begun),
        "read_bytes_per_second": _rate(nbytes, read - written),
        "round_trips_per_second": _rate(ROUND_TRIPS, end - read),
        "repetitions": _repetitions(machine),
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-9), 1)


def _repetitions(machine: Machine) -> int:
    return machine.link.statistics.repetitions if isinstance(machine, LinkMachine) else 0
