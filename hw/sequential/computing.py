"""The sequential core's program, third part: ARRAY and POST."""

from ..isa import PARAMETER_FIELDS, Opcode, Queue, instruction_fields
from ..isa import Post as PostInstruction
from .adding import TWO, product, read_byte
from .assembler import INDEXED, Cond, Op
from .ports import (
    COLUMN,
    COLUMN_GROUP,
    DIGITS,
    PARAMETERS,
    FastShift,
    Input,
    Mode,
    Output,
    Status,
)
from .routines import LENT, Routines

__all__ = ["computing"]

_RECORD_WORDS = 4

_OF_CHANNEL = ("offset", "distance", "row 0", "row 1", "row 2", "row 3")
"""What the circuits need to know of a channel."""

_BY_PROGRAM = ("multiplier", "shift")
"""What the program needs of it for values that the circuits leave."""

_SECOND = dict(zip((*_OF_CHANNEL, *(f"next {name}" for name in _BY_PROGRAM)), LENT, strict=False))
"""Where the same lies for the channel of a pixel's second word."""

_CURRENT = [dict(zip(_BY_PROGRAM, LENT[place:], strict=False))
            for place in (len(_SECOND), len(_SECOND) + len(_BY_PROGRAM))]
"""And `_BY_PROGRAM` of the channels that are being finished, by word."""


def computing(a: Routines) -> None:
    """Append the handlers."""
    _array(a)
    _post(a)
    _operand(a)
    _channel(a)


def _array(a: Routines) -> None:
    op = Opcode.ARRAY
    a.label("array")
    for k, port in enumerate((Output.COUNT_0, Output.COUNT_1)):
        a.field(op, f"count_{k}")
        a.jump("length error", Cond.ZERO)
        a.output(port)
    _accumulator(a, op)
    a.give(Output.ACCUMULATOR, "accumulator")
    a.output(Output.ADDRESS)
    a.field(op, "accumulate")
    a.jump("array decode", Cond.NOT_ZERO)
    a.give(Output.RUN, Mode.CLEAR)
    a.label("array decode")
    for k in range(2, 5):
        a.field(op, f"count_{k}")
        a.jump("length error", Cond.ZERO)
        a.store(f"count {k}")
        a.store(f"left {k}")
    for k in range(5):
        a.field(op, f"step_{k}", mask=False)
        if k < 2:
            a.output(Output.STEP_0 if k == 0 else Output.STEP_1)
        else:
            a.store(f"step {k}")
    # A loop of one iteration is none: the innermost one is the quickest.
    for _ in range(2):
        done = a.fresh()
        a.load("count 2")
        a.subtract(a.constant(1))
        a.jump(done, Cond.NOT_ZERO)
        for k in (2, 3):
            for name in ("count", "left", "step"):
                a.copy(f"{name} {k}", f"{name} {k + 1}")
        for name in ("count", "left"):
            a.set(f"{name} 4", 1)
        a.label(done)
    a.field(op, "weight")
    a.store("weight")
    a.output(Output.WEIGHT)
    a.wait()
    a.label("array activation")
    a.load(a.constant(a.config.weight_words - 4))
    a.subtract("weight")
    a.jump("address error", Cond.NO_CARRY)
    a.output(Output.ADDRESS)
    a.field(op, "activation", mask=False)
    a.label("array next")
    a.output(Output.PASS)
    # While it runs: how does it go on?
    a.label("array pass")
    a.decrease("left 2")
    a.jump("array outer", Cond.ZERO)
    a.label("array walks")
    a.input(Input.STATUS)
    a.jump("array walks", Cond.NEGATIVE)
    a.give(Output.PASS, "step 2")
    a.jump("array pass")

    a.label("array outer")
    a.copy("left 2", "count 2")
    for k in (3, 4):
        a.decrease(f"left {k}")
        a.jump(f"array step {k}", Cond.NOT_ZERO)
        a.copy(f"left {k}", f"count {k}")
    a.call("ahead")
    # What is wrong with the last pixels shows when they have come to the accumulators.
    a.wait()
    a.wait()
    a.retire_ahead()
    for k in (3, 4):
        a.label(f"array step {k}")
        a.wait()
        a.load(f"step {k}")
        a.jump("array next")


def _accumulator(a: Routines, op: Opcode) -> None:
    """The first accumulator word, which has to be one; the last one the engine looks at."""
    a.field(op, "accumulator")
    a.store("accumulator")
    a.below(2 * a.config.accumulator_words, "address error")


