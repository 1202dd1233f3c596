"""Which unit an instruction needs that a configuration leaves out."""

from .config import Config
from .isa import Instruction, Load, LoadTarget, Post, PostSource, Vector

__all__ = ["missing_unit"]


def missing_unit(config: Config, instruction: Instruction) -> str:
    """What the configuration lacks for an instruction, as a noun; empty where it lacks nothing.

    Hardware stops at such an instruction with `ErrorCode.DECODE`.
    """
    if isinstance(instruction, Load):
        if instruction.target not in set(LoadTarget):
            return f"memory {instruction.target}"
        if instruction.target == LoadTarget.VECTOR_WEIGHT and not config.vector_taps:
            return "vector unit"
        if instruction.target == LoadTarget.TABLE and not config.table:
            return "table"
    elif isinstance(instruction, Vector):
        if not config.vector_taps:
            return "vector unit"
    elif isinstance(instruction, Post):
        if instruction.source == PostSource.VECTOR and not config.vector_taps:
            return "vector unit"
        if instruction.use_table and not config.table:
            return "table"
        adds = instruction.use_add or instruction.source == PostSource.PRODUCT
        if adds and not config.residual:
            return "residual unit"
        if instruction.use_add and instruction.add_shift < config.least_add_shift:
            return f"residual unit for shifts below {config.least_add_shift}"
    return ""
