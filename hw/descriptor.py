"""The program descriptor as it comes from main memory: checked, and the lists' beginnings kept."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .isa import DESCRIPTOR_BYTES, DESCRIPTOR_MAGIC, INSTRUCTION_BYTES, Queue

__all__ = ["Descriptor", "instruction_units"]

_EXPECTED = 2   # words in front of the lists' addresses
_UNIT_BITS = (INSTRUCTION_BYTES - 1).bit_length()  # lists and descriptors are aligned to this


def instruction_units(config: Config) -> int:
    """Places of main memory where an instruction can lie."""
    return config.memory_size // INSTRUCTION_BYTES


class Descriptor(wiring.Component):
    """Takes a descriptor apart, beat by beat, with one comparison for each word of a beat.

    Members
    -------
    valid : In(1), index : In, data : In
        A beat of the descriptor comes; which, and what it says.
    good : Out(1)
        In the cycle behind the last beat: magic and configuration are right.
    known : Out(5), units : Out, outside : Out(5)
        The beginnings of lists come out, one cycle behind their beat: which, in units of
        instructions, and whether they are not aligned or not inside of main memory.
    queue : In, start : Out(32)
        A list, and its address as the descriptor says.
    """

    def __init__(self, config: Config):
        self._config = config
        self._words = config.memory_bytes_per_beat // 4  # of a beat
        super().__init__({
            "valid": In(1),
            "index": In(range(max(DESCRIPTOR_BYTES // config.memory_bytes_per_beat, 2))),
            "data": In(8 * config.memory_bytes_per_beat),
            "good": Out(1),
            "known": Out(len(Queue)),
            "units": Out(data.ArrayLayout(range(instruction_units(config)), len(Queue))),
            "outside": Out(len(Queue)),
            "queue": In(Queue),
            "start": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        beat, index, valid = Signal.like(self.data), Signal.like(self.index), Signal()
        m.d.sync += [beat.eq(self.data), index.eq(self.index), valid.eq(self.valid)]

        def word(k):
            """Word `k` of the descriptor while it is there, and whether it is."""
            return (beat.word_select(k % self._words, 32),
                    valid & (index == k // self._words))

        wrong, was_wrong = Signal(), Signal()
        for k, value in enumerate((DESCRIPTOR_MAGIC, self._config.hash32)):
            bits, there = word(k)
            with m.If(there & (bits != value)):
                m.d.comb += wrong.eq(1)
        m.d.sync += was_wrong.eq(wrong | (was_wrong & ~(valid & (index == 0))))
        m.d.comb += self.good.eq(~wrong & ~was_wrong)

        outside = [bits[:_UNIT_BITS].any() | (bits[_UNIT_BITS:] >= instruction_units(self._config))
                   for bits in (beat.word_select(k, 32) for k in range(self._words))]
        for queue in Queue:
            bits, there = word(_EXPECTED + queue)
            m.d.comb += [
                self.known[queue].eq(there),
                self.units[queue].eq(bits[_UNIT_BITS:]),
                self.outside[queue].eq(Cat(outside)[(_EXPECTED + queue) % self._words]),
            ]

        # For errors, which name an address: the beats with these words, in a memory.
        depth = (_EXPECTED + len(Queue) - 1) // self._words + 1
        m.submodules.beats = beats = memory.Memory(
            shape=len(beat), depth=max(depth, 2), init=[])
        write, read = beats.write_port(), beats.read_port(domain="comb")
        place = Signal(range(_EXPECTED + len(Queue)))
        place_bits = (self._words - 1).bit_length()
        m.d.comb += [
            write.addr.eq(index), write.data.eq(beat), write.en.eq(valid & (index < depth)),
            place.eq(self.queue + _EXPECTED),
            read.addr.eq(place >> place_bits),
            self.start.eq(read.data.word_select(place[:place_bits], 32)),
        ]
        return m
