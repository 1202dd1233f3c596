"""Devices of a Dask cluster on this machine: in order, complete, and never waiting for ever."""

import os
import signal
import time
from importlib import metadata

import numpy as np
import pytest

import systolith
from link_stand_ins import CONFIG, copy_program
from systolith.driver.tools import device_action
from systolith.errors import DeviceError, InputError, LinkError, ProgramError
from systolith.hw.config import PRESETS
from test_driver_device import expected, images

distributed = pytest.importorskip("distributed", reason="needs systolith[dask]")


def local_cluster(workers, *, processes=False):
    """A cluster in this process, or of processes, on ports that nobody else has."""
    return distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=processes,
                                    dashboard_address=":0", worker_dashboard_address=":0")


@pytest.fixture
def cluster():
    """Two workers in this process."""
    with local_cluster(2) as local:
        yield local


def address(local):
    return f"dask://{local.scheduler_address}"


def test_a_batch_is_spread_over_the_workers(cluster):
    program, batch, seen = copy_program(), images(21), []
    with systolith.open(address(cluster), worker_device="golden") as pool:
        results = pool.run(program, batch, progress=lambda done, total: seen.append((done, total)))
        assert np.array_equal(results, expected(program, batch))
        assert np.array_equal(pool.run(program, batch, dequantize=False),
                              program.inputs[0].quantize(batch))
        assert pool.last_run.images == 21 and not pool.lost
        assert len(pool.devices) == 2 and all(device.last_run for device in pool.devices)
        # Another program, and one for another configuration, on the same devices.
        other = copy_program(PRESETS["small"], scale=0.25)
        assert np.array_equal(pool.run(other, batch), expected(other, batch))
        assert np.array_equal(pool.run(program, batch), expected(program, batch))
    assert seen[-1] == (21, 21) and len(seen) > 2


def test_errors_of_the_workers_are_the_same_as_here(cluster):
    with systolith.open(address(cluster), worker_device="golden", config=CONFIG) as pool:
        with pytest.raises(ProgramError, match="LOAD instruction 0"):
            pool.run(copy_program(error=True), images(4))
        with pytest.raises(DeviceError, match="compiled for configuration"):
            pool.run(copy_program(PRESETS["small"]), images(4))
        with pytest.raises(InputError, match="lacks the batch axis"):
            pool.run(copy_program(), images(1)[0])
        assert np.array_equal(pool.run(copy_program(), images(4)),
                              expected(copy_program(), images(4)))
    with (systolith.open(address(cluster), worker_device="gold") as pool,
          pytest.raises(InputError, match="no device 'gold'")):
        pool.run(copy_program(), images(4))
    with (systolith.open(address(cluster), worker_device="tcp:127.0.0.1:1") as pool,
          pytest.raises(LinkError, match=r"all devices were lost, .* cannot connect")):
        pool.run(copy_program(), images(4))


def test_workers_choose_their_devices_themselves(cluster):
    from dask import config

    with config.set({"systolith.device": "golden"}), systolith.open(address(cluster)) as pool:
        assert np.array_equal(pool.run(copy_program(), images(3)),
                              expected(copy_program(), images(3)))


def test_workers_come_and_go(cluster):
    program, batch = copy_program(), images(8)
    with systolith.open(address(cluster), worker_device="golden") as pool:
        pool.run(program, batch)
        before = {device.address for device in pool.devices}
        cluster.scale(3)
        cluster.wait_for_workers(3, timeout=30)
        assert np.array_equal(pool.run(program, batch), expected(program, batch))
        assert before < {device.address for device in pool.devices}
        cluster.scale(0)
        deadline = time.monotonic() + 30
        while cluster.scheduler.workers:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(LinkError, match="has no workers"):
            pool.run(program, batch)


def test_workers_of_another_release_are_refused(cluster, monkeypatch):
    def version(name):
        try:
            distributed.get_worker()
        except ValueError:
            return "2.0"
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    with (systolith.open(address(cluster), worker_device="golden") as pool,
          pytest.raises(LinkError, match=r"release 1\.0 of systolith and not 2\.0")):
        pool.run(copy_program(), images(4))


def test_the_others_finish_when_a_worker_dies():
    """One worker is stopped with a piece of the batch in its hands, and killed a little later."""
    program, batch = copy_program(), images(40)
    with (local_cluster(2, processes=True) as local,
          systolith.open(address(local), worker_device="golden", config=CONFIG) as pool):
        pool.run(program, batch)
        victim = next(worker for worker in local.workers.values()
                      if worker.worker_address == pool.devices[0].address).pid
        os.kill(victim, signal.SIGSTOP)

        seen = []

        def kill(done, total):
            if not seen:
                os.kill(victim, signal.SIGKILL)
            seen.append(done)

        begun = time.monotonic()
        assert np.array_equal(pool.run(program, batch, progress=kill), expected(program, batch))
        assert time.monotonic() - begun < 30
        [(name, error)] = pool.lost
        assert name.startswith("worker tcp://") and "start it again" in str(error)


def test_a_scheduler_that_is_gone_is_a_link_error():
    with local_cluster(1) as local:
        pool = systolith.open(address(local), worker_device="golden")
        pool.run(copy_program(), images(2))
    begun = time.monotonic()
    with pytest.raises(LinkError, match="has no workers"):
        pool.run(copy_program(), images(2))
    pool.close()
    pool.close()
    assert time.monotonic() - begun < 30


def test_what_cannot_be_opened():
    begun = time.monotonic()
    with pytest.raises(LinkError, match=r"no Dask scheduler answers at 127\.0\.0\.1:1 within"):
        systolith.open("dask://127.0.0.1:1", timeout=0.5)
    assert time.monotonic() - begun < 10
    for name in ("dask:", "dask://", "dask:host:3"):
        with pytest.raises(InputError, match="names no scheduler: use dask://HOST:PORT"):
            systolith.open(name)
    with pytest.raises(InputError, match="is several devices already"):
        systolith.open(["dask://127.0.0.1:1"])
    with pytest.raises(InputError, match="is several devices: name one"):
        device_action("dask://127.0.0.1:1", "info")
