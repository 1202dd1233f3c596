"""The instruction set: the one definition that gateware, golden model, compiler and driver share.

A program is five instruction lists, one a queue, and a 64-byte descriptor that names where each
begins. Queues run beside each other; inside a queue instructions begin and retire in order.

**Timeline dependencies.** Each queue counts the instructions it has retired since the run began.
Every instruction carries one threshold a queue and begins when each queue has retired at least
that many. A dependency is thus one number, needs no resource to be allocated, and a program's
order is a static graph: a cycle is a deadlock, a missing path between two conflicting accesses is
a race, and both can be found by reading the program.

**Loop nests.** Addresses walk loop nests given as counts, innermost first, and *steps*: the step of
a loop is added to the address when that loop advances and all loops inside it restart.
`steps_of` computes steps from strides. Address arithmetic wraps at the field's width; every address
is checked against the memory it goes to before it is used.

Every instruction is `INSTRUCTION_BYTES` long, little-endian, fields packed from bit 0 in the order
of declaration; the bits behind the last field must be zero. A count of 0 is an error
(`ErrorCode.LENGTH`), never an empty loop.

This module needs neither amaranth nor numpy.
"""

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar

__all__ = [
    "ADD_MULTIPLIER_BITS",
    "DESCRIPTOR_BYTES",
    "DESCRIPTOR_MAGIC",
    "INSTRUCTIONS",
    "INSTRUCTION_BYTES",
    "PARAMETER_BYTES",
    "PARAMETER_FIELDS",
    "WAIT_BITS",
    "Array",
    "DecodeError",
    "End",
    "ErrorCode",
    "Field",
    "Fill",
    "Instruction",
    "Load",
    "LoadTarget",
    "Opcode",
    "Post",
    "PostSource",
    "Queue",
    "Store",
    "Vector",
    "VectorMode",
    "decode",
    "decode_descriptor",
    "encode",
    "encode_descriptor",
    "instruction_fields",
    "steps_of",
    "strides_of",
]

INSTRUCTION_BYTES = 64
DESCRIPTOR_BYTES = 64
DESCRIPTOR_MAGIC = 0x48544C53  # "SLTH" in memory order
WAIT_BITS = 20
ADD_MULTIPLIER_BITS = 22
"""Magnitude bits of the two multipliers of a residual add (arithmetic contract: 22 or more)."""


class Queue(IntEnum):
    """The engines that run beside each other, in the order of the thresholds in an instruction."""

    LOAD = 0
    ARRAY = 1
    VECTOR = 2
    POST = 3
    STORE = 4


class Opcode(IntEnum):
    """What an instruction does. 0 is no instruction, so that cleared memory does not execute."""

    END = 1
    LOAD = 2
    FILL = 3
    ARRAY = 4
    VECTOR = 5
    POST = 6
    STORE = 7


class ErrorCode(IntEnum):
    """Why a run stopped. Sticky until the next run or reset; the first error is kept."""

    NONE = 0
    DESCRIPTOR = 1  # wrong magic, or built for another configuration
    DECODE = 2      # opcode unknown, in the wrong queue, for an absent unit, or reserved bits set
    LENGTH = 3      # a loop count of zero, or more taps than the vector unit has
    ADDRESS = 4     # main memory or on-chip address out of range
    DEADLOCK = 5    # every unfinished queue waits for another
    WATCHDOG = 6    # no instruction retired for the set number of cycles
    CANCELLED = 7   # stopped by the host


class LoadTarget(IntEnum):
    """On-chip memories that LOAD writes."""

    SCRATCHPAD = 0     # words of `rows` bytes: activations
    WEIGHT = 1         # words of `columns` weights: one row of an array tile
    VECTOR_WEIGHT = 2  # words of `rows` weights: one tap of the vector unit
    PARAMETER = 3      # words of `lanes` parameter records
    TABLE = 4          # 256 entries, `rows` of them a word


class PostSource(IntEnum):
    """Where the post-processor takes its 32-bit values from."""

    ARRAY = 0       # accumulators of the array
    VECTOR = 1      # accumulators of the vector unit
    SCRATCHPAD = 2  # operand a, sign-extended
    PRODUCT = 3     # (a - zero_a) * (b - zero_b)


class VectorMode(IntEnum):
    """What the vector unit does with the words of a window."""

    MAC = 0  # sum of products with the tap weights
    MAX = 1  # maximum


def _bits(width: int, *, signed: bool = False, default: int = 0) -> Any:
    return field(default=default, metadata={"width": width, "signed": signed})


