"""The verifier: what it refuses and why, and that its sets are what the golden model touches."""

import random
from dataclasses import replace

import numpy as np
import pytest

from systolith.accesses import Access, InvalidInstructionError, accesses
from systolith.errors import ProgramError
from systolith.hazards import Clocks
from systolith.hw.config import PRESETS, Config
from systolith.hw.isa import (
    Array,
    DecodeError,
    End,
    ErrorCode,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    VectorMode,
    decode,
    encode,
    encode_descriptor,
    instruction_fields,
)
from systolith.layout import TensorDescriptor
from systolith.program import Program
from systolith.sim.golden_memories import Memories, StopError
from systolith.sim.golden_units import PREPARE, check_units
from systolith.sim.programs import CONFIGS, assemble, random_program
from systolith.verifier import read_instructions, verify, verify_image

TINY = CONFIGS["tiny"]
OUTPUT = 8192
"""A byte of main memory behind every image here."""


def image_of(*instructions: Instruction, config: Config = TINY) -> bytes:
    """Instructions, each in the first queue that takes it, with the Ends."""
    lists: dict[Queue, list[Instruction]] = {queue: [] for queue in Queue}
    for instruction in instructions:
        lists[instruction.queues[0]].append(instruction)
    for queue in Queue:
        lists[queue].append(End())
    return assemble(config, lists)


def check(*instructions, config=TINY, **options):
    return verify_image(config, image_of(*instructions, config=config), **options)


def refuses(message, *instructions, config=TINY, **options):
    with pytest.raises(ProgramError, match=message) as caught:
        check(*instructions, config=config, **options)
    assert "\n" not in str(caught.value)


# What the examples below are made of: everything loaded, one pixel computed and stored.
WEIGHTS = Load(target=LoadTarget.WEIGHT, chunk_bytes=TINY.rows * TINY.weight_word_bytes)
PARAMETERS = Load(target=LoadTarget.PARAMETER, chunk_bytes=TINY.columns * 16)
ACTIVATION = Load(chunk_bytes=TINY.rows)
ARRAY = Array(wait_load=3)
POST = Post(wait_array=1, destination=1)
STORE = Store(source=1, row_bytes=4, destination=OUTPUT, wait_post=1)
CHAIN = (WEIGHTS, PARAMETERS, ACTIVATION, ARRAY, POST, STORE)


def changed(instruction, **fields):
    """The chain with one of its instructions changed."""
    return [replace(item, **fields) if item is instruction else item for item in CHAIN]


def test_a_sound_program_is_reported():
    report = check(*CHAIN)
    assert report.instructions == {Queue.LOAD: 4, Queue.ARRAY: 2, Queue.VECTOR: 1, Queue.POST: 2,
                                   Queue.STORE: 2}
    assert report.words_used == {
        "main": 4, "scratchpad": 2, "weights": 4, "vector_weights": 0, "parameters": 4, "table": 0,
        "accumulators": 1, "vector_accumulators": 0}
    assert (report.bytes_loaded, report.bytes_stored) == (16 + 64 + 4, 4)


def test_dependencies_through_other_queues_and_own_predecessors_count():
    """STORE knows of the loads through POST and ARRAY; a second STORE knows what the first did."""
    overwrite = replace(ACTIVATION, wait_array=1)
    check(*CHAIN, overwrite)
    refuses("ARRAY instruction 0 .Array. reads scratchpad word 0 in no fixed order with LOAD "
            "instruction 3 .Load., which uses it too: make one of them wait",
            *CHAIN, ACTIVATION)
    check(*CHAIN, replace(STORE, wait_post=0, destination=OUTPUT + 8))


@pytest.mark.parametrize(("instructions", "message"), [
    (changed(ARRAY, wait_load=2), "ARRAY instruction 0 .Array. reads scratchpad word 0"),
    (changed(ARRAY, wait_load=0), "ARRAY instruction 0"),
    (changed(POST, wait_array=0), "POST instruction 0 .Post. reads"),
    (changed(STORE, wait_post=0), "STORE instruction 0 .Store. reads scratchpad word 1"),
])
def test_missing_thresholds_are_races(instructions, message):
    refuses(message, *instructions)


