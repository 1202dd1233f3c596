"""The sequential core's program, third part: ARRAY and POST."""

from ..isa import PARAMETER_FIELDS, Opcode, PostSource, Queue, instruction_fields
from ..isa import Post as PostInstruction
from .assembler import INDEXED, Cond, Op
from .ports import DIGITS, PARAMETERS, FastShift, Input, Mode, Output, Status
from .routines import Routines

__all__ = ["computing"]

_COLUMNS = 4
_COLUMN = 1 << 24  # of `Output.BOUNDS`


def computing(a: Routines) -> None:
    """Append the handlers."""
    _array(a)
    _post(a)
    _operand(a)



def _array(a: Routines) -> None:
    op = Opcode.ARRAY
    a.label("array")
    for k in range(5):
        a.field(op, f"count_{k}")
        a.jump("length error", Cond.ZERO)
        if k < 2:
            a.output(Output.COUNT_0 if k == 0 else Output.COUNT_1)
        else:
            a.store(f"count {k}")
            a.store(f"left {k}")
    a.field(op, "step_0", mask=False)
    a.output(Output.STEP_0)
    for k in range(1, 5):
        a.field(op, f"step_{k}", mask=False)
        a.store(f"step {k}")
    _accumulator(a, op)
    a.give(Output.ACCUMULATOR, "accumulator")
    a.field(op, "weight")
    a.store("weight")
    a.output(Output.WEIGHT)
    a.output(Output.ADDRESS)
    a.field(op, "accumulate")
    a.jump("array activation", Cond.NOT_ZERO)
    a.give(Output.RUN, Mode.CLEAR)
    a.wait()
    a.label("array activation")
    a.output(Output.ADDRESS)
    a.field(op, "activation", mask=False)
    a.output(Output.STEP_1)
    a.output(Output.JUMP)
    a.load(a.constant(a.config.weight_words - 4))
    a.subtract("weight")
    a.jump("address error", Cond.NO_CARRY)
    a.load("step 1")
    a.label("array pass")
    a.output(Output.STEP_1)
    a.give(Output.RUN, Mode.ARRAY)
    # While it runs: how does it go on?
    a.load("left 2")
    a.subtract(a.constant(1))
    a.store("left 2")
    a.jump("array outer", Cond.ZERO)
    a.label("array walks")
    a.input(Input.STATUS)
    a.jump("array walks", Cond.NEGATIVE)
    a.give(Output.STEP_1, "step 2")
    a.output(Output.JUMP)
    a.load("step 1")
    a.jump("array pass")

    a.label("array outer")
    a.copy("left 2", "count 2")
    for k in (3, 4):
        a.load(f"left {k}")
        a.subtract(a.constant(1))
        a.store(f"left {k}")
        a.jump(f"array step {k}", Cond.NOT_ZERO)
        a.copy(f"left {k}", f"count {k}")
    # What is wrong with the last pixels shows when they have come to the accumulators.
    a.wait()
    a.wait()
    a.jump("retire")
    a.label("array step 3")
    a.load("step 3")
    a.jump("array next")
    a.label("array step 4")
    a.load("step 4")
    a.label("array next")
    a.store("step")
    a.wait()
    a.give(Output.STEP_1, "step")
    a.output(Output.JUMP)
    a.load("step 1")
    a.jump("array pass")


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
    a.load(a.constant(a.config.parameter_words - _COLUMNS))
    a.subtract("parameter")
    a.jump("address error", Cond.NO_CARRY)
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
    a.memory(Op.XOR, a.constant(PostSource.SCRATCHPAD))
    a.jump("operand", Cond.ZERO)
    a.give(Output.STEP_0, "step0")
    _accumulator(a, op)

    a.label("post column")
    _channel(a)
    a.load("bias")
    a.add(a.constant(DIGITS))
    a.output(Output.BIAS)
    a.output(Output.ADDRESS)
    _digits(a)
    a.load("shift")
    a.subtract(a.constant(FastShift.LEAST))
    a.jump("post slow", Cond.NO_CARRY)
    a.store("place")
    a.subtract(a.constant(FastShift.MOST + 1 - FastShift.LEAST))
    a.jump("post slow", Cond.CARRY)
    a.load("place")
    a.jump("post shift")
    a.label("post slow")
    a.value(16)
    a.label("post shift")
    a.output(Output.SHIFT)
    a.give(Output.STEP_1, "target")
    a.output(Output.JUMP)
    a.give(Output.STEP_1, "step1")
    a.give(Output.ACCUMULATOR, "accumulator")
    a.label("post run")
    a.give(Output.RUN, Mode.POST)
    a.wait()
    a.status(Status.STOPPED)
    a.jump("post stopped", Cond.NOT_ZERO)
    a.label("post next")
    a.load("bounds")
    a.subtract(a.constant(_COLUMNS * _COLUMN))
    a.jump("post column", Cond.NO_CARRY)
    a.jump("retire")

    a.label("post stopped")
    a.input(Input.VALUE)
    a.subtract(a.constant(DIGITS))
    a.store("value")
    a.call("requantize")
    a.output(Output.RESULT)
    a.status(Status.UNFINISHED)
    a.jump("post run", Cond.NOT_ZERO)
    a.status(Status.FAULT)
    a.jump("post next", Cond.ZERO)
    a.jump("address error")


