"""The sequential core against the golden model: what the parallel core has to do as well."""

from dataclasses import replace

import numpy as np
import pytest

import systolith
from systolith import models
from systolith.accesses import InvalidInstructionError, accesses
from systolith.bench import bench_model
from systolith.errors import ConfigError
from systolith.hw.config import PRESETS
from systolith.hw.isa import (
    Array,
    End,
    ErrorCode,
    Fill,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
)
from systolith.hw.sequential.core import SequentialCoreWithScratchpad
from systolith.hw.sequential.spram import SpramMemory, check_room
from systolith.importer import import_model
from systolith.sim.bench import run_bench
from systolith.sim.golden import Golden
from systolith.sim.programs import assemble
from systolith.sim.verilated import VerilatedDevice
from test_rtl_programs import compare_config

SMALL = PRESETS["icebreaker"].replace(
    memory_size=1 << 16, scratchpad_bank_words=256, weight_words=64, accumulator_words=16,
    parameter_words=16, timestamps=16)
"""Random programs reach the ends of these memories."""

WIDE = SMALL.replace(columns=8, residual=False)

CONFIGS = {
    "small": SMALL,
    "odd": SMALL.replace(scratchpad_banks=2, scratchpad_bank_words=64, weight_words=16,
                         accumulator_words=32, parameter_words=8, memory_size=49_152),
    "core": SMALL.replace(scratchpad_bank_words=512),
    "icebreaker": PRESETS["icebreaker"],
    "without residual": SMALL.replace(residual=False),
    "wide": WIDE,
    "wide odd": WIDE.replace(scratchpad_banks=2, scratchpad_bank_words=64, weight_words=16,
                             accumulator_words=32, parameter_words=8, memory_size=49_152),
    "wide core": WIDE.replace(scratchpad_bank_words=512),
    "tang-nano-9k": PRESETS["tang-nano-9k"],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_random_programs_equal_the_golden_model(name):
    assert compare_config(name, CONFIGS[name], range(1000, 1008)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_bench_many_random_programs(name):
    for latency in (1, 20):
        compare_config(name, CONFIGS[name], range(5000 + latency, 5040 + latency),
                       latency=latency)


@pytest.mark.parametrize("name", ("core", "wide core"))
def test_core(name):
    """Errors, watchdog, cancelled runs, and a host that uses main memory at the same time."""
    config = CONFIGS[name]
    run_bench(SequentialCoreWithScratchpad(config), "benches.core_bench",
              parameters={"config": config.to_dict(), "programs": 3, "watchdog": 0,
                          "instructions": 12},
              testcase=["random_programs", "host_and_program_share_memory",
                        "runs_can_be_cancelled_anywhere", "wrong_programs_are_stopped",
                        "the_watchdog_ends_long_instructions"])


def _memory(config, lists):
    """Main memory with a program of these instructions, and an END for every queue."""
    image = assemble(config, {queue: [*lists.get(queue, ()), End()] for queue in Queue})
    memory = np.zeros(config.memory_size, np.uint8)
    memory[:len(image)] = np.frombuffer(image, np.uint8)
    return memory


@pytest.mark.parametrize("name", ("small", "wide"))
def test_a_large_value_behind_the_last_one_is_nobodys(name):
    """The post-processor has read on when it writes the last value, and a sum of more than 22 bits
    stops it wherever it lies."""
    config = CONFIGS[name]
    tiles, channels, data = config.weight_words // config.rows, config.columns, 1 << 14
    weights = tiles * config.tile_words * config.weight_word_bytes
    lists = {
        Queue.LOAD: [
            Load(target=LoadTarget.PARAMETER, source=data, chunk_bytes=16 * channels),
            Load(target=LoadTarget.WEIGHT, source=data + 1024, chunk_bytes=weights),
            Fill(destination=0, value=127), Fill(destination=1)],
        Queue.ARRAY: [
            *(Array(wait_load=4, count_2=tiles, accumulator=1, accumulate=int(k > 0))
              for k in range(5)),
            Array(wait_load=4, activation=1)],
        Queue.POST: [Post(wait_array=6, destination=2, word_step=1)],
        Queue.STORE: [Store(wait_post=1, source=2, row_bytes=channels, destination=data + 8192)]}
    assert 5 * tiles * config.rows * 127 * 127 >= 1 << 22
    memory = _memory(config, lists)
    record = np.frombuffer((40_000 | 24 << 24).to_bytes(4, "little"), np.uint8)
    memory[data:data + 16 * channels].reshape(channels, 16)[:, 8:12] = record
    memory[data + 1024:data + 1024 + weights] = 127
    with VerilatedDevice(config) as device:
        device.memory_write(0, memory.tobytes())
        assert not Golden(config).run(memory).error
        result = device.run(0, 100_000)
        assert result.finished and not result.error, result
        assert device.memory_read(0, config.memory_size) == memory.tobytes()


@pytest.mark.parametrize("fields", (
    {"operand_b": 2}, {"operand_b": 4}, {"destination_step_0": 0}))
def test_an_addition_behind_the_values_has_words_of_its_own(fields):
    """The core adds where it has written all values: programs in which that makes a difference are
    refused."""
    post = {"use_add": 1, "add_shift": 20, "count_0": 3, "destination": 2, "operand_b": 8,
            "destination_step_0": 1, "operand_b_step_0": 1}
    accesses(SMALL, Queue.POST, Post(**post))
    with pytest.raises(InvalidInstructionError, match="a sequential core cannot add"):
        accesses(SMALL, Queue.POST, Post(**(post | fields)))
    accesses(PRESETS["tiny"], Queue.POST, Post(**(post | fields)))


@pytest.mark.parametrize(("fields", "error"), (
    ({"add_shift": 15}, ErrorCode.DECODE), ({"add_shift": 16}, ErrorCode.NONE),
    ({"add_shift": 31, "source": PostSource.SCRATCHPAD}, ErrorCode.NONE),
    ({"add_shift": 20, "use_table": 1}, ErrorCode.DECODE),
    ({"add_shift": 20, "source": PostSource.VECTOR}, ErrorCode.DECODE),
    ({"add_shift": 20, "operand_b": 255, "operand_b_step_0": 1}, ErrorCode.ADDRESS)))
def test_additions_at_the_ends_of_what_there_is(fields, error):
    """Shifts, units and addresses: RTL and the golden model end alike."""
    post = Post(**{"use_add": 1, "count_0": 2, "destination": 8, "destination_step_0": 1,
                   "multiplier_a": -(1 << 22), "multiplier_b": (1 << 22) - 1, "zero_a": -128,
                   "zero_b": 127, **fields})
    memory = _memory(SMALL, {
        Queue.LOAD: [Fill(destination=0, value=-128, words=64)],
        Queue.POST: [replace(post, wait_load=1)],
        Queue.STORE: [Store(wait_post=1, row_bytes=64, destination=1 << 14)]})
    with VerilatedDevice(SMALL) as device:
        device.memory_write(0, memory.tobytes())
        assert Golden(SMALL).run(memory).error == error
        result = device.run(0, 100_000)
        assert result.finished and result.error == error, result
        if not error:
            assert device.memory_read(0, SMALL.memory_size) == memory.tobytes()


def test_spram():
    """Main memory and scratchpad in the memories that an iCE40 has for both."""
    config = PRESETS["icebreaker"]
    run_bench(SpramMemory(config), "benches.spram_bench", parameters={
        "size": config.memory_size, "words": config.scratchpad_words})


def test_keyword_spotting_over_the_link():
    """MLPerf Tiny's network through compiler, driver, link and RTL, against the golden model."""
    pytest.importorskip("torch")
    config = PRESETS["icebreaker"]
    quantized, images = models.load_quantized("dscnn-kws")
    program = systolith.compile(import_model(
        quantized, images, bias=config.bias, multiplier_bits=config.multiplier_bits),
        config=config, name="dscnn-kws")
    batch = images[:2].numpy()
    with systolith.open("golden", config=config) as golden:
        expected = golden.run(program, batch, dequantize=False)
    with systolith.open("rtl", config=config) as device:
        levels = device.run(program, batch, dequantize=False)
        cycles = device.last_run.cycles
    assert np.array_equal(levels, expected)
    assert len(np.unique(levels)) > 10
    assert cycles < 600_000


@pytest.mark.parametrize(("name", "network", "memory", "images"), (
    ("tang-nano-9k", "StridedDigits", 18 << 10, 359),
    ("icebreaker", "Digits", 96 << 10, 40)))
def test_digits(name, network, memory, images):
    """Held-out digits through driver, link and RTL: in the memory of a Tang Nano 9K, and with
    residual add and max pool on an iCEBreaker.

    With a rounded bias and multipliers of 16 bits some values are the next ones to PyTorch's: how
    many depends on the weights, and these on the machine that trains them. Sixteen trainings gave
    0.5 to 3.2 in a hundred of all held-out images' values, and up to 3.8 of the first 40 images'.
    """
    pytest.importorskip("sklearn")
    from systolith.models import digits
    from trained_digits import trained_digits
    program, data, reference = trained_digits(name, getattr(digits, network))
    assert program.memory_bytes <= memory
    with systolith.open("golden", config=program.config) as golden:
        levels = golden.run(program, data.test_images, dequantize=False)
    with systolith.open("rtl", config=program.config) as device:
        on_rtl = device.run(program, data.test_images[:images], dequantize=False)
    assert np.array_equal(on_rtl, levels[:images])
    scale, zero = program.outputs[0].scale, program.outputs[0].zero_point
    steps = np.abs((levels.astype(int) - zero) - np.round(reference / scale).astype(int))
    assert steps.max() <= 1 and np.count_nonzero(steps) < steps.size / 25
    assert (levels.argmax(axis=1) == data.test_labels).mean() > 0.97


@pytest.mark.slow
def test_bench_keyword_spotting_takes_less_than_600_thousand_cycles():
    result = bench_model("dscnn-kws", config="icebreaker")
    assert result["bit_exact"]
    assert result["total"]["cycles"] < 600_000


@pytest.mark.parametrize(("change", "message"), (
    ({"columns": 16}, "sequential needs columns of 4 or 8, not 16"),
    ({"rows": 8, "columns": 8}, "sequential needs rows = 4, not 8"),
    ({"columns": 8}, "sequential needs residual = False, or columns of 4"),
    ({"table": True}, "sequential needs table = False"),
    ({"accumulator_words": 256}, "accumulator_words of at most 128"),
    ({"memory_size": 1 << 25}, "memory_size of at most"),
))
def test_other_shapes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        PRESETS["icebreaker"].replace(**change)


def test_too_large_for_spram():
    with pytest.raises(ConfigError, match="SPRAM has room for memory_size of 98304"):
        check_room(PRESETS["icebreaker"].replace(memory_size=1 << 17))