def _post(a: Routines) -> None:
    op = Opcode.POST
    a.label("post")
    for k, port in enumerate((Output.COUNT_0, Output.COUNT_1)):
        a.counts(op, **{f"count{k}": f"count_{k}"})
        a.output(port)
    a.field(op, "parameter")
    a.store("parameter")
    _records(a, COLUMN_GROUP)
    a.shift_left("parameter", 2)
    a.add(a.constant(PARAMETERS))
    a.store("record")
    found = {item.name: item for item in instruction_fields(PostInstruction)}
    assert found["low"].offset == found["zero"].offset + 8
    assert found["high"].offset == found["zero"].offset + 16
    a.bits(a.at(Queue.POST, 0), found["zero"].offset, 24)
    a.store("bounds")
    a.fields(op, target="destination", step1="destination_step_1", step0="destination_step_0")
    a.field(op, "source")
    a.jump("operand", Cond.NOT_ZERO)
    wide = a.config.column_words > 1
    if wide:
        _records(a, a.config.columns)
        a.field(op, "word_step")
        a.output(Output.STEP_WORD)
        a.store("word step")
    for port, step in ((Output.STEP_0, "step0"), (Output.STEP_1, "step1")):
        a.load(step)
        if wide:
            a.subtract("word step")
        a.output(port)
    _accumulator(a, op)
    _channels(a)
    a.label("post column")
    a.output(Output.ADDRESS)
    a.give(Output.JUMP, "target")
    for names in ({}, _SECOND)[:a.config.column_words]:
        for port, variable in ((Output.ROW, "row 0"), (Output.ROW, "row 1"), (Output.ROW, "row 2"),
                               (Output.ROW, "row 3"), (Output.BIAS, "offset"),
                               (Output.SHIFT, "distance")):
            a.give(port, names.get(variable, variable))
    a.give(Output.ACCUMULATOR, "accumulator")
    _column(a)
    if wide:
        for names, current in zip(({}, _SECOND), _CURRENT, strict=True):
            for variable, kept in current.items():
                a.copy(kept, names.get(f"next {variable}", f"next {variable}"))
    a.give(Output.RUN, Mode.POST)
    # The next column, or the next instruction.
    a.load("bounds")
    a.subtract(a.constant(COLUMN_GROUP * COLUMN))
    a.jump("post last", Cond.CARRY)
    _channels(a)
    a.jump("post wait")
    a.label("post last")
    if a.config.residual:  # An addition looks at the instruction again.
        a.load("adds")
        a.jump("post wait", Cond.NOT_ZERO)
    a.call("ahead")
    a.jump("post wait")
    a.label("post run")
    a.give(Output.RUN, Mode.POST)
    a.label("post wait")
    a.input(Input.STATUS)
    a.jump("post wait", Cond.NEGATIVE)
    a.mask(1 << Status.ALARM | 1 << Status.FAULT | 1 << Status.STOPPED)
    a.jump("post stopped", Cond.NOT_ZERO)
    a.label("post next")
    a.load("bounds")
    a.subtract(a.constant(COLUMN_GROUP * COLUMN))
    a.jump("post column", Cond.NO_CARRY)
    if a.config.residual:
        a.load("adds")
        a.jump("add", Cond.NOT_ZERO)
    a.retire_ahead()

    a.label("post stopped")
    a.wait()
    # Behind the last value come any others, and one of them may have stopped as well.
    a.status(Status.UNFINISHED)
    a.jump("post next", Cond.ZERO)
    a.input(Input.VALUE)
    a.subtract(a.constant(DIGITS))
    a.store("value")
    if wide:
        _multiplier_of_word(a)
    a.call("requantize")
    a.output(Output.RESULT)
    a.status(Status.UNFINISHED)
    a.jump("post run", Cond.NOT_ZERO)
    a.status(Status.FAULT)
    a.jump("post next", Cond.ZERO)
    a.jump("address error")


def _records(a: Routines, channels: int) -> None:
    """Stop with ADDRESS unless there are records of so many channels."""
    a.load(a.constant(a.config.parameter_words - channels))
    a.subtract("parameter")
    a.jump("address error", Cond.NO_CARRY)


def _channels(a: Routines) -> None:
    """What the next records mean, one for each word of a pixel."""
    if a.config.column_words > 1:
        ahead = a.constant(_RECORD_WORDS * COLUMN_GROUP)
        a.increase("record", ahead)
        a.call("channel")
        for variable, lent in _SECOND.items():
            a.copy(lent, variable)
        a.load("record")
        a.subtract(a.constant(_RECORD_WORDS * (COLUMN_GROUP + 1)))
        a.store("record")
    a.call("channel")


def _multiplier_of_word(a: Routines) -> None:
    """`_BY_PROGRAM` of the channel whose value stopped."""
    a.status(Status.WORD)
    a.jump("post first word", Cond.ZERO)
    for variable, kept in _CURRENT[1].items():
        a.copy(variable, kept)
    a.jump("post word")
    a.label("post first word")
    for variable, kept in _CURRENT[0].items():
        a.copy(variable, kept)
    a.label("post word")