@dataclass(frozen=True)
class Field:
    """One bit field: its name, lowest bit, width in bits and signedness."""

    name: str
    offset: int
    width: int
    signed: bool


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Fields that every instruction begins with.

    `wait_*`: begin when that queue has retired at least this many instructions. A wait on the
    instruction's own queue is allowed (read after write inside a queue, whose pipeline would
    otherwise overlap the two). `mark`: on retiring, append cycle and active-cycle counters to the
    timestamp log.
    """

    opcode: ClassVar[Opcode]
    queues: ClassVar[tuple[Queue, ...]]

    wait_load: int = _bits(WAIT_BITS)
    wait_array: int = _bits(WAIT_BITS)
    wait_vector: int = _bits(WAIT_BITS)
    wait_post: int = _bits(WAIT_BITS)
    wait_store: int = _bits(WAIT_BITS)
    mark: int = _bits(1)

    @property
    def waits(self) -> tuple[int, int, int, int, int]:
        """Thresholds in the order of `Queue`."""
        return (self.wait_load, self.wait_array, self.wait_vector, self.wait_post, self.wait_store)


@dataclass(frozen=True, kw_only=True)
class End(Instruction):
    """Last instruction of a queue. A run is done when all five queues have retired theirs."""

    opcode = Opcode.END
    queues = tuple(Queue)


@dataclass(frozen=True, kw_only=True)
class Load(Instruction):
    """Copy bytes from main memory to an on-chip memory, cutting them into rows.

    A row is `chunks` pieces of `chunk_bytes` contiguous bytes, `chunk_step` apart in the sense of
    steps, packed behind each other without gaps; its last word is filled up with `fill`. Each row
    begins at a new word: `target_step_*` leads from the *last* word of a row to the first of the
    next. Main memory addresses are bytes of any alignment, on-chip addresses are words.
    With `chunks` > 1 neighbouring pixels of several image rows are packed into one word, which is
    how layers of few channels fill the array's rows.
    """

    opcode = Opcode.LOAD
    queues = (Queue.LOAD,)

    target: int = _bits(3)
    source: int = _bits(32)
    chunk_bytes: int = _bits(20, default=1)
    chunks: int = _bits(8, default=1)
    chunk_step: int = _bits(32)  # first byte of a chunk to first byte of the next
    rows: int = _bits(16, default=1)
    row_step: int = _bits(32)    # first byte of a row's last chunk to first byte of the next row
    planes: int = _bits(16, default=1)
    plane_step: int = _bits(32)  # first byte of the plane's last chunk to the next plane
    destination: int = _bits(20)
    destination_row_step: int = _bits(20)
    destination_plane_step: int = _bits(20)
    fill: int = _bits(8, signed=True)


@dataclass(frozen=True, kw_only=True)
class Fill(Instruction):
    """Write words of one byte value to the scratchpad: the padding of a feature map."""

    opcode = Opcode.FILL
    queues = (Queue.LOAD,)

    destination: int = _bits(20)
    value: int = _bits(8, signed=True)
    words: int = _bits(16, default=1)   # contiguous
    rows: int = _bits(16, default=1)
    row_step: int = _bits(20)           # last word of a row to the first of the next
    planes: int = _bits(16, default=1)
    plane_step: int = _bits(20)


@dataclass(frozen=True, kw_only=True)
class Array(Instruction):
    """Passes of weight tiles against pixels, accumulated in place.

    For each of `count_4 * count_3 * count_2` passes the array takes the next tile of `rows` weight
    words (from `weight`, linear) and streams `count_1 * count_0` scratchpad words through it.
    Pixel i of every pass adds to accumulator word `accumulator + i`; the first pass writes instead
    of adding unless `accumulate` is set. Arithmetic is int32, wrapping.
    """

    opcode = Opcode.ARRAY
    queues = (Queue.ARRAY,)

    activation: int = _bits(20)
    count_0: int = _bits(12, default=1)
    step_0: int = _bits(20)
    count_1: int = _bits(12, default=1)
    step_1: int = _bits(20)
    count_2: int = _bits(12, default=1)
    step_2: int = _bits(20)
    count_3: int = _bits(12, default=1)
    step_3: int = _bits(20)
    count_4: int = _bits(12, default=1)
    step_4: int = _bits(20)
    weight: int = _bits(20)
    accumulator: int = _bits(16)
    accumulate: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Vector(Instruction):
    """Windows over one channel group, lane by lane: depthwise convolution and pooling.

    For each of `count_3 * count_2` passes, for each of `count_1` rows, `count_0` words are read.
    A row emits a value at word `taps - 1` and every `stride` words from there: MAC gives
    `sum_t weight[t] * word[i - taps + 1 + t]`, MAX the maximum of the same words. With `reduce` a
    row emits once, at its last word: MAC the sum of all words times weight 0, MAX the maximum of
    all words. Value j of a pass (counted over its rows) is combined (added, or maximum)
    into accumulator word `accumulator + j`; the first pass writes unless `accumulate` is set.
    MAC reads `taps` words of the vector weight memory a pass (1 with `reduce`), linear from
    `weight`; MAX reads none.
    """

    opcode = Opcode.VECTOR
    queues = (Queue.VECTOR,)

    mode: int = _bits(1)
    reduce: int = _bits(1)
    taps: int = _bits(4, default=1)
    stride: int = _bits(4, default=1)
    activation: int = _bits(20)
    count_0: int = _bits(12, default=1)
    step_0: int = _bits(20)
    count_1: int = _bits(12, default=1)
    step_1: int = _bits(20)
    count_2: int = _bits(12, default=1)
    step_2: int = _bits(20)
    count_3: int = _bits(12, default=1)
    step_3: int = _bits(20)
    weight: int = _bits(16)
    accumulator: int = _bits(16)
    accumulate: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Post(Instruction):
    """Bias add, requantize, clamp; optionally a table and a residual add; write to the scratchpad.

    For each of `count_1 * count_0` pixels and each channel: take v from `source`; add the bias and
    requantize with the channel's parameter record, add `zero`, clamp to [`low`, `high`]; with
    `use_table` replace by table[y + 128]; with `use_add` compute
    `clamp(rne(((y - zero_a)*multiplier_a + (b - zero_b)*multiplier_b) / 2^add_shift) + add_zero,
    add_low, add_high)`, where b is the operand word's byte of the same channel.
    Sources ARRAY and VECTOR read accumulator words `accumulator + i`; operands a and b walk the
    scratchpad. Records come from parameter words `parameter`, `parameter + 1`, … , `lanes` channels
    each, from the start again for each pixel.
    ARRAY yields `columns` channels a pixel: with fewer columns than rows they are written to bytes
    `byte_offset`… of the destination word (other bytes keep their value, b is read from the same
    bytes); with more columns than rows they fill `columns / rows` words, `word_step` apart, and b
    is read from words as far apart. The other sources yield `rows` channels.
    """

    opcode = Opcode.POST
    queues = (Queue.POST,)

    source: int = _bits(2)
    use_table: int = _bits(1)
    use_add: int = _bits(1)
    count_0: int = _bits(12, default=1)
    count_1: int = _bits(12, default=1)
    accumulator: int = _bits(16)
    parameter: int = _bits(12)
    destination: int = _bits(20)
    destination_step_0: int = _bits(20)
    destination_step_1: int = _bits(20)
    word_step: int = _bits(16)
    byte_offset: int = _bits(6)
    operand_a: int = _bits(20)
    operand_a_step_0: int = _bits(20)
    operand_a_step_1: int = _bits(20)
    operand_b: int = _bits(20)
    operand_b_step_0: int = _bits(20)
    operand_b_step_1: int = _bits(20)
    zero: int = _bits(8, signed=True)
    low: int = _bits(8, signed=True, default=-128)
    high: int = _bits(8, signed=True, default=127)
    zero_a: int = _bits(8, signed=True)
    zero_b: int = _bits(8, signed=True)
    multiplier_a: int = _bits(ADD_MULTIPLIER_BITS + 1, signed=True)
    multiplier_b: int = _bits(ADD_MULTIPLIER_BITS + 1, signed=True)
    add_shift: int = _bits(5)
    add_zero: int = _bits(8, signed=True)
    add_low: int = _bits(8, signed=True, default=-128)
    add_high: int = _bits(8, signed=True, default=127)


@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """Copy rows of bytes from the scratchpad to main memory.

    Each of `planes * rows` rows is `row_bytes` contiguous bytes beginning at byte 0 of its first
    word and going to a byte address of any alignment.
    """

    opcode = Opcode.STORE
    queues = (Queue.STORE,)

    source: int = _bits(20)
    row_bytes: int = _bits(20, default=1)
    rows: int = _bits(16, default=1)
    source_row_step: int = _bits(20)    # last word of a row to the first of the next
    planes: int = _bits(16, default=1)
    source_plane_step: int = _bits(20)  # last word of a plane to the first of the next
    destination: int = _bits(32)
    destination_row_step: int = _bits(32)    # first byte of a row to first byte of the next
    destination_plane_step: int = _bits(32)  # first byte of a plane's last row to the next plane


INSTRUCTIONS: dict[Opcode, type[Instruction]] = {
    cls.opcode: cls for cls in (End, Load, Fill, Array, Vector, Post, Store)
}

PARAMETER_FIELDS: tuple[Field, ...] = (
    Field("bias", 0, 32, True),
    Field("rounding", 32, 32, True),
    Field("multiplier", 64, 24, False),
    Field("shift", 88, 6, False),
)
"""A channel's parameter record (arithmetic contract: B, R, M, n), in memory order."""

