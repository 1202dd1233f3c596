"""The golden model as a device: memory and interpreter in this process, no link between."""

import time
import zlib

import numpy as np

from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, Queue
from systolith.hw.protocol import Identity
from systolith.sim.golden import Golden

from .machine import Machine, Progress, RunResult

__all__ = ["GoldenMachine"]


class GoldenMachine(Machine):
    """Runs programs on the golden model. It counts no cycles."""

    def __init__(self, config: Config):
        self.name = "golden"
        self.identity = Identity.of(config)
        self.cycles_per_second = 1e6 * config.clock_mhz
        self.memory = np.zeros(config.memory_size, np.uint8)
        self._golden = Golden(config)
        self._result = RunResult(error=ErrorCode.NONE, queue=Queue.LOAD, address=0)

    def write(self, address: int, data: bytes, progress: Progress | None = None) -> None:
        self._check_range(address, len(data))
        self.memory[address:address + len(data)] = np.frombuffer(data, np.uint8)
        if progress is not None:
            progress(len(data), len(data))

    def read(self, address: int, length: int, progress: Progress | None = None) -> bytes:
        self._check_range(address, length)
        if progress is not None:
            progress(length, length)
        return self.memory[address:address + length].tobytes()

    def fill(self, address: int, length: int) -> None:
        self._check_range(address, length)
        self.memory[address:address + length] = 0

    def copy(self, source: int, length: int, destination: int) -> None:
        self.write(destination, self.read(source, length))

    def crc(self, address: int, length: int) -> int:
        self._check_range(address, length)
        return zlib.crc32(self.memory[address:address + length].tobytes())

    def begin(self, base: int, *, watchdog: int | None = None) -> None:
        outcome = self._golden.run(self.memory, base)
        self._result = RunResult(error=outcome.error, queue=outcome.queue, address=outcome.address)

    def finish(self, deadline: float | None = None) -> RunResult:
        return self._result

    def cancel(self) -> None:
        """A run is over as soon as it has begun."""

    def reset(self) -> None:
        """There is nothing to bring to rest."""

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """There is nothing to give back."""