def _column(a: Routines) -> None:
    """To the next column, whose record "channel" has looked at."""
    for current in ("bias", "multiplier", "shift"):
        a.copy(current, f"next {current}")
    a.give(Output.BOUNDS, "bounds")
    a.add(a.constant(COLUMN))
    a.store("bounds")


def _channel(a: Routines) -> None:
    """Subroutine "channel": what the next record means for the circuits."""
    fields = {item.name: item.offset for item in PARAMETER_FIELDS}
    assert (fields["bias"], fields["multiplier"], fields["shift"]) == (0, 64, 88)
    a.label("channel")
    a.load("record")
    a.simple(Op.INDEX)
    a.add(a.constant(4))
    a.store("record")
    a.load(INDEXED | 0)
    a.store("next bias")
    a.add(a.constant(DIGITS))
    a.store("offset")
    a.bits(INDEXED | 2, 0, 16)
    a.store("next multiplier")
    a.bits(INDEXED | 2, 24, 6)
    a.store("next shift")
    a.subtract(a.constant(FastShift.LEAST))
    a.store("distance")
    a.jump("channel slow", Cond.NO_CARRY)
    a.subtract(a.constant(FastShift.MOST + 1 - FastShift.LEAST))
    a.jump("channel digits", Cond.NO_CARRY)
    a.label("channel slow")
    a.set("distance", 16)
    a.label("channel digits")
    _digits(a)
    a.simple(Op.RETURN)


def _digits(a: Routines) -> None:
    """The multiplier's digits as weights, so that column k gets digits of weight 2^(8k).

    The multiplier is m0 + 2^8 m1 + 2^16 m2 with signed bytes m0 and m1, and m2 of 0 or 1. Rows 0 to
    2 have the value's digits d0 to d2, and row 3 twice d2, so that the last column can have
    d2 (m1 + 2^8 m2).
    """
    a.load("next multiplier")
    a.add(a.constant(0x80))
    a.memory(Op.XOR, a.constant(0x80))
    a.store("word")          # m1 m0, and perhaps a bit above
    a.add(a.constant(0x8000))
    a.shift_right(16)
    a.store("high")          # m2
    a.bits(a.variable("word"), 0, 16)
    a.store("word")
    a.shift_left("high", 16)
    a.memory(Op.OR, "word")
    a.store("row 0")         # 0 m2 m1 m0
    a.shift_left("row 0", 8)
    a.store("row 1")         # m2 m1 m0 0
    a.shift_left("high", 9)
    a.add("word")
    a.store("word")
    a.shift_left("word", 16)
    a.store("row 2")         # (m1 + 2 m2) m0 0 0
    a.value(0)
    a.subtract("high")
    a.mask(127 << 24)
    a.store("row 3")         # (127 m2) 0 0 0


def _operand(a: Routines) -> None:
    """POST from the scratchpad, value by value, as programs seldom have it; and of products."""
    op = Opcode.POST
    a.label("operand")
    a.fields(op, operand="operand_a", operand0="operand_a_step_0", operand1="operand_a_step_1")
    if a.config.residual:
        a.fields(op, **{TWO["other"]: "operand_b", TWO["other 0"]: "operand_b_step_0",
                        TWO["other 1"]: "operand_b_step_1"})
    a.set("column", 0)
    a.label("operand column")
    a.call("channel")
    _column(a)
    a.copy("from", "operand")
    if a.config.residual:
        a.copy(TWO["other from"], TWO["other"])
    a.copy("to", "target")
    a.copy("left 2", "count1")
    a.label("operand row")
    a.copy("left 3", "count0")
    a.label("operand value")
    read_byte(a, "from", "operand")
    if a.config.residual:
        product(a)
    a.add("bias")
    a.store("value")
    a.call("requantize")
    a.store("value")
    a.go_to("to")
    a.give(Output.RESULT, "value")
    a.wait()
    a.decrease("left 3")
    a.jump("operand row end", Cond.ZERO)
    a.advance("from", "operand0")
    if a.config.residual:
        a.advance(TWO["other from"], TWO["other 0"])
    a.advance("to", "step0")
    a.jump("operand value")
    a.label("operand row end")
    a.advance("from", "operand1")
    if a.config.residual:
        a.advance(TWO["other from"], TWO["other 1"])
    a.advance("to", "step1")
    a.count_down("left 2", "operand row")
    a.increase("column", a.constant(1))
    a.subtract(a.constant(COLUMN_GROUP))
    a.jump("operand column", Cond.NOT_ZERO)
    if a.config.residual:
        a.load("adds")
        a.jump("add", Cond.NOT_ZERO)
    a.jump("retire")
