"""What the sequential core's program and its circuits have in common: ports, modes, layouts."""

from enum import IntEnum

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import SEQUENTIAL_LEAST_SHIFT, Config

__all__ = [
    "ALONE",
    "COLUMN",
    "COLUMN_GROUP",
    "DIGITS",
    "LOG_COUNTERS",
    "LOG_TIMESTAMPS",
    "PARAMETERS",
    "ROWS",
    "WRITE",
    "FastShift",
    "Input",
    "Mode",
    "Output",
    "ScratchpadPort",
    "Status",
    "Target",
    "written",
]

ROWS = 4
"""Of the array; bytes of a scratchpad word."""

COLUMN_GROUP = ROWS
"""Columns whose channels fill a scratchpad word, and whose weights a word of main memory."""

COLUMN = 1 << 24
"""A column of `Output.BOUNDS`."""

DIGITS = 0x808080
"""Added to a value so that its bytes, with their highest bits turned over, are signed digits."""

PARAMETERS = 256
"""First word of the parameter records in the processor's data memory, four words each."""

LOG_COUNTERS, LOG_TIMESTAMPS = 0, 128
"""Where counters and timestamps lie in the log memory."""


class FastShift:
    """Shifts of parameter records that the circuits do; others the program does."""

    LEAST, MOST = SEQUENTIAL_LEAST_SHIFT, 31


class Input(IntEnum):
    """Ports that the program reads."""

    STATUS = 0
    VALUE = 1       # accumulator plus bias plus `DIGITS`, that the circuits cannot go on with
    CYCLES = 2      # of the run
    START = 3       # address of the descriptor
    WATCHDOG = 4
    SCRATCHPAD = 5  # scratchpad word at the address that JUMP led to


class Output(IntEnum):
    """Ports that the program writes."""

    # The nest: address, steps and counts of two loops, as many as a pass has.
    ADDRESS = 0     # address = 0
    JUMP = 1        # address += value
    STEP_0 = 2      # of POST, from a pixel's last word to the next one's first
    STEP_1 = 3
    COUNT_0 = 4
    COUNT_1 = 5
    # Array and post-processor
    RUN = 6         # a `Mode`
    WEIGHT = 7      # first weight word of the next pass
    ACCUMULATOR = 8 # first accumulator word
    # A byte of the words that a pixel fills belongs to a channel of each. The next three are given
    # word by word: row 0 to 3 of the first, row 0 to 3 of the second.
    ROW = 9         # weights of the next row, from row 0 on
    BIAS = 10
    SHIFT = 11      # of the channel, minus `FastShift.LEAST`; bit 4: every value is given to IN
    BOUNDS = 12     # zero | low << 8 | high << 16 | column << 24
    RESULT = 13     # a byte for the nest's address, which advances
    # The mover
    MAIN = 14       # byte address in main memory
    TARGET = 15     # word address on the chip | `Target` << 16; a word begins
    MOVE = 16       # bytes, from main memory to the target or back
    STEP_WORD = 17  # from a word that a pixel fills to the next one
    PUSH = 18       # a byte behind those that came
    # The run
    IDLE = 20       # the run is over
    ERROR = 21      # code | queue << 4
    ERROR_ADDRESS = 22
    LOG_PLACE = 23
    LOG = 24        # at that place, which advances
    TIMESTAMPS = 25 # entries
    QUIET = 26      # the alarm is heard
    STOP = 27       # whatever engine and nest do
    PASS = 28       # JUMP, and RUN of the next pass of the array


def written(source, port: Output):
    """Whether `source`, which has the processor's `output` and `port`, writes this port."""
    return source.output & (source.port == port)


class Mode(IntEnum):
    """What RUN begins."""

    ARRAY = 0  # a pass of weights from `Output.WEIGHT` on
    CLEAR = 1  # zeros to accumulators
    FILL = 3   # the lowest byte of `Output.BOUNDS` to whole scratchpad words
    POST = 2   # values of a column, from where it stopped or from the nest's first address on


ALONE = 4
"""Added to `Mode.POST`: without accumulators, so that `Output.BIAS` is the value."""


class Status(IntEnum):
    """Bits of `Input.STATUS`."""

    ALARM = 0      # now and then, and on cancelling
    FAULT = 1      # an address was out of range, since ADDRESS was written
    STOPPED = 2    # `Input.VALUE` has a value for the program
    CANCEL = 3
    UNFINISHED = 4 # of the nest
    STARTED = 5
    WORD = 6       # of a pixel's words, the one of the value that stopped
    BUSY = 31      # engine or mover


class Target(IntEnum):
    """Where the mover's words go."""

    SCRATCHPAD = 0
    WEIGHT = 1
    DATA = 2
    MAIN = 3  # the other way: from the scratchpad


class ScratchpadPort(wiring.Signature):
    """One port of the scratchpad: a read or a write a cycle, data in the next one.

    It is never refused. What was read stays while `enable` is 0.
    """

    def __init__(self, config: Config):
        super().__init__({
            "enable": Out(1),
            "address": Out(range(config.scratchpad_words)),
            "mask": Out(4),
            "data": Out(32),
            "read": In(32),
        })


WRITE = data.StructLayout({"enable": 1, "address": 16, "data": 32})
"""A word that the mover writes."""
