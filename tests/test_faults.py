"""Sessions on lines that do every harm: no wrong result, no hang, and a typed error when cut."""

import random
import zlib

import pytest

from link_stand_ins import CONFIG, CountingCore, copy_program
from systolith.driver.link import Link
from systolith.driver.machine import LinkMachine
from systolith.driver.transport import SimTransport
from systolith.errors import LinkError
from systolith.hw.config import PRESETS
from systolith.hw.isa import ErrorCode
from systolith.sim.faults import Faults, FaultyTransport, PeerTransport
from systolith.sim.peer import Peer


def random_faults(source):
    """Up to 1 % of the bytes damaged, every other harm, and in one session of five a cut."""
    share = source.choice((0.0, 0.001, 0.01)) * source.random()

    def often():
        return source.choice((0.0, 0.0, 0.01, 0.1)) * source.random()

    return Faults(
        flip=share * 0.7, drop=share * 0.3, duplicate=often(), truncate=often(), reorder=often(),
        garbage=often(), stall=often(), stall_seconds=source.choice((0.01, 0.3)),
        cut_after=source.randrange(1, 20_000) if source.random() < 0.2 else None)


class Target:
    """One device over many sessions, and what its memory and its runs must be."""

    def __init__(self, transport, size, runs):
        self.transport = transport
        self.shadow = bytearray(size)
        self.runs = runs            # how many runs the device has begun
        self.begun = 0
        self.unsure = None          # range that a cut session may have half written
        self.pieces = self.harmed = self.cuts = self.sessions = 0

    def session(self, seed):
        """One session of random work. Raises AssertionError for anything wrong."""
        source = random.Random(seed)
        faults = random_faults(source)
        line = FaultyTransport(self.transport(), faults, seed)
        self.sessions += 1
        started = line.now()
        try:
            machine = LinkMachine(Link(line, seed=seed))
            self._settle(machine)
            for _ in range(source.randrange(1, 8)):
                self._work(machine, source)
        except LinkError as error:
            if faults.cut_after is None:
                raise AssertionError(f"a session that was not cut failed, seed {seed}") from error
            self.cuts += 1
        assert line.now() - started < 300, f"seed {seed}: took {line.now() - started} s"
        self.pieces += line.pieces
        self.harmed += line.harmed

    def _settle(self, machine):
        """Write again what a cut may have left half done, and see whether its run began."""
        if self.unsure is not None:
            start, end = self.unsure
            machine.write(start, bytes(self.shadow[start:end]))
            self.unsure = None
        assert self.runs() in (self.begun, self.begun + 1)
        self.begun = self.runs()
        machine.cancel()
        machine.finish(10.0)

    def _work(self, machine, source):
        size = len(self.shadow)
        start = source.randrange(0x1000, size - 600)
        data = source.randbytes(source.randrange(1, 600))
        self.unsure = (start, start + len(data))
        self.shadow[start:start + len(data)] = data
        machine.write(start, data)
        self.unsure = None
        start = source.randrange(0x1000, size - 600)
        length = source.randrange(1, 600)
        assert machine.read(start, length) == self.shadow[start:start + length]
        if source.random() < 0.3:
            assert machine.crc(start, length) == zlib.crc32(self.shadow[start:start + length])
        if source.random() < 0.4:
            result = machine.run(0, deadline=10.0)
            self.begun += 1
            assert result.error is ErrorCode.NONE
            assert self.runs() == self.begun, "a run was lost or done twice"


def peer_target():
    core = CountingCore(looks=2)
    memory = bytearray(CONFIG.memory_size)
    peer = Peer(CONFIG, memory, core)
    target = Target(lambda: PeerTransport(peer), CONFIG.memory_size, lambda: len(core.starts))
    target.memory = memory
    return target


def campaign(target, pieces, seed):
    while target.pieces < pieces or not target.cuts:
        target.session(seed)
        seed += 1
    print(f"{target.pieces} frames, {target.harmed} faults, {target.sessions} sessions, "
          f"{target.cuts} cut")
    assert target.harmed > pieces / 200
    return target


def check_memory(target):
    if target.unsure is not None:
        start, end = target.unsure
        target.memory[start:end] = target.shadow[start:end]
    assert target.memory[0x1000:] == target.shadow[0x1000:]


def test_short_campaign_against_the_peer():
    check_memory(campaign(peer_target(), 30_000, 1))


@pytest.mark.slow
def test_faults_a_million_frames_against_the_peer():
    check_memory(campaign(peer_target(), 1_000_000, 1_000_000))


def rtl_target(device):
    program = copy_program(PRESETS["tiny"])
    device.memory_write(0, program.image)
    device.clear_marks()
    # The program marks one instruction a run.
    return Target(lambda: SimTransport(device), 0x4000, lambda: len(device.marks))


def test_short_campaign_against_rtl():
    verilated = pytest.importorskip("systolith.sim.verilated", reason="needs the simulator")
    with verilated.VerilatedDevice(PRESETS["tiny"], memory_latency=5) as device:
        target = campaign(rtl_target(device), 1000, 60)
        if target.unsure is None:
            assert device.memory_read(0x1000, 0x3000) == target.shadow[0x1000:]


@pytest.mark.slow
def test_faults_ten_thousand_frames_against_rtl():
    verilated = pytest.importorskip("systolith.sim.verilated", reason="needs the simulator")
    with verilated.VerilatedDevice(PRESETS["tiny"], memory_latency=5) as device:
        campaign(rtl_target(device), 10_000, 10_000)
