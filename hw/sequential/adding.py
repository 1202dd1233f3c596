"""The sequential core's program: POST with two operands.

**Residual add.** POST writes its values y to the destination as without one. Then they are added
to the values b of the other operand, in place, byte by byte: the program reads both, and the
circuits multiply, shift, round and clamp. To them y, b and 1 are the digits of a value, and the
weights of a row are the digits of what such a digit is to be multiplied with:

    y * M_a + b * M_b + 1 * -(z_a * M_a + z_b * M_b)

So b must not lie where the destination does (`systolith.accesses` refuses it).

**Product.** (a - z_a) * (b - z_b), by shifting and adding.
"""

from collections.abc import Callable
from functools import partial

from ..isa import ADD_MULTIPLIER_BITS, Opcode, PostSource, Queue, instruction_fields
from ..isa import Post as PostInstruction
from .assembler import Cond, Op
from .ports import ALONE, COLUMN, COLUMN_GROUP, DIGITS, FastShift, Input, Mode, Output
from .routines import LENT, Routines

__all__ = ["TWO", "adding", "product", "read_byte"]

TWO = dict(zip(("other", "other 0", "other 1", "other from", "byte", "factor", "count", "sum"),
               LENT, strict=False))
"""Variables of this part. Another one, "adds", says that the POST that runs has a residual add."""

_ONE = 1 << 16
"""The third digit."""

_SIGN = 1 << ADD_MULTIPLIER_BITS


def adding(a: Routines) -> None:
    """Append the handler "post add", whose end "post" finds at "add", and "times"."""
    op = Opcode.POST
    a.label("post add")
    a.set("adds", 1)
    a.jump("post")
    a.label("add")
    a.set(TWO["sum"], 0)
    for name, row in (("a", "row 0"), ("b", "row 1")):
        a.field(op, f"zero_{name}")
        a.signed_byte()
        a.store(TWO["count"])
        a.field(op, f"multiplier_{name}")
        a.memory(Op.XOR, a.constant(_SIGN))
        a.subtract(a.constant(_SIGN))
        a.store(TWO["factor"])
        _signed_digits(a, DIGITS)
        a.store(row)
        a.call("times")
    a.value(0)
    a.subtract(TWO["sum"])
    _signed_digits(a, DIGITS << 8 | DIGITS)
    a.store("row 2")
    a.output(Output.ADDRESS)
    for row in range(3):
        a.give(Output.ROW, f"row {row}")
    a.give(Output.ROW, 0)
    a.give(Output.COUNT_0, 1)
    a.output(Output.COUNT_1)
    a.field(op, "add_shift", mask=False)  # The port takes the lowest bits.
    a.subtract(a.constant(FastShift.LEAST))
    a.output(Output.SHIFT)
    found = {item.name: item.offset for item in instruction_fields(PostInstruction)}
    assert found["add_low"] == found["add_zero"] + 8 and found["add_high"] == found["add_low"] + 8
    a.bits(a.at(Queue.POST, 0), found["add_zero"], 24)
    a.store("bounds")
    a.fields(op, operand="operand_b", operand0="operand_b_step_0", operand1="operand_b_step_1")
    _values(a)
    _times(a)


def _signed_digits(a: Routines, digits: int) -> None:
    """Accumulator = its signed digits, a byte each."""
    a.add(a.constant(digits))
    a.memory(Op.XOR, a.constant(digits))


