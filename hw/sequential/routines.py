"""What every part of the sequential core's program uses: fields, waiting, loops, places."""

from ..config import Config
from ..isa import INSTRUCTIONS, Opcode, Queue, instruction_fields
from .assembler import INDEXED, Assembler, Cond, Op
from .ports import Input, Output, Status

__all__ = ["ADDRESS_MASK", "BLOCK", "LENT", "Block", "Routines"]

BLOCK = 32
"""Words of data memory a queue has, its next instruction first."""

_EXTRACTS = {12: Op.EXTRACT_12, 16: Op.EXTRACT_16, 20: Op.EXTRACT_20, 32: Op.EXTRACT}

ADDRESS_MASK = (1 << 20) - 1

LENT = ("bytes", "chunk_step", "chunks", "chunks left", "fill", "kind", "missing", "place",
        "place_row", "place_plane", "row_step", "plane_step")
"""Variables of LOAD and STORE, which mean nothing while POST runs: there is no room for more."""


class Block:
    """Words of a queue's block behind the instruction."""

    NEXT = 16     # byte address of the instruction
    COUNT = 17    # retired
    STATE = 18    # 0: to be fetched, 1: there, 2: not looked at, negative: the queue has ended
    WAIT = 19     # five thresholds
    EXECUTE = 24  # where the program for the instruction is
    MARK = 25
    FREE = 26


class Routines(Assembler):
    """An assembler that knows the core's memory map and habits."""

    def __init__(self, config: Config):
        blocks = BLOCK * len(Queue)
        super().__init__([*range(blocks, 256), *(
            BLOCK * queue + word for queue in Queue for word in range(Block.FREE, BLOCK))])
        self.config = config

    # Values -------------------------------------------------------------------------------------

    def at(self, queue: Queue, word: int) -> int:
        """Address of a word of a queue's block."""
        return BLOCK * queue + word

    def of(self, word: int) -> int:
        """Address of a word of the current queue's block."""
        return INDEXED | word

    def bits(self, first: int, offset: int, width: int, *, mask: bool = True) -> None:
        """Accumulator = some bits of the words from address `first` on."""
        word, bit = divmod(offset, 32)
        self.load(first + word)
        op = _EXTRACTS.get(width, Op.EXTRACT) if mask else Op.EXTRACT
        crosses = bit + width > 32
        if bit or op != Op.EXTRACT:
            self.memory(op, first + word + 1 if crosses else self.constant(0), bit)
        if mask and op == Op.EXTRACT and width != 32 and (crosses or bit + width < 32):
            self.mask((1 << width) - 1)

    def field(self, opcode: Opcode, name: str, *, mask: bool = True) -> None:
        """Accumulator = a field of the instruction being executed; without `mask` the bits above it
        are anything."""
        cls = INSTRUCTIONS[opcode]
        queue = cls.queues[0]
        found = next(item for item in instruction_fields(cls) if item.name == name)
        self.bits(self.at(queue, 0), found.offset, found.width, mask=mask)

    def fields(self, opcode: Opcode, **names: str) -> None:
        """Fields into variables: `variable=field`."""
        for variable, name in names.items():
            self.field(opcode, name)
            self.store(variable)

    def counts(self, opcode: Opcode, **names: str) -> None:
        """The same with counts, which may not be 0."""
        for variable, name in names.items():
            self.field(opcode, name)
            self.jump("length error", Cond.ZERO)
            self.store(variable)

    def set(self, variable: str, value: int) -> None:
        """Variable = constant."""
        self.value(value)
        self.store(variable)

    def copy(self, target: str, source: str) -> None:
        """Variable = variable."""
        self.load(source)
        self.store(target)

    def increase(self, variable: "str | int", by: "str | int") -> None:
        """Variable += operand."""
        self.load(variable)
        self.add(by)
        self.store(variable)

    def decrease(self, variable: str) -> None:
        """Variable -= 1, which stays in the accumulator."""
        self.load(variable)
        self.subtract(self.constant(1))
        self.store(variable)

    def advance(self, variable: str, *by: str) -> None:
        """An address on the chip goes on."""
        self.load(variable)
        for step in by:
            self.add(step)
        self.memory(Op.EXTRACT_20, self.constant(0))
        self.store(variable)

    def count_down(self, variable: str, again: str) -> None:
        """Variable -= 1; go on at `again` unless it is 0."""
        self.decrease(variable)
        self.jump(again, Cond.NOT_ZERO)

    def shift_left(self, variable: str, count: int) -> None:
        """Accumulator = variable << count."""
        self.value(0)
        self.memory(Op.EXTRACT, variable, 32 - count)

    def signed_byte(self) -> None:
        """Accumulator = its lowest byte, with sign."""
        self.mask(255)
        self.memory(Op.XOR, self.constant(128))
        self.subtract(self.constant(128))

    # Conditions ---------------------------------------------------------------------------------

    def inside(self, start: str, count: str, size: "int | str") -> None:
        """Stop with ADDRESS unless `count` places from `start` on lie in a memory of `size`."""
        self.load(self.constant(size) if isinstance(size, int) else size)
        self.subtract(count)
        self.jump("address error", Cond.NO_CARRY)
        self.subtract(start)
        self.jump("address error", Cond.NO_CARRY)

    def below(self, limit: int, otherwise: str) -> None:
        """Go to `otherwise` unless the accumulator is below `limit`."""
        self.subtract(self.constant(limit))
        self.jump(otherwise, Cond.CARRY)

    def status(self, *bits: Status) -> None:
        """Accumulator = some bits of the status."""
        self.input(Input.STATUS)
        self.mask(sum(1 << bit for bit in bits))

    def wait(self) -> None:
        """Until engine and mover are done; look whether the run has to stop. In every loop."""
        self.call("wait")

    def give(self, port: Output, value: "int | str") -> None:
        """A variable, or a constant, to a port."""
        if isinstance(value, str):
            self.load(value)
        else:
            self.value(value)
        self.output(port)

    def retire_ahead(self) -> None:
        """The end of a handler that has called "ahead"."""
        self.load("ahead")
        self.jump("retire as")

    def go_to(self, address: str) -> None:
        """The nest's address becomes a variable's value."""
        self.output(Output.ADDRESS)
        self.give(Output.JUMP, address)
