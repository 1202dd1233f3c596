"""The golden model against a scalar machine, and its errors."""

import numpy as np
import pytest

from scalar_machine import ScalarMachine
from systolith.hw.config import Config
from systolith.hw.isa import (
    Array,
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
    encode,
    encode_descriptor,
)
from systolith.sim.golden import Golden, Outcome, run
from systolith.sim.programs import CONFIGS, assemble, random_program

TINY = CONFIGS["tiny"]
BARE = CONFIGS["bare"]


def execute(config: Config, *instructions: Instruction) -> Outcome:
    """Run instructions, each in the first queue that takes it, on a fresh machine."""
    lists: dict[Queue, list[Instruction]] = {queue: [] for queue in Queue}
    for instruction in instructions:
        lists[instruction.queues[0]].append(instruction)
    for queue in Queue:
        lists[queue].append(End())
    memory = bytearray(config.memory_size)
    image = assemble(config, lists)
    memory[:len(image)] = image
    return run(config, memory)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_random_programs_equal_the_scalar_machine(name, seed):
    program = random_program(CONFIGS[name], seed, instructions=40)
    expected = bytearray(program.memory().tobytes())
    scalar = ScalarMachine(program.config, expected)
    scalar.run()
    memory = program.memory()
    golden = Golden(program.config)
    outcome = golden.run(memory)
    assert outcome.error == ErrorCode.NONE, f"seed {seed}: {outcome}"
    different = np.flatnonzero(memory != np.frombuffer(expected, np.uint8))
    assert different.size == 0, f"seed {seed}: bytes {different[:10]} differ"
    words = golden.memories.words
    assert words["accumulators"].tolist() == scalar.sums, f"seed {seed}"
    assert words["vector_accumulators"].tolist() == scalar.vector_sums, f"seed {seed}"
    scratchpad = words["scratchpad"].astype(np.int8).tobytes()
    assert scratchpad == b"".join(map(bytes, scalar.scratchpad)), f"seed {seed}"


def test_run_accepts_bytearrays_and_arrays_alike():
    program = random_program(TINY, 5)
    array = program.memory()
    data = bytearray(array.tobytes())
    assert run(TINY, array) == run(TINY, data)
    assert array.tobytes() == bytes(data)


def test_memory_of_another_size_is_refused():
    with pytest.raises(ValueError, match="main memory must have 65536 bytes, not 64"):
        run(TINY, bytearray(64))


