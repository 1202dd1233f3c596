"""Random programs: valid, varied, repeatable; order matters exactly where thresholds say so."""

import collections
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from damage import damaged
from systolith.errors import ProgramError
from systolith.hw.isa import (
    INSTRUCTION_BYTES,
    Array,
    ErrorCode,
    Fill,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    decode_descriptor,
    encode,
)
from systolith.sim.golden import Golden
from systolith.sim.programs import CONFIGS, random_program
from systolith.verifier import read_instructions, verify_image


def result(program, image=None, *, noise=None, order=None):
    """Main memory behind the image after a run."""
    memory = program.memory()
    if image is not None:
        memory[:len(image)] = np.frombuffer(image, np.uint8)
    outcome = Golden(program.config, noise=noise).run(memory, order=order)
    assert outcome.error == ErrorCode.NONE, f"seed {program.seed}, order {order}: {outcome}"
    return memory[len(program.image):]


def lowered(program):
    """Images of the program with one threshold lowered by one, and which."""
    starts = decode_descriptor(program.image)[1]
    for queue, instructions in program.lists.items():
        for index, instruction in enumerate(instructions):
            for field in (f"wait_{other.name.lower()}" for other in Queue):
                if wait := getattr(instruction, field):
                    image = bytearray(program.image)
                    address = starts[queue] + index * INSTRUCTION_BYTES
                    image[address:address + INSTRUCTION_BYTES] = encode(
                        replace(instruction, **{field: wait - 1}))
                    yield f"{queue.name} {index} {field}", bytes(image)


def refusal(config, image):
    """The verifier's message, or nothing when it accepts the image."""
    try:
        verify_image(config, image)
    except ProgramError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CONFIGS)
def test_any_legal_order_gives_the_same_memory(name):
    """Neither the order of the queues nor what the memories held before is seen in the results."""
    for seed in range(4):
        program = random_program(CONFIGS[name], seed)
        verify_image(program.config, program.image)
        expected = result(program)
        for order in range(6):
            different = np.flatnonzero(result(program, noise=order, order=order) != expected)
            assert different.size == 0, f"seed {seed}, order {order}: bytes {different[:8]}"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_lowered_threshold_is_a_race_that_the_verifier_finds(name):
    """The generator keeps only thresholds that matter, so each one that is lowered must be missed.
    """
    count = 0
    for seed in range(2):
        program = random_program(CONFIGS[name], seed)
        for where, image in lowered(program):
            count += 1
            message = refusal(program.config, image)
            assert message, f"seed {seed}: {where} was accepted"
            assert "no fixed order" in message or "nothing has written" in message, message
    assert count > 50


def test_lowered_thresholds_do_change_results():
    """The races are real: some order of the golden model shows them."""
    shown = total = 0
    for seed in range(3, 7):
        program = random_program(CONFIGS["tiny"], seed, instructions=120)
        expected = result(program)
        for _, image in itertools.islice(lowered(program), 0, None, 5):
            total += 1
            shown += any((result(program, image, noise=order, order=order) != expected).any()
                         for order in range(4))
    assert shown > total // 5, f"{shown} of {total}"


@pytest.mark.parametrize("inputs", [
    300, pytest.param(100_000, marks=pytest.mark.slow, id="fuzz")])
def test_damaged_programs_are_refused_or_sound(inputs):
    """Whatever the verifier lets pass runs without error, and in any order alike; whatever it
    refuses still ends, with an error or without."""
    seed = 40
    rng = random.Random(seed)
    passed = 0
    for number in range(inputs):
        config = CONFIGS[rng.choice(list(CONFIGS))]
        if number % 50 == 0:
            programs = {name: random_program(other, number, instructions=12)
                        for name, other in CONFIGS.items()}
        program = programs[next(name for name in CONFIGS if CONFIGS[name] is config)]
        image = damaged(program, rng)
        where = f"seed {seed}, number {number}"
        if refusal(config, image):
            memory = program.memory()
            memory[:len(image)] = np.frombuffer(image, np.uint8)
            outcome = Golden(config).run(memory)
            assert outcome.error in set(ErrorCode), where
            continue
        passed += 1
        expected = result(program, image)
        assert (result(program, image, noise=number, order=number) == expected).all(), where
    assert inputs // 20 < passed < inputs // 2, passed


def test_redundant_thresholds_are_valid_too():
    for seed in range(3):
        sparse = random_program(CONFIGS["narrow"], seed)
        program = random_program(CONFIGS["narrow"], seed, redundant=True)
        verify_image(program.config, program.image)
        assert (result(program) == result(sparse)).all(), f"seed {seed}"

    def waits(program):
        return sum(map(bool, (wait for queue in program.lists.values() for item in queue
                              for wait in item.waits)))

    assert waits(program) > waits(sparse)


def test_queues_have_room_to_overlap():
    """Most instructions begin before everything listed before them has retired."""
    program = random_program(CONFIGS["small"], 0)
    golden = Golden(program.config)
    lengths = [len(queue) for queue in program.lists.values()]
    assert min(lengths) > 5
    firsts = [next(item for item in program.lists[queue] if sum(item.waits))
              for queue in (Queue.ARRAY, Queue.POST, Queue.STORE)]
    assert all(sum(item.waits) < sum(lengths) // 2 for item in firsts)
    assert golden.run(program.memory()).retired == tuple(lengths)


def test_same_seed_same_program_other_seed_other_program():
    config = CONFIGS["small"]
    assert random_program(config, 1).image == random_program(config, 1).image
    assert random_program(config, 1).image != random_program(config, 2).image
    program = random_program(config, 1)
    assert read_instructions(config, program.image) == program.lists


@pytest.mark.parametrize("name", CONFIGS)
def test_programs_use_all_that_the_configuration_has(name):
    config = CONFIGS[name]
    seen = collections.Counter()
    for seed in range(6):
        for instruction in (item for queue in random_program(config, seed).lists.values()
                            for item in queue):
            seen[type(instruction)] += 1
            match instruction:
                case Load():
                    seen[LoadTarget(instruction.target)] += 1
                    seen["chunks"] += instruction.chunks > 1
                case Post():
                    seen[f"post {PostSource(instruction.source).name}"] += 1
                    seen["table"] += instruction.use_table
                    seen["add"] += instruction.use_add
                    seen["offset"] += instruction.byte_offset > 0
                case Vector():
                    seen[f"vector {instruction.mode} {instruction.reduce}"] += 1
                    seen["vector accumulate"] += instruction.accumulate
                case Array():
                    seen["accumulate"] += instruction.accumulate
            seen["mark"] += instruction.mark
            seen["own wait"] += instruction.waits[instruction.queues[0]] > 0
    wanted = {Load, Fill, Array, Post, Store, LoadTarget.SCRATCHPAD, LoadTarget.WEIGHT,
              LoadTarget.PARAMETER, "chunks", "post ARRAY", "post SCRATCHPAD", "accumulate", "mark",
              "own wait"}
    if config.vector_taps:
        wanted |= {Vector, LoadTarget.VECTOR_WEIGHT, "post VECTOR", "vector accumulate",
                   *(f"vector {mode} {reduce}" for mode in (0, 1) for reduce in (0, 1))}
    if config.table:
        wanted |= {LoadTarget.TABLE, "table"}
    if config.residual:
        wanted |= {"post PRODUCT", "add"}
    if config.columns < config.rows:
        wanted |= {"offset"}
    assert not {kind for kind in wanted if not seen[kind]}