def _values(a: Routines) -> None:
    """Column by column, as the circuits have one byte of a word at a time."""
    a.set("column", 0)
    a.label("add column")
    a.give(Output.BOUNDS, "bounds")
    a.add(a.constant(COLUMN))
    a.store("bounds")
    a.copy("from", "operand")
    a.copy("to", "target")
    a.copy("left 2", "count1")
    a.label("add row")
    a.copy("left 3", "count0")
    a.label("add value")
    a.load("from")
    a.below(a.config.scratchpad_words, "address error")
    a.go_to("from")
    a.give(Output.ACCUMULATOR, 0)
    a.input(Input.SCRATCHPAD)
    a.store(TWO["byte"])
    a.go_to("to")
    _by_column(a, "add", partial(_bytes, a))
    a.mask(255)
    a.memory(Op.OR, TWO["byte"])
    # The sum of signed bytes, `_ONE`, and `DIGITS`.
    a.memory(Op.XOR, a.constant(DIGITS))
    a.memory(Op.OR, a.constant(_ONE))
    a.output(Output.BIAS)
    a.give(Output.RUN, Mode.POST + ALONE)
    a.decrease("left 3")
    a.jump("add row end", Cond.ZERO)
    a.advance("from", "operand0")
    a.advance("to", "step0")
    a.wait()
    a.jump("add value")
    a.label("add row end")
    a.advance("from", "operand1")
    a.advance("to", "step1")
    a.wait()
    a.count_down("left 2", "add row")
    a.increase("column", a.constant(1))
    a.subtract(a.constant(COLUMN_GROUP))
    a.jump("add column", Cond.NOT_ZERO)
    a.set("adds", 0)
    a.jump("retire")


def _times(a: Routines) -> None:
    """Subroutine "times": `sum` += `factor` * `count`, which is of nine bits; both are lost."""
    a.label("times")
    a.load(TWO["count"])
    a.jump("times bit", Cond.NOT_NEGATIVE)
    for variable in (TWO["count"], TWO["factor"]):
        a.value(0)
        a.subtract(variable)
        a.store(variable)
    a.label("times bit")
    a.load(TWO["count"])
    a.mask(1)
    a.jump("times next", Cond.ZERO)
    a.increase(TWO["sum"], TWO["factor"])
    a.label("times next")
    a.increase(TWO["factor"], TWO["factor"])
    a.load(TWO["count"])
    a.shift_right(1)
    a.store(TWO["count"])
    a.jump("times bit", Cond.NOT_ZERO)
    a.simple(Op.RETURN)


def read_byte(a: Routines, address: str, name: str) -> None:
    """Accumulator = the byte of a scratchpad word that is the variable "column"'s, with sign.
    `name` makes the labels' own."""
    a.load(address)
    a.below(a.config.scratchpad_words, "address error")
    a.go_to(address)
    a.value(0)
    a.output(Output.ACCUMULATOR)
    _by_column(a, name, partial(_byte, a))
    a.signed_byte()


def _by_column(a: Routines, name: str, part: Callable[[int], None]) -> None:
    """What `part` appends for the column that the variable "column" is."""
    a.load("column")
    a.jump_table()
    for k in range(COLUMN_GROUP):
        a.jump(f"{name} byte {k}")
    for k in range(COLUMN_GROUP):
        a.label(f"{name} byte {k}")
        part(k)
        if k != COLUMN_GROUP - 1:
            a.jump(f"{name} byte")
    a.label(f"{name} byte")


def _byte(a: Routines, k: int) -> None:
    """Accumulator = byte k of the scratchpad word, and what lies above it."""
    a.input(Input.SCRATCHPAD)
    if k:
        a.shift_right(8 * k)


def _bytes(a: Routines, k: int) -> None:
    """The same, and `byte` = its byte k, 8 bits further up."""
    if k == 0:
        a.shift_left(TWO["byte"], 8)
    else:
        a.load(TWO["byte"])
        if k > 1:
            a.shift_right(8 * (k - 1))
    a.mask(255 << 8)
    a.store(TWO["byte"])
    _byte(a, k)


def product(a: Routines) -> None:
    """Accumulator = its product with the other operand's byte, where POST's source is products."""
    op = Opcode.POST
    a.store(TWO["factor"])
    a.field(op, "source")
    a.memory(Op.XOR, a.constant(PostSource.PRODUCT))
    a.jump("operand alone", Cond.NOT_ZERO)
    _centered(a, "factor", "zero_a")
    read_byte(a, TWO["other from"], "other")
    a.store(TWO["count"])
    _centered(a, "count", "zero_b")
    a.set(TWO["sum"], 0)
    a.call("times")
    a.copy(TWO["factor"], TWO["sum"])
    a.label("operand alone")
    a.load(TWO["factor"])


def _centered(a: Routines, variable: str, zero: str) -> None:
    a.field(Opcode.POST, zero)
    a.signed_byte()
    a.store(TWO["byte"])
    a.load(TWO[variable])
    a.subtract(TWO["byte"])
    a.store(TWO[variable])
