"""Devices on the workers of a Dask cluster: a rack of boards, or a farm of simulators.

Every worker opens a device of its own, and `DevicePool` spreads batches over them as over devices
that are plugged in here. Dask carries programs, images and results, and knows which workers live.
"""

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.errors import LinkError, MissingExtraError
from systolith.hw.config import Config
from systolith.program import Program

from .device import Device
from .opening import open as open_device
from .pool import DevicePool
from .records import RunRecord

try:
    import distributed
    from dask import config as dask_config
except ModuleNotFoundError as error:
    raise MissingExtraError(f"devices of a Dask cluster need {error.name}: pip install "
                            "'systolith[dask]'") from None

__all__ = ["FarmPool", "RemoteDevice"]

LOOK = 1.0
"""Seconds between two looks whether the worker that is waited for is still there."""

FETCH = 60.0
"""Seconds in which data must have come from or to a worker."""


@dataclass(frozen=True)
class _Order:
    """What a worker is to open: a device's name (None: the worker's own choice) and options."""

    device: str | None
    config: Config | None
    options: tuple[tuple[str, Any], ...]


class FarmPool(DevicePool):
    """The devices of a Dask cluster's workers as one, as `DevicePool`.

    Workers that join between two runs are used, those that leave are not missed.

    Parameters
    ----------
    address
        Of the scheduler: "HOST:PORT", or as Dask writes it, with a protocol.
    config
        What "golden" and "rtl" are built for, by default the program's; of other devices it is only
        checked that they have it.
    worker_device
        The name of the device that each worker opens. By default what its own Dask configuration
        says under `systolith.device`, and otherwise "rtl".
    timeout
        Seconds in which the scheduler and a first worker must be there.
    options
        Further arguments of `systolith.open` on the workers.

    Raises
    ------
    LinkError
        When there is no scheduler, or it has no workers.
    """

    def __init__(self, address: str, *, config: Config | None = None,
                 worker_device: str | None = None, timeout: float = 10.0, **options: Any):
        super().__init__([])
        self._workers: dict[str, RemoteDevice] = {}
        self.name = f"dask://{address}"
        self._order = _Order(worker_device, config, tuple(sorted(options.items())))
        url = address if "://" in address else f"tcp://{address}"
        try:
            self._client = distributed.Client(url, timeout=timeout, set_as_default=False)
        except (OSError, ValueError) as error:
            raise LinkError(f"no Dask scheduler answers at {address} within {timeout:.3g} s "
                            f"({type(error).__name__}): start one with 'dask scheduler' or check "
                            "the address") from None
        try:
            with suppress(TimeoutError):
                self._client.wait_for_workers(1, timeout=timeout)
            self._look_for_workers()
        except BaseException:
            self.close()
            raise

    def run(self, program: Program, images: Any, **options: Any) -> Any:
        """Run a batch, as `DevicePool.run` does, on the workers that are there now."""
        self._look_for_workers()
        return super().run(program, images, **options)

    def _look_for_workers(self) -> None:
        there = workers(self._client)
        if not there:
            raise LinkError(f"{self.name} has no workers: start some with 'dask worker', or check "
                            "that the scheduler still runs")
        self._workers = {address: self._workers.get(address) or RemoteDevice(
            self._client, address, self._order) for address in there}
        self.devices = list(self._workers.values())

    def close(self) -> None:
        """Have the workers close their devices, and leave the cluster. May be called twice."""
        super().close()
        self._workers = {}
        self.devices = []
        self._client.close(timeout=LOOK)


