"""What the driver needs of a device: memory, runs, and what a run left behind."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Self

from systolith.errors import DeviceError
from systolith.hw.isa import ErrorCode, Queue
from systolith.hw.protocol import COUNTERS, Command, Counter, Identity, Status

from .jobs import Job, ReadJob, SingleJob, TimestampsJob, WriteJob
from .link import Link

__all__ = ["LinkMachine", "Machine", "Measurements", "Progress", "RunResult", "Transfer"]

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

CHUNKS = (1 << 12, 1 << 15, 1 << 18)
"""Bytes that the first, the second and further requests of a CRC, FILL or COPY cover: the first
measure how fast the device is, the last are not dear to repeat."""

GUESS = 1e-6
"""Seconds that a device may need for a byte of these, before that is measured."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    `error`, and with it the queue and byte address of the instruction that caused it; `cycles` of
    the run (0 where a device counts none).
    """

    error: ErrorCode
    queue: Queue
    address: int
    cycles: int = 0

    def check(self, name: str) -> None:
        """Raise `DeviceError` unless the run ended well. `name` is the device's."""
        if self.error is ErrorCode.NONE:
            return
        raise DeviceError(f"{name} stopped with {self.error.name} at the {self.queue.name} "
                          f"instruction at address {self.address:#x}: {_ADVICE[self.error]}")


