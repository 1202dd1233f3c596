"""Several devices as one."""

import threading
import time

import numpy as np
import pytest

import systolith
from link_stand_ins import CONFIG, copy_program
from systolith.driver.pool import DevicePool
from systolith.errors import DeviceError, InputError, LinkError
from systolith.hw.config import PRESETS
from systolith.sim.faults import Faults
from test_driver_device import GoldenBed, expected, images


def hold(bed, wait):
    """Let a device call `wait` in its first run."""
    start = bed.core.start

    def first(base):
        bed.core.start = start
        wait()
        start(base)

    bed.core.start = first


def test_batch_is_spread_and_keeps_its_order():
    beds = [GoldenBed(seed=seed) for seed in range(3)]
    program, batch, seen = copy_program(), images(50), []
    barrier = threading.Barrier(3)
    for bed in beds:
        hold(bed, lambda: barrier.wait(30))
    with DevicePool([bed.device for bed in beds]) as pool:
        results = pool.run(program, batch, progress=lambda done, total: seen.append((done, total)))
        assert np.array_equal(results, expected(program, batch))
        levels = pool.run(program, batch, dequantize=False)
        assert np.array_equal(levels, program.inputs[0].quantize(batch))
        assert pool.last_run.images == 50 and pool.last_run.total_cycles == 50_000
    assert seen[-1] == (50, 50) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(any(frame.opcode == 4 for frame in bed.peer.executed) for bed in beds)


@pytest.mark.parametrize("cut", (400, 3000, 7000))
def test_others_finish_when_one_dies(cut):
    beds = [GoldenBed(seed=1), GoldenBed(seed=2, faults=Faults(cut_after=cut)), GoldenBed(seed=3)]
    program, batch = copy_program(), images(300)
    pool = DevicePool([bed.device for bed in beds])

    def until_one_is_lost():
        deadline = time.monotonic() + 30
        while not pool.lost:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    for bed in (beds[0], beds[2]):
        hold(bed, until_one_is_lost)
    assert np.array_equal(pool.run(program, batch), expected(program, batch))
    [(name, error)] = pool.lost
    assert name == "the peer" and "lost the connection" in str(error)
    assert pool.devices == [beds[0].device, beds[2].device]
    assert np.array_equal(pool.run(program, batch), expected(program, batch))


def test_all_lost_is_a_link_error():
    pool = DevicePool([GoldenBed(seed=seed, faults=Faults(cut_after=2000)).device
                       for seed in range(2)])
    with pytest.raises(LinkError, match="all devices were lost, the last one with: lost"):
        pool.run(copy_program(), images(200))


def test_a_failed_run_ends_the_batch():
    pool = DevicePool([GoldenBed(seed=seed).device for seed in range(2)])
    with pytest.raises(DeviceError, match="stopped with ADDRESS"):
        pool.run(copy_program(error=True), images(20))
    with pytest.raises(InputError, match="lacks the batch axis"):
        pool.run(copy_program(), images(1)[0])


def test_an_error_of_the_callers_own_callback_is_his():
    def interrupt(done, total):
        raise KeyboardInterrupt

    pool = DevicePool([GoldenBed(seed=seed).device for seed in range(2)])
    with pytest.raises(KeyboardInterrupt):
        pool.run(copy_program(), images(20), progress=interrupt)
    assert not pool.lost and len(pool.devices) == 2


def test_opening_several():
    with systolith.open(["golden", "golden"], config=CONFIG) as pool:
        program, batch = copy_program(), images(9)
        assert np.array_equal(pool.run(program, batch), expected(program, batch))
        assert pool.last_run.cycles is None
    with pytest.raises(InputError, match="no device is named"):
        systolith.open([])
    with pytest.raises(InputError, match="no device '3': a list of devices holds names"):
        systolith.open(["golden", 3], config=CONFIG)
    with pytest.raises(LinkError, match="cannot connect"):
        systolith.open(["golden", "tcp:127.0.0.1:1"], config=PRESETS["tiny"])
