"""Predicted cycles of a program on a sequential core: instruction after instruction, in its order.

The constants are the lengths of the ways through `hw/sequential`'s program, measured on RTL.
"""

from collections.abc import Mapping, Sequence

from systolith.hw.config import Config
from systolith.hw.isa import (
    INSTRUCTION_BYTES,
    Array,
    Fill,
    Instruction,
    Load,
    Post,
    PostSource,
    Queue,
    Store,
)

from .prediction import Estimate
from .work import transfer_cycles

__all__ = ["sequential_estimate"]

START = 300
"""Cycles from the run command to the first instruction."""

BEGIN = 240
"""Cycles for fetching, decoding and retiring an instruction."""

END_CYCLES = 150

PASS, LEAST_PASS, OUTER_PASS = 10, 14, 25
"""Cycles of a pass beside its pixels; of the shortest one; what a step of an outer loop adds."""

CLEAR_HIDDEN = 60
"""Pixels whose clearing is hidden behind the decoding."""

COLUMN, LEAST_COLUMN = {1: 50, 2: 96}, {1: 88, 2: 201}
"""The same for a byte of POST's words, by the words that a pixel fills."""

BY_HAND: dict[int, int] = {PostSource.SCRATCHPAD: 940, PostSource.PRODUCT: 1006}
"""Cycles of a value from these sources, which the program requantizes itself."""

ADD_BEGIN, ADDED, ADDED_ROW = 320, 63, 7
"""What a residual add takes more, each of its values, and a row of them."""

LOAD_BEGIN, CHUNK, PIECE, PIECE_BYTES = 300, 68, 47, 252
"""What a LOAD takes more, a chunk, and each piece of a chunk behind the first."""

ROW, STORED_WORD = 100, 3
PLANE = 14


def sequential_estimate(config: Config, lists: Mapping[Queue, Sequence[Instruction]]) -> Estimate:
    """What `estimate` predicts for a core that does one instruction at a time.

    Raises ValueError when the thresholds cannot all be met.
    """
    cycles = START
    beats = fetched = 0
    marks = []
    retired: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    work: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    for queue, instruction in _execution_order(lists):
        taken = _instruction_cycles(config, instruction)
        cycles += taken
        retired[queue].append(cycles)
        work[queue].append(taken)
        fetched += INSTRUCTION_BYTES // config.memory_bytes_per_beat
        beats += transfer_cycles(config, instruction)[0]
        if instruction.mark:
            marks.append(cycles)
    return Estimate(cycles, tuple(marks), retired, work, beats + fetched, fetched)


def _instruction_cycles(config: Config, instruction: Instruction) -> int:
    """Cycles from one retirement to the next, with nothing to wait for."""
    match instruction:
        case Array():
            pixels = instruction.count_0 * instruction.count_1
            loops = [count for count in (instruction.count_2, instruction.count_3,
                                         instruction.count_4) if count > 1] or [1]
            outer = loops[1:] and loops[1] * (loops[2] if loops[2:] else 1) - 1
            passes = instruction.count_2 * instruction.count_3 * instruction.count_4
            clear = 0 if instruction.accumulate else max(0, pixels - CLEAR_HIDDEN)
            return (BEGIN + clear + passes * max(pixels + PASS, LEAST_PASS)
                    + (outer or 0) * OUTER_PASS)
        case Post():
            return BEGIN + _post_cycles(config, instruction)
        case Fill():
            words = instruction.words * instruction.rows
            return BEGIN + instruction.planes * (words + PLANE)
        case Load():
            size = instruction.chunk_bytes
            whole = size % 4 == 0 and instruction.source % 4 == 0
            pieces = -(-size // PIECE_BYTES)
            chunk = (size // 4 if whole else size) + PIECE * (pieces - 1)
            count = instruction.chunks * instruction.rows * instruction.planes
            return LOAD_BEGIN + count * chunk + (count - 1) * CHUNK
        case Store():
            rows = instruction.rows * instruction.planes
            return BEGIN + rows * (ROW + -(-instruction.row_bytes // 4) * STORED_WORD)
    return END_CYCLES


def _post_cycles(config: Config, post: Post) -> int:
    pixels = post.count_0 * post.count_1
    added = 0
    if post.use_add:
        added = ADD_BEGIN + config.rows * (ADDED * pixels + ADDED_ROW * post.count_1)
    if post.source in BY_HAND:
        return config.rows * BY_HAND[post.source] * pixels + added
    words = config.column_words
    return config.rows * max(words * pixels + COLUMN[words], LEAST_COLUMN[words]) + added


def _execution_order(lists: Mapping[Queue, Sequence[Instruction]]
                     ) -> list[tuple[Queue, Instruction]]:
    """The instructions as the core begins them: each queue in turn, as far as it may go."""
    done = dict.fromkeys(Queue, 0)
    order: list[tuple[Queue, Instruction]] = []
    progress = True
    while progress:
        progress = False
        for queue in Queue:
            while done[queue] < len(lists[queue]):
                instruction = lists[queue][done[queue]]
                if any(done[other] < wait for other, wait in zip(
                        Queue, instruction.waits, strict=True)):
                    break
                order.append((queue, instruction))
                done[queue] += 1
                progress = True
    if len(order) != sum(map(len, lists.values())):
        raise ValueError("the program's thresholds cannot all be met")
    return order
