"""Several devices as one: a batch is spread over them, and finished on those that last."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from systolith.errors import LinkError
from systolith.program import Program

from .batch import finish_outputs, group_images, input_levels, ungroup_images
from .records import RunRecord

__all__ = ["DevicePool", "Member"]

SHARES = 4
"""Pieces of a batch for each device: more even out speeds, fewer stream better."""


class Member(Protocol):
    """What a pool needs of a device; `Device` has all of it."""

    @property
    def name(self) -> str:
        """What messages call the device."""

    @property
    def last_run(self) -> RunRecord | None:
        """Figures of the last `run_levels`."""

    def run_levels(self, program: Program, levels: list[NDArray[np.int8]], *,
                   deadline: float | None = None, watchdog: int | None = None
                   ) -> list[NDArray[np.int8]]:
        """Run a quantized batch; `LinkError` when the device is lost."""

    def close(self) -> None:
        """Give the device back. May be called twice."""


class DevicePool:
    """Runs batches on several devices at once.

    Parameters
    ----------
    devices
        Closed with the pool.

    Members
    -------
    devices
        Those still in use.
    lost
        A device's name and the error, for each that was lost.
    last_run
        Figures of the last `run`: the last piece's image, with the images of all devices and the
        time of the whole call; None before.
    """

    def __init__(self, devices: Sequence[Member]):
        self.devices: list[Member] = list(devices)
        self.lost: list[tuple[str, LinkError]] = []
        self.last_run: RunRecord | None = None

    def run(self, program: Program, images: Any, *, dequantize: bool = True,
            deadline: float | None = None, watchdog: int | None = None,
            progress: Callable[[int, int], None] | None = None) -> Any:
        """Run a batch, as `Device.run` does; outputs are in the order of the images.

        When a device is lost, what it had not finished is done by the others. Raises `LinkError`
        when the last one is lost, and at once whatever else a device raises.
        """
        levels = input_levels(program, images)
        number = len(levels[0])
        levels = group_images(program, levels)
        begun = time.monotonic()
        work = _Work(levels, max(1, -(-len(levels[0]) // (SHARES * max(1, len(self.devices))))),
                     progress)
        threads = [threading.Thread(target=self._work_on, daemon=True,
                                    args=(device, program, work, deadline, watchdog))
                   for device in self.devices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if work.error is not None:
            raise work.error
        if not work.finished:
            _, last = self.lost[-1]
            raise LinkError(f"all devices were lost, the last one with: {last}") from last
        assert work.record is not None
        self.last_run = RunRecord(**{**vars(work.record), "images": len(levels[0]),
                                     "seconds": time.monotonic() - begun,
                                     "core_seconds": work.core_seconds / len(threads),
                                     "total_cycles": work.total_cycles})
        outputs = ungroup_images(program, work.outputs(), number)
        return finish_outputs(program, outputs, dequantize)

    def _work_on(self, device: Member, program: Program, work: "_Work",
                 deadline: float | None, watchdog: int | None) -> None:
        while (piece := work.take()) is not None:
            try:
                outputs = device.run_levels(program, work.levels(piece), deadline=deadline,
                                            watchdog=watchdog)
                work.put(piece, outputs, device.last_run)
            except LinkError as error:
                self.lost.append((device.name, error))
                self.devices.remove(device)
                device.close()
                work.put_back(piece)
                return
            except BaseException as error:
                work.fail(error)
                return

    def close(self) -> None:
        """Give all devices back. May be called twice."""
        for device in self.devices:
            device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Work:
    """Pieces of one batch, taken and put by several threads."""

    def __init__(self, levels: list[NDArray[np.int8]], size: int,
                 progress: Callable[[int, int], None] | None):
        self._levels = levels
        self._total = len(levels[0])
        self._waiting = deque(slice(start, min(start + size, self._total))
                              for start in range(0, self._total, size))
        self._taken = 0
        self._done: dict[int, list[NDArray[np.int8]]] = {}
        self._images = 0
        self._progress = progress
        self._change = threading.Condition()
        self.error: BaseException | None = None
        self.record: RunRecord | None = None
        self.total_cycles: int | None = None
        self.core_seconds = 0.0

    def levels(self, piece: slice) -> list[NDArray[np.int8]]:
        return [array[piece] for array in self._levels]

    def take(self) -> slice | None:
        """The next piece, None when nothing is or will be left to do."""
        with self._change:
            # A piece that another device has may come back.
            while not self._waiting and self._taken and self.error is None:
                self._change.wait()
            if not self._waiting or self.error is not None:
                return None
            self._taken += 1
            return self._waiting.popleft()

    def put_back(self, piece: slice) -> None:
        with self._change:
            self._taken -= 1
            self._waiting.appendleft(piece)
            self._change.notify_all()

    def put(self, piece: slice, outputs: list[NDArray[np.int8]], record: RunRecord | None) -> None:
        with self._change:
            self._done[piece.start] = outputs
            self._images += piece.stop - piece.start
            if record is not None:
                self.record = record
                self.core_seconds += record.core_seconds
                if record.total_cycles is not None:
                    self.total_cycles = (self.total_cycles or 0) + record.total_cycles
            if self._progress is not None:
                self._progress(self._images, self._total)
            self._taken -= 1
            self._change.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._change:
            self._taken -= 1
            self.error = self.error or error
            self._change.notify_all()

    @property
    def finished(self) -> bool:
        return self._images == self._total

    def outputs(self) -> list[NDArray[np.int8]]:
        pieces = [self._done[start] for start in sorted(self._done)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
