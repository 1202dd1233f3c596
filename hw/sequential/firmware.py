"""The program that makes a sequential core of a processor, an engine and a mover."""

from ..config import Config
from .adding import adding
from .computing import computing
from .control import control
from .movement import movement
from .rounding import rounding
from .routines import Routines

__all__ = ["firmware"]


def firmware(config: Config) -> Routines:
    """The program for a configuration."""
    program = Routines(config)
    control(program)
    movement(program)
    computing(program)
    if config.residual:
        adding(program)
    rounding(program)
    return program
