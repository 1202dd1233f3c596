"""An assembler for the sequential core's processor: Python calls in, memory contents out.

Names of variables, constants and labels are resolved here. Two instructions need a gap between
them where the second would see what the first has not written yet, and get it here too.
"""

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["CODE_WORDS", "DATA_WORDS", "INDEXED", "OPERAND_BITS", "SHIFT_BITS", "Assembler", "Cond",
           "Op"]

OPERAND_BITS = 9
SHIFT_BITS = 5
CODE_WORDS = 2048
DATA_WORDS = 1 << OPERAND_BITS
INDEXED = 1 << OPERAND_BITS
"""Added to an operand: the index register is combined (or) with the address."""


class Op(IntEnum):
    """Operation codes. Bit 4 is 0 for those that write the accumulator; bits 3 and 2 choose where
    its value comes from."""

    LOAD = 0b00000
    AND = 0b00001
    OR = 0b00010
    XOR = 0b00011
    ADD = 0b00100
    SUB = 0b00101      # carry: no borrow
    EXTRACT = 0b01000  # {memory, accumulator} >> shift
    EXTRACT_12 = 0b01001  # and no more than 12 bits of it
    EXTRACT_16 = 0b01010
    EXTRACT_20 = 0b01011
    VALUE = 0b01100    # the operand, 14 bits
    IN = 0b01101
    STORE = 0b10000
    OUT = 0b10001
    INDEX = 0b10010    # index register = accumulator
    CALL = 0b10011
    RETURN = 0b10100
    GOTO = 0b10101     # to the address in the accumulator
    JUMP = 0b10110
    NOTHING = 0b10111


_READS = {Op.LOAD, Op.AND, Op.OR, Op.XOR, Op.ADD, Op.SUB, Op.EXTRACT, Op.EXTRACT_12,
          Op.EXTRACT_16, Op.EXTRACT_20}


class Cond(IntEnum):
    """When a JUMP is taken; the upper bits of the target are bits 3 and 4 of the same field."""

    ALWAYS = 0
    ZERO = 1
    NOT_ZERO = 2
    NEGATIVE = 3
    NOT_NEGATIVE = 4
    CARRY = 5
    NO_CARRY = 6


@dataclass
class _Line:
    op: Op
    operand: int | str = 0
    shift: int = 0
    indexed: bool = False


