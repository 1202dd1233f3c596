"""Devices as their users see them: batches in, numbers out, and every error in one sentence."""

import random

import numpy as np
import pytest

import systolith
from link_stand_ins import CONFIG, Bed, copy_program
from systolith.driver.device import Device
from systolith.driver.link import Link
from systolith.driver.machine import LinkMachine
from systolith.driver.tools import (
    PROGRAM_BYTES,
    PROGRAMS,
    device_action,
    info,
    measure,
    selftest,
)
from systolith.errors import ConfigError, DeviceError, InputError, LinkError, ProgramError
from systolith.hw.config import PRESETS
from systolith.hw.protocol import COUNTERS
from systolith.sim.faults import Faults, FaultyTransport, PeerTransport
from systolith.sim.golden import Golden
from systolith.sim.peer import GoldenCore, Peer
from systolith.sim.programs import random_program
from systolith.verifier import verify_image


class GoldenBed:
    """A device behind a link whose core is the golden interpreter; it counts what it executed."""

    def __init__(self, *, streaming=False, faults=None, config=CONFIG, seed=1):
        self.memory = bytearray(config.memory_size)
        self.core = GoldenCore(config, self.memory)
        self.core.counters = [1000 + i for i in range(COUNTERS)]
        self.core.timestamps = [(900, 800)]
        self.peer = Peer(config, self.memory, self.core)
        line = FaultyTransport(PeerTransport(self.peer), faults or Faults(), seed)
        self.device = Device(LinkMachine(Link(line, seed=seed)), streaming=streaming,
                             careful=False)


def images(count, seed=1):
    return np.random.default_rng(seed).normal(0, 20, (count, 3, 2, 2)).astype(np.float32)


def expected(program, batch):
    tensor = program.inputs[0]
    return tensor.dequantize(tensor.quantize(batch))


def test_golden_device():
    program = copy_program()
    batch = images(5)
    with systolith.open("golden", config=CONFIG) as device:
        results = device.run(program, batch)
        assert results.dtype == np.float32 and np.array_equal(results, expected(program, batch))
        levels = device.run(program, batch, dequantize=False)
        assert levels.dtype == np.int8
        assert np.array_equal(levels, program.inputs[0].quantize(batch))
        assert device.last_run.images == 5 and device.last_run.cycles is None
        device.selftest(program)


@pytest.mark.parametrize("streaming", (False, True))
def test_linked_device_equals_golden(streaming):
    program = copy_program()
    batch = images(7)
    bed = GoldenBed(streaming=streaming)
    assert np.array_equal(bed.device.run(program, batch), expected(program, batch))
    run = bed.device.last_run
    assert run.images == 7 and run.cycles == 1000 and run.total_cycles == 7000
    assert run.utilization == 480 / (1000 * CONFIG.multipliers)
    assert run.bytes_read == 1001 and run.bytes_written == 1002
    assert run.stalls["array_weight"] == 1003 and run.stalls["load_wait"] == 1005
    [layer] = run.layers
    assert (layer.name, layer.cycles, layer.active, layer.macs) == ("copy", 900, 800, 480)
    assert run.seconds > 0 and run.core_seconds + run.link_seconds == pytest.approx(run.seconds)


def test_streaming_hides_transfers_behind_computing():
    """While an image is computed, the next one travels: the batch takes less than the sum."""
    times = {}
    for streaming in (False, True):
        bed = GoldenBed(streaming=streaming)
        bed.core.looks = 0
        start = bed.core.start

        def slow(base, bed=bed, start=start):
            start(base)
            bed.done_at = bed.device.machine.now() + 2e-3

        bed.done_at = 0.0
        bed.core.start = slow
        type(bed.core).busy = property(lambda core, bed=bed: bed.device.machine.now()
                                       < bed.done_at, lambda core, value: None)
        try:
            batch = images(20)
            program = copy_program()
            bed.device.load(program)
            assert np.array_equal(bed.device.run(program, batch), expected(program, batch))
        finally:
            del type(bed.core).busy
        times[streaming] = bed.device.last_run.seconds
    assert times[True] < 0.8 * times[False], times


@pytest.mark.parametrize("seed", range(4))
def test_bad_line_gives_right_answers(seed):
    program = copy_program()
    batch = images(6, seed)
    faults = Faults(flip=0.003, drop=0.003, duplicate=0.02, reorder=0.02, garbage=0.02)
    bed = GoldenBed(streaming=seed % 2 == 1, faults=faults, seed=seed)
    assert np.array_equal(bed.device.run(program, batch), expected(program, batch))


