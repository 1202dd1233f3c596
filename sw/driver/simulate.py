"""Serves a simulated device on a pseudo-terminal or a TCP port, for any driver."""

import os
import select
import socket
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from systolith.errors import InputError, LinkError, MissingExtraError
from systolith.hw.config import Config, load_config

from .transport import ByteDevice

__all__ = ["Port", "PtyPort", "TcpPort", "serve", "serve_device"]

STEP = 20_000
"""Cycles between two looks at the port while something happens."""

SETTLE_CYCLES = 8_000_000
"""How long the device runs at full speed after the last byte; the longest request needs less."""

SLOW_STEP = 1_000
"""The same of a netlist, which takes some hundred cycles for a byte, and much longer for each."""

IDLE_STEP = 256
IDLE_SECONDS = 0.02
"""Afterwards it only runs so many cycles after each such time without bytes."""


class Port(Protocol):
    """Where hosts connect, one after the other."""

    address: str

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """Send bytes to the host, if there is one, and wait for bytes from it."""

    def close(self) -> None:
        """Give the port back."""


class PtyPort:
    """A new pseudo-terminal; `address` is what `systolith.open` takes."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        # Held open here too, so that the terminal outlives a host that goes away.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.address = f"pty:{os.ttyname(self._slave)}"

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """Send and receive. What a host does not read for long is lost, as on a serial port."""
        view = memoryview(data)
        while view:
            _, writable, _ = select.select([], [self._master], [], 1.0)
            if not writable:
                break
            view = view[os.write(self._master, view):]
        readable, _, _ = select.select([self._master], [], [], timeout)
        if not readable:
            return b""
        with suppress(BlockingIOError):
            return os.read(self._master, 1 << 16)
        return b""

    def close(self) -> None:
        """Close both ends."""
        os.close(self._master)
        os.close(self._slave)


class TcpPort:
    """A listening TCP port, for one connection at a time. Port 0 takes a free one."""

    def __init__(self, host: str, port: int):
        try:
            self._listener = socket.create_server((host, port))
        except OSError as error:
            raise LinkError(f"cannot serve on {host}:{port}: {error.strerror}: choose another "
                            "address or port") from None
        self._connection: socket.socket | None = None
        self.address = f"tcp:{host}:{self._listener.getsockname()[1]}"

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """Send and receive. Without a connection bytes are lost."""
        if self._connection is None:
            readable, _, _ = select.select([self._listener], [], [], timeout)
            if not readable:
                return b""
            self._connection = self._listener.accept()[0]
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return b""
        try:
            if data:
                self._connection.settimeout(1.0)
                self._connection.sendall(data)
            readable, _, _ = select.select([self._connection], [], [], timeout)
            if not readable:
                return b""
            received = self._connection.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            self._connection.close()
            self._connection = None
        return received

    def close(self) -> None:
        """Close the connection and stop listening."""
        if self._connection is not None:
            self._connection.close()
        self._listener.close()


def serve_device(device: ByteDevice, port: Port, stop: Callable[[], bool], *,
                 step: int = STEP) -> None:
    """Move bytes between a simulated device and a port, and let time pass, until `stop()`.

    The port is looked at every `step` cycles while something happens.
    """
    quiet = SETTLE_CYCLES
    while not stop():
        resting = quiet >= SETTLE_CYCLES
        sent = device.link_read(1 << 16)
        received = port.exchange(sent, IDLE_SECONDS if resting else 0.0)
        if received:
            device.link_write(received)
        if sent or received:
            quiet = 0
        quiet += device.step(IDLE_STEP if quiet >= SETTLE_CYCLES else step, until_bytes=1)


def serve(config: str | Path | Config = "default", *, pty: bool = False, tcp: str | None = None,
          memory_latency: int | None = None, netlist: Path | None = None,
          announce: Callable[[str], None] = print, stop: threading.Event | None = None) -> None:
    """Serve the SoC's RTL, or a board's netlist, verilated, until interrupted.

    Parameters
    ----------
    config
        What to simulate.
    pty, tcp
        Serve on a new pseudo-terminal, or on "HOST:PORT".
    memory_latency
        Cycles of the simulated main memory; None takes the configuration's SDRAM, if it has one.
    netlist
        Folder of a board's build, whose netlist is simulated between its pins instead.
    announce
        Called with the name under which `systolith.open` finds the device.
    stop
        Set it from another thread to end the service.

    Raises `InputError` for an address that is none, `LinkError` when the port is taken, and
    `BuildError` when there is no netlist that can be simulated.
    """
    if pty == (tcp is not None):
        raise InputError("name exactly one port to serve on: a pty, or HOST:PORT")
    host, _, number = (tcp or ":").rpartition(":")
    if tcp is not None and (not host or not number.isdecimal() or int(number) > 65535):
        raise InputError(f"'{tcp}' is not HOST:PORT: name both, as in localhost:4000")
    ended = stop or threading.Event()
    with _simulation(config, memory_latency, netlist) as device:
        port: Port = PtyPort() if pty else TcpPort(host, int(number))
        try:
            announce(port.address)
            serve_device(device, port, ended.is_set, step=STEP if netlist is None else SLOW_STEP)
        except KeyboardInterrupt:
            pass
        finally:
            port.close()


def _simulation(config: str | Path | Config, memory_latency: int | None,
                netlist: Path | None) -> Any:
    """The device to be served."""
    try:
        if netlist is not None:
            from systolith.sim.netlist.folder import open_build

            return open_build(netlist)
        from systolith.sim.verilated import VerilatedDevice
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"simulating the hardware needs {error.name}: pip install "
                                "'systolith[hw,sim]'") from None
    return VerilatedDevice(load_config(config), memory_latency=memory_latency)