def test_accumulators_wrap_at_32_bits():
    """128 * 128 * rows added until int32 overflows once."""
    config = TINY
    golden = Golden(config)
    golden.memories.words["scratchpad"][:] = -128
    golden.memories.words["weights"][:] = -128
    step = 128 * 128 * config.rows
    passes = (1 << 31) // step
    lists: dict[Queue, list[Instruction]] = {queue: [End()] for queue in Queue}
    tiles = config.weight_words // config.rows
    lists[Queue.ARRAY] = [
        *(Array(accumulate=int(k > 0), count_2=tiles) for k in range(passes // tiles)), End()]
    image = assemble(config, lists)
    memory = bytearray(config.memory_size)
    memory[:len(image)] = image
    # Too many instructions for the memory of this configuration would be no test.
    assert len(image) <= config.memory_size
    assert golden.run(memory).error == ErrorCode.NONE
    assert (golden.memories.words["accumulators"][0] == -(1 << 31)).all()


def test_sums_beyond_floating_point_are_exact():
    """4096 odd products: their sum does not fit a float32, the golden model's fast arithmetic."""
    config = TINY.replace(rows=16, columns=16, scratchpad_bank_words=64, weight_words=4096)
    golden = Golden(config)
    golden.memories.words["scratchpad"][:] = 127
    golden.memories.words["weights"][:] = 127
    golden.memories.words["weights"][4095] = np.arange(16)
    lists: dict[Queue, list[Instruction]] = {queue: [End()] for queue in Queue}
    lists[Queue.ARRAY].insert(0, Array(count_0=3, count_2=256))
    memory = bytearray(config.memory_size)
    image = assemble(config, lists)
    memory[:len(image)] = image
    assert golden.run(memory).error == ErrorCode.NONE
    expected = [127 * 127 * 4095 + 127 * column for column in range(16)]
    assert golden.memories.words["accumulators"][:3].tolist() == [expected] * 3


def test_addresses_wrap_at_the_width_of_their_field():
    config = TINY.replace(scratchpad_banks=16, scratchpad_bank_words=1 << 16)
    assert execute(config, Fill(rows=3, row_step=1 << 19)).error == ErrorCode.NONE
    assert execute(config, Fill(destination=(1 << 20) - 1, words=2)).error == ErrorCode.NONE


def test_four_bit_weights_are_signed_with_the_first_in_the_low_half():
    lists: dict[Queue, list[Instruction]] = {queue: [End()] for queue in Queue}
    lists[Queue.LOAD].insert(0, Load(target=LoadTarget.WEIGHT, source=64, chunk_bytes=2))
    image = assemble(BARE, lists, bytes([0x8F, 0x71]))
    memory = bytearray(BARE.memory_size)
    memory[:len(image)] = image
    golden = Golden(BARE)
    assert golden.run(memory).error == ErrorCode.NONE
    assert golden.memories.words["weights"][0].tolist() == [-1, -8, 1, 7]


# Errors -----------------------------------------------------------------------------------------

FAR = 1 << 16

LENGTH_ERRORS = [
    *(Load(**{field: 0}) for field in ("chunk_bytes", "chunks", "rows", "planes")),
    *(Fill(**{field: 0}) for field in ("words", "rows", "planes")),
    *(Array(**{f"count_{level}": 0}) for level in range(5)),
    *(Vector(**{field: 0})
      for field in ("count_0", "count_1", "count_2", "count_3", "taps", "stride")),
    Vector(taps=TINY.vector_taps + 1),
    *(Post(**{f"count_{level}": 0}) for level in range(2)),
    *(Store(**{field: 0}) for field in ("row_bytes", "rows", "planes")),
]

ADDRESS_ERRORS = [
    Load(source=TINY.memory_size),
    Load(source=TINY.memory_size - 3, chunk_bytes=4),
    Load(rows=2, row_step=-1),
    Load(destination=TINY.scratchpad_words),
    Load(chunk_bytes=8, destination=TINY.scratchpad_words - 1),
    Load(target=LoadTarget.WEIGHT, destination=TINY.weight_words),
    Load(target=LoadTarget.VECTOR_WEIGHT, destination=TINY.vector_weight_words),
    Load(target=LoadTarget.PARAMETER, destination=TINY.parameter_words),
    Load(target=LoadTarget.TABLE, destination=256 // TINY.rows),
    Fill(destination=TINY.scratchpad_words),
    Fill(rows=2, row_step=-1),
    Array(activation=TINY.scratchpad_words),
    Array(count_4=2, step_4=TINY.scratchpad_words),
    Array(weight=TINY.weight_words - TINY.rows + 1),
    Array(count_2=2, weight=TINY.weight_words - TINY.rows),
    Array(accumulator=2 * TINY.accumulator_words),
    Array(count_0=2, accumulator=2 * TINY.accumulator_words - 1),
    Vector(activation=TINY.scratchpad_words),
    Vector(weight=TINY.vector_weight_words),
    Vector(accumulator=2 * TINY.vector_accumulator_words),
    Post(accumulator=2 * TINY.accumulator_words),
    Post(source=PostSource.VECTOR, accumulator=2 * TINY.vector_accumulator_words),
    Post(parameter=TINY.parameter_words - TINY.columns // TINY.lanes + 1),
    Post(destination=TINY.scratchpad_words),
    Post(source=PostSource.SCRATCHPAD, operand_a=TINY.scratchpad_words),
    Post(use_add=1, operand_b=TINY.scratchpad_words),
    Store(source=TINY.scratchpad_words),
    Store(row_bytes=2, destination=TINY.memory_size - 1),
    Store(rows=2, destination_row_step=-1),
]

DECODE_ERRORS = [
    Vector(),
    Post(source=PostSource.VECTOR),
    Post(source=PostSource.PRODUCT),
    Post(use_table=1),
    Post(use_add=1),
    Load(target=LoadTarget.VECTOR_WEIGHT),
    Load(target=LoadTarget.TABLE),
    Load(target=5),
]


def check_error(config: Config, instruction: Instruction, code: ErrorCode) -> None:
    """The instruction, second in its queue, stops the run with its own address."""
    queue = instruction.queues[0]
    harmless = {Queue.LOAD: Fill(), Queue.STORE: Store(destination=FAR - 64),
                Queue.ARRAY: Array(), Queue.VECTOR: Vector(), Queue.POST: Post()}[queue]
    if queue == Queue.VECTOR and not config.vector_taps:
        harmless = instruction
    outcome = execute(config, harmless, instruction)
    index = 0 if harmless is instruction else 1
    address = 64 + 64 * (queue + index)
    assert (outcome.error, outcome.queue, outcome.address) == (code, queue, address), instruction
    assert outcome.retired[queue] == index


@pytest.mark.parametrize("instruction", LENGTH_ERRORS)
def test_zero_counts_and_too_many_taps_are_length_errors(instruction):
    check_error(TINY, instruction, ErrorCode.LENGTH)


@pytest.mark.parametrize("instruction", ADDRESS_ERRORS)
def test_ranges_are_address_errors(instruction):
    check_error(TINY, instruction, ErrorCode.ADDRESS)


@pytest.mark.parametrize("instruction", DECODE_ERRORS)
def test_absent_units_are_decode_errors(instruction):
    check_error(BARE, instruction, ErrorCode.DECODE)


@pytest.mark.parametrize("offset", [2, 8, 9])
def test_byte_offsets_between_channel_groups_are_address_errors(offset):
    check_error(BARE, Post(byte_offset=offset), ErrorCode.ADDRESS)


@pytest.mark.parametrize("instruction", [
    Fill(words=1024, rows=65535, row_step=-1023),
    Load(chunk_bytes=4096, rows=65535, row_step=0, destination_row_step=-1023),
    Store(row_bytes=1024, rows=65535, destination=FAR - 1024),
    Vector(mode=VectorMode.MAX, count_2=4095, count_3=4095, count_0=9),
])
def test_endless_work_is_left_to_the_watchdog(instruction):
    assert execute(TINY, instruction).error == ErrorCode.WATCHDOG


def test_deadlock_names_the_lowest_waiting_queue():
    outcome = execute(TINY, Store(wait_post=1, destination=4096), Post(wait_store=1))
    assert (outcome.error, outcome.queue) == (ErrorCode.DEADLOCK, Queue.POST)
    assert outcome.retired == (1, 1, 1, 0, 0)


def test_a_queue_may_wait_for_itself_but_not_for_its_future():
    assert execute(TINY, Fill(), Fill(wait_load=1)).error == ErrorCode.NONE
    assert execute(TINY, Fill(wait_load=1)).error == ErrorCode.DEADLOCK


def test_wrong_queue_unknown_opcode_and_reserved_bits_are_decode_errors():
    for data in (encode(Store()), bytes(64), encode(Fill())[:-1] + b"\1"):
        image = assemble(TINY, {queue: [End()] for queue in Queue})
        memory = bytearray(TINY.memory_size)
        memory[:len(image)] = image
        memory[64:128] = data
        outcome = run(TINY, memory)
        assert (outcome.error, outcome.queue, outcome.address) == (ErrorCode.DECODE, 0, 64)


@pytest.mark.parametrize("descriptor", [
    bytes(64),
    encode_descriptor(TINY.hash32 ^ 1, (64,) * 5),
])
def test_descriptor_must_match(descriptor):
    memory = bytearray(TINY.memory_size)
    memory[:64] = descriptor
    assert run(TINY, memory).error == ErrorCode.DESCRIPTOR


def test_fetch_outside_of_memory_is_an_address_error():
    memory = bytearray(TINY.memory_size)
    end = TINY.memory_size
    memory[:64] = encode_descriptor(TINY.hash32, (end - 64, end - 64, end, end, end))
    memory[end - 64:] = encode(End())
    outcome = run(TINY, memory)
    assert (outcome.error, outcome.queue, outcome.address) == (ErrorCode.ADDRESS, Queue.VECTOR, end)
    memory[end - 64:] = encode(Fill())
    outcome = run(TINY, memory)
    assert (outcome.error, outcome.queue, outcome.address) == (ErrorCode.ADDRESS, Queue.LOAD, end)
    assert run(TINY, memory, end).error == ErrorCode.ADDRESS


def test_descriptors_and_lists_are_aligned():
    memory = bytearray(TINY.memory_size)
    memory[32:96] = encode_descriptor(TINY.hash32, (128,) * 5)
    outcome = run(TINY, memory, 32)
    assert (outcome.error, outcome.queue, outcome.address) == (ErrorCode.ADDRESS, Queue.LOAD, 32)
    memory[:64] = encode_descriptor(TINY.hash32, (128, 128, 128, 96, 128))
    memory[96:160] = memory[128:192] = encode(End())
    outcome = run(TINY, memory)
    assert (outcome.error, outcome.queue, outcome.address) == (ErrorCode.ADDRESS, Queue.POST, 96)


def test_windows_that_emit_nothing_use_no_accumulator():
    nothing = Vector(count_0=2, taps=3, accumulator=(1 << 16) - 1)
    assert execute(TINY, nothing).error == ErrorCode.NONE
    check_error(TINY, Vector(count_0=3, taps=3, accumulator=(1 << 16) - 1), ErrorCode.ADDRESS)


def test_marks_are_reported_in_the_order_of_retirement():
    outcome = execute(TINY, Fill(mark=1, wait_array=2), Array(), Array(mark=1), Fill(mark=1))
    assert outcome.marks == ((Queue.ARRAY, 1), (Queue.LOAD, 0), (Queue.LOAD, 1))
