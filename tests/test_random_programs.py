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
