"""The driver's session and machine against the golden peer, over good and bad lines."""

import random
import zlib

import pytest

from link_stand_ins import CONFIG, Bed
from systolith.driver.jobs import ReadJob, SingleJob, WriteJob
from systolith.driver.link import Link
from systolith.errors import DeviceError, LinkError
from systolith.hw.isa import ErrorCode
from systolith.hw.protocol import (
    ANSWER,
    MAX_DATA,
    Command,
    Counter,
    Deframer,
    Identity,
    decode_frame,
    words,
)
from systolith.sim.faults import Faults, FaultyTransport, PeerTransport
from systolith.sim.peer import Peer

HARMS = {
    "flip": Faults(flip=0.01),
    "drop": Faults(drop=0.01),
    "duplicate": Faults(duplicate=0.2),
    "truncate": Faults(truncate=0.1),
    "reorder": Faults(reorder=0.2),
    "garbage": Faults(garbage=0.2),
    "stall": Faults(stall=0.1, stall_seconds=0.1),
    "all": Faults(flip=0.005, drop=0.005, duplicate=0.02, truncate=0.02, reorder=0.02,
                  garbage=0.02, stall=0.02),
}


def exercise(bed, rounds, seed, longest=1500):
    """Random writes, reads, fills, copies, CRCs and runs; every answer and effect is checked."""
    source, machine = random.Random(seed), bed.machine
    shadow = bytearray(bed.config.memory_size)
    size = len(shadow)
    for index in range(rounds):
        address = source.randrange(size)
        data = source.randbytes(source.randrange(1, min(longest, size - address) + 1))
        machine.write(address, data)
        shadow[address:address + len(data)] = data
        if index % 3 == 0:
            start = source.randrange(size // 2)
            nbytes = source.randrange(1, 300)
            machine.copy(start, nbytes, size // 2 + start - 300 * (start > 300))
            target = size // 2 + start - 300 * (start > 300)
            shadow[target:target + nbytes] = shadow[start:start + nbytes]
        if index % 4 == 0:
            machine.fill(address, len(data) // 2)
            shadow[address:address + len(data) // 2] = bytes(len(data) // 2)
        start = source.randrange(size)
        nbytes = source.randrange(1, min(longest, size - start) + 1)
        assert machine.read(start, nbytes) == shadow[start:start + nbytes], f"seed {seed}"
        assert machine.crc(start, nbytes) == zlib.crc32(shadow[start:start + nbytes])
        result = machine.run(64 * index)
        assert bed.core.starts[-1] == 64 * index and len(bed.core.starts) == index + 1, (
            f"a run was lost or done twice (seed {seed})")
        assert result.error is ErrorCode.NONE
        assert result.cycles == 1
        if index % 5 == 0:
            measured = machine.measurements()
            assert measured.counters == {c.name.lower(): c + 1 for c in Counter}
            assert list(measured.timestamps) == bed.core.timestamps
    assert bed.memory == shadow, f"seed {seed}"


def test_a_good_line_needs_no_repetition():
    bed = Bed()
    exercise(bed, 20, 1)
    assert bed.machine.link.statistics.repetitions == 0
    assert bed.machine.link.statistics.sessions == 1
    assert bed.machine.identity == Identity.of(
        CONFIG, build=77, session=bed.machine.identity.session, continued=True)


@pytest.mark.parametrize("name", HARMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_bad_line_does_no_harm(name, seed):
    bed = Bed(HARMS[name], seed=seed)
    exercise(bed, 8, seed)
    assert bed.line.harmed > 10, "the line was not bad"


def test_line_is_kept_busy():
    """At 3 Mbaud and 2 ms of round trip, transfers reach 85 % of the line's bytes."""
    bed = Bed()
    machine, rate = bed.machine, 300e3
    data = random.Random(1).randbytes(50_000)
    begun = machine.now()
    machine.write(0, data)
    written = machine.now()
    machine.read(0, len(data))
    read = machine.now()
    assert len(data) / (written - begun) > 0.85 * rate
    assert len(data) / (read - written) > 0.85 * rate


def test_window_bounds_what_is_on_the_way():
    bed = Bed()
    seen = []
    write = bed.line.write
    bed.line.write = lambda data: (seen.append(data.count(b"\0") // 2), write(data))
    answers = [0]
    receive = bed.peer.receive

    def count(data):
        answer = receive(data)
        answers[0] += answer.count(b"\0") // 2
        assert sum(seen) - answers[0] <= 8
        return answer

    bed.peer.receive = count
    bed.machine.write(0, bytes(30 * MAX_DATA))
    assert seen[0] == 8 and sum(seen) == 30


def test_large_pieces_become_small_on_a_bad_line_and_large_again():
    bed = Bed(Faults(flip=0.01))
    bed.machine.write(0, bytes(20_000))
    sizes = [len(frame.payload) - 4 for frame in bed.peer.executed]
    assert max(sizes[-50:]) < 100
    bed.line._up._faults = bed.line._down._faults = Faults()
    bed.machine.write(0, bytes(60_000))
    assert len(bed.peer.executed[-2].payload) - 4 == MAX_DATA


@pytest.mark.parametrize("seed", range(8))
def test_reads_see_what_was_there_when_they_were_asked(seed):
    """A read whose answer is lost is executed again, and must not see a later write."""
    bed = Bed(Faults(truncate=0.3), seed=seed)
    link = bed.machine.link
    source = random.Random(seed)
    blocks = [source.randbytes(300) for _ in range(20)]
    jobs = []
    for block in blocks:
        link.submit(WriteJob(100, block))
        jobs.append(link.submit(ReadJob(150, 100)))
    link.wait(*jobs)
    for block, job in zip(blocks, jobs, strict=True):
        assert job.result == block[50:150], f"seed {seed}"


def test_a_run_is_done_once_though_a_large_request_beside_it_fails():
    """While the start of a run is unanswered, no new session may be opened."""
    bed = Bed(looks=2)
    receive, session, lost = bed.peer.receive, bed.machine.identity.session, [0]

    def bad_line(data):
        # Nothing long gets through, the first answers to RUN are lost, and there is noise.
        answer = receive((data if len(data) < 150 else data[:50]) + b"\0noise\0")
        kept = b""
        for piece in Deframer().feed(answer):
            frame = decode_frame(piece, session)
            if frame is not None and frame.opcode == Command.RUN | ANSWER and lost[0] < 12:
                lost[0] += 1
            else:
                kept += b"\0" + piece + b"\0"
        return kept

    bed.peer.receive = bad_line
    bed.machine.begin(64)
    transfer = bed.machine.write_later(0, b"w" * 1500)
    assert bed.machine.finish().error is ErrorCode.NONE
    transfer.wait()
    assert bed.core.starts == [64] and lost[0] == 12
    assert bed.memory[:1500] == b"w" * 1500
    assert bed.machine.link.statistics.sessions > 1


def test_an_answer_of_another_length_is_none():
    bed = Bed(silence=0.3)
    bed.peer._read = lambda address, length: b"?" * (length - 1)
    with pytest.raises(LinkError, match="no request got through"):
        bed.machine.read(0, 10)


def test_progress_counts_to_the_end():
    bed = Bed()
    seen = []
    bed.machine.write(0, bytes(5000), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5000, 5000) and seen == sorted(seen) and len(seen) > 10
    bed.machine.write(0, b"")
    assert bed.machine.read(0, 0) == b""


def test_refusal_becomes_an_error_and_the_link_goes_on():
    bed = Bed()
    link = bed.machine.link
    job = link.submit(SingleJob(Command.RUN, 32, answer_bytes=4))
    with pytest.raises(DeviceError, match="refused RUN because of ADDRESS"):
        link.wait(job)
    with pytest.raises(DeviceError, match="refused READ because of ADDRESS"):
        link.call(ReadJob(CONFIG.memory_size - 1000, 2000))
    bed.machine.write(0, b"still here")
    assert bed.machine.read(0, 10) == b"still here"


def test_ranges_are_checked_before_anything_is_sent():
    machine = Bed().machine
    size = CONFIG.memory_size
    for call in (lambda: machine.write(size - 1, b"ab"), lambda: machine.read(-1, 1),
                 lambda: machine.fill(0, size + 1), lambda: machine.copy(0, 2, size - 1),
                 lambda: machine.crc(size, 1), lambda: machine.write_later(size, b"a"),
                 lambda: machine.read_later(size, 1)):
        with pytest.raises(DeviceError, match=f"has {size} bytes of memory"):
            call()


def test_silence_is_an_error_within_the_deadline():
    bed = Bed(silence=1.0)
    bed.peer.receive = lambda data: b""
    begun = bed.clock.now()
    with pytest.raises(LinkError, match="has not answered for 1 s"):
        bed.machine.read(0, 10)
    assert bed.clock.now() - begun < 1.5
    with pytest.raises(LinkError, match="has not answered"):
        bed.machine.read(0, 10)


def test_nothing_there_is_an_error():
    class Nobody:
        def receive(self, data):
            return b""

    with pytest.raises(LinkError, match=r"has not answered for 0\.7 s: check that it is powered"):
        Link(PeerTransport(Nobody()), silence=0.7)


def test_noise_without_a_device_is_an_error():
    class Noise:
        def receive(self, data):
            return random.Random(len(data)).randbytes(50)

    with pytest.raises(LinkError, match="has not answered"):
        Link(PeerTransport(Noise()))


def test_a_device_that_refuses_everything_is_an_error():
    """Signs of life without progress do not keep a call waiting for ever."""
    bed = Bed(silence=1.0)
    hello = bed.peer._hello
    bed.peer._ordered = lambda frame: bed.peer._refuse(0, 1, 0)
    bed.peer._hello = hello
    with pytest.raises(LinkError, match="no request got through for 10 s"):
        bed.machine.run(0)
    assert bed.clock.now() < 20


def test_restarted_device_is_found_out():
    bed = Bed(silence=3.0)
    bed.machine.write(0, bytes(1000))
    fresh = Peer(CONFIG, bytearray(CONFIG.memory_size), bed.core)
    bed.clock._peer = fresh
    with pytest.raises(LinkError, match="was restarted, or taken by another program"):
        bed.machine.write(0, bytes(1000))
    assert not fresh.executed


def test_other_protocol_version_is_named():
    bed_peer = Peer(CONFIG, bytearray(CONFIG.memory_size), Bed().core)
    original = Identity.encode
    try:
        Identity.encode = lambda self: b"\x09" + original(self)[1:]
        with pytest.raises(DeviceError, match=r"speaks version 9 .* this driver version 1"):
            Link(PeerTransport(bed_peer))
    finally:
        Identity.encode = original


def test_closed_link_says_so():
    bed = Bed()
    bed.machine.close()
    bed.machine.close()
    with pytest.raises(LinkError, match="is closed"):
        bed.machine.read(0, 1)


def test_cut_is_a_typed_error_at_every_byte():
    """The line breaks after each number of bytes; a new connection works at once."""
    reference = Bed()
    reference.machine.write(3, b"x" * 40)
    reference.machine.run(0)
    total = reference.line._passed
    memory, core = bytearray(CONFIG.memory_size), Bed().core
    peer = Peer(CONFIG, memory, core)
    for after in range(1, total):
        with pytest.raises(LinkError, match="lost the connection"):
            bed_machine(peer, Faults(cut_after=after), after)
        core.left = 0
        machine = bed_machine(peer, Faults(), after + total)
        assert memory[3:43] == b"x" * 40
        machine.close()


def bed_machine(peer, faults, seed):
    from systolith.driver.machine import LinkMachine

    machine = LinkMachine(Link(FaultyTransport(PeerTransport(peer), faults, seed), seed=seed))
    machine.write(3, b"x" * 40)
    machine.run(0)
    return machine


def test_cancel_and_deadline():
    bed = Bed(looks=10**6)
    bed.machine.begin(0)
    bed.machine.cancel()
    assert bed.machine.finish().error is ErrorCode.CANCELLED
    bed.machine.begin(0)
    with pytest.raises(DeviceError, match=r"did not finish within 0\.5 s and was cancelled"):
        bed.machine.finish(0.5)
    assert bed.core.cancels == 2
    bed.machine.reset()
    assert bed.machine.status().runs == 0


def test_watchdog_is_set():
    bed = Bed()
    bed.machine.run(0, watchdog=12345)
    assert bed.core.watchdog == 12345


def test_verify_finds_a_wrong_byte():
    bed = Bed()
    data = random.Random(2).randbytes(9000)
    bed.machine.write(50, data)
    bed.machine.verify(50, data)
    bed.memory[5000] ^= 1
    with pytest.raises(DeviceError, match="does not hold what was written"):
        bed.machine.verify(50, data)


class SlowCrc:
    """A peer that needs its time for a byte of CRC, and none for anything else."""

    def __init__(self, bed, seconds_per_byte):
        self.bed, self.seconds_per_byte = bed, seconds_per_byte
        self.asked = []
        crc = bed.peer._crc
        bed.peer._crc = lambda address, length, start: (
            self.asked.append(length), crc(address, length, start))[1]
        bed.clock._peer = self

    def receive(self, data):
        self.asked.clear()
        answer = self.bed.peer.receive(data)
        clock = self.bed.clock
        clock._down_free = max(clock._now, clock._down_free) + sum(self.asked) * (
            self.seconds_per_byte)
        self.total = getattr(self, "total", 0) + sum(self.asked)
        return answer


@pytest.mark.parametrize("seconds_per_byte", (1e-7, 1e-6, 1.4e-5, 1e-4))
def test_slow_device_is_given_time(seconds_per_byte):
    """A CRC that takes longer than any round trip is waited for. How long it takes nobody knows at
    first, and how long a FILL takes says nothing about it."""
    bed = Bed()
    machine = bed.machine
    slow = SlowCrc(bed, seconds_per_byte)
    for _ in range(5):
        machine.fill(0, 60_000)
    begun = machine.now()
    assert machine.crc(0, 60_000) == zlib.crc32(bytes(60_000))
    # Only the first piece may have been asked for more often than once.
    assert slow.total <= 60_000 + 8 * 4096
    assert machine.now() - begun < seconds_per_byte * (60_000 + 8 * 4096) + 0.2
    before = machine.link.statistics.repetitions
    assert machine.crc(0, 60_000) == zlib.crc32(bytes(60_000))
    assert machine.link.statistics.repetitions == before


@pytest.mark.parametrize("latency", (0.05, 0.3, 2.0))
def test_far_device_is_given_time(latency):
    """A round trip longer than the first timeout is learnt, and then nothing is sent twice."""
    bed = Bed(latency=latency)
    machine = bed.machine
    machine.write(0, bytes(range(256)) * 40)
    assert machine.read(0, 10_240) == bytes(range(256)) * 40
    before = machine.link.statistics.repetitions
    begun = machine.now()
    for index in range(5):
        machine.write(index, b"x" * 2000)
    assert machine.link.statistics.repetitions == before
    assert machine.now() - begun < 5 * (2 * latency + 0.1)


def test_words():
    assert words(1, 0xFFFFFFFF) == b"\1\0\0\0\xff\xff\xff\xff"
