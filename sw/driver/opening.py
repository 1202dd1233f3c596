"""From a device's name to a device."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

from systolith.errors import DeviceError, InputError, LinkError, MissingExtraError
from systolith.hw.config import Config, load_config
from systolith.hw.protocol import Identity

from .device import Device
from .link import Link
from .machine import LinkMachine, Machine
from .pool import DevicePool
from .transport import SerialTransport, TcpTransport, find_port

__all__ = ["open"]

BAUD_RATES = (3_000_000, 2_000_000, 1_000_000, 921_600, 115_200)
"""Rates that are tried on a serial port when none is given."""

PROBE_SILENCE = 0.6
"""Seconds that a device gets to answer at each rate."""


@overload
def open(device: str, *, config: str | Path | Config | None = None, **options: Any) -> Device: ...


@overload
def open(device: Sequence[str], *, config: str | Path | Config | None = None,
         **options: Any) -> DevicePool: ...


def open(device: str | Sequence[str], *, config: str | Path | Config | None = None,
         **options: Any) -> Device | DevicePool:
    """Open a device by name, or several as one.

    Parameters
    ----------
    device
        A name, or a list of names to spread batches over.
        "golden": the golden model in this process. "rtl": the verilated hardware in this process.
        "pty:PATH", "serial:PATH" or "serial:USB-SERIAL-NUMBER", "tcp:HOST:PORT": a device behind
        that port. "dask://HOST:PORT": the devices of a Dask cluster's workers, as a list of names
        (see `systolith.driver.farm.FarmPool`).
    config
        A preset's name, the path of a TOML file, or a `Config`. "golden" and "rtl" are built for
        it ("default" if it is None); of others it is only checked that they have it.
    options
        For "rtl": `memory_latency` and `memory_bytes_per_cycle` of a plain simulated main memory
        (also in the place of the configuration's SDRAM), and `backdoor=True` to load programs and
        images past the link, for large networks. For "serial": `baud`. For all links: `silence`,
        the seconds without an answer after which a device is given up, and `streaming=False` to
        send and compute one after the other. For "pty" and "tcp": `timeout`, the seconds until a
        request is repeated, as long as no round trip has been timed; raise both for a slow
        simulation. For "dask": `worker_device`, the name of the device that each worker opens,
        `timeout`, the seconds in which the scheduler must be there, and what `worker_device` has
        for options.

    Raises
    ------
    LinkError
        When there is no such port, or nothing answers there.
    DeviceError
        When the device was built for another configuration.
    InputError
        When the name or an option is none of these.
    """
    if isinstance(device, list | tuple):
        return _open_all(device, config, options)
    kind, _, rest = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind == "dask":
        return _dask(rest, config, options)
    if kind not in _OPENERS or (kind in ("golden", "rtl")) != (not rest):
        raise InputError(f"no device '{device}': use golden, rtl, pty:PATH, serial:PATH, "
                         "tcp:HOST:PORT or dask://HOST:PORT")
    opener, known = _OPENERS[kind]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"device '{device}' has no option {', '.join(unknown)}: it has "
                         f"{', '.join(known) or 'none'}")
    if kind in ("golden", "rtl"):
        return opener("default" if config is None else config, **options)
    streaming = options.pop("streaming", True)
    machine = opener(rest, **options)
    if config is not None:
        try:
            check_config(machine, load_config(config))
        except BaseException:
            machine.close()
            raise
    return Device(machine, streaming=streaming)


def _dask(address: str, config: str | Path | Config | None, options: dict[str, Any]) -> Any:
    if not address.startswith("//") or len(address) < 3:
        raise InputError(f"'dask:{address}' names no scheduler: use dask://HOST:PORT")
    from .farm import FarmPool

    return FarmPool(address[2:], config=None if config is None else load_config(config), **options)


def _open_all(names: Sequence[str], config: str | Path | Config | None,
              options: dict[str, Any]) -> DevicePool:
    if not names:
        raise InputError("no device is named: give a list of at least one")
    devices: list[Device] = []
    try:
        for name in names:
            if not isinstance(name, str):
                raise InputError(f"no device '{name}': a list of devices holds names")
            if name.startswith("dask:"):
                raise InputError(f"'{name}' is several devices already: open it by itself")
            devices.append(open(name, config=config, **options))
    except BaseException:
        for opened in devices:
            opened.close()
        raise
    return DevicePool(devices)


def check_config(machine: Machine, config: Config) -> None:
    """Raise `DeviceError`, naming both, unless the device was built for `config`."""
    wanted, there = Identity.of(config), machine.identity
    if there.config_hash != wanted.config_hash:
        raise DeviceError(
            f"{machine.name} has configuration {there.config_hash:016x} ({there.rows}x"
            f"{there.columns}) and not {config.hash} ({config.rows}x{config.columns}): compile "
            "for the device's configuration or use another device")


def _golden(config: str | Path | Config) -> Device:
    from .golden import GoldenMachine

    return Device(GoldenMachine(load_config(config)))


def _rtl(config: str | Path | Config, *, backdoor: bool = False, **options: Any) -> Device:
    try:
        from .rtl import RtlMachine
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"simulating the hardware needs {error.name}: pip install "
                                "'systolith[hw,sim]'") from None
    return Device(RtlMachine(load_config(config), backdoor=backdoor, **options))


def _pty(path: str, **options: Any) -> Machine:
    return LinkMachine(Link(SerialTransport(path), **options))


def _serial(name: str, *, baud: int | None = None, silence: float = 5.0) -> Machine:
    path, _ = find_port(name)
    if baud is not None:
        return LinkMachine(Link(SerialTransport(path, baud), silence=silence))
    for rate in BAUD_RATES:
        transport = SerialTransport(path, rate)
        try:
            link = Link(transport, silence=PROBE_SILENCE)
        except LinkError:
            continue
        link.silence = silence
        return LinkMachine(link)
    rates = ", ".join(map(str, BAUD_RATES))
    raise LinkError(f"nothing at {path} answers at {rates} baud: check that the board runs a "
                    "systolith bitstream, or give its rate with baud=")


def _tcp(address: str, **options: Any) -> Machine:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"'{address}' is not HOST:PORT: name both, as in tcp:localhost:4000")
    return LinkMachine(Link(TcpTransport(host, int(port)), **options))


_OPENERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "golden": (_golden, ()),
    "rtl": (_rtl, ("backdoor", "memory_latency", "memory_bytes_per_cycle")),
    "pty": (_pty, ("silence", "streaming", "timeout")),
    "serial": (_serial, ("baud", "silence", "streaming")),
    "tcp": (_tcp, ("silence", "streaming", "timeout")),
}