def test_reads_of_unwritten_words_are_refused():
    for missing, what in ((WEIGHTS, "weights"), (PARAMETERS, "parameters"),
                          (ACTIVATION, "scratchpad")):
        instructions = [replace(item, wait_load=min(item.wait_load, 2))
                        for item in CHAIN if item is not missing]
        refuses(f"reads {what} word 0, which nothing has written before", *instructions)
    refuses("reads accumulators word 0, which nothing", WEIGHTS, PARAMETERS, ACTIVATION,
            replace(POST, wait_array=0, wait_load=3))
    refuses("reads accumulators word 0", *changed(ARRAY, accumulate=1))
    refuses("reads table word 0", *changed(POST, use_table=1))
    refuses("reads scratchpad word 1, which nothing", Store(source=1, destination=OUTPUT))
    refuses(f"reads main word {OUTPUT}, which nothing", replace(ACTIVATION, source=OUTPUT))
    check(replace(ACTIVATION, source=OUTPUT), inputs=[(OUTPUT, 4)])
    refuses(f"reads main word {OUTPUT + 4}", replace(ACTIVATION, source=OUTPUT + 1),
            inputs=[(OUTPUT, 4)])


def test_accumulating_in_place_needs_no_threshold():
    check(*CHAIN[:3], ARRAY, Array(accumulate=1), replace(POST, wait_array=2))
    weights = Load(target=LoadTarget.VECTOR_WEIGHT, chunk_bytes=4, wait_load=0)
    check(ACTIVATION, weights, Vector(wait_load=2), Vector(accumulate=1))


def test_post_must_wait_for_its_own_words_and_may_overwrite_them():
    again = Post(source=PostSource.SCRATCHPAD, operand_a=1, destination=2)
    refuses("POST instruction 1 .Post. reads scratchpad word 1 in no fixed order with POST "
            "instruction 0",
            *CHAIN, again)
    check(*CHAIN, replace(again, wait_post=1))
    check(*CHAIN[:5], POST, replace(STORE, wait_post=2))
    refuses("STORE instruction 0 .Store. reads scratchpad word 1 in no fixed order with POST "
            "instruction 1", *CHAIN, POST)


def test_post_in_place_is_sound_but_not_a_pixel_behind():
    fill = Fill(words=4)
    post = Post(source=PostSource.SCRATCHPAD, count_0=3, operand_a=0, operand_a_step_0=1,
                destination_step_0=1, wait_load=2)
    check(fill, PARAMETERS, post)
    check(fill, PARAMETERS, replace(post, operand_a=1))
    refuses("POST instruction 0 .Post. reads words of operand_a that it may have written itself",
            fill, PARAMETERS, replace(post, destination=1))


def test_parts_of_words_must_be_written_before_they_are_read():
    """Four columns write half of an eight-byte word."""
    config = CONFIGS["bare"]
    parameters = Load(target=LoadTarget.PARAMETER, chunk_bytes=16 * 4)
    weights = Load(target=LoadTarget.WEIGHT, chunk_bytes=2, rows=8, row_step=2,
                   destination_row_step=1)
    chain = (parameters, weights, Fill(), Array(wait_load=3),
             Post(wait_array=1, destination=1, byte_offset=4))
    store = Store(source=1, row_bytes=8, destination=OUTPUT, wait_post=1)
    refuses("reads scratchpad word 1, which nothing", *chain, store, config=config)
    other = replace(chain[-1], byte_offset=0)
    check(*chain, other, replace(store, wait_post=2), config=config)
    check(*chain[:-1], other, replace(store, row_bytes=4), config=config)
    refuses("reads scratchpad word 1", *chain[:-1], other, replace(store, row_bytes=5),
            config=config)


def test_main_memory_is_ordered_too():
    store = replace(STORE, row_bytes=4)
    back = Load(source=OUTPUT, chunk_bytes=4, destination=5, wait_store=1)
    check(*CHAIN[:-1], store, back)
    refuses("LOAD instruction 3 .Load. reads main word 8194 in no fixed order with STORE "
            "instruction 1",
            *CHAIN[:-1], store, back, replace(store, destination=OUTPUT + 2))
    check(*CHAIN[:-1], store, back, replace(store, destination=OUTPUT + 2, wait_load=4))
    # The load comes second in every order, so without its threshold it may read too early.
    refuses("reads main word 8192", *CHAIN[:-1], store, replace(back, wait_store=0))


