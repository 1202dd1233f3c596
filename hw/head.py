"""The head of a queue: decodes the queue's next instruction and holds it until it begins."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .descriptor import instruction_units
from .fetch import beat_layout
from .isa import (
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    WAIT_BITS,
    Array,
    ErrorCode,
    Instruction,
    LoadTarget,
    Opcode,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    instruction_fields,
)
from .load_request import LOAD_LAYOUT
from .ports import EngineSignature, instruction_layout

__all__ = ["ENGINE_LAYOUTS", "MAX_IN_FLIGHT", "Head", "count_bits", "engine_queues"]

MAX_IN_FLIGHT = 8
"""Instructions of a queue that have begun and not retired, at most."""

ENGINE_LAYOUTS = {
    Queue.LOAD: LOAD_LAYOUT,
    Queue.ARRAY: instruction_layout(Array),
    Queue.VECTOR: instruction_layout(Vector),
    Queue.POST: instruction_layout(Post),
    Queue.STORE: instruction_layout(Store),
}
"""What each queue's engine is given."""


def _end(cls: type[Instruction]) -> int:
    """The first bit behind the fields of an instruction."""
    last = instruction_fields(cls)[-1]
    return last.offset + last.width


_HEADER_BITS = _end(Instruction)


def engine_queues(config: Config) -> tuple[Queue, ...]:
    """Queues with an engine; the others execute nothing but END."""
    return tuple(queue for queue in Queue if queue != Queue.VECTOR or config.vector_taps)


def count_bits(config: Config) -> int:
    """Bits of a count of retired instructions: a list has no more than fit main memory."""
    return min(WAIT_BITS, instruction_units(config).bit_length())


