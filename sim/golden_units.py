"""What each instruction does to the memories: the executable specification of `hw/isa.py`.

Every function checks its instruction as the hardware does, reads all it needs, and returns a
function that writes the results. Between the two other queues may run, since an instruction reads
and writes at any time between its begin and its retirement.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import (
    Array,
    ErrorCode,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Store,
    Vector,
    VectorMode,
)
from systolith.hw.units import missing_unit

from . import numerics
from .golden_memories import Memories, StopError
from .golden_nests import Indices, nest, shorten, transposed_nest

__all__ = ["PREPARE", "WORK_LIMIT", "check_units"]

Commit = Callable[[], None]

WORK_LIMIT = 1 << 24
"""Loop iterations of one instruction beyond which it counts as caught by the watchdog."""

_PREFIX = 1 << 20
"""First iterations of too long a loop nest whose addresses are checked all the same."""

_EXACT_PRODUCTS = 1024
"""Products of two int8 whose sum is exact in float32: 1024 * 128 * 128 = 2^24."""


def check_units(config: Config, instruction: Instruction) -> None:
    """Stop with DECODE for a unit that the configuration leaves out."""
    if missing_unit(config, instruction):
        raise StopError(ErrorCode.DECODE)


def _check_counts(*counts: int) -> None:
    if 0 in counts:
        raise StopError(ErrorCode.LENGTH)


def _walk(memories: Memories, name: str, base: int, counts: tuple[int, ...],
          steps: tuple[int, ...]) -> Indices:
    """Checked addresses of a loop nest over on-chip words."""
    if prod(counts) > WORK_LIMIT:
        memories.check(name, nest(base, shorten(counts, _PREFIX), steps))
        raise StopError(ErrorCode.WATCHDOG)
    addresses = nest(base, counts, steps)
    memories.check(name, addresses)
    return addresses


def _walk_main(memories: Memories, base: int, counts: tuple[int, ...], steps: tuple[int, ...],
               length: int) -> Indices:
    """Checked first bytes of runs of `length` bytes in main memory."""
    if prod(counts) * length > WORK_LIMIT:
        memories.check_main(nest(base, shorten(counts, _PREFIX), steps, 32), length)
        raise StopError(ErrorCode.WATCHDOG)
    starts = nest(base, counts, steps, 32)
    memories.check_main(starts, length)
    return starts


def load(memories: Memories, i: Load) -> Commit:
    """Main memory to an on-chip memory, rows cut into words."""
    _check_counts(i.chunk_bytes, i.chunks, i.rows, i.planes)
    name, word_bytes, convert = memories.loader(LoadTarget(i.target))
    row_bytes = i.chunks * i.chunk_bytes
    words = -(-row_bytes // word_bytes)
    starts = _walk_main(memories, i.source, (i.chunks, i.rows, i.planes),
                        (i.chunk_step, i.row_step, i.plane_step), i.chunk_bytes)
    addresses = _walk(memories, name, i.destination, (words, i.rows, i.planes),
                      (1, i.destination_row_step, i.destination_plane_step))
    data = np.full((i.planes, i.rows, words * word_bytes), i.fill & 0xFF, np.uint8)
    data[..., :row_bytes] = memories.read_main(starts, i.chunk_bytes).reshape(
        i.planes, i.rows, row_bytes)
    values = convert(data.reshape(*addresses.shape, word_bytes))
    return lambda: memories.write(name, addresses, values)


def fill(memories: Memories, i: Fill) -> Commit:
    """One byte value to scratchpad words."""
    _check_counts(i.words, i.rows, i.planes)
    addresses = _walk(memories, "scratchpad", i.destination, (i.words, i.rows, i.planes),
                      (1, i.row_step, i.plane_step))
    return lambda: memories.write("scratchpad", addresses, np.float32(i.value))


def array(memories: Memories, i: Array) -> Commit:
    """Passes of weight tiles against pixels, accumulated in place."""
    rows = memories.config.rows
    counts = (i.count_0, i.count_1, i.count_2, i.count_3, i.count_4)
    _check_counts(*counts)
    pixels, passes = prod(counts[:2]), prod(counts[2:])
    targets = memories.linear("accumulators", i.accumulator, pixels)
    tiles = memories.linear("weights", i.weight, passes * rows)
    if pixels * passes > WORK_LIMIT:
        raise StopError(ErrorCode.WATCHDOG)
    words = transposed_nest(i.activation, counts, (i.step_0, i.step_1, i.step_2, i.step_3,
                                                   i.step_4), 2)
    memories.check("scratchpad", words)
    sums = np.zeros((pixels, memories.config.columns), np.int32)
    at_once = _EXACT_PRODUCTS // rows
    for first in range(0, passes, at_once):
        part = words[:, first:first + at_once]
        activations = memories.read("scratchpad", part).reshape(pixels, -1)
        weights = memories.read("weights", tiles[first * rows:(first + at_once) * rows])
        sums += (activations @ weights).astype(np.int32)

    def commit() -> None:
        before = memories.read("accumulators", targets) if i.accumulate else np.int32(0)
        memories.write("accumulators", targets, before + sums)
    return commit


def vector(memories: Memories, i: Vector) -> Commit:
    """Windows over one channel group, lane by lane."""
    config = memories.config
    counts = (i.count_0, i.count_1, i.count_2, i.count_3)
    _check_counts(*counts, i.taps, i.stride)
    if i.taps > config.vector_taps:
        raise StopError(ErrorCode.LENGTH)
    passes = i.count_2 * i.count_3
    emitted = 1 if i.reduce else max(0, (i.count_0 - i.taps) // i.stride + 1)
    # Where nothing is emitted the accumulator's address is not looked at.
    targets = memories.linear("vector_accumulators", i.accumulator if emitted else 0,
                              emitted * i.count_1)
    taps = 1 if i.reduce else i.taps
    if i.mode == VectorMode.MAC:
        weight_words = memories.linear("vector_weights", i.weight, passes * taps)
    words = _walk(memories, "scratchpad", i.activation, counts,
                  (i.step_0, i.step_1, i.step_2, i.step_3))
    rows = memories.read("scratchpad", words).astype(np.int64).reshape(
        passes, i.count_1, i.count_0, config.rows)
    if i.mode == VectorMode.MAC:
        weights = memories.read("vector_weights", weight_words).astype(np.int64).reshape(
            passes, 1, taps, 1, config.rows)
    if i.reduce:
        window = [rows.sum(axis=2, keepdims=True) if i.mode == VectorMode.MAC
                  else rows.max(axis=2, keepdims=True)]
    else:
        span = (emitted - 1) * i.stride + 1 if emitted else 0
        window = [rows[:, :, tap:tap + span:i.stride] for tap in range(taps)]
    if i.mode == VectorMode.MAC:
        values = sum(part * weights[:, :, tap] for tap, part in enumerate(window)).sum(axis=0)
    else:
        values = np.max(window, axis=(0, 1))
    values = numerics.wrap32(values).astype(np.int32).reshape(-1, config.rows)

    def commit() -> None:
        result = values
        if i.accumulate:
            before = memories.read("vector_accumulators", targets)
            result = before + values if i.mode == VectorMode.MAC else np.maximum(before, values)
        memories.write("vector_accumulators", targets, result)
    return commit


def post(memories: Memories, i: Post) -> Commit:
    """Bias, requantize, clamp; optionally table and residual add."""
    config = memories.config
    counts = (i.count_0, i.count_1)
    _check_counts(*counts)
    channels = config.columns if i.source == PostSource.ARRAY else config.rows
    pixels = prod(counts)
    records = memories.linear("parameters", i.parameter, channels // config.lanes)
    bias, rounding, multiplier, shift = numerics.unpack_records(
        memories.read("parameters", records), multiplier_bits=config.multiplier_bits,
        mode=config.bias)

    # Destination and operand words a pixel, and the bytes of them that channels go to.
    wide = max(1, channels // config.rows)
    first_byte = i.byte_offset if channels < config.rows else 0
    if first_byte % channels or first_byte >= config.rows:
        raise StopError(ErrorCode.ADDRESS)
    span = slice(first_byte, first_byte + min(channels, config.rows))
    word_counts = (wide, *counts)

    def words(base: int, step_0: int, step_1: int) -> Indices:
        step_0 -= (wide - 1) * i.word_step
        step_1 -= (wide - 1) * i.word_step
        return _walk(memories, "scratchpad", base, word_counts, (i.word_step, step_0, step_1))

    def operand(base: int, step_0: int, step_1: int) -> NDArray[np.int64]:
        read = memories.read("scratchpad", words(base, step_0, step_1))
        return read[..., span].astype(np.int64).reshape(pixels, channels)

    destination = words(i.destination, i.destination_step_0, i.destination_step_1)
    b: Any = None
    if i.source == PostSource.PRODUCT or i.use_add:
        b = operand(i.operand_b, i.operand_b_step_0, i.operand_b_step_1)
    if i.source == PostSource.ARRAY:
        source = memories.linear("accumulators", i.accumulator, pixels)
        values = memories.read("accumulators", source).astype(np.int64)
    elif i.source == PostSource.VECTOR:
        source = memories.linear("vector_accumulators", i.accumulator, pixels)
        values = memories.read("vector_accumulators", source).astype(np.int64)
    else:
        values = operand(i.operand_a, i.operand_a_step_0, i.operand_a_step_1)
        if i.source == PostSource.PRODUCT:
            values = numerics.product(values, b, i.zero_a, i.zero_b)
    result = numerics.requantize(
        values, bias, rounding, multiplier, shift, i.zero, i.low, i.high,
        multiplier_bits=config.multiplier_bits)
    if i.use_table:
        table = memories.read("table", memories.linear("table", 0, 256 // config.rows))
        result = numerics.look_up(table.reshape(-1).astype(np.int8), result)
    if i.use_add:
        result = numerics.add(
            result, b, i.zero_a, i.zero_b, i.multiplier_a, i.multiplier_b,
            i.add_shift, i.add_zero, i.add_low, i.add_high)
    outputs = result.astype(np.float32).reshape(*destination.shape, -1)
    return lambda: memories.write_bytes(destination, span, outputs)


def store(memories: Memories, i: Store) -> Commit:
    """Scratchpad to main memory, rows of bytes."""
    _check_counts(i.row_bytes, i.rows, i.planes)
    words = -(-i.row_bytes // memories.config.rows)
    starts = _walk_main(memories, i.destination, (i.rows, i.planes),
                        (i.destination_row_step, i.destination_plane_step), i.row_bytes)
    source = _walk(memories, "scratchpad", i.source, (words, i.rows, i.planes),
                   (1, i.source_row_step, i.source_plane_step))
    data = memories.read("scratchpad", source).astype(np.int8).view(np.uint8)
    data = data.reshape(i.planes, i.rows, -1)[..., :i.row_bytes]
    return lambda: memories.write_main(starts, data)


PREPARE: dict[type[Instruction], Callable[[Memories, Any], Commit]] = {
    Load: load, Fill: fill, Array: array, Vector: vector, Post: post, Store: store,
}
"""How each class of instruction is prepared."""
