"""The sequential core's program, first part: runs, queues, instructions that begin and retire.

Queues are visited in order, and each goes as far as its thresholds allow, as in the golden model,
so that errors come in the same order too.
"""

from ..isa import (
    DESCRIPTOR_BYTES,
    DESCRIPTOR_MAGIC,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    WAIT_BITS,
    ErrorCode,
    Instruction,
    LoadTarget,
    Opcode,
    Post,
    PostSource,
    Queue,
    instruction_fields,
)
from ..protocol import Counter
from .assembler import INDEXED, Cond, Op
from .ports import LOG_COUNTERS, LOG_TIMESTAMPS, Input, Output, Status, Target
from .routines import BLOCK, Block, Routines

__all__ = ["control"]

_FETCHED = 2
"""Of `Block.STATE`: the next instruction is in the block, and has not been looked at."""

_HANDLERS = {Opcode.END: "end", Opcode.LOAD: "load", Opcode.FILL: "fill", Opcode.ARRAY: "array",
             Opcode.POST: "post", Opcode.STORE: "store"}


def control(a: Routines) -> None:
    """Append it; it begins where the processor begins. The handlers' labels are the opcodes' names
    in small letters; they end at "retire"."""
    _start(a)
    _queues(a)
    _fetch(a)
    _decode(a)
    _rest(a)
    _retire(a)
    _errors(a)


def _start(a: Routines) -> None:
    a.label("idle")
    a.status(Status.STARTED)
    a.jump("idle", Cond.ZERO)
    a.value(0)
    for port in (Output.ERROR, Output.ERROR_ADDRESS, Output.QUIET):
        a.output(port)
    for variable in ("timestamps", "last", "queue", "block",
                     *(("adds",) if a.config.residual else ())):
        a.store(variable)
    a.output(Output.TIMESTAMPS)
    a.input(Input.WATCHDOG)
    a.store("limit")
    a.set("count", len(Counter))
    a.give(Output.LOG_PLACE, LOG_COUNTERS)
    a.label("clear counter")
    a.give(Output.LOG, 0)
    a.count_down("count", "clear counter")

    a.value(0)
    a.simple(Op.INDEX)
    a.input(Input.START)
    a.store(a.of(Block.NEXT))
    a.call("fetch")
    for word, expected in enumerate((DESCRIPTOR_MAGIC, a.config.hash32)):
        a.load(word)
        a.memory(Op.XOR, a.constant(expected))
        a.jump("descriptor error", Cond.NOT_ZERO)
    for queue in Queue:
        a.load(2 + queue)
        a.store(a.at(queue, Block.NEXT))
    a.value(0)
    for queue in Queue:
        for word in (Block.COUNT, Block.STATE):
            a.store(a.at(queue, word))


def _queues(a: Routines) -> None:
    a.label("sweep")
    a.value(0)
    for variable in ("queue", "block", "progress"):
        a.store(variable)
    a.label("visit")
    a.load("block")
    a.simple(Op.INDEX)
    a.load(a.of(Block.STATE))
    a.jump("next", Cond.NEGATIVE)
    a.jump("fetch next", Cond.ZERO)
    a.subtract(a.constant(_FETCHED))
    a.jump("decode", Cond.ZERO)
    a.label("there")
    for queue in Queue:
        a.load(a.at(queue, Block.COUNT))
        a.subtract(a.of(Block.WAIT + queue))
        a.jump("next", Cond.NO_CARRY)
    a.load(a.of(Block.EXECUTE))
    a.simple(Op.GOTO)

    a.label("next")
    a.increase("queue", a.constant(1))
    a.increase("block", a.constant(BLOCK))
    a.subtract(a.constant(BLOCK * len(Queue)))
    a.jump("visit", Cond.NOT_ZERO)
    a.load("progress")
    a.jump("sweep", Cond.NOT_ZERO)
    # The first queue that has not ended is what the run is stuck at.
    a.set("block", 0)
    a.label("ended")
    a.simple(Op.INDEX)
    a.load(a.of(Block.STATE))
    a.jump("deadlock", Cond.NOT_NEGATIVE)
    a.increase("block", a.constant(BLOCK))
    a.subtract(a.constant(BLOCK * len(Queue)))
    a.jump("over", Cond.ZERO)
    a.load("block")
    a.jump("ended")
    a.label("over")
    a.output(Output.IDLE)
    a.jump("idle")


