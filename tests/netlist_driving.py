"""Boards' simulated netlists, driven over a pseudo-terminal."""

import threading
import time
from contextlib import contextmanager

import numpy as np

import systolith
from systolith.driver.simulate import SLOW_STEP, PtyPort, serve_device
from systolith.sim.golden import Golden
from systolith.sim.programs import random_program

__all__ = ["PATIENCE", "driven", "run_random_programs"]

PATIENCE = 900.0
"""Seconds that the driver gives a simulation that needs seconds for a frame, and minutes for a
run."""

_BYTES = 12_288
"""Of main memory that random programs use: more would take the serial line too long."""


@contextmanager
def driven(device, config):
    """The driver's device for a board that is simulated as a `ByteDevice`; a failure of the
    simulation ends the connection, and is raised."""
    port, stop, failures = PtyPort(), threading.Event(), []

    def serve():
        try:
            serve_device(device, port, stop.is_set, step=SLOW_STEP)
        except Exception as error:
            failures.append(error)
        finally:
            port.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with systolith.open(port.address, config=config, silence=PATIENCE,
                            timeout=PATIENCE) as opened:
            yield opened
    finally:
        stop.set()
        thread.join(60)
        if failures:
            raise failures[0]


def run_random_programs(device, config, seeds):
    """Random programs leave in main memory what the golden model does."""
    with driven(device, config) as opened:
        machine = opened.machine
        for seed in seeds:
            program = random_program(config, seed, instructions=8, memory_bytes=_BYTES)
            before = program.memory()
            before[len(program.image):] = 0
            after = before.copy()
            assert not Golden(config).run(after).error
            changed = np.flatnonzero(after != before)
            assert len(changed) > 100
            begun, cycle = time.monotonic(), device.cycle
            machine.fill(len(program.image), _BYTES - len(program.image))
            machine.write(0, program.image)
            machine.run(0, deadline=PATIENCE).check(f"seed {seed}")
            first, last = int(changed[0]), int(changed[-1]) + 1
            assert machine.read(first, last - first) == after[first:last].tobytes(), f"seed {seed}"
            seconds, cycles = time.monotonic() - begun, device.cycle - cycle
            print(f"{cycles:,} cycles in {seconds:.0f} s, {len(changed)} bytes of results")