def test_thousandth_inference_is_the_first():
    """Without a reset between, with other programs and failed runs in between."""
    bed = GoldenBed()
    program, other, broken = copy_program(), copy_program(scale=0.25), copy_program(error=True)
    batch = images(1)
    first = bed.device.run(program, batch)
    source = random.Random(6)
    for count in range(2, 1001):
        if count % 97 == 0:
            with pytest.raises(DeviceError, match="stopped with ADDRESS at the LOAD instruction "
                                                  "at address 0x40: the program is damaged"):
                bed.device.run(broken, batch)
        elif count % 31 == 0:
            bed.device.run(other, images(1, source.randrange(100)))
        elif count % 53 == 0:
            bed.device.machine.cancel()
        else:
            assert np.array_equal(bed.device.run(program, batch), first), count


def test_program_is_sent_once_and_verified():
    bed = GoldenBed()
    program = copy_program()
    bed.device.run(program, images(3))
    sent = sum(len(frame.payload) - 4 for frame in bed.peer.executed if frame.opcode == 3)
    assert sent == len(program.image) + 3 * program.inputs[0].nbytes
    bed.memory[70] ^= 1
    with pytest.raises(DeviceError, match="does not hold what was written"):
        bed.device.verify()
    assert np.array_equal(bed.device.run(program, images(3)), expected(program, images(3)))


def test_a_write_that_is_lost_in_the_device_is_found():
    """A memory that forgets a byte of the image is noticed before the first run."""
    bed = GoldenBed()
    write = bed.peer._write
    bed.peer._write = lambda address, data: write(address, data[:-1] + b"\x55")
    with pytest.raises(DeviceError, match="does not hold what was written"):
        bed.device.run(copy_program(), images(1))
    assert not any(frame.opcode == 4 for frame in bed.peer.executed)


def test_memory_of_an_earlier_program_is_cleared():
    bed = GoldenBed()
    program = copy_program()
    bed.memory[:] = b"\xA5" * len(bed.memory)
    bed.device.load(program)
    rest = bed.memory[len(program.image):program.memory_bytes]
    assert rest == bytes(len(rest))
    assert bed.memory[program.memory_bytes] == 0xA5, "other memory is left alone"


def test_selftest_of_a_program():
    bed = GoldenBed()
    bed.device.selftest(copy_program())
    with pytest.raises(DeviceError, match=r"computed 0 instead of 1 for 'y' at \(0, 0, 0\), and "
                                          "12 wrong"):
        bed.device.selftest(copy_program(wrong=True))


def test_other_configuration_is_refused_with_both_named():
    other = PRESETS["small"]
    program = copy_program(other)
    bed = GoldenBed()
    with pytest.raises(DeviceError, match=f"{other.hash} and the peer has {CONFIG.hash}"):
        bed.device.run(program, np.zeros((1, 3, 2, 2)))


@pytest.mark.parametrize(("batch", "message"), [
    (np.zeros((3, 2, 2)), r"lacks the batch axis: pass images\[None\]"),
    (np.zeros((1, 4, 2, 2)), r"must have shape \(N, 3, 2, 2\), not \(1, 4, 2, 2\)"),
    (np.zeros((0, 3, 2, 2)), "has no images"),
    (np.zeros((1, 3, 2, 2), complex), "must hold real numbers, not complex128"),
    (np.full((1, 3, 2, 2), np.nan), "contains NaN"),
    ([[1, 2], [3]], "is not an array of numbers"),
    ("text", "must hold real numbers"),
    (None, "must hold real numbers"),
])
def test_wrong_images_are_refused(batch, message):
    with (systolith.open("golden", config=CONFIG) as device,
          pytest.raises(InputError, match=message)):
        device.run(copy_program(), batch)


def test_tail_runs_on_the_host():
    program = copy_program(
        tail=({"op": "scale", "inputs": ["y"], "output": "z",
               "arguments": {"factor": 2.0, "offset": 1.0}},), metadata={"results": ["z", "y"]})
    with systolith.open("golden", config=CONFIG) as device:
        scaled, plain = device.run(program, images(2))
    assert np.array_equal(scaled, plain * 2 + 1)