class Head(wiring.Component):
    """Decodes, holds and issues the instructions of one queue; its reset makes it ready for a run.

    Members
    -------
    engine : Out(EngineSignature)
        The queue's engine; a queue without one has the port, and issues nothing.
    beat, beat_valid : In
        A part of the next instruction, from the first to the last.
    want : Out(1)
        There is no instruction here, and the queue has not ended.
    counts : In
        Instructions retired, a queue.
    code : Out(ErrorCode)
        The engine's error, or DECODE when everything in front of an instruction that means nothing
        has retired.
    idle : Out(1)
        No instruction has begun and not retired.
    waiting, stuck : Out(1)
        The engine does nothing, and an instruction waits for its thresholds; likewise, and nothing
        is in flight.
    retire, mark : Out(1)
        An instruction retires, and it is marked.
    ended : Out(1)
        END has retired.
    """

    def __init__(self, config: Config, queue: Queue):
        self._config, self._queue = config, queue
        allowed = [cls for cls in INSTRUCTIONS.values() if queue in cls.queues
                   and (cls is INSTRUCTIONS[Opcode.END] or queue in engine_queues(config))]
        self._allowed = allowed
        super().__init__({
            "engine": Out(EngineSignature(ENGINE_LAYOUTS[queue])),
            "beat": In(beat_layout(config)),
            "beat_valid": In(1),
            "want": Out(1),
            "counts": In(data.ArrayLayout(count_bits(config), len(Queue))),
            "code": Out(ErrorCode),
            "idle": Out(1),
            "waiting": Out(1),
            "stuck": Out(1),
            "retire": Out(1),
            "mark": Out(1),
            "ended": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        bits = Signal(max(_end(cls) for cls in self._allowed))
        valid, wrong = Signal(), Signal()
        received = self._receive(m, bits, valid, wrong)
        endless = self._endless(m)

        is_end = bits[:4] == Opcode.END
        header = data.StructLayout({field.name: field.width
                                    for field in instruction_fields(Instruction)})
        fields = header(bits[4:_HEADER_BITS])
        satisfied, met = Signal(), Signal()
        m.d.comb += satisfied.eq(~endless & Cat(
            self.counts[queue] >= fields[f"wait_{queue.name.lower()}"][:count_bits(self._config)]
            for queue in Queue).all())

        in_flight = Signal(range(MAX_IN_FLIGHT + 1))
        issue, end = Signal(), Signal()
        instruction = self.engine.instruction
        bad = wrong | self._absent(bits)
        m.d.comb += [
            self.want.eq(~valid & ~received & ~self.ended),
            self.idle.eq(in_flight == 0),
            # Thresholds once met stay met, so that the comparison may be a cycle old.
            instruction.valid.eq(met & ~is_end & (in_flight != MAX_IN_FLIGHT)),
            instruction.payload.as_value().eq(
                Cat(bits[:4] == Opcode.FILL, bits[_HEADER_BITS:])
                if self._queue == Queue.LOAD else bits[_HEADER_BITS:]),
            issue.eq(instruction.valid & instruction.ready),
            end.eq(met & is_end & self.idle),
            self.waiting.eq(valid & ~bad & ~satisfied
                            & ~self.engine.active & ~self.engine.stall),
            self.stuck.eq(valid & ~bad & ~satisfied & self.idle),
            self.retire.eq(self.engine.retire | end),
        ]
        m.d.sync += met.eq(valid & satisfied & ~bad & ~issue & ~end)
        with m.If(issue | end):
            m.d.sync += valid.eq(0)
        with m.If(end):
            m.d.sync += self.ended.eq(1)

        with m.If(self.engine.error != ErrorCode.NONE):
            m.d.comb += self.code.eq(self.engine.error)
        with m.Elif(valid & bad & self.idle):
            m.d.comb += self.code.eq(ErrorCode.DECODE)

        # The marks of the instructions in flight, the oldest lowest.
        marks = Signal(MAX_IN_FLIGHT)
        rest = Mux(self.engine.retire, marks >> 1, marks)
        place = Signal.like(in_flight)
        m.d.comb += [
            place.eq(in_flight - self.engine.retire),
            self.mark.eq(Mux(end, fields.mark, marks[0])),
        ]
        m.d.sync += [
            in_flight.eq(in_flight + issue - self.engine.retire),
            marks.eq(rest | Mux(issue & fields.mark, 1 << place, 0)),
        ]
        return m

    def _receive(self, m, bits, valid, wrong):
        """Collects an instruction, and finds out whether its opcode and reserved bits are wrong.

        Returns whether it is complete, and `valid` from the next cycle on.
        """
        beat_bits = 8 * self._config.memory_bytes_per_beat
        beats = INSTRUCTION_BYTES * 8 // beat_bits
        word = self.beat.data
        with m.If(self.beat_valid):
            for index in range(-(-len(bits) // beat_bits)):
                with m.If(self.beat.index == index):
                    part = bits[index * beat_bits:(index + 1) * beat_bits]
                    m.d.sync += part.eq(word)

        # A cycle later: is the part beyond what an instruction of this opcode has?
        checked, first, last = Signal(), Signal(), Signal()
        m.d.sync += [checked.eq(self.beat_valid), first.eq(self.beat.index == 0),
                     last.eq(self.beat_valid & self.beat.last)]
        excess = Signal()
        beyond = {cls: Signal(name=f"beyond_{cls.__name__.lower()}") for cls in self._allowed}
        for cls, signal in beyond.items():
            m.d.sync += signal.eq(0)
            with m.Switch(self.beat.index):
                for index in range(_end(cls) // beat_bits, beats):
                    with m.Case(index):
                        m.d.sync += signal.eq(word[max(0, _end(cls) - index * beat_bits):].any())
        with m.Switch(bits[:4]):
            for cls, signal in beyond.items():
                with m.Case(cls.opcode):
                    m.d.comb += excess.eq(signal)
            with m.Default():
                m.d.comb += excess.eq(1)
        with m.If(checked):
            m.d.sync += wrong.eq(excess | (wrong & ~first))
        with m.If(last):
            m.d.sync += valid.eq(1)
        return last

    def _endless(self, m):
        """Whether a threshold is larger than a count can be; of its upper bits nothing is kept."""
        beat_bits = 8 * self._config.memory_bytes_per_beat
        upper = 0  # a one in the place of each of these bits
        for field in instruction_fields(Instruction):
            if field.width == WAIT_BITS:
                upper |= ((1 << WAIT_BITS) - (1 << count_bits(self._config))) << field.offset
        found = []
        for index in range(-(-_HEADER_BITS // beat_bits)):
            mask = upper >> index * beat_bits & ((1 << beat_bits) - 1)
            if mask:
                found.append(Signal(name=f"endless_{index}"))
                with m.If(self.beat_valid & (self.beat.index == index)):
                    m.d.sync += found[-1].eq((self.beat.data & mask).any())
        return Cat(found).any()

    def _absent(self, bits):
        """Whether the instruction needs a unit that the configuration leaves out."""
        config = self._config
        if self._queue == Queue.LOAD:
            targets = [LoadTarget.SCRATCHPAD, LoadTarget.WEIGHT, LoadTarget.PARAMETER]
            targets += [LoadTarget.VECTOR_WEIGHT] if config.vector_taps else []
            targets += [LoadTarget.TABLE] if config.table else []
            payload = instruction_layout(INSTRUCTIONS[Opcode.LOAD])(bits[_HEADER_BITS:])
            known = Cat(payload.target == target for target in targets).any()
            return (bits[:4] == Opcode.LOAD) & ~known
        if self._queue == Queue.POST:
            payload = instruction_layout(Post)(bits[_HEADER_BITS:])
            absent = 0
            if not config.vector_taps:
                absent |= payload.source == PostSource.VECTOR
            if not config.table:
                absent |= payload.use_table
            if not config.residual:
                absent |= payload.use_add | (payload.source == PostSource.PRODUCT)
            return (bits[:4] == Opcode.POST) & absent
        return 0