def test_the_image_is_constant_and_the_rest_has_an_end():
    refuses("writes byte 128 of main memory, which belongs to the program's image",
            *changed(STORE, destination=128))
    end = len(image_of(*CHAIN))
    refuses(f"writes byte {end - 1} of main memory, which belongs to the program's image",
            *changed(STORE, destination=end - 1))
    check(*changed(STORE, destination=end))
    refuses(r"reaches byte 8195 of main memory and the program uses 8195", *CHAIN,
            memory_bytes=OUTPUT + 3)
    check(*CHAIN, memory_bytes=OUTPUT + 4)


def test_deadlocks_are_refused():
    refuses("ARRAY instruction 0 .Array. waits for instructions that never retire",
            *changed(ARRAY, wait_store=1))
    refuses("LOAD instruction 0 .Fill. waits", Fill(wait_load=1))
    refuses("STORE instruction 0 .Store. waits", *changed(STORE, wait_vector=2))


@pytest.mark.parametrize(("instruction", "message"), [
    (Fill(words=0), "LOAD instruction 0 .Fill. has words 0"),
    (Vector(taps=4), "has 4 taps, more than 3"),
    (Fill(destination=1024), "reaches from scratchpad word 1024 to 1024, outside of its 1024"),
    (Array(weight=253), "reaches weights word 256, which has 256"),
    (Load(source=1 << 31), "from main word 2147483648"),
    (Load(target=7), "needs a memory 7, which the configuration does not have"),
    (Fill(words=65535, rows=65535, row_step=-65534), "takes more than 16777216 steps"),
])
def test_wrong_instructions_are_named(instruction, message):
    refuses(message, instruction)


def test_lists_that_do_not_decode_or_end_are_refused():
    image = bytearray(image_of())
    with pytest.raises(ProgramError, match="LOAD instruction 0 at byte 64 does not decode"):
        verify_image(TINY, bytes(image[:64]) + bytes(64) + bytes(image[128:]))
    with pytest.raises(ProgramError, match="queue STORE from byte 320 do not end inside"):
        verify_image(TINY, bytes(image[:-64]))
    with pytest.raises(ProgramError, match=r"STORE instruction 0 .Fill. is a Fill"):
        verify_image(TINY, bytes(image[:-64]) + encode(Fill()) + encode(End()))
    with pytest.raises(ProgramError, match="has no descriptor at byte 0"):
        verify_image(TINY, bytes(128))
    for start in (63, 65, 96):
        with pytest.raises(ProgramError, match=f"LOAD begin at byte {start}, which is not a mul"):
            verify_image(TINY, encode_descriptor(TINY.hash32, (start,) * 5) + bytes(image[64:]))
    with pytest.raises(ProgramError, match="descriptor lies at byte 8, which is not a multiple"):
        verify_image(TINY, bytes(image), base=8)
    with pytest.raises(ProgramError, match="is for configuration 00000007, not"):
        verify_image(TINY, encode_descriptor(7, (64,) * 5))


def test_programs_must_write_their_outputs():
    tensor = TensorDescriptor(name="y", address=OUTPUT, shape=(3,), word_bytes=4)
    source = replace(tensor, name="x", address=OUTPUT + 64)

    def program(store, **fields):
        return Program(config=TINY, image=image_of(*changed(STORE, **store)),
                       memory_bytes=OUTPUT + 128, inputs=(source,), outputs=(tensor,), **fields)

    assert verify(program({})).bytes_stored == 4
    assert verify(program({"row_bytes": 3})).bytes_stored == 3
    with pytest.raises(ProgramError, match="does not write all of its output 'y'"):
        verify(program({"row_bytes": 2}))
    with pytest.raises(ProgramError, match="does not write all of its output 'y'"):
        verify(program({"destination": OUTPUT + 1, "row_bytes": 2}))


