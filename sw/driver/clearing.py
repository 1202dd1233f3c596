"""A program that overwrites every memory of the core, run before another program is loaded.

What one program left on the chip is nobody else's business. Main memory is cleared by the host's
FILL command; this program does the rest with the core's own instructions, so that no board needs
hardware for it. Scratchpad, weights, parameters, table and both units' accumulators become 0.
"""

from collections.abc import Mapping, Sequence

from systolith.hw.config import Config
from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    Array,
    End,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Queue,
    Vector,
    VectorMode,
    encode,
    encode_descriptor,
)

__all__ = ["clearing_image", "clearing_lists"]

_BLOCK = 1024
"""Bytes of zeros that are loaded over and over; a multiple of every word."""

_MOST = 2048
"""Pixels of an instruction at most; its counters have 12 bits."""


def clearing_image(config: Config) -> bytes:
    """Main memory from address 0 on: descriptor, zeros, instructions."""
    lists = clearing_lists(config)
    address = DESCRIPTOR_BYTES + _BLOCK
    starts, code = [], b""
    for queue in Queue:
        starts.append(address + len(code))
        code += b"".join(map(encode, lists[queue]))
    return encode_descriptor(config.hash32, tuple(starts)) + bytes(_BLOCK) + code


def clearing_lists(config: Config) -> Mapping[Queue, Sequence[Instruction]]:
    """The instructions of each queue."""
    words = min(config.scratchpad_words, 1 << 15)
    load: list[Instruction] = [
        Fill(words=words, rows=config.scratchpad_words // words, row_step=1),
        _zeros(LoadTarget.WEIGHT, config.weight_words, config.weight_word_bytes)]
    vector: list[Instruction] = []
    if config.vector_taps:
        load.append(_zeros(LoadTarget.VECTOR_WEIGHT, config.vector_weight_words, config.rows))
        # Zeros are there when the loads so far have retired.
        vector = [Vector(wait_load=len(load), mode=VectorMode.MAC, count_0=count, accumulator=first)
                  for first, count in _pieces(2 * config.vector_accumulator_words)]
    array: list[Instruction] = [
        Array(wait_load=2, count_0=count, accumulator=first)
        for first, count in _pieces(2 * config.accumulator_words)]
    load.append(_zeros(LoadTarget.PARAMETER, config.parameter_words, config.parameter_word_bytes))
    if config.table:
        load.append(_zeros(LoadTarget.TABLE, 256 // config.rows, config.rows))
    lists: dict[Queue, list[Instruction]] = {
        Queue.LOAD: load, Queue.ARRAY: array, Queue.VECTOR: vector}
    return {queue: [*lists.get(queue, []), End()] for queue in Queue}


def _zeros(target: LoadTarget, words: int, word_bytes: int) -> Load:
    """Zeros for all words of a memory, from the same bytes again and again."""
    size = words * word_bytes
    block = min(_BLOCK, size)
    return Load(target=target, source=DESCRIPTOR_BYTES, chunk_bytes=block, rows=size // block,
                row_step=0, destination_row_step=1)


def _pieces(words: int) -> list[tuple[int, int]]:
    return [(first, min(_MOST, words - first)) for first in range(0, words, _MOST)]
