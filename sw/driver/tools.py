"""What `systolith device DEV info|selftest|bench` does."""

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from systolith.errors import DeviceError, InputError
from systolith.hw.config import PRESETS, Config, load_config
from systolith.sim.golden import Golden
from systolith.sim.programs import random_program

from .device import Device
from .machine import LinkMachine, Machine
from .opening import open as open_device

__all__ = ["device_action", "info", "measure", "selftest"]

BENCH_BYTES = 64 << 10
ROUND_TRIPS = 200

PROGRAMS = 4
PROGRAM_BYTES = 24 << 10
"""Random programs of a self test, and the main memory that each may use."""


def device_action(name: str, action: str, *, config: str | Path | Config | None = None,
                  **options: Any) -> dict[str, Any]:
    """Open a device, do `info`, `selftest` or `bench`, and return the result as plain values.

    `config` is what "golden" and "rtl" are made for; other devices say themselves what they are,
    and `selftest` compares that with `config` and the presets. Raises `InputError` for another
    action, and the device's errors.
    """
    chosen = None if config is None else load_config(config)
    actions: dict[str, Callable[[Device], dict[str, Any]]] = {
        "info": info, "selftest": lambda device: selftest(device, chosen), "bench": measure}
    if action not in actions:
        raise InputError(f"no action '{action}': use info, selftest or bench")
    if name.startswith("dask:"):
        raise InputError(f"'{name}' is several devices: name one of them")
    built = name.split(":")[0] in ("golden", "rtl")
    with open_device(name, config=chosen if built else None, **options) as device:
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


def selftest(device: Device, config: Config | None = None) -> dict[str, Any]:
    """Test main memory, then the core with programs whose results are known.

    The programs are random ones for the device's configuration, which is `config` or a preset, and
    the golden model knows their results; for another configuration only memory is tested, and
    `programs` is 0. What was in memory is lost. Raises `DeviceError` naming what is wrong.
    """
    tested = _test_memory(device)
    known = [other for other in (config, *PRESETS.values()) if other is not None
             and other.hash == f"{device.identity.config_hash:016x}"]
    programs = PROGRAMS if known else 0
    for seed in range(programs):
        _test_program(device, known[0], seed)
    return {"device": device.name, "memory_tested": tested, "programs": programs, "errors": 0}


def _test_memory(device: Device) -> int:
    """Write random data to pieces of all of main memory, and verify it by CRC and by reading.

    Returns the bytes tested.
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
    return len(places) * piece


def _test_program(device: Device, config: Config, seed: int) -> None:
    """Run a random program on the device and on the golden model, and compare main memory."""
    machine = device.machine
    size = min(PROGRAM_BYTES, config.memory_size)
    program = random_program(config, seed, memory_bytes=size)
    wanted = bytearray(config.memory_size)
    wanted[:len(program.image)] = program.image
    machine.write(0, program.image)
    machine.fill(len(program.image), size - len(program.image))
    machine.run(0, deadline=60.0).check(device.name)
    outcome = Golden(config).run(wanted)
    assert not outcome.error, outcome
    if machine.crc(0, size) == zlib.crc32(wanted[:size]):
        return
    got = machine.read(0, size)
    wrong = [place for place in range(size) if got[place] != wanted[place]]
    if not wrong:
        raise DeviceError(f"{device.name} reads other bytes than it holds below {size:#x}: check "
                          "the link and the board's memory")
    raise DeviceError(
        f"{device.name} computed {len(wrong)} wrong bytes in test program {seed}, the first "
        f"{got[wrong[0]]} instead of {wanted[wrong[0]]} at {wrong[0]:#x}: check the board's clock, "
        "power and memory, and that its bitstream met its timing")


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