def test_a_program_away_from_address_0():
    lists = read_instructions(TINY, image_of(*CHAIN))
    image = bytearray(image_of(*CHAIN))
    starts = [64, 64 + 64 * 4, 64 + 64 * 6, 64 + 64 * 7, 64 + 64 * 9]
    descriptor = encode_descriptor(TINY.hash32, tuple(1024 + start for start in starts))
    moved = bytes(1024) + descriptor + image[64:]
    assert read_instructions(TINY, moved, 1024) == lists
    assert verify_image(TINY, moved, base=1024) == verify_image(TINY, bytes(image))


# Clocks -----------------------------------------------------------------------------------------

def test_clocks_join_thresholds_and_predecessors():
    clocks = Clocks()
    clocks.add(Queue.LOAD, (0, 0, 0, 0, 0))
    clocks.add(Queue.LOAD, (0, 0, 0, 0, 0))
    assert clocks.add(Queue.ARRAY, (2, 0, 0, 0, 0)) == (2, 0, 0, 0, 0)
    assert clocks.add(Queue.POST, (0, 1, 0, 0, 0)) == (2, 1, 0, 0, 0)
    assert clocks.add(Queue.POST, (0, 0, 0, 0, 0)) == (2, 1, 0, 0, 0)
    assert clocks.preview(Queue.STORE, (1, 0, 0, 2, 0)) == (2, 1, 0, 2, 0)
    assert clocks.thresholds(Queue.STORE, (2, 1, 0, 2, 0)) == (0, 0, 0, 2, 0)
    assert clocks.thresholds(Queue.ARRAY, (2, 0, 0, 0, 0)) == (0, 0, 0, 0, 0)
    clocks.add(Queue.LOAD, (0, 0, 0, 0, 0))
    clocks.add(Queue.ARRAY, (3, 0, 0, 0, 0))
    assert clocks.preview(Queue.POST, (0, 2, 0, 0, 0)) == (3, 2, 0, 0, 0)


# The sets against the golden model ---------------------------------------------------------------

class Recorder(Memories):
    """Golden memories that note every word and byte touched."""

    def __init__(self, config: Config):
        super().__init__(config, seed=1)
        self.main = np.zeros(config.memory_size, np.uint8)
        self.touched: dict[tuple[str, bool], set[int]] = {}

    def _note(self, name, write, addresses):
        self.touched.setdefault((name, write), set()).update(np.ravel(addresses).tolist())

    def read(self, name, addresses):
        self._note(name, False, addresses)
        return super().read(name, addresses)

    def write(self, name, addresses, values):
        self._note(name, True, addresses)
        super().write(name, addresses, values)

    def write_bytes(self, addresses, span, values):
        self._note("scratchpad", True, addresses)
        super().write_bytes(addresses, span, values)

    def read_main(self, starts, length):
        self._note("main", False, np.ravel(starts)[:, None] + np.arange(length))
        return super().read_main(starts, length)

    def write_main(self, starts, values):
        self._note("main", True, np.ravel(starts)[:, None] + np.arange(values.shape[-1]))
        super().write_main(starts, values)


def sets_of(found: list[Access]) -> dict[tuple[str, bool], set[int]]:
    result: dict[tuple[str, bool], set[int]] = {}
    for access in found:
        words = access.words
        words = range(words.start, words.stop) if isinstance(words, slice) else words.tolist()
        result.setdefault((access.memory, access.write), set()).update(words)
    return result


def golden_sets(config, instruction):
    """What the golden model touches, or the code it stops with."""
    recorder = Recorder(config)
    try:
        check_units(config, instruction)
        PREPARE[type(instruction)](recorder, instruction)()
    except StopError as stop:
        return stop.code
    return {key: words for key, words in recorder.touched.items() if words}


@pytest.mark.parametrize("name", CONFIGS)
def test_sets_are_what_the_golden_model_touches(name):
    config = CONFIGS[name]
    for seed in range(3):
        for queue, instructions in random_program(config, seed).lists.items():
            for instruction in instructions[:-1]:
                assert sets_of(accesses(config, queue, instruction)) == golden_sets(
                    config, instruction), f"seed {seed}: {instruction}"


