"""The sequential core's processor: one accumulator, an instruction a cycle.

An instruction passes three stages: it is fetched, its operand is read, it is executed. A jump that
is taken costs two cycles more. There are no interrupts and no stalls; what has to be waited for is
asked for in a loop.
"""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .assembler import CODE_WORDS, DATA_WORDS, OPERAND_BITS, SHIFT_BITS, Assembler, Cond, Op
from .memory_kinds import without_block_ram

__all__ = ["PORT_BITS", "Processor"]

PORT_BITS = 5

_WORD = data.StructLayout({"operand": OPERAND_BITS, "indexed": 1, "op": 5, "shift": SHIFT_BITS})


class Processor(wiring.Component):
    """Executes a program of `Assembler`'s.

    Parameters
    ----------
    program : Assembler

    Members
    -------
    port : Out
        Number of the port of the IN or OUT instruction being executed.
    output : Out(1), value : Out(32)
        Pulse: `value` goes to the port. `value` is the accumulator, at all times.
    input : In(32)
        What the port has.
    write : In
        A word for the data memory. It goes before the program's own.
    """

    def __init__(self, program: Assembler):
        self._code, self._data = program.code(), program.data()
        super().__init__({
            "port": Out(PORT_BITS),
            "output": Out(1),
            "value": Out(32),
            "input": In(32),
            "write": In(data.StructLayout({"enable": 1, "address": OPERAND_BITS, "data": 32})),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.data = memory = Memory(shape=32, depth=DATA_WORDS, init=self._data)
        read, write = memory.read_port(), memory.write_port()

        following = Signal(range(CODE_WORDS))
        decoding, executing = Signal(), Signal()
        decoded, now = self._code_at(m, platform, following), Signal(_WORD)
        index = Signal(OPERAND_BITS)
        back = Signal.like(following)
        accumulator = self.value
        carry = Signal()
        taken, goes = Signal(), Signal()

        m.d.comb += [
            read.addr.eq(decoded.operand | (index & decoded.indexed.replicate(OPERAND_BITS))),
        ]
        m.d.sync += [
            following.eq(following + 1),
            decoding.eq(~goes), executing.eq(decoding & ~goes), now.eq(decoded),
        ]

        # What an instruction does --------------------------------------------------------------
        place = Signal(OPERAND_BITS)  # the operand's, index included
        m.d.sync += place.eq(read.addr)
        operand = read.data
        subtracts = now.op[0]
        total = Signal(34)
        m.d.comb += total.eq(Cat(Const(1, 1), accumulator)
                             + Cat(subtracts, operand ^ subtracts.replicate(32)))
        logic = Signal(32)
        with m.Switch(now.op[:2]):
            with m.Case(Op.LOAD & 3):
                m.d.comb += logic.eq(operand)
            with m.Case(Op.AND & 3):
                m.d.comb += logic.eq(accumulator & operand)
            with m.Case(Op.OR & 3):
                m.d.comb += logic.eq(accumulator | operand)
            with m.Default():
                m.d.comb += logic.eq(accumulator ^ operand)
        shifted = Cat(accumulator, operand)
        for bit in reversed(range(SHIFT_BITS)):
            kept = 32 + (1 << bit) - 1
            shifted = Mux(now.shift[bit], shifted[1 << bit:][:kept], shifted[:kept])
        width = now.op[:2]
        shifted &= Cat(Const(-1, 12), (width != Op.EXTRACT_12 & 3).replicate(4),
                       ((width == Op.EXTRACT & 3) | (width == Op.EXTRACT_20 & 3)).replicate(4),
                       (width == Op.EXTRACT & 3).replicate(12))

        m.d.comb += [
            self.port.eq(now.operand),
            self.output.eq(executing & (now.op == Op.OUT)),
        ]
        with m.If(executing & ~now.op[4]), m.Switch(now.op[2:4]):
            with m.Case(Op.LOAD >> 2):
                m.d.sync += accumulator.eq(logic)
            with m.Case(Op.ADD >> 2):
                m.d.sync += [accumulator.eq(total[1:33]), carry.eq(total[33])]
            with m.Case(Op.EXTRACT >> 2):
                m.d.sync += accumulator.eq(shifted)
            with m.Default():
                m.d.sync += accumulator.eq(Mux(
                    now.op[0], self.input, Cat(now.operand, now.shift)))
        with m.If(executing & (now.op == Op.INDEX)):
            m.d.sync += index.eq(accumulator)

        m.d.comb += [
            write.en.eq(self.write.enable | (executing & (now.op == Op.STORE))),
            write.addr.eq(Mux(self.write.enable, self.write.address, place)),
            write.data.eq(Mux(self.write.enable, self.write.data, accumulator)),
        ]

        # Jumps ---------------------------------------------------------------------------------
        zero = accumulator == 0
        with m.Switch(now.shift[:3]):
            for condition, is_so in ((Cond.ZERO, zero), (Cond.NOT_ZERO, ~zero),
                                     (Cond.NEGATIVE, accumulator[31]),
                                     (Cond.NOT_NEGATIVE, ~accumulator[31]),
                                     (Cond.CARRY, carry), (Cond.NO_CARRY, ~carry)):
                with m.Case(condition):
                    m.d.comb += taken.eq(is_so)
            with m.Default():
                m.d.comb += taken.eq(1)
        with m.If(executing), m.Switch(now.op):
            with m.Case(Op.JUMP):
                m.d.comb += goes.eq(taken)
            with m.Case(Op.CALL, Op.RETURN, Op.GOTO):
                m.d.comb += goes.eq(1)
        target = Signal.like(following)
        with m.Switch(now.op[:2]):
            with m.Case(Op.RETURN & 3):
                m.d.comb += target.eq(back)
            with m.Case(Op.GOTO & 3):
                m.d.comb += target.eq(accumulator)
            with m.Default():
                m.d.comb += target.eq(Cat(now.operand, now.shift[3:]))
        with m.If(goes):
            m.d.sync += following.eq(target)
        with m.If(executing & (now.op == Op.CALL)):
            # Behind it, two instructions have been asked for already.
            m.d.sync += back.eq(following - 1)
        return m

    def _code_at(self, m, platform, address):
        """The word at the address of the cycle before. What does not fit into a power of two lies
        in a second memory, which takes less block RAM than one twice as large, or none."""
        half = 1 << (len(self._code) - 1).bit_length() - 1
        parts = [self._code[:half], self._code[half:]]
        words = []
        for k, part in enumerate(parts):
            depth = 1 << (len(part) - 1).bit_length()
            m.submodules[f"code_{k}"] = code = Memory(
                shape=_WORD.size, depth=depth, init=part,
                attrs=without_block_ram(platform, "logic") if k else {})
            port = code.read_port()
            m.d.comb += port.addr.eq(address)
            words.append(port.data)
        second = Signal()
        m.d.sync += second.eq(address[half.bit_length() - 1])
        return _WORD(Mux(second, words[1], words[0]))
