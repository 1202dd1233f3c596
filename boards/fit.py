"""Does a configuration fit a board? An estimate in an instant, before synthesis.

Multipliers and block RAM follow from the configuration. Look-up tables and flip-flops are counted
part by part (`_parts`), by what synthesis for the ECP5 leaves of each where the modules stay apart,
in arrays of 4x4, 8x4 and 8x8; `_TOGETHER` is what is left when all are optimized as one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from systolith.errors import BuildError
from systolith.hw.config import Config
from systolith.hw.head import count_bits
from systolith.hw.isa import WAIT_BITS
from systolith.hw.multiplier import MultiplierBudget, demand
from systolith.hw.scratchpad import read_groups

from .board import Board

__all__ = ["CAPACITY", "Resources", "check_fit", "estimate_fit"]


@dataclass(frozen=True)
class Resources:
    """Look-up tables (adders' included), flip-flops, multipliers and block RAMs."""

    lut: int
    ff: int
    multipliers: int
    block_ram: int


CAPACITY = {
    "LFE5U-12F": Resources(24_288, 24_288, 28, 56),
    "LFE5U-25F": Resources(24_288, 24_288, 28, 56),
    "LFE5U-85F": Resources(83_640, 83_640, 156, 208),
    "GW2AR-18C": Resources(20_736, 15_552, 96, 46),
    "GW1NR-9C": Resources(8_640, 6_480, 40, 26),
    "iCE40UP5K": Resources(5_280, 5_280, 8, 30),
}
"""What the chips have, by device; multipliers in the smallest size. To the open tools an LFE5U-12F
is a 25F."""

_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
"""Bits a word and words of a block RAM of 18 Kbit, which both families have."""

_LEAST_BLOCK_WORDS = 64
"""A memory of fewer words is made of look-up tables."""

_ROOM = {"ecp5": 0.9, "gowin": 0.9, "ice40": 0.95}
"""Of the look-up tables that may be used: fuller chips are not placed and routed."""

_TOGETHER = (0.965, 0.87)
"""Look-up tables and flip-flops of whole designs over the sum of their parts: nextpnr's counts for
8x4 and 16x8 cores."""

_SEQUENTIAL = {
    "iCE40UP5K": Resources(4_938, 1_823, 8, 29),
    "GW1NR-9C": Resources(5_702, 2_697, 32, 26),
}
"""What the preset of the sequential core takes, by device, as nextpnr counts: an iCE40's logic
cells are each a LUT, an adder and a flip-flop."""

_SEQUENTIAL_COLUMN = (135, 133)
"""Look-up tables and flip-flops of a column more or less, as synthesis for Gowin's chips leaves
them; multipliers are shared out evenly."""

_SMALL_BLOCK_BITS = 4096
"""Of an iCE40's block RAM, at widths up to 16."""

_LOGIC_PRODUCT = {"requantizer": (526, 28), "residual": (228, 20), "array": (182, 27),
                  "vector": (183, 27)}
"""Look-up tables and flip-flops of a product that has no multiplier."""


def estimate_fit(board: Board, config: Config) -> Resources:
    """What a build of `config` for `board` takes, within 15 % where the open tools have built it.

    Raises `BuildError` for a board whose chip only its maker's tools know.
    """
    _capacity(board)
    sequential = board.device in _SEQUENTIAL
    if config.sequential != sequential:
        raise BuildError(f"{board.name} needs a configuration with sequential = "
                         f"{str(sequential).lower()}")
    if sequential:
        return _sequential(board, config)
    budget = MultiplierBudget(board.family, board.multipliers, config)
    lut, ff = 0.0, 0.0
    for part_lut, part_ff in _parts(board, config):
        lut, ff = lut + part_lut, ff + part_ff
    used = 0
    for kind, (narrow, wide) in demand(config).items():
        for bits, products in ((9, narrow), (18, wide)):
            for _ in range(products):
                if budget.take(kind, bits):
                    used += budget.size(bits)
                else:
                    lut += _LOGIC_PRODUCT[kind][0]
                    ff += _LOGIC_PRODUCT[kind][1]
    blocks = sum(_blocks(width, words) for width, words in _memories(board, config))
    return Resources(round(lut * _TOGETHER[0]), round(ff * _TOGETHER[1]), used, blocks)


def check_fit(board: Board, config: Config) -> dict[str, Any]:
    """The estimate beside what the chip has: `board`, `config`, `fits`, and `resources`, each with
    `estimate` and `available`. Nine tenths of the look-up tables may be used. Raises as
    `estimate_fit` does."""
    estimate, capacity = estimate_fit(board, config), _capacity(board)
    resources = {
        name: {"estimate": getattr(estimate, field), "available": getattr(capacity, field)}
        for name, field in (("LUT", "lut"), ("FF", "ff"), ("multipliers", "multipliers"),
                            ("block RAM", "block_ram"))}
    return {"board": board.name, "config": config.to_dict(), "resources": resources,
            "fits": (all(use["estimate"] <= use["available"] for use in resources.values())
                     and estimate.lut <= _ROOM[board.family] * capacity.lut)}


def _capacity(board: Board) -> Resources:
    if board.device not in CAPACITY:
        raise BuildError(f"what fits {board.title} is not known here: only its maker's tools build "
                         "for it")
    return CAPACITY[board.device]


def _sequential(board: Board, config: Config) -> Resources:
    """As the preset, but for the columns and memories that a configuration changes."""
    preset, columns = _SEQUENTIAL[board.device], board.config.columns
    lut, ff = ((config.columns - columns) * each for each in _SEQUENTIAL_COLUMN)

    def blocks(shape: Config) -> int:
        memories = [(8 * shape.columns, shape.weight_words),
                    (32 * shape.columns, 2 * shape.accumulator_words)]
        if board.spram:
            return sum(max(-(-bits // 16), -(-bits * words // _SMALL_BLOCK_BITS))
                       for bits, words in memories)
        memories += [(32, shape.scratchpad_words), (32, shape.memory_size // 4)]
        return sum(_blocks(bits, words) for bits, words in memories)

    return Resources(preset.lut + lut, preset.ff + ff,
                     preset.multipliers * config.columns // columns,
                     preset.block_ram + blocks(config) - blocks(board.config))


def _parts(board: Board, config: Config) -> Iterator[tuple[float, float]]:
    """Look-up tables and flip-flops of each part, all products in multipliers."""
    rows, columns, lanes, beat = (config.rows, config.columns, config.lanes,
                                  config.memory_bytes_per_beat)
    missing = WAIT_BITS - count_bits(config)
    yield 2900 - 43 * missing, 2870 + 16 * rows - 33 * missing        # fetch, sequencer, counters
    ahead = rows - 4 if rows * columns >= 64 else 0                   # the link's reads
    yield 1960 + 25 * beat + 70 * ahead, 690 + 23 * beat + 10 * ahead  # endpoint of the link
    yield 375 + 12 * beat, 350 + 11 * beat                            # arbiter
    yield 1020 + 20 * beat + 62 * rows, 790 + 25 * beat + 37 * rows   # LOAD
    yield 560 + 5 * beat + 54 * rows, 500 + 17 * beat + 33 * rows     # STORE
    ways = len(read_groups(config))                                   # scratchpad's crossbar
    registers = 23 * ways - (13 if config.scratchpad_banks == 1 else 0)
    yield 340 + (5 + 7.6 * ways) * rows * config.scratchpad_banks, 40 + registers * rows
    yield 550, 690                                                    # the array's engine
    stages = rows // config.stage_rows                                # its cells and their sums
    yield 16 * rows * columns, (16 * rows + 15 * stages) * columns
    if config.paired_bits == 8:
        yield 43 * rows * columns, 25 * rows * columns                # products that overlap
    yield 167 * columns, 136 * columns + 32 * lanes                   # its accumulators
    if config.vector_taps:
        yield 560, 700
        yield 270 * rows, 134 * rows + 32 * lanes                     # accumulators
        yield (18 + 80 * config.vector_taps) * rows, (18 + 23 * config.vector_taps) * rows
    yield 760 + 15 * rows + 200 * lanes, 1040 + 10 * rows + 125 * lanes   # POST
    yield 810 * lanes, 447 * lanes                                    # requantizers
    if config.residual:
        yield 380 * lanes, 118 * lanes
    yield (450, 350) if board.baud is not None else (1800, 1000)      # resets, FIFOs, UART or USB
    if board.memory_chip(config) is not None:
        yield 700, 500


def _memories(board: Board, config: Config) -> Iterator[tuple[int, int]]:
    """Width in bits and words of the memories that are block RAM."""
    for _ in range(config.scratchpad_banks):
        yield 8 * config.rows, config.scratchpad_bank_words
    yield 8 * config.weight_word_bytes, config.weight_words
    for _ in range(2):
        yield 32 * config.columns, config.accumulator_words
    if config.vector_taps:
        for _ in range(2):
            yield 32 * config.rows, config.vector_accumulator_words
        yield 8 * config.rows, config.vector_weight_words
    for width in (32, config.multiplier_bits + 6, 25 if config.bias == "exact" else 0):
        for _ in range(config.lanes if width else 0):
            yield width, config.parameter_words
    for _ in range(config.lanes if config.table else 0):
        yield 8, 256
    yield 64, config.timestamps
    yield 32, 256       # instructions
    yield 8, 1024       # the link's rings
    yield 8, 512
    if board.memory_chip(config) is None:
        beat = config.memory_bytes_per_beat
        yield 8 * beat, config.memory_size // beat


def _blocks(width: int, words: int) -> int:
    if words < _LEAST_BLOCK_WORDS:
        return 0
    return min(-(-width // bits) * -(-words // depth) for bits, depth in _SHAPES)