def _fetch(a: Routines) -> None:
    """64 bytes of main memory into the current queue's block: at once, or ahead of their time.

    The second is for handlers that have read all of their instruction, and write nothing to data
    memory until they wait, as the mover would not be seen to do the same.
    """
    a.label("ahead")
    a.set("ahead", 0)
    a.load("block")
    a.simple(Op.INDEX)
    a.load(a.of(Block.NEXT))
    a.add(a.constant(INSTRUCTION_BYTES))
    a.output(Output.MAIN)
    a.subtract(a.constant(a.config.memory_size - INSTRUCTION_BYTES + 1))
    a.jump("not ahead", Cond.CARRY)
    a.set("ahead", _FETCHED)
    a.load("block")
    a.memory(Op.OR, a.constant(Target.DATA << 16))
    a.output(Output.TARGET)
    a.give(Output.MOVE, INSTRUCTION_BYTES)
    a.label("not ahead")
    a.simple(Op.RETURN)

    a.label("fetch next")
    a.call("fetch")
    a.jump("decode")
    a.label("fetch")
    a.load(a.of(Block.NEXT))
    a.output(Output.MAIN)
    a.mask(INSTRUCTION_BYTES - 1)
    a.jump("address error", Cond.NOT_ZERO)
    a.load(a.constant(a.config.memory_size - INSTRUCTION_BYTES))
    a.subtract(a.of(Block.NEXT))
    a.jump("address error", Cond.NO_CARRY)
    a.load("block")
    a.memory(Op.OR, a.constant(Target.DATA << 16))
    a.output(Output.TARGET)
    a.give(Output.MOVE, INSTRUCTION_BYTES)
    a.label("fetching")
    a.input(Input.STATUS)
    a.jump("fetching", Cond.NEGATIVE)
    a.simple(Op.RETURN)


def _decode(a: Routines) -> None:
    a.label("decode")
    for queue in Queue:
        a.bits(INDEXED, 4 + WAIT_BITS * queue, WAIT_BITS)
        a.store(a.of(Block.WAIT + queue))
    a.bits(INDEXED, 4 + WAIT_BITS * len(Queue), 1)
    a.store(a.of(Block.MARK))
    a.bits(INDEXED, 0, 4)
    a.jump_table()
    for number in range(16):
        known = number in _HANDLERS
        a.jump(f"decode {number}" if known else "decode error")
    for opcode, handler in _HANDLERS.items():
        a.label(f"decode {int(opcode)}")
        cls = INSTRUCTIONS[opcode]
        if len(cls.queues) == 1:
            a.load("queue")
            a.memory(Op.XOR, a.constant(cls.queues[0]))
            a.jump("decode error", Cond.NOT_ZERO)
        _reserved(a, cls)
        if opcode == Opcode.LOAD:
            a.field(opcode, "target")
            a.memory(Op.XOR, a.constant(LoadTarget.VECTOR_WEIGHT))
            a.jump("decode error", Cond.ZERO)
            a.field(opcode, "target")
            a.below(LoadTarget.TABLE, "decode error")
        if opcode == Opcode.POST:
            _unit(a)
        a.address_of(handler)
        if opcode != Opcode.STORE:
            a.jump("decode handler")
    a.label("decode handler")
    a.store(a.of(Block.EXECUTE))
    a.value(1)
    a.store(a.of(Block.STATE))
    a.jump("there")
    if a.config.residual:
        _addition(a)


def _unit(a: Routines) -> None:
    """Stop with DECODE where POST needs what is not there: tables, the vector unit, and without
    `residual` additions and products."""
    found = {item.name: item for item in instruction_fields(Post)}
    assert found["use_add"].offset == found["use_table"].offset + 1
    a.field(Opcode.POST, "source")
    if a.config.residual:
        a.memory(Op.XOR, a.constant(PostSource.VECTOR))
        a.jump("decode error", Cond.ZERO)
    else:  # Odd sources are the vector unit and products.
        a.mask(1)
        a.jump("decode error", Cond.NOT_ZERO)
    a.bits(a.at(Queue.POST, 0), found["use_table"].offset, 2)
    a.jump("decode add" if a.config.residual else "decode error", Cond.NOT_ZERO)


def _addition(a: Routines) -> None:
    """The same, continued, for those few that have a residual add. They have a handler of their
    own, so that the others lose no time."""
    shift = next(item for item in instruction_fields(Post) if item.name == "add_shift")
    assert a.config.least_add_shift == 1 << shift.width - 1
    a.label("decode add")
    a.field(Opcode.POST, "use_table")
    a.jump("decode error", Cond.NOT_ZERO)
    a.bits(a.at(Queue.POST, 0), shift.offset + shift.width - 1, 1)
    a.jump("decode error", Cond.ZERO)
    a.address_of("post add")
    a.jump("decode handler")


