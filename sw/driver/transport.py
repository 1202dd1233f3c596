"""Ways for bytes to reach a device: serial ports, pseudo-terminals, TCP, and an in-process link.

Nothing above this file knows which one it has.
"""

import os
import socket
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Protocol

import serial
from serial.tools import list_ports

from systolith.errors import LinkError

__all__ = ["ByteDevice", "SerialTransport", "SimTransport", "TcpTransport", "Transport",
           "find_port"]

WRITE_DEADLINE = 2.0
"""Seconds that a write may block before the link counts as dead."""


class Transport(ABC):
    """A pipe of bytes in both directions, with a clock.

    `name` says in messages what it is. All methods raise `LinkError` when the other end is gone.
    """

    name: str

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send all of `data`, within `WRITE_DEADLINE`."""

    @abstractmethod
    def read(self, timeout: float) -> bytes:
        """What has arrived; waits up to `timeout` seconds for the first byte, b"" if none came."""

    @abstractmethod
    def close(self) -> None:
        """Give the pipe back. May be called twice."""

    def now(self) -> float:
        """Seconds on the clock that timeouts are counted on."""
        return time.monotonic()


def find_port(name: str) -> tuple[str, str | None]:
    """A serial port's path and USB serial number, from either of the two.

    Raises `LinkError`, naming the ports there are, when `name` is neither.
    """
    ports = list(list_ports.comports())
    for port in ports:
        if name in (port.device, port.serial_number):
            return port.device, port.serial_number
    if "/" in name or name.upper().startswith("COM"):
        return name, None
    there = ", ".join(f"{port.device} ({port.serial_number or port.description})"
                      for port in ports) or "none"
    raise LinkError(f"no serial port '{name}': give a path or a USB serial number; ports here: "
                    f"{there}")


class SerialTransport(Transport):
    """A serial port or pseudo-terminal.

    FTDI bridges hold received bytes back for 16 ms by default; where the system allows, this is
    set to 1 ms.
    """

    def __init__(self, path: str, baud: int = 3_000_000):
        self.name = path
        try:
            self._port = serial.Serial(path, baud, timeout=0, write_timeout=WRITE_DEADLINE,
                                       exclusive=True)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise LinkError(f"cannot open {path}: {_reason(error)}: check that the device is "
                            "plugged in, that you may use the port, and that no other program "
                            "has it open") from None
        # What is no FTDI bridge, or not allowed, is slower, not wrong.
        with suppress(AttributeError, OSError, ValueError, NotImplementedError):
            self._port.set_low_latency_mode(True)
        self._discard()

    def _discard(self) -> None:
        try:
            self._port.reset_input_buffer()
        except OSError as error:
            raise self._lost(error) from None

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (OSError, TypeError) as error:
            raise self._lost(error) from None

    def read(self, timeout: float) -> bytes:
        try:
            self._port.timeout = max(0.0, timeout)
            first = self._port.read(1)
            return bytes(first + self._port.read(self._port.in_waiting) if first else first)
        except (OSError, TypeError) as error:
            raise self._lost(error) from None

    def close(self) -> None:
        with suppress(OSError):  # an unplugged port cannot be closed in order
            self._port.close()

    def _lost(self, error: Exception) -> LinkError:
        return LinkError(f"lost the connection to {self.name} ({_reason(error)}): plug the "
                         "device in and open it again")


class TcpTransport(Transport):
    """A TCP connection, for example to `systolith simulate --tcp`."""

    def __init__(self, host: str, port: int):
        self.name = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=5.0)
        except OSError as error:
            raise LinkError(f"cannot connect to {self.name}: {_reason(error)}: check the address "
                            "and that a device is served there") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(WRITE_DEADLINE)
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def read(self, timeout: float) -> bytes:
        try:
            self._socket.settimeout(max(timeout, 1e-4))
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return b""
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._lost(ConnectionError("closed by the other end"))
        return data

    def close(self) -> None:
        self._socket.close()

    def _lost(self, error: Exception) -> LinkError:
        return LinkError(f"lost the connection to {self.name} ({_reason(error)}): check that the "
                         "device is still served there and open it again")


class ByteDevice(Protocol):
    """A simulated device with a byte link, stepped by its user."""

    def link_write(self, data: bytes) -> None:
        """Queue bytes for the device."""

    def link_read(self, limit: int) -> bytes:
        """Take up to `limit` bytes that the device has sent."""

    def step(self, cycles: int, *, until_bytes: int = 0) -> int:
        """Simulate at most that many cycles, until so many bytes can be read; how many it was."""


class SimTransport(Transport):
    """A simulated device in this process, which runs while the host waits.

    The clock counts simulated cycles, `CYCLES_PER_SECOND` to a second, so that timeouts mean the
    same on a slow simulator.
    """

    CYCLES_PER_SECOND = 1_000_000
    LONGEST_STEP = 100_000

    def __init__(self, device: ByteDevice, name: str = "rtl"):
        self.name = name
        self._device = device
        self.cycles = 0

    def write(self, data: bytes) -> None:
        self._device.link_write(data)

    def read(self, timeout: float) -> bytes:
        left = max(1, round(timeout * self.CYCLES_PER_SECOND))
        while True:
            data = self._device.link_read(1 << 16)
            if data or left <= 0:
                return data
            passed = self._device.step(min(left, self.LONGEST_STEP), until_bytes=1)
            self.cycles += passed
            left -= max(passed, 1)

    def close(self) -> None:
        """The device belongs to its maker."""

    def now(self) -> float:
        return self.cycles / self.CYCLES_PER_SECOND


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # pyserial's own text repeats number and path
    return str(error) or type(error).__name__