class RemoteDevice:
    """The device of one worker, as far as a pool needs it.

    Members: `address` of the worker; `name` for messages; `last_run` as of `Device`.
    """

    def __init__(self, client: Any, address: str, order: _Order):
        self.address = address
        self.name = f"worker {address}"
        self.last_run: RunRecord | None = None
        self._client = client
        self._order = order
        self._loaded: Program | None = None
        self._file: Any = None

    def run_levels(self, program: Program, levels: list[NDArray[np.int8]], *,
                   deadline: float | None = None, watchdog: int | None = None
                   ) -> list[NDArray[np.int8]]:
        """Run a quantized batch, as `Device.run_levels`; `LinkError` when the worker is lost."""
        try:
            if self._loaded is not program:
                self._check_release()
                self._file = self._send(program.to_bytes())
                self._loaded = program
            outputs, self.last_run = self._call(
                _run, self._order, self._file, self._send(levels), deadline, watchdog)
        except distributed.CancelledError:
            raise self._lost("the scheduler or the worker is gone") from None
        except OSError as error:
            raise self._lost(str(error) or type(error).__name__) from None
        return list(outputs)

    def _check_release(self) -> None:
        try:
            there = self._call(metadata.version, "systolith")
        except ModuleNotFoundError:
            there = "none"
        here = metadata.version("systolith")
        if there != here:
            raise LinkError(f"{self.name} has release {there} of systolith and not {here}: install "
                            "the same on all workers")

    def close(self) -> None:
        """Have the worker close its device."""
        with suppress(OSError, distributed.CancelledError, LinkError):
            if self.address in workers(self._client):
                self._call(_close, self._order)

    def _send(self, data: Any) -> Any:
        return self._client.scatter([data], workers=[self.address], hash=False, timeout=FETCH)[0]

    def _call(self, function: Any, *arguments: Any) -> Any:
        future = self._client.submit(function, *arguments, workers=[self.address], pure=False)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(LOOK):
            # A request for a worker that is gone waits for ever.
            if self.address not in workers(self._client):
                future.cancel()
                raise self._lost("it left the cluster")
        return future.result(timeout=FETCH)

    def _lost(self, reason: str) -> LinkError:
        return LinkError(f"lost {self.name} ({reason}): start it again and repeat the batch")


def workers(client: Any) -> list[str]:
    """Addresses of a cluster's workers; none when the scheduler is gone."""
    if client.status != "running":
        return []
    try:
        return sorted(client.sync(client.scheduler.ncores, callback_timeout=10 * LOOK))
    except OSError:
        return []


# On the workers ---------------------------------------------------------------------------------

@dataclass
class _Slot:
    """What a worker has opened, for one user at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    device: Device | None = None
    config: Config | None = None
    digest: bytes = b""
    program: Program | None = None

    def load(self, file: bytes) -> Program:
        """The program in a file's bytes, the same object while the file is the same."""
        digest = hashlib.sha256(file).digest()
        if self.program is None or digest != self.digest:
            self.program, self.digest = Program.from_bytes(file), digest
        return self.program

    def open(self, order: _Order, config: Config) -> Device:
        """The device, opened anew where it was opened for another configuration."""
        if self.device is None or self.config != config:
            self.close()
            name = order.device or dask_config.get("systolith.device", "rtl")
            self.device = open_device(name, config=config, **dict(order.options))
            self.config = config
        return self.device

    def close(self) -> None:
        if self.device is not None:
            self.device.close()
        self.device = None


_slots: dict[tuple[str, _Order], _Slot] = {}
_slots_lock = threading.Lock()


def _slot(order: _Order) -> _Slot:
    with _slots_lock:
        return _slots.setdefault((distributed.get_worker().address, order), _Slot())


def _run(order: _Order, file: bytes, levels: list[NDArray[np.int8]], deadline: float | None,
         watchdog: int | None) -> tuple[list[NDArray[np.int8]], RunRecord | None]:
    """Run a batch on this worker's device, which is opened when it is not open yet."""
    slot = _slot(order)
    with slot.lock:
        program = slot.load(file)
        try:
            device = slot.open(order, order.config or program.config)
            outputs = device.run_levels(program, levels, deadline=deadline, watchdog=watchdog)
        except LinkError:
            slot.close()  # to be opened anew, once it is there again
            raise
        return outputs, device.last_run


def _close(order: _Order) -> None:
    """Close this worker's device, unless somebody else uses it."""
    slot = _slot(order)
    if slot.lock.acquire(blocking=False):
        try:
            slot.close()
        finally:
            slot.lock.release()