def _reserved(a: Routines, cls: type[Instruction]) -> None:
    """Stop with DECODE where bits behind the last field are set."""
    last = instruction_fields(cls)[-1]
    word, bit = divmod(last.offset + last.width, 32)
    a.load(a.of(word))
    if bit:
        a.shift_right(bit)
    a.call(f"rest {word + 1}")


def _rest(a: Routines) -> None:
    """Stop with DECODE where accumulator or any word of the instruction from one on is not 0."""
    for word in range(4, INSTRUCTION_BYTES // 4):
        a.label(f"rest {word}")
        a.memory(Op.OR, a.of(word))
    a.jump("decode error", Cond.NOT_ZERO)
    a.simple(Op.RETURN)


def _retire(a: Routines) -> None:
    a.label("end")
    a.load(a.constant(-1))
    a.jump("retire as")
    a.label("retire")
    a.value(0)
    a.label("retire as")
    a.store("state")
    a.load("block")
    a.simple(Op.INDEX)
    a.load("state")
    a.store(a.of(Block.STATE))
    a.increase(a.of(Block.NEXT), a.constant(INSTRUCTION_BYTES))
    a.increase(a.of(Block.COUNT), a.constant(1))
    a.store("progress")
    # Each queue has four counters.
    a.load("block")
    a.shift_right(3)
    a.add(a.constant(LOG_COUNTERS + Counter.LOAD_RETIRED))
    a.output(Output.LOG_PLACE)
    a.give(Output.LOG, "progress")
    a.input(Input.CYCLES)
    a.store("last")
    a.load(a.of(Block.MARK))
    a.jump("unmarked", Cond.ZERO)
    a.load("timestamps")
    a.below(a.config.timestamps, "full")
    a.load("timestamps")
    a.add(a.constant(LOG_TIMESTAMPS))
    a.output(Output.LOG_PLACE)
    a.give(Output.LOG, "last")
    a.increase("timestamps", a.constant(1))
    a.label("full")
    a.give(Output.TIMESTAMPS, "timestamps")
    a.label("unmarked")
    a.status(Status.CANCEL)
    a.jump("visit", Cond.ZERO)
    a.jump("cancelled")


def _errors(a: Routines) -> None:
    a.label("wait")
    a.status(Status.ALARM)
    a.jump("alarm", Cond.NOT_ZERO)
    a.input(Input.STATUS)
    a.jump("wait", Cond.NEGATIVE)
    a.mask(1 << Status.FAULT)
    a.jump("address error", Cond.NOT_ZERO)
    a.simple(Op.RETURN)
    # The mover may be fetching ahead, so that nothing is stored before it is done.
    a.label("alarm")
    a.status(Status.CANCEL)
    a.jump("cancelled", Cond.NOT_ZERO)
    a.output(Output.QUIET)
    a.load("limit")
    a.jump("wait", Cond.ZERO)
    a.input(Input.CYCLES)
    a.subtract("last")
    a.subtract("limit")
    a.jump("wait", Cond.NO_CARRY)
    a.jump("watchdog")

    for label, code in (("address error", ErrorCode.ADDRESS), ("length error", ErrorCode.LENGTH),
                        ("decode error", ErrorCode.DECODE), ("deadlock", ErrorCode.DEADLOCK),
                        ("watchdog", ErrorCode.WATCHDOG), ("cancelled", ErrorCode.CANCELLED),
                        ("descriptor error", ErrorCode.DESCRIPTOR)):
        a.label(label)
        a.value(code)
        if code != ErrorCode.DESCRIPTOR:
            a.jump("fail")
    a.label("fail")
    a.store("state")
    a.load("block")
    a.simple(Op.INDEX)
    a.shift_right(1)  # queue << 4
    a.memory(Op.OR, "state")
    a.output(Output.ERROR)
    a.load(a.of(Block.NEXT))
    a.output(Output.ERROR_ADDRESS)
    a.output(Output.STOP)
    a.label("drain")
    a.input(Input.STATUS)
    a.jump("drain", Cond.NEGATIVE)
    a.output(Output.ADDRESS)  # no fault any more
    a.jump("over")


assert BLOCK == 32 and DESCRIPTOR_BYTES == INSTRUCTION_BYTES