def distorted(instruction: Instruction, rng: random.Random) -> Instruction:
    """The instruction with one or two fields replaced by extreme or random values."""
    names = {item.name for item in instruction_fields(Instruction)}
    chosen = [item for item in instruction_fields(type(instruction)) if item.name not in names]
    for item in rng.sample(chosen, rng.randint(1, 2)):
        low = -(1 << (item.width - 1)) if item.signed else 0
        high = low + (1 << item.width) - 1
        value = rng.choice([low, high, 0, 1, min(high, 2), rng.randint(low, high),
                            rng.randint(0, min(high, 300))])
        instruction = replace(instruction, **{item.name: value})
    return instruction


@pytest.mark.parametrize("name", CONFIGS)
def test_distorted_instructions_get_the_golden_models_verdict(name):
    """Same error code, or the same sets; only what hardware leaves undefined may be refused more.
    """
    config, rng = CONFIGS[name], random.Random(7)
    verdicts = dict.fromkeys(("accepted", "refused", "undefined"), 0)
    instructions = [item for queue in random_program(config, 11).lists.values()
                    for item in queue if not isinstance(item, End)]
    for number in range(250):
        instruction = distorted(rng.choice(instructions), rng)
        try:
            instruction = decode(encode(instruction))
        except DecodeError as error:
            raise AssertionError(f"number {number}: {instruction}") from error
        expected = golden_sets(config, instruction)
        try:
            found = sets_of(accesses(config, instruction.queues[0], instruction))
        except InvalidInstructionError as error:
            found = error.code
        if found == expected:
            verdicts["refused" if isinstance(found, ErrorCode) else "accepted"] += 1
            continue
        # Own writes read again, walks that wrap around, and walks too long to see their end.
        verdicts["undefined"] += 1
        assert found == ErrorCode.NONE or (found == ErrorCode.ADDRESS and (
            not isinstance(expected, ErrorCode) or expected == ErrorCode.WATCHDOG)) or (
            found == ErrorCode.WATCHDOG and expected == ErrorCode.ADDRESS), (
            f"number {number}: {instruction}, {found} instead of {expected}")
    assert verdicts["accepted"] > 30 and verdicts["refused"] > 30, verdicts
    assert verdicts["undefined"] < 30, verdicts


def test_twenty_thousand_instructions_are_read_whole():
    """A long pipeline of tiles, each reusing the words of the one before last."""
    config = PRESETS["default"]
    tiles = 4000
    lists: dict[Queue, list[Instruction]] = {queue: [] for queue in Queue}
    lists[Queue.LOAD] = [
        Load(target=LoadTarget.WEIGHT, chunk_bytes=256),
        Load(target=LoadTarget.PARAMETER, chunk_bytes=256),
        Load(target=LoadTarget.VECTOR_WEIGHT, chunk_bytes=16)]
    for k in range(tiles):
        half = k % 2 * 512
        area = k % 2 * 4096
        before = max(0, k - 1)
        lists[Queue.LOAD].append(Load(chunk_bytes=16 * 256, destination=area, wait_array=before,
                                      wait_vector=before))
        lists[Queue.ARRAY].append(Array(
            activation=area, count_0=16, step_0=1, count_1=16, step_1=1, accumulator=half,
            wait_load=k + 4, wait_post=before))
        lists[Queue.VECTOR].append(Vector(activation=area, count_0=16, step_0=1,
                                          mode=VectorMode.MAX, wait_load=k + 4))
        lists[Queue.POST].append(Post(
            count_0=256, accumulator=half, destination=8192 + area, destination_step_0=1,
            wait_array=k + 1, wait_store=before))
        lists[Queue.STORE].append(Store(
            source=8192 + area, row_bytes=16 * 256, destination=(40 << 20) + 4096 * k,
            wait_post=k + 1))
    for queue in Queue:
        lists[queue].append(End())
    image = assemble(config, lists)
    report = verify_image(config, image)
    assert sum(report.instructions.values()) == 5 * tiles + 3 + 5
    late = replace(lists[Queue.POST][tiles - 1], wait_store=tiles - 3)
    lists[Queue.POST][tiles - 1] = late
    with pytest.raises(ProgramError, match=f"POST instruction {tiles - 1} .Post. writes"):
        verify_image(config, assemble(config, lists))
