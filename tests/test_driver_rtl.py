"""The whole way on RTL: inference after inference, and a line as slow and as long as a real one."""

import random
from collections import deque

import numpy as np
import pytest

import systolith
from link_stand_ins import copy_program
from systolith.driver.link import Link
from systolith.driver.machine import LinkMachine
from systolith.driver.transport import SimTransport
from systolith.errors import DeviceError
from systolith.hw.config import PRESETS
from systolith.hw.isa import ErrorCode
from systolith.sim.verilated import VerilatedDevice
from test_driver_device import expected, images

CONFIG = PRESETS["tiny"]


@pytest.mark.parametrize("count", [
    40, pytest.param(1_000, marks=pytest.mark.slow, id="faults")])
def test_the_last_inference_is_the_first(count):
    """Without a reset between, with other programs, failed runs and cancelled runs in between."""
    program, other = copy_program(CONFIG), copy_program(CONFIG, scale=0.25)
    broken, slow = copy_program(CONFIG, error=True), copy_program(CONFIG, slow=True)
    batch = images(1)
    source = random.Random(count)
    with systolith.open("rtl", config=CONFIG, memory_latency=5) as device:
        first = device.run(program, batch)
        assert np.array_equal(first, expected(program, batch))
        for number in range(2, count + 1):
            match number % 13:
                case 0:
                    some = images(1, source.randrange(100))
                    assert np.array_equal(device.run(other, some), expected(other, some))
                case 5:
                    device._careful = False
                    with pytest.raises(DeviceError, match="stopped with ADDRESS at the LOAD"):
                        device.run(broken, batch)
                    device._careful = True
                case 9:
                    with pytest.raises(DeviceError, match="did not finish within 2000 cycles"):
                        device.run(slow, batch, deadline=2e-3)
                case _:
                    assert np.array_equal(device.run(program, batch), first), number
                    # What the core sends against the registers that only a simulation has.
                    assert [*device.last_run.counters.values()] == [
                        *device.machine.device.counters], number


def test_a_run_is_cancelled_or_reset_and_the_link_stays():
    slow, batch = copy_program(CONFIG, slow=True), images(1)
    with systolith.open("rtl", config=CONFIG, memory_latency=5) as device:
        assert np.array_equal(device.run(slow, batch), expected(slow, batch))
        assert device.last_run.cycles > 60_000
        machine = device.machine
        for stop in (machine.cancel, machine.reset):
            machine.begin(0, watchdog=99_999)
            machine.started()
            status = machine.status()
            assert status.busy and status.runs
            before = machine.device.cycle
            stop()
            assert machine.finish(1.0).error is ErrorCode.CANCELLED
            assert machine.device.cycle - before < 10_000
        assert machine.status().runs == 0, "a reset forgets the runs"
        assert machine.link.statistics.sessions == 1
        assert np.array_equal(device.run(slow, batch), expected(slow, batch))


class LongLine(SimTransport):
    """A UART of 3 Mbaud at a device of 25 MHz, behind a bridge that adds a millisecond each way."""

    CYCLES_PER_SECOND = 25_000_000
    CYCLES_PER_BYTE = 83
    DELAY = CYCLES_PER_SECOND // 1000

    def __init__(self, device):
        super().__init__(device)
        self._simulated = device
        self._up, self._down = deque(), deque()

    def write(self, data):
        self._up.append((self.cycles + self.DELAY, data))

    def read(self, timeout):
        end = self.cycles + max(1, round(timeout * self.CYCLES_PER_SECOND))
        while True:
            while self._up and self._up[0][0] <= self.cycles:
                self._simulated.link_write(self._up.popleft()[1])
            if self._down and self._down[0][0] <= self.cycles:
                return self._down.popleft()[1]
            if self.cycles >= end:
                return b""
            until = min([end, *(queue[0][0] for queue in (self._up, self._down) if queue)])
            self.cycles += self._simulated.step(until - self.cycles, until_bytes=1)
            if data := self._simulated.link_read(1 << 16):
                self._down.append((self.cycles + self.DELAY, data))


def test_line_is_kept_busy():
    """At least 85 % of the line's bytes are data, in both directions, at 2 ms of round trip."""
    with VerilatedDevice(CONFIG, memory_latency=20,
                         link_cycles_per_byte=LongLine.CYCLES_PER_BYTE) as device:
        machine = LinkMachine(Link(LongLine(device)))
        rate = LongLine.CYCLES_PER_SECOND / LongLine.CYCLES_PER_BYTE
        data = random.Random(1).randbytes(12_000)
        begun = machine.now()
        machine.write(0, data)
        written = machine.now()
        assert machine.read(0, len(data)) == data
        read = machine.now()
        shares = [len(data) / seconds / rate for seconds in (written - begun, read - written)]
        print(f"{shares[0]:.1%} of the line's bytes written, {shares[1]:.1%} read")
        assert min(shares) > 0.85
        assert machine.link.statistics.repetitions == 0
