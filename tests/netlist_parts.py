"""A design with every kind of cell of which the netlists of boards are made, and its copies."""

from amaranth import Cat, ClockSignal, Elaboratable, Fragment, Instance, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.array import TAG_LEAD, SystolicArray
from systolith.hw.config import PRESETS
from systolith.hw.multiplier import MultiplierBudget, registered_product
from systolith.hw.registered_memory import RegisteredMemory

__all__ = ["INPUTS", "MEMORIES", "OUTPUTS", "REGISTERED", "Parts", "add_memory"]

INPUTS = 256
OUTPUTS = 340

MEMORIES = (
    # bits a word, words, bits that are written together, whether a port reads and writes
    (36, 512, 9, None), (18, 1024, 9, None), (9, 2048, 9, None), (4, 4096, 4, None),
    (2, 8192, 2, None), (1, 16384, 1, None),
    (18, 1024, 9, "kept"), (18, 1024, 9, "old"), (18, 1024, 9, "new"),
)

REGISTERED = {2048: 1, 4096: 2, 8192: 4}
"""Words of memories of a byte whose answer passes a register, and their blocks."""


def add_memory(m, inputs, bits, words, granularity, shared, init, k):
    """A memory in block RAM whose ports are driven by some of the inputs. Returns what it reads."""
    def some(start, count):
        return Cat(inputs[(31 * k + start + j) % len(inputs)] for j in range(count))

    memory = Memory(shape=bits, depth=words, init=init, attrs={"ram_style": "block"})
    m.submodules[f"memory{k}"] = memory
    write = memory.write_port(granularity=granularity)
    read = memory.read_port(transparent_for=[write] if shared == "new" else [])
    address = some(0, len(write.addr))
    m.d.comb += [
        write.addr.eq(address), write.data.eq(some(50, bits)),
        write.en.eq(some(90, len(write.en))),
        read.addr.eq(address if shared else some(20, len(read.addr))),
        read.en.eq(~write.en.any() if shared == "kept" else some(95, 1)),
    ]
    return read.data


class _Platform:
    """As much of a platform as multipliers ask for."""

    def __init__(self):
        self.multipliers = MultiplierBudget("ecp5", 100, PRESETS["small"])


class _On(Elaboratable):
    """A component as it is on a platform, or on none."""

    def __init__(self, platform, component):
        self._platform, self._component = platform, component

    def elaborate(self, platform):
        return Fragment.get(self._component, self._platform)


class Parts(wiring.Component):
    """Memories, products, arithmetic, registers and a pad's register for both halves of a period.

    With `primitives` products and the pad are cells of the ECP5, else what they stand for.
    """

    def __init__(self, random, *, primitives):
        self._platform = _Platform() if primitives else None
        self._init = [[random.getrandbits(bits) for _ in range(words)]
                      for bits, words, _, _ in MEMORIES]
        super().__init__({"i": In(INPUTS), "o": Out(OUTPUTS)})

    def elaborate(self, platform):
        m = Module()
        parts = [
            *(add_memory(m, self.i, *memory, init, k)
              for k, (memory, init) in enumerate(zip(MEMORIES, self._init, strict=True))),
            *(self._registered(m, words) for words in REGISTERED),
            *(self._product(m, *spans) for spans in (
                (0, (20, 18), (40, 18)), (1, (60, 9), (80, 16)), (2, (100, 12), (120, 14)))),
            *self._arithmetic(m),
            self._pad(m),
            self._array(m),
        ]
        assert sum(map(len, parts)) == OUTPUTS
        m.d.comb += self.o.eq(Cat(parts))
        return m

    def _bits(self, start, count):
        """Some of the inputs, which wrap."""
        return Cat(self.i[(start + k) % INPUTS] for k in range(count))

    def _registered(self, m, words):
        """A byte of a memory that never reads what it writes in the same cycle."""
        memory = RegisteredMemory(words, 1)
        m.submodules[f"registered{words}"] = _On(self._platform, memory)
        bits = len(memory.read_address)
        m.d.comb += [
            memory.write_address.eq(self._bits(30, bits)),
            memory.write_data.eq(self._bits(50, 8)), memory.write_mask.eq(self._bits(60, 1)),
            memory.read_address.eq(Cat(~self._bits(30, 1), self._bits(70, bits - 1))),
        ]
        return memory.read_data

    def _product(self, m, k, a, b):
        """A product, while its operands and itself were all enabled at the right time."""
        enables = [self._bits(200 + 3 * k + j, 1) for j in range(3)]
        registered = k < 2
        product = registered_product(
            m, self._platform, "array", f"product{k}", self._bits(*a).as_signed(),
            self._bits(*b).as_signed(), enable=enables[0],
            **({"a_enable": enables[1], "b_enable": enables[2]} if registered else {}))
        ready, valid = Signal(), Signal()
        m.d.sync += [ready.eq(enables[1]),
                     valid.eq(enables[0] & (ready if registered else 1))]
        return Mux(valid, product, 0)

    def _array(self, m):
        """Sums of columns that share multipliers, of pixels that were valid."""
        array = SystolicArray(4, 2, 1, paired_bits=8)
        m.submodules.array = _On(self._platform, array)
        m.d.comb += [
            array.i.valid.eq(self._bits(12, 1)), array.i.first.eq(self._bits(12, 2).all()),
            array.i.data.eq(self._bits(14, 32)), array.load.valid.eq(self._bits(46, 1)),
            array.load.row.eq(self._bits(47, 2)), array.load.weights.eq(self._bits(220, 16)),
        ]
        valid = array.o.valid
        for cycle in range(TAG_LEAD):
            later = Signal(name=f"valid_{cycle}")
            m.d.sync += later.eq(valid)
            valid = later
        return Mux(valid, array.o.sums.as_value(), 0)

    def _arithmetic(self, m):
        """Carry chains, wide multiplexers, and registers of all kinds."""
        a, b = self._bits(130, 20).as_signed(), self._bits(150, 20).as_signed()
        total = Signal(signed(32), init=-5)
        kept = Signal(24, init=0xABCDEF, reset_less=True)
        select = self._bits(170, 5)
        with m.If(self._bits(180, 1)):
            m.d.sync += total.eq(total + a - b)
        with m.If(self._bits(181, 1) & ~self._bits(182, 1)):
            m.d.sync += kept.eq(Cat(kept[3:], self._bits(183, 3)))
        small = Memory(shape=7, depth=16, init=range(16))
        m.submodules.small = small
        write, read = small.write_port(), small.read_port(domain="comb")
        m.d.comb += [write.addr.eq(self._bits(190, 4)), write.data.eq(self._bits(195, 7)),
                     write.en.eq(self._bits(186, 1)), read.addr.eq(self._bits(191, 4))]
        return [total, kept, (a < b), self.i.bit_select(select << 2, 4), read.data]

    def _pad(self, m):
        """Both halves of a period, two cycles later than a plain register would have them."""
        halves = self._bits(210, 2)
        pad = Signal()
        if self._platform is not None:
            m.submodules.pad = Instance("ODDRX1F", i_SCLK=ClockSignal(), i_RST=0, i_D0=halves[0],
                                        i_D1=halves[1], o_Q=pad)
        else:
            for _ in range(3):
                later = Signal(2, reset_less=True)
                m.d.sync += later.eq(halves)
                halves = later
            m.d.comb += pad.eq(Mux(ClockSignal(), halves[0], halves[1]))
        return pad