_ADVICE = {
    ErrorCode.DESCRIPTOR: "the program was made for another configuration or is damaged, compile "
                          "it again",
    ErrorCode.DECODE: "the program is damaged, load or compile it again",
    ErrorCode.LENGTH: "the program is damaged, load or compile it again",
    ErrorCode.ADDRESS: "the program is damaged, load or compile it again",
    ErrorCode.DEADLOCK: "the program can never finish, compile it again",
    ErrorCode.WATCHDOG: "it made no progress, raise the watchdog or compile the program again",
    ErrorCode.CANCELLED: "the run was cancelled, start it again",
}


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What the last run left behind.

    `counters` by name (empty where a device has none); `timestamps`: cycles and active array cycles
    at each marked instruction, as far as the device's log reaches.
    """

    counters: dict[str, int] = field(default_factory=dict)
    timestamps: tuple[tuple[int, int], ...] = ()


class Transfer:
    """Bytes on their way; `wait` until they are there."""

    def __init__(self, wait: Callable[[], bytes]):
        self._wait = wait

    def wait(self) -> bytes:
        """Wait for the end of the transfer; the bytes, if it was a read."""
        return self._wait()


class Machine(ABC):
    """A device as memory and a core.

    Addresses and lengths are bytes; a range outside of memory raises `DeviceError`.
    """

    name: str
    identity: Identity
    cycles_per_second: float
    """Core cycles to a second of the clock that `now` shows."""

    @abstractmethod
    def write(self, address: int, data: bytes, progress: Progress | None = None) -> None:
        """Write main memory."""

    @abstractmethod
    def read(self, address: int, length: int, progress: Progress | None = None) -> bytes:
        """Read main memory."""

    def write_later(self, address: int, data: bytes) -> Transfer:
        """Begin to write main memory, beside a run where the device can."""
        self.write(address, data)
        return Transfer(lambda: b"")

    def read_later(self, address: int, length: int) -> Transfer:
        """Begin to read main memory, beside a run where the device can."""
        data = self.read(address, length)
        return Transfer(lambda: data)

    @abstractmethod
    def fill(self, address: int, length: int) -> None:
        """Clear a range of main memory to zero."""

    @abstractmethod
    def copy(self, source: int, length: int, destination: int) -> None:
        """Copy inside main memory; the ranges must not overlap."""

    def copy_later(self, source: int, length: int, destination: int) -> Transfer:
        """Begin to copy inside main memory; what is asked afterwards comes after it."""
        self.copy(source, length, destination)
        return Transfer(lambda: b"")

    @abstractmethod
    def crc(self, address: int, length: int) -> int:
        """`zlib.crc32` of a range, computed by the device."""

    @abstractmethod
    def begin(self, base: int, *, watchdog: int | None = None) -> None:
        """Start the program whose descriptor lies at `base`; stop it after `watchdog` cycles
        without progress."""

    @abstractmethod
    def finish(self, deadline: float | None = None) -> RunResult:
        """Wait for the end of the run, at most `deadline` seconds.

        Raises `DeviceError`, after the run was cancelled, when it takes longer.
        """

    def measurements(self) -> Measurements:
        """Counters and timestamps of the last run."""
        return Measurements()

    def run(self, base: int = 0, *, deadline: float | None = None, watchdog: int | None = None
            ) -> RunResult:
        """Run a program from beginning to end."""
        self.begin(base, watchdog=watchdog)
        return self.finish(deadline)

    @abstractmethod
    def cancel(self) -> None:
        """Stop the run in progress, if any; it ends as CANCELLED."""

    @abstractmethod
    def reset(self) -> None:
        """Bring the core to rest and forget settings; memory stays."""

    @abstractmethod
    def now(self) -> float:
        """Seconds on the device's clock, for deadlines and shares of time."""

    @abstractmethod
    def close(self) -> None:
        """Give the device back. May be called twice."""

    def verify(self, address: int, data: bytes) -> None:
        """Compare a range of main memory with `data` by its CRC.

        Raises `DeviceError` when they differ.
        """
        if data and self.crc(address, len(data)) != zlib.crc32(data):
            raise DeviceError(f"{self.name} does not hold what was written to "
                              f"{address:#x}..{address + len(data):#x}: load the program again, "
                              "and if it repeats check the board's memory")

    def _check_range(self, address: int, length: int) -> None:
        if address < 0 or length < 0 or address + length > self.identity.memory_size:
            raise DeviceError(f"{self.name} has {self.identity.memory_size} bytes of memory and "
                              f"{length} bytes at {address:#x} lie outside: compile the program "
                              "for this device")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LinkMachine(Machine):
    """A device behind a link.

    `cycles_per_second` is by default the device's own clock; a simulator's is its transport's.
    """

    def __init__(self, link: Link, *, cycles_per_second: float | None = None):
        self._link = link
        self.name = link.name
        self.identity = link.identity
        self.cycles_per_second = cycles_per_second or 1000.0 * max(1, link.identity.clock_khz)
        self._starting: list[Job] = []
        self._seconds_per_byte = dict.fromkeys((Command.CRC, Command.FILL, Command.COPY), GUESS)

    @property
    def link(self) -> Link:
        """The link, for its statistics."""
        return self._link

    def write(self, address: int, data: bytes, progress: Progress | None = None) -> None:
        self._check_range(address, len(data))
        self._link.call(WriteJob(address, data, progress=progress))

    def read(self, address: int, length: int, progress: Progress | None = None) -> bytes:
        self._check_range(address, length)
        return self._link.call(ReadJob(address, length, progress=progress))

    def write_later(self, address: int, data: bytes) -> Transfer:
        self._check_range(address, len(data))
        return self._transfer(WriteJob(address, data))

    def read_later(self, address: int, length: int) -> Transfer:
        self._check_range(address, length)
        return self._transfer(ReadJob(address, length))

    def _transfer(self, job: Job) -> Transfer:
        self._link.submit(job)

        def wait() -> bytes:
            self._link.wait(job)
            return job.result

        return Transfer(wait)

    def fill(self, address: int, length: int) -> None:
        self._check_range(address, length)
        for offset, nbytes in _chunks(length):
            self._long_call(Command.FILL, address + offset, nbytes)

    def copy(self, source: int, length: int, destination: int) -> None:
        self._check_range(source, length)
        self._check_range(destination, length)
        for offset, nbytes in _chunks(length):
            self._long_call(Command.COPY, source + offset, nbytes, destination + offset)

    def copy_later(self, source: int, length: int, destination: int) -> Transfer:
        if length > CHUNKS[-1]:
            return super().copy_later(source, length, destination)
        self._check_range(source, length)
        self._check_range(destination, length)
        return self._transfer(self._long_job(Command.COPY, source, length, destination))

    def crc(self, address: int, length: int) -> int:
        self._check_range(address, length)
        value = 0
        for offset, nbytes in _chunks(length):
            answer = self._long_call(Command.CRC, address + offset, nbytes, value, answer_bytes=4)
            value = int.from_bytes(answer, "little")
        return value

    def begin(self, base: int, *, watchdog: int | None = None) -> None:
        link = self._link
        if watchdog is not None:
            self._starting.append(link.submit(SingleJob(Command.WATCHDOG, watchdog)))
        self._starting.append(link.submit(SingleJob(Command.RUN, base, answer_bytes=4)))

    def finish(self, deadline: float | None = None) -> RunResult:
        link = self._link
        self.started()
        since = link.now()
        while True:
            status = self.status()
            if not status.busy:
                break
            elapsed = link.now() - since
            if deadline is not None and elapsed > deadline:
                self.cancel()
                raise DeviceError(f"{self.name} did not finish within {deadline:.3g} s and was "
                                  "cancelled: give the run more time or compile for a larger "
                                  "configuration")
            # Often enough that waiting adds little to a run, seldom enough to leave the link free.
            link.idle(min(max(elapsed / 64, 64 / self.cycles_per_second), 0.1))
        return RunResult(error=ErrorCode(status.error), queue=Queue(status.queue),
                         address=status.address, cycles=status.cycles)

    def started(self) -> None:
        """Wait until the device has accepted what `begin` asked."""
        starting, self._starting = self._starting, []
        self._link.wait(*starting)

    def measurements(self) -> Measurements:
        link = self._link
        entries = min(self.status().timestamps, self.identity.timestamps)
        counters = _unpack(link.call(SingleJob(Command.COUNTERS, answer_bytes=4 * COUNTERS)))
        log = _unpack(link.call(TimestampsJob(entries)))
        return Measurements(
            counters={counter.name.lower(): counters[counter] for counter in Counter},
            timestamps=tuple(zip(log[::2], log[1::2], strict=True)))

    def status(self) -> Status:
        """What the core is doing, or how the last run ended."""
        size = len(Status().encode())
        return Status.decode(self._link.call(SingleJob(Command.STATUS, answer_bytes=size),
                                             urgent=True))

    def cancel(self) -> None:
        self._stop(Command.CANCEL)

    def reset(self) -> None:
        self._stop(Command.RESET)

    def now(self) -> float:
        return self._link.now()

    def close(self) -> None:
        self._link.close()

    def _stop(self, command: Command) -> None:
        # Urgent requests go before what is queued, but not before the start they refer to.
        self.started()
        self._link.call(SingleJob(command), urgent=True)

    def _long_job(self, command: Command, address: int, nbytes: int, *more: int,
                  answer_bytes: int = 0) -> SingleJob:
        """A request that keeps the device busy for a time that grows with its bytes."""
        return SingleJob(command, address, nbytes, *more, answer_bytes=answer_bytes,
                         patience=4 * nbytes * self._seconds_per_byte[command])

    def _long_call(self, command: Command, address: int, nbytes: int, *more: int,
                   answer_bytes: int = 0) -> bytes:
        job = self._long_job(command, address, nbytes, *more, answer_bytes=answer_bytes)
        answer = self._link.call(job)
        # A simulated device is slower than its clock says, so the time is measured; in small
        # requests it is the link's.
        if job.seconds is not None and nbytes >= CHUNKS[0]:
            before = self._seconds_per_byte[command]
            self._seconds_per_byte[command] = max(job.seconds / nbytes, before / 2)
        return answer


def _chunks(length: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths that cover `length` bytes."""
    offset = 0
    for size in chain(CHUNKS, repeat(CHUNKS[-1])):
        if offset == length:
            return
        nbytes = min(size, length - offset)
        yield offset, nbytes
        offset += nbytes


def _unpack(payload: bytes) -> list[int]:
    return [int.from_bytes(payload[i:i + 4], "little") for i in range(0, len(payload), 4)]