PARAMETER_BYTES = 16


class DecodeError(ValueError):
    """An encoded instruction that means nothing; `code` is what the hardware would report."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.DECODE):
        super().__init__(message)
        self.code = code


def instruction_fields(cls: type[Instruction]) -> tuple[Field, ...]:
    """Bit fields of an instruction class behind the opcode, which occupies bits 0 to 3."""
    result = []
    offset = 4
    for item in fields(cls):
        width = item.metadata["width"]
        result.append(Field(item.name, offset, width, item.metadata["signed"]))
        offset += width
    assert offset <= 8 * INSTRUCTION_BYTES, f"{cls.__name__} has {offset} bits"
    return tuple(result)


_FIELDS = {cls: instruction_fields(cls) for cls in INSTRUCTIONS.values()}


def encode(instruction: Instruction) -> bytes:
    """Encode one instruction into `INSTRUCTION_BYTES` bytes.

    Unsigned fields that are addresses or steps accept negative values, which wrap; all other
    values must fit. Raises ValueError naming instruction, field, value and range.
    """
    word = int(instruction.opcode)
    for item in _FIELDS[type(instruction)]:
        value = int(getattr(instruction, item.name))
        low = -(1 << (item.width - 1)) if item.signed or "step" in item.name else 0
        high = (1 << (item.width - 1)) if item.signed else (1 << item.width)
        if not low <= value < high:
            raise ValueError(f"{type(instruction).__name__}.{item.name} must be in "
                             f"[{low}, {high}), not {value}")
        word |= (value & ((1 << item.width) - 1)) << item.offset
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes) -> Instruction:
    """Decode `INSTRUCTION_BYTES` bytes. Raises `DecodeError` where the hardware would stop."""
    word = int.from_bytes(data[:INSTRUCTION_BYTES], "little")
    try:
        cls = INSTRUCTIONS[Opcode(word & 0xF)]
    except ValueError:
        raise DecodeError(f"opcode {word & 0xF} is not an instruction") from None
    values = {}
    end = 4
    for item in _FIELDS[cls]:
        value = (word >> item.offset) & ((1 << item.width) - 1)
        if item.signed and value >> (item.width - 1):
            value -= 1 << item.width
        values[item.name] = value
        end = item.offset + item.width
    if word >> end:
        raise DecodeError(f"bits behind the last field of {cls.__name__} are set")
    return cls(**values)


def encode_descriptor(config_hash: int, starts: tuple[int, ...]) -> bytes:
    """Encode the program descriptor: magic, 32-bit configuration hash, byte address a queue."""
    words = (DESCRIPTOR_MAGIC, config_hash & 0xFFFFFFFF, *starts)
    data = b"".join(int(word).to_bytes(4, "little") for word in words)
    return data.ljust(DESCRIPTOR_BYTES, b"\0")


def decode_descriptor(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Decode a program descriptor into its configuration hash and the queues' start addresses."""
    words = [int.from_bytes(data[4 * i:4 * i + 4], "little") for i in range(2 + len(Queue))]
    if words[0] != DESCRIPTOR_MAGIC:
        raise DecodeError(f"descriptor magic is {words[0]:#010x}, not {DESCRIPTOR_MAGIC:#010x}",
                          ErrorCode.DESCRIPTOR)
    return words[1], tuple(words[2:])


def steps_of(counts: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of a loop nest from its counts and strides, innermost loop first."""
    steps = []
    inner = 0
    for count, stride in zip(counts, strides, strict=True):
        steps.append(stride - inner)
        inner += (count - 1) * stride
    return tuple(steps)


def strides_of(counts: tuple[int, ...], steps: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """Strides of a loop nest from its counts and steps, as signed values of `bits` bits."""
    strides = []
    inner = 0
    for count, step in zip(counts, steps, strict=True):
        stride = (step + inner) & ((1 << bits) - 1)
        if stride >> (bits - 1):
            stride -= 1 << bits
        strides.append(stride)
        inner += (count - 1) * stride
    return tuple(strides)