class Assembler:
    """Collects a program.

    Parameters
    ----------
    free
        Words of the data memory that variables and constants may take.
    """

    def __init__(self, free: list[int]):
        self._lines: list[_Line] = []
        self._labels: dict[str, int] = {}
        self._free = free
        self._variables: dict[str, int] = {}
        self._constants: dict[int, int] = {}
        self._tables: list[tuple[int, str]] = []
        self._fresh = 0

    # Places -------------------------------------------------------------------------------------

    def _take(self) -> int:
        taken = len(self._variables) + len(self._constants)
        if taken == len(self._free):
            raise ValueError("the processor's data memory is full")
        return self._free[taken]

    def variable(self, name: str) -> int:
        """Address of a variable, which is made on first use."""
        if name not in self._variables:
            self._variables[name] = self._take()
        return self._variables[name]

    def constant(self, value: int) -> int:
        """Address of a word that holds `value`."""
        value &= 0xFFFFFFFF
        if value not in self._constants:
            self._constants[value] = self._take()
        return self._constants[value]

    def place(self, operand: "int | str") -> int:
        """Address of an operand: a variable's name, or an address (`INDEXED` may be added)."""
        return self.variable(operand) if isinstance(operand, str) else operand

    def label(self, name: str) -> None:
        """The next instruction is called `name`."""
        if name in self._labels:
            raise ValueError(f"label {name} is there twice")
        self._labels[name] = len(self._lines)

    def fresh(self) -> str:
        """A label that nothing else has."""
        self._fresh += 1
        return f".{self._fresh}"

    # Instructions -------------------------------------------------------------------------------

    def _emit(self, line: _Line) -> None:
        before = self._lines[-1] if self._lines else None
        if before is not None:
            reads = line.op in _READS
            stale = (reads and before.op == Op.STORE
                     and (before.operand == line.operand or before.indexed != line.indexed))
            if stale or (before.op == Op.INDEX and line.indexed):
                self._lines.append(_Line(Op.NOTHING))
        self._lines.append(line)

    def memory(self, op: Op, operand: "int | str", shift: int = 0) -> None:
        """An instruction with an operand in memory."""
        address = self.place(operand)
        self._emit(_Line(op, address & INDEXED - 1, shift, bool(address & INDEXED)))

    def load(self, operand: "int | str") -> None:
        """Accumulator = operand."""
        self.memory(Op.LOAD, operand)

    def store(self, operand: "int | str") -> None:
        """Operand = accumulator."""
        self.memory(Op.STORE, operand)

    def add(self, operand: "int | str") -> None:
        """Accumulator += operand."""
        self.memory(Op.ADD, operand)

    def subtract(self, operand: "int | str") -> None:
        """Accumulator -= operand; carry is set unless it borrows."""
        self.memory(Op.SUB, operand)

    def mask(self, value: int) -> None:
        """Accumulator &= constant."""
        self.memory(Op.AND, self.constant(value))

    def value(self, value: int) -> None:
        """Accumulator = a constant."""
        if 0 <= value < 1 << OPERAND_BITS + SHIFT_BITS:
            self._emit(_Line(Op.VALUE, value & INDEXED - 1, value >> OPERAND_BITS))
        else:
            self.load(self.constant(value))

    def shift_right(self, count: int) -> None:
        """Accumulator >>= count, unsigned."""
        self.memory(Op.EXTRACT, self.constant(0), count)

    def simple(self, op: Op, operand: int = 0) -> None:
        """An instruction without an operand in memory."""
        self._emit(_Line(op, operand))

    def output(self, port: int) -> None:
        """Give the accumulator to a port."""
        self._emit(_Line(Op.OUT, int(port)))

    def input(self, port: int) -> None:
        """Accumulator = what a port has."""
        self._emit(_Line(Op.IN, int(port)))

    def jump(self, target: str, condition: Cond = Cond.ALWAYS) -> None:
        """Go to a label."""
        self._emit(_Line(Op.JUMP, target, int(condition)))

    def call(self, target: str) -> None:
        """Go to a label, and remember where from. There is one return address."""
        self._emit(_Line(Op.CALL, target))

    def address_of(self, target: str) -> None:
        """Accumulator = the address of a label."""
        self._emit(_Line(Op.VALUE, target))

    def jump_table(self) -> None:
        """Go to the n-th instruction behind this, where n is the accumulator."""
        here = self.fresh()
        self._tables.append((self.variable(here), here))
        self.add(here)
        self.simple(Op.GOTO)
        self.label(here)

    # Result -------------------------------------------------------------------------------------

    def code(self) -> list[int]:
        """The program's words: shift, operation, indexed, operand, from the highest bit."""
        if len(self._lines) > CODE_WORDS:
            raise ValueError(f"the program has {len(self._lines)} instructions")
        words = []
        for line in self._lines:
            operand, shift = line.operand, line.shift
            if isinstance(operand, str):
                target = self._labels[operand]
                operand = target & INDEXED - 1
                shift |= (target >> OPERAND_BITS) << (0 if line.op == Op.VALUE else 3)
            words.append(operand | line.indexed << OPERAND_BITS | line.op << OPERAND_BITS + 1
                         | shift << OPERAND_BITS + 6)
        return words

    def data(self) -> list[int]:
        """What the data memory holds at first."""
        words = [0] * DATA_WORDS
        for value, place in self._constants.items():
            words[place] = value
        for place, name in self._tables:
            words[place] = self._labels[name]
        return words
