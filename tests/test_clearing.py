"""Between two programs nothing stays behind: every memory of the core is overwritten."""

import numpy as np
import pytest

from link_stand_ins import CONFIG, copy_program
from systolith.driver.clearing import clearing_image
from systolith.driver.device import Device
from systolith.driver.golden import GoldenMachine
from systolith.hw.config import PRESETS
from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    Array,
    End,
    Fill,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    encode,
    encode_descriptor,
)
from systolith.sim.golden import Golden
from systolith.sim.programs import CONFIGS
from systolith.sim.verilated import VerilatedDevice
from systolith.verifier import verify_image

RECORD = np.array([0, 0, 1 << 23 | 23 << 24, 0], "<u4").tobytes()
"""Parameters of a channel that leave small values as they are: 2^23 / 2^23."""


def program(config, lists, data=b""):
    """An image: descriptor, 4 KiB of data, instructions."""
    address, starts, code = DESCRIPTOR_BYTES + 4096, [], b""
    for queue in Queue:
        starts.append(address + len(code))
        code += b"".join(map(encode, [*lists.get(queue, []), End()]))
    return encode_descriptor(config.hash32, tuple(starts)) + data.ljust(4096, b"\0") + code


def secrets(config):
    """Fill scratchpad, weights, vector weights and accumulators with what is not 0."""
    block = bytes([37]) * 1024
    size = config.weight_words * config.weight_word_bytes
    taps = config.vector_weight_words * config.rows
    load = [Fill(value=55, words=config.scratchpad_words),
            Load(target=LoadTarget.WEIGHT, source=64, chunk_bytes=1024, rows=size // 1024,
                 destination_row_step=1),
            Load(target=LoadTarget.VECTOR_WEIGHT, source=64, chunk_bytes=min(taps, 1024),
                 rows=max(1, taps // 1024), destination_row_step=1)]
    count = min(config.accumulator_words, config.vector_accumulator_words)
    return program(config, {
        Queue.LOAD: load, Queue.ARRAY: [Array(wait_load=2, count_0=count)],
        Queue.VECTOR: [Vector(wait_load=3, count_0=count)]}, block)


def dump(config, place):
    """Bring the scratchpad, and what the accumulators make of it, to main memory at `place`."""
    count = min(config.accumulator_words, config.vector_accumulator_words)
    half = config.scratchpad_words // 2
    records = RECORD * (4096 // 16)
    load = [Load(target=LoadTarget.PARAMETER, source=64, rows=1,
                 chunk_bytes=min(4096, config.parameter_words * config.parameter_word_bytes))]
    store = [Store(source=0, destination=place, row_bytes=half * config.rows)]
    post = [Post(source=source, count_0=count, wait_load=1, wait_store=1, low=-128, high=127,
                 destination=index * count, destination_step_0=1)
            for index, source in enumerate((PostSource.ARRAY, PostSource.VECTOR))]
    store.append(Store(source=0, wait_post=2, destination=place + half * config.rows,
                       row_bytes=2 * count * config.rows))
    return program(config, {Queue.LOAD: load, Queue.POST: post, Queue.STORE: store}, records)


@pytest.mark.parametrize("name", CONFIGS)
def test_clearing_is_a_valid_program(name):
    config = CONFIGS[name]
    verify_image(config, clearing_image(config))
    memory = np.zeros(config.memory_size, np.uint8)
    image = clearing_image(config)
    memory[:len(image)] = np.frombuffer(image, np.uint8)
    outcome = Golden(config, noise=3).run(memory)
    assert not outcome.error, outcome


def test_nothing_stays_on_the_chip():
    """On RTL: secrets are there without clearing, and nothing is with it."""
    config = PRESETS["tiny"].replace(memory_size=1 << 16)
    place = 0x4000
    found = []
    with VerilatedDevice(config, memory_latency=3) as device:
        for clear in (False, True):
            images = [secrets(config), *([clearing_image(config)] if clear else []),
                      dump(config, place)]
            for image in images:
                device.memory_write(0, bytes(1 << 16))
                device.memory_write(0, image)
                result = device.run(0, 1_000_000)
                assert result.finished and not result.error, result
            found.append(np.frombuffer(device.memory_read(place, 0x4000), np.uint8))
    assert (found[0] == 55).sum() > 1000 and np.count_nonzero(found[0] == 127) > 100
    assert not found[1].any()


def test_cost_in_cycles():
    """What loading another program costs on the 16x16 core beside sending it."""
    config = PRESETS["default"]
    with VerilatedDevice(config) as device:
        device.memory_write(0, clearing_image(config))
        result = device.run(0)
        assert result.finished and not result.error
        assert result.cycles == 38_354


def test_loading_clears_main_memory():
    machine = GoldenMachine(CONFIG)
    device = Device(machine)
    device.load(copy_program())
    machine.write(0x700, b"left behind")
    device.load(copy_program(scale=0.25))
    assert machine.read(0x700, 11) == bytes(11)
