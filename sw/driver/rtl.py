"""The verilated hardware in this process as a device, driven over its simulated byte link."""

from systolith.errors import DeviceError
from systolith.hw.config import Config
from systolith.sim.verilated import VerilatedDevice

from .link import Link
from .machine import LinkMachine, Progress, RunResult
from .transport import SimTransport

__all__ = ["RtlMachine"]


class RtlMachine(LinkMachine):
    """The SoC's RTL in simulation.

    Parameters
    ----------
    config
        What to build and simulate.
    backdoor
        Move images and tensors past the link, straight into the simulated memory; runs, status and
        counters still go over the link.
    memory_latency, memory_bytes_per_cycle
        The simulated main memory, as `VerilatedDevice` takes them.
    """

    def __init__(self, config: Config, *, backdoor: bool = False,
                 memory_latency: int | None = None, memory_bytes_per_cycle: int | None = None):
        self._device = VerilatedDevice(config, memory_latency=memory_latency,
                                       memory_bytes_per_cycle=memory_bytes_per_cycle)
        self._transport = SimTransport(self._device)
        self._backdoor = backdoor
        super().__init__(Link(self._transport),
                         cycles_per_second=SimTransport.CYCLES_PER_SECOND)

    @property
    def device(self) -> VerilatedDevice:
        """The simulation, for marks and waveforms."""
        return self._device

    def write(self, address: int, data: bytes, progress: Progress | None = None) -> None:
        if not self._backdoor:
            super().write(address, data, progress)
            return
        self._check_range(address, len(data))
        self._device.memory_write(address, data)

    def read(self, address: int, length: int, progress: Progress | None = None) -> bytes:
        if not self._backdoor:
            return super().read(address, length, progress)
        self._check_range(address, length)
        return self._device.memory_read(address, length)

    def fill(self, address: int, length: int) -> None:
        if not self._backdoor:
            super().fill(address, length)
            return
        self._check_range(address, length)
        self._device.memory_write(address, bytes(length))

    def verify(self, address: int, data: bytes) -> None:
        if not self._backdoor:
            super().verify(address, data)

    def finish(self, deadline: float | None = None) -> RunResult:
        self.started()
        limit = 1 << 62 if deadline is None else round(deadline * self.cycles_per_second)
        self._transport.cycles += self._device.step(limit, until_idle=True)
        if self._device.status.busy:
            self.cancel()
            raise DeviceError(f"{self.name} did not finish within {limit} cycles and was "
                              "cancelled: give the run more time")
        return super().finish(deadline)

    def close(self) -> None:
        super().close()
        self._device.close()
