"""The sequential core's program, second part: LOAD, FILL and STORE, which walk rows and planes."""

from ..isa import LoadTarget, Opcode
from .assembler import Cond, Op
from .mover import MOST
from .ports import PARAMETERS, Mode, Output, Target
from .routines import ADDRESS_MASK, Routines

__all__ = ["movement"]

_RECORD_WORDS = 4
_WORD_BYTES = 4


def movement(a: Routines) -> None:
    """Append the handlers.

    `place` and its steps are words on the chip, `source` and its steps bytes in main memory,
    whichever way they move. Parameter records are four words each, and so may weight words be two:
    `_long_words` has places and steps in words of 32 bits.
    """
    _load(a)
    _store(a)
    _fill(a)
    _rows(a)


def _load(a: Routines) -> None:
    config, op = a.config, Opcode.LOAD
    a.label("load")
    a.counts(op, bytes="chunk_bytes", chunks="chunks", rows="rows", planes="planes")
    a.fields(op, source="source", chunk_step="chunk_step", row_step="row_step",
             plane_step="plane_step", place="destination", place_row="destination_row_step",
             place_plane="destination_plane_step", fill="fill")
    a.copy("left", "chunks")
    a.value(0)
    a.label("load sum")
    a.add("bytes")
    a.store("row")
    a.count_down("left", "load add")
    a.set("record", _WORD_BYTES - 1)
    a.set("wrap", ADDRESS_MASK)
    a.set("size", config.scratchpad_words)
    a.set("kind", Target.SCRATCHPAD << 16)
    a.field(op, "target")
    a.jump("rows", Cond.ZERO)
    a.subtract(a.constant(LoadTarget.PARAMETER))
    a.jump("load records", Cond.ZERO)
    if config.column_words == 1:
        a.set("size", config.weight_words)
        a.set("kind", Target.WEIGHT << 16)
    else:
        _long_words(a, config.column_words, config.weight_words, Target.WEIGHT << 16)
    a.jump("rows")
    a.label("load add")
    a.load("row")
    a.jump("load sum")

    a.label("load records")
    _long_words(a, _RECORD_WORDS, config.parameter_words, (Target.DATA << 16) + PARAMETERS)
    a.jump("rows")


def _long_words(a: Routines, words: int, count: int, kind: int) -> None:
    """A memory of `count` places, each of `words` words, a power of two."""
    a.set("record", words * _WORD_BYTES - 1)
    a.set("wrap", words * (ADDRESS_MASK + 1) - 1)
    a.set("size", words * count)
    a.set("kind", kind)
    # An address that is too large to be multiplied is out of range.
    a.load("place")
    a.below(count, "address error")
    bits = words.bit_length() - 1
    a.shift_left("place", bits)
    a.store("place")
    for step in ("place_row", "place_plane"):
        a.shift_left(step, bits)
        a.subtract(a.constant(words - 1))
        a.store(step)


def _store(a: Routines) -> None:
    op = Opcode.STORE
    a.label("store")
    a.counts(op, row="row_bytes", rows="rows", planes="planes")
    a.copy("bytes", "row")
    a.fields(op, place="source", place_row="source_row_step", place_plane="source_plane_step",
             source="destination", row_step="destination_row_step",
             plane_step="destination_plane_step")
    a.set("chunks", 1)
    a.set("record", 0)
    a.set("wrap", ADDRESS_MASK)
    a.set("size", a.config.scratchpad_words)
    a.set("kind", Target.MAIN << 16)
    a.jump("rows")


def _fill(a: Routines) -> None:
    """A plane is two loops, as the engine has them."""
    op = Opcode.FILL
    a.label("fill")
    for name, port in (("words", Output.COUNT_0), ("rows", Output.COUNT_1)):
        a.counts(op, left=name)
        a.output(port)
    a.counts(op, planes="planes")
    a.output(Output.ADDRESS)
    a.field(op, "destination", mask=False)
    a.output(Output.JUMP)
    a.give(Output.STEP_0, 1)
    a.field(op, "value", mask=False)
    a.output(Output.BOUNDS)
    a.field(op, "row_step", mask=False)
    a.output(Output.STEP_1)
    a.label("fill plane")
    a.give(Output.RUN, Mode.FILL)
    a.wait()
    a.field(op, "plane_step", mask=False)
    a.output(Output.JUMP)
    a.count_down("planes", "fill plane")
    a.jump("retire")


def _rows(a: Routines) -> None:
    """The two outer loops of LOAD and STORE."""
    a.label("rows")
    a.value(0)
    a.subtract("row")
    a.memory(Op.AND, "record")
    a.store("missing")
    a.load("row")
    a.add("missing")
    a.add(a.constant(_WORD_BYTES - 1))
    a.shift_right(2)
    a.store("words")
    a.copy("rows left", "rows")
    a.label("row")
    a.inside("place", "words", "size")
    a.load("place")
    a.add("kind")
    a.output(Output.TARGET)
    _move(a)

    a.label("row end")
    # From the last word of a row.
    a.load("place")
    a.add("words")
    a.subtract(a.constant(1))
    a.store("place")
    a.decrease("rows left")
    a.jump("plane end", Cond.ZERO)
    a.increase("source", "row_step")
    _advance(a, "place_row")
    a.jump("row")
    a.label("plane end")
    a.increase("source", "plane_step")
    _advance(a, "place_plane")
    a.copy("rows left", "rows")
    a.count_down("planes", "row")
    a.jump("retire")


def _advance(a: Routines, step: str) -> None:
    a.load("place")
    a.add(step)
    a.memory(Op.AND, "wrap")
    a.store("place")


def _move(a: Routines) -> None:
    """A row of `chunks` pieces of `bytes`, and what its last word lacks."""
    a.copy("chunks left", "chunks")
    a.label("chunk")
    a.inside("source", "bytes", a.config.memory_size)
    a.copy("left", "bytes")
    a.copy("piece", "source")
    a.label("piece")
    a.give(Output.MAIN, "piece")
    a.load("left")
    a.subtract(a.constant(MOST + 1))
    a.jump("last piece", Cond.NO_CARRY)
    a.add(a.constant(1))
    a.store("left")
    a.give(Output.MOVE, MOST)
    a.increase("piece", a.constant(MOST))
    a.wait()
    a.jump("piece")
    a.label("last piece")
    a.give(Output.MOVE, "left")
    a.wait()
    a.decrease("chunks left")
    a.jump("pad", Cond.ZERO)
    a.increase("source", "chunk_step")
    a.jump("chunk")

    a.label("pad")
    a.load("missing")
    a.jump("row end", Cond.ZERO)
    a.store("left")
    a.label("pad byte")
    a.give(Output.PUSH, "fill")
    a.count_down("left", "pad byte")
