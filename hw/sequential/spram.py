"""Main memory and scratchpad in the four SB_SPRAM256KA of an iCE40UP5K.

Two pairs, each 64 KiB of 32-bit words: the first pair and the first half of the second one are main
memory, the other half is the scratchpad. Each pair does one thing a cycle. The scratchpad is never
refused, so that main memory waits where both want the second pair.
"""

from amaranth import Cat, ClockSignal, Const, Instance, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.errors import ConfigError

from ..config import Config
from ..ports import MemoryReadSignature, memory_write_signature
from .ports import ScratchpadPort
from .products import has_mac16

__all__ = ["SpramMemory", "SpramPair", "check_room"]

_PAIR_BITS = 14


def check_room(config: Config) -> None:
    """Raises `ConfigError` when main memory and scratchpad are more than there is."""
    half = 4 << _PAIR_BITS - 1
    if config.memory_size > 3 * half or 4 * config.scratchpad_words > half:
        raise ConfigError(f"SPRAM has room for memory_size of {3 * half} and a scratchpad of "
                          f"{half // 4} words: choose less")


class SpramPair(wiring.Component):
    """16,384 words of 32 bits, read or written in a cycle; in two primitives, or in plain memory
    where the platform has none.

    Members: `enable`; `address`; `mask`, bytes to be written, none to read; `data`; `read`, valid
    from the cycle after a read until the next access.
    """

    def __init__(self):
        super().__init__({"enable": In(1), "address": In(_PAIR_BITS), "mask": In(4),
                          "data": In(32), "read": Out(32)})

    def elaborate(self, platform):
        m = Module()
        if has_mac16(platform):
            for half in range(2):
                mask = self.mask[2 * half:2 * half + 2]
                output = Signal(16, name=f"read_{half}")
                m.submodules[f"half_{half}"] = Instance(
                    "SB_SPRAM256KA",
                    i_ADDRESS=self.address, i_DATAIN=self.data.word_select(half, 16),
                    i_MASKWREN=Cat(mask[0].replicate(2), mask[1].replicate(2)),
                    i_WREN=self.mask.any(), i_CHIPSELECT=self.enable, i_CLOCK=ClockSignal(),
                    i_STANDBY=Const(0, 1), i_SLEEP=Const(0, 1), i_POWEROFF=Const(1, 1),
                    o_DATAOUT=output)
                m.d.comb += self.read.word_select(half, 16).eq(output)
            return m
        m.submodules.memory = memory = Memory(
            shape=data.ArrayLayout(8, 4), depth=1 << _PAIR_BITS, init=[])
        write, read = memory.write_port(granularity=1), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.address), write.data.eq(self.data),
            write.en.eq(self.mask & self.enable.replicate(4)),
            read.addr.eq(self.address), read.en.eq(self.enable & ~self.mask.any()),
            self.read.eq(Cat(read.data)),
        ]
        return m


class SpramMemory(wiring.Component):
    """Members
    -------
    read : In(MemoryReadSignature), write : In(memory_write_signature)
        Main memory: a word a cycle. A word that is offered and not taken may be withdrawn for a
        while, when something else in the same pair drives it out.
    scratchpad : In(ScratchpadPort)
    """

    def __init__(self, config: Config):
        check_room(config)
        super().__init__({
            "read": In(MemoryReadSignature(config)),
            "write": In(memory_write_signature(config)),
            "scratchpad": In(ScratchpadPort(config)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.lower = lower = SpramPair()
        m.submodules.upper = upper = SpramPair()
        request, beats, scratchpad = self.read.request, self.read.data, self.scratchpad

        # The word that is offered, or looked for, and how many are left with it.
        word = Signal(_PAIR_BITS + 1)
        left = Signal.like(request.p.beats)
        there = Signal()
        in_upper = Signal()  # what is there
        taken = beats.valid & beats.ready
        following = Signal.like(word)
        wanted, reads, writes = Signal(), Signal(), Signal()
        target = self.write.p.address[2:2 + len(word)]
        m.d.comb += [
            beats.valid.eq(there),
            beats.p.eq(Mux(in_upper, upper.read, lower.read)),
            request.ready.eq(left == 0),
            following.eq(word + taken),
            wanted.eq((left != 0) & ~(there & ~taken) & ~((left == 1) & taken)),
            self.write.ready.eq(~(scratchpad.enable & target[-1])),
            writes.eq(self.write.valid & self.write.ready),
            reads.eq(wanted & ~writes & ~(scratchpad.enable & following[-1])),
        ]
        m.d.sync += [
            # An access to the same pair drives out what nobody has taken; it is read again.
            there.eq(reads | (there & ~taken & ~writes & ~(scratchpad.enable & in_upper))),
            word.eq(following),
            left.eq(left - taken),
        ]
        with m.If(reads):
            m.d.sync += in_upper.eq(following[-1])
        with m.If(request.valid & request.ready):
            m.d.sync += [word.eq(request.p.address[2:]), left.eq(request.p.beats)]

        address = Mux(writes, target, following)
        main = reads | writes
        mask = Mux(writes, self.write.p.mask, 0)
        m.d.comb += [
            lower.enable.eq(main & ~address[-1]),
            lower.address.eq(address), lower.mask.eq(mask), lower.data.eq(self.write.p.data),
            upper.enable.eq(scratchpad.enable | (main & address[-1])),
            upper.address.eq(Mux(scratchpad.enable, Cat(
                scratchpad.address, Const(0, _PAIR_BITS - 1 - len(scratchpad.address)),
                Const(1, 1)), address)),
            upper.mask.eq(Mux(scratchpad.enable, scratchpad.mask, mask)),
            upper.data.eq(Mux(scratchpad.enable, scratchpad.data, self.write.p.data)),
            scratchpad.read.eq(upper.read),
        ]
        return m
