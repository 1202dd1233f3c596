"""Damaged programs all the way: on RTL past the verifier, and files through loader and driver."""

import random

import numpy as np
import pytest

from damage import damaged
from link_stand_ins import CONFIG, copy_program
from systolith.driver.device import Device
from systolith.driver.golden import GoldenMachine
from systolith.errors import Error
from systolith.hw.isa import ErrorCode
from systolith.program import Program
from systolith.sim.golden import Golden
from systolith.sim.programs import CONFIGS, random_program
from systolith.sim.verilated import VerilatedDevice
from test_program import mutate_json, rechecked, split
from test_random_programs import refusal

WATCHDOG = 1 << 20
MOST_CYCLES = 1 << 26


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("inputs", [
    30, pytest.param(1_000, marks=pytest.mark.slow, id="fuzz")])
def test_damaged_programs_on_rtl(name, inputs):
    """Sent past the verifier, one after the other without a reset: every run ends, nothing outside
    of main memory is touched (the simulation stops at that), the device reports an error exactly
    where the golden model does, and what the verifier accepts leaves the golden model's memory."""
    config, seed = CONFIGS[name], 77
    rng = random.Random(seed)
    ends = dict.fromkeys(ErrorCode, 0)
    accepted = 0
    with VerilatedDevice(config, memory_latency=5, stall_per_mille=100, seed=seed) as device:
        device.set_watchdog(WATCHDOG)
        for number in range(inputs):
            where = f"{name}, seed {seed}, number {number}"
            if number % 15 == 0:
                program = random_program(config, number, instructions=12)
            image = damaged(program, rng)
            memory = program.memory()
            memory[:len(image)] = np.frombuffer(image, np.uint8)
            device.memory_write(0, memory.tobytes())
            outcome = Golden(config).run(memory)
            result = device.run(0, MOST_CYCLES)
            assert result.finished, f"{where}: no end within {MOST_CYCLES} cycles"
            assert bool(result.error) == bool(outcome.error), f"{where}: {result}, {outcome}"
            ends[result.error] += 1
            if not refusal(config, image):
                accepted += 1
                left = np.frombuffer(device.memory_read(0, config.memory_size), np.uint8)
                assert not result.error and (left == memory).all(), f"{where}: {result}"
    print({error.name: count for error, count in ends.items() if count}, f"{accepted} accepted")
    assert inputs // 10 < accepted < inputs // 2
    assert all(ends[error] for error in (ErrorCode.DECODE, ErrorCode.ADDRESS, ErrorCode.DEADLOCK))


@pytest.mark.parametrize("inputs", [
    500, pytest.param(100_000, marks=pytest.mark.slow, id="fuzz")])
def test_damaged_files_through_the_driver(inputs):
    """Files whose checksum fits what they say, and what they say is changed: an error of ours, or a
    run. Images, descriptors and float operations are all in reach."""
    seed = 78
    rng = random.Random(seed)
    tail = ({"op": "reshape", "inputs": ["y"], "output": "r", "arguments": {"shape": [12]}},
            {"op": "scale", "inputs": ["r"], "output": "s",
             "arguments": {"factor": 2.0, "offset": 1.0}},
            {"op": "softmax", "inputs": ["s"], "output": "z", "arguments": {"axis": 1}})
    original = copy_program(tail=tail, metadata={"results": ["z", "y"]})
    header, body = split(original.to_bytes())
    pieces = ["-1", "0", "1", "3", "1e999", "1e300", "null", "[]", "{}", '""', '"y"', "true",
              "4294967296", "[0,0]", "[2,6]", '"softmax"', '"linear"']
    machine = GoldenMachine(CONFIG)
    device = Device(machine)
    ran, messages = 0, []
    for number in range(inputs):
        changed = bytearray(body)
        text = header["__metadata__"]["program"]
        for _ in range(rng.randint(0, 2)):
            text = mutate_json(text, pieces, rng)
        if rng.random() < 0.3:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        try:
            program = Program.from_bytes(bytes(rechecked(header, bytes(changed), text)))
            images = np.ones((2, *program.inputs[0].shape), np.float32)
            device.run(program, images)
            device.selftest(program)
            ran += 1
        except Error as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}, number {number}: {error!r}\n{text}") from error
    assert inputs // 20 < ran < inputs * 2 // 3, ran
    assert not any("\n" in message for message in messages)