def _channel(a: Routines) -> None:
    """Bias, multiplier and shift of the next record, and its column."""
    fields = {item.name: item.offset for item in PARAMETER_FIELDS}
    assert (fields["bias"], fields["multiplier"], fields["shift"]) == (0, 64, 88)
    a.load("record")
    a.simple(Op.INDEX)
    a.add(a.constant(4))
    a.store("record")
    a.load(INDEXED | 0)
    a.store("bias")
    a.bits(INDEXED | 2, 0, 16)
    a.store("multiplier")
    a.bits(INDEXED | 2, 24, 6)
    a.store("shift")
    a.give(Output.BOUNDS, "bounds")
    a.add(a.constant(_COLUMN))
    a.store("bounds")


def _digits(a: Routines) -> None:
    """The multiplier's digits as weights, so that column k gets digits of weight 2^(8k).

    The multiplier is m0 + 2^8 m1 + 2^16 m2 with signed bytes m0 and m1, and m2 of 0 or 1. Rows 0 to
    2 have the value's digits d0 to d2, and row 3 twice d2, so that the last column can have
    d2 (m1 + 2^8 m2).
    """
    a.load("multiplier")
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
    a.store("weights")       # 0 m2 m1 m0
    a.output(Output.ROW)
    a.shift_left("weights", 8)
    a.output(Output.ROW)     # m2 m1 m0 0
    a.shift_left("high", 9)
    a.add("word")
    a.store("word")
    a.shift_left("word", 16)
    a.output(Output.ROW)     # (m1 + 2 m2) m0 0 0
    a.value(0)
    a.subtract("high")
    a.mask(127 << 24)
    a.output(Output.ROW)     # (127 m2) 0 0 0


def _operand(a: Routines) -> None:
    """POST from the scratchpad, value by value, as programs seldom have it."""
    op = Opcode.POST
    a.label("operand")
    a.fields(op, operand="operand_a", operand0="operand_a_step_0", operand1="operand_a_step_1")
    a.set("column", 0)
    a.label("operand column")
    _channel(a)
    a.copy("from", "operand")
    a.copy("to", "target")
    a.copy("left 2", "count1")
    a.label("operand row")
    a.copy("left 3", "count0")
    a.label("operand value")
    a.load("from")
    a.below(a.config.scratchpad_words, "address error")
    a.go_to("from")
    a.value(0)
    a.output(Output.ACCUMULATOR)
    a.load("column")
    a.jump_table()
    for k in range(_COLUMNS):
        a.jump(f"operand byte {k}")
    for k in range(_COLUMNS):
        a.label(f"operand byte {k}")
        a.input(Input.SCRATCHPAD)
        if k:
            a.shift_right(8 * k)
        if k != _COLUMNS - 1:
            a.jump("operand byte")
    a.label("operand byte")
    a.signed_byte()
    a.add("bias")
    a.store("value")
    a.call("requantize")
    a.store("value")
    a.go_to("to")
    a.give(Output.RESULT, "value")
    a.wait()
    a.load("left 3")
    a.subtract(a.constant(1))
    a.store("left 3")
    a.jump("operand row end", Cond.ZERO)
    a.advance("from", "operand0")
    a.advance("to", "step0")
    a.jump("operand value")
    a.label("operand row end")
    a.advance("from", "operand1")
    a.advance("to", "step1")
    a.count_down("left 2", "operand row")
    a.increase("column", a.constant(1))
    a.subtract(a.constant(_COLUMNS))
    a.jump("operand column", Cond.NOT_ZERO)
    a.jump("retire")