def test_progress_of_a_batch():
    for streaming in (False, True):
        seen = []
        GoldenBed(streaming=streaming).device.run(
            copy_program(), images(4), progress=lambda done, total, seen=seen: seen.append(
                (done, total)))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("name", "options", "error", "message"), [
    ("gold", {}, InputError, "no device 'gold': use golden, rtl, pty:PATH"),
    ("golden:x", {}, InputError, "no device 'golden:x'"),
    ("tcp:", {}, InputError, "no device 'tcp:'"),
    ("tcp:host", {}, InputError, "'host' is not HOST:PORT"),
    ("tcp:localhost:99999", {}, InputError, "is not HOST:PORT"),
    ("tcp:127.0.0.1:1", {}, LinkError, "cannot connect to 127.0.0.1:1"),
    ("pty:/dev/nothing", {}, LinkError, "cannot open /dev/nothing: .* check that the device"),
    ("serial:/dev/nothing", {}, LinkError, "cannot open /dev/nothing"),
    ("serial:NOSUCHNUMBER", {}, LinkError, "no serial port 'NOSUCHNUMBER'"),
    ("golden", {"baud": 3}, InputError, "device 'golden' has no option baud: it has none"),
    ("golden", {"config": "huge"}, ConfigError, "no configuration 'huge'"),
    (None, {}, InputError, "no device 'None'"),
])
def test_what_cannot_be_opened(name, options, error, message):
    with pytest.raises(error, match=message) as caught:
        systolith.open(name, **options)
    assert "\n" not in str(caught.value)


def test_tools():
    bed = Bed()
    device = Device(bed.machine)
    about = info(device)
    assert about["config_hash"] == CONFIG.hash and about["build"] == f"{77:016x}"
    figures = measure(device)
    assert figures["write_bytes_per_second"] > 0.85 * 300e3
    assert 200 < figures["round_trips_per_second"] < 500 and figures["repetitions"] == 0
    assert selftest(device) == {"device": "the peer", "memory_tested": 4096 * 6, "programs": 0,
                                "errors": 0}, "this configuration is no preset"
    assert not any(bed.memory)
    bed.peer._memory = StuckMemory(bed.memory)
    with pytest.raises(DeviceError, match=r"does not hold|reads other bytes"):
        selftest(device)
    with pytest.raises(InputError, match="no action 'dance': use info, selftest or bench"):
        device_action("golden", "dance")
    assert device_action("golden", "info", config=CONFIG)["memory_size"] == CONFIG.memory_size


def test_selftest_runs_programs_whose_results_are_known():
    bed = GoldenBed()
    assert selftest(bed.device, CONFIG)["programs"] == 4
    run = bed.core.start

    def wrong(base):
        run(base)
        bed.memory[PROGRAM_BYTES - 1] ^= 4

    bed.core.start = wrong
    with pytest.raises(DeviceError, match=r"computed 1 wrong bytes in test program 0, the first "
                                          r"\d+ instead of \d+ at 0x5fff: check the board's clock"):
        selftest(bed.device, CONFIG)


@pytest.mark.parametrize("name", PRESETS)
def test_programs_of_the_selftest_are_valid(name):
    config = PRESETS[name]
    for seed in range(PROGRAMS):
        program = random_program(config, seed, memory_bytes=PROGRAM_BYTES)
        verify_image(config, program.image)
        memory = bytearray(config.memory_size)
        memory[:len(program.image)] = program.image
        assert not Golden(config).run(memory).error
        assert any(memory[len(program.image):PROGRAM_BYTES])
        assert not any(memory[PROGRAM_BYTES:PROGRAM_BYTES + 4096]), "more memory than it may use"


class StuckMemory:
    """Memory with one address line stuck: two places share their contents."""

    def __init__(self, memory):
        self._memory = memory

    def __setitem__(self, where, data):
        self._memory[self._fold(where)] = data

    def __getitem__(self, where):
        return self._memory[self._fold(where)]

    @staticmethod
    def _fold(where):
        length = where.stop - where.start
        start = where.start & ~(1 << 14)
        return slice(start, start + length)


def test_programs_are_verified_before_they_are_sent():
    """What would stop the device, or read what nobody wrote, does not reach it."""
    with systolith.open("golden", config=CONFIG) as device:
        with pytest.raises(ProgramError, match="LOAD instruction 0"):
            device.run(copy_program(error=True), images(1))
        assert np.array_equal(device.run(copy_program(), images(2)),
                              expected(copy_program(), images(2)))
