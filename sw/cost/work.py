"""What instructions have to do: cycles in an engine, beats over the memory port."""

from systolith.hw.config import Config
from systolith.hw.isa import (
    Array,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Store,
    Vector,
)

__all__ = ["chunk_beats", "row_words", "transfer_cycles", "work_cycles"]


def work_cycles(config: Config, instruction: Instruction) -> int:
    """Cycles of an instruction's work in an engine that does not use the memory port."""
    match instruction:
        case Array():
            pixels = instruction.count_0 * instruction.count_1
            passes = instruction.count_2 * instruction.count_3 * instruction.count_4
            return passes * max(pixels, config.rows)
        case Vector():
            return (instruction.count_0 * instruction.count_1 * instruction.count_2
                    * instruction.count_3)
        case Post():
            width = config.columns if instruction.source == PostSource.ARRAY else config.rows
            return instruction.count_0 * instruction.count_1 * -(-width // config.lanes)
        case Fill():
            return instruction.words * instruction.rows * instruction.planes
    return 0


def transfer_cycles(config: Config, instruction: Instruction) -> tuple[int, int]:
    """Beats of a transfer, and the cycles that it takes at least."""
    beat, rate = config.memory_bytes_per_beat, config.memory_beat_cycles
    match instruction:
        case Load():
            word = {LoadTarget.WEIGHT: config.weight_word_bytes,
                    LoadTarget.PARAMETER: config.parameter_word_bytes}.get(
                        LoadTarget(instruction.target), config.rows)
            lines = instruction.rows * instruction.planes
            beats = int(chunk_beats(config, instruction) * instruction.chunks * lines)
            parts = max(1, word // config.rows)
            return beats, max(beats * rate, row_words(instruction, word) * lines * parts)
        case Store():
            lines = instruction.rows * instruction.planes
            touched = _touched(instruction.destination, instruction.row_bytes,
                               instruction.destination_row_step, beat)
            words = -(-instruction.row_bytes // config.rows)
            beats = int(touched * lines)
            return beats, max(beats * rate, words * lines)
    return 0, 0


def chunk_beats(config: Config, load: Load) -> float:
    """Mean number of beats that a chunk of a LOAD touches."""
    step = load.chunk_step if load.chunks > 1 else load.row_step
    return _touched(load.source, load.chunk_bytes, step, config.memory_bytes_per_beat)


def row_words(load: Load, word_bytes: int) -> int:
    """Words of `word_bytes` that a row of a LOAD takes on the chip."""
    return -(-load.chunk_bytes * load.chunks // word_bytes)


def _touched(address: int, length: int, step: int, beat: int) -> float:
    """Mean number of beats that a piece of `length` bytes touches."""
    if length % beat == 0 and address % beat == 0 and step % beat == 0:
        return length // beat
    if step % beat == 0:
        return (address % beat + length + beat - 1) // beat
    return 1 + (length - 1) / beat
