"""Nested loops: their counters, and nests of them that give one address a cycle."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CheckedAddress", "LoopNest", "count_loops"]


class CheckedAddress:
    """An address in a register, and beside it whether it lies outside of a memory.

    So nobody who uses it has to wait for the comparison.

    Parameters
    ----------
    bits : int
        Width of the address.
    words : int
        Words of the memory, a power of two, so that the upper bits tell.
    late : bool
        The address comes late: the register holds whether each four of the upper bits have one
        among them, and the last gate is left to those who ask.

    Attributes
    ----------
    value : Signal, outside : Value
        The address; whether it does not exist.
    """

    def __init__(self, bits: int, words: int, name: str, *, late: bool = False):
        self.value = Signal(bits, name=name, reset_less=True)
        self._inside_bits = (words - 1).bit_length()
        beyond = max(bits - self._inside_bits, 0)
        self._together = 4 if late else max(beyond, 1)
        self._beyond = Signal(-(-beyond // self._together), name=f"{name}_beyond", reset_less=True)
        self.outside = self._beyond.any()

    def eq(self, value):
        """Statements that give it a value, of which the upper bits are cut off."""
        upper = value[self._inside_bits:len(self.value)]
        return [self.value.eq(value),
                self._beyond.eq(Cat(upper[low:low + self._together].any()
                                    for low in range(0, len(upper), self._together)))]


def count_loops(m, idle, moves, counts) -> list[Signal]:
    """Count the iterations of nested loops. Returns whether each loop is in its last one.

    While `idle`, the loops take their counts from `counts`: name to count, and whether that is 1,
    from the innermost loop on. Else `moves` ends an iteration of the innermost loop; it is 1 while
    `idle`, so that nothing but `moves` has to be early. What is returned comes out of registers:
    nobody who uses it has to wait for a comparison.
    """
    flags = []
    inner = True  # all loops inside are in their last iteration
    for name, (value, is_single) in counts.items():
        count = Signal(len(value), name=f"{name}_count", reset_less=True)
        # The number of the next iteration, from 1 on: a constant to begin with costs nothing.
        upcoming = Signal(len(value), name=f"{name}_upcoming", reset_less=True)
        single = Signal(name=f"{name}_single", reset_less=True)
        last = Signal(name=f"{name}_last", reset_less=True)
        with m.If(idle):
            m.d.sync += [count.eq(value), single.eq(is_single)]
        with m.If(moves & (idle | inner)):
            m.d.sync += last.eq(Mux(idle, is_single, Mux(last, single, upcoming == count)))
        with m.If(moves & (idle | (inner & last))):
            m.d.sync += upcoming.eq(2)
        with m.Elif(moves & inner):
            m.d.sync += upcoming.eq(upcoming + 1)
        flags.append(last)
        inner = inner & last
    return flags


class LoopNest(wiring.Component):
    """Walks a nest of counted loops and gives an address for each iteration of the innermost one.

    The first address of a nest is on `o` in the cycle after the nest was accepted on `i`. A nest
    may be accepted in the cycle in which the last address of the one before it is taken, so that
    addresses follow each other without a bubble across nests.

    Addresses wrap at `address_bits`. A count of 0 is not checked here: it runs `2**count_bits`
    times.

    Parameters
    ----------
    levels : int
        Number of loops; level 0 is the innermost.
    count_bits : int
        Width of a loop count.
    address_bits : int
        Width of the address and of the steps.
    words : int
        Of the memory that is addressed, a power of two.

    Members
    -------
    i : In(stream)
        A nest: the first `address`, `counts` and `steps` (as `systolith.hw.isa.steps_of` makes
        them: what is added when that loop advances and all loops inside it restart).
    o : Out(stream)
        `address`; `first[k]` and `last[k]`: the loops 0 to k are all in their first (last)
        iteration, so that `last[levels - 1]` marks the last address of the nest; `final[k]`: loop k
        by itself is in its last iteration, whatever the others do; `outside`: there is no such
        address.
    idle : Out(1)
        `o` is not valid, and nothing is under way.
    ends : Out(1)
        What comes after this cycle's address has `final[0]`.
    renews : Out(1)
        What comes after this cycle's address, if anything does, is a new nest's first one. It is
        known early, unlike whether the address is taken: users that let it choose what their
        registers get, and let `o.ready` do no more than enable them, have short paths.
    """

    def __init__(self, levels: int, *, words: int, count_bits: int = 12, address_bits: int = 20):
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}")
        self.levels = levels
        self.count_bits = count_bits
        self.address_bits = address_bits
        self._words = words
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "address": address_bits,
                "counts": data.ArrayLayout(count_bits, levels),
                "steps": data.ArrayLayout(address_bits, levels),
            }))),
            "o": Out(stream.Signature(data.StructLayout({
                "address": address_bits, "first": levels, "last": levels, "final": levels,
                "outside": 1,
            }))),
            "renews": Out(1),
            "idle": Out(1),
            "ends": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        nest, o = self.i.p, self.o.p
        # The same of both signs: one is for what is decided, the other for what is chosen by it,
        # which is many bits.
        valid, idle = Signal(), Signal(init=1)
        address = CheckedAddress(self.address_bits, self._words, "address", late=True)
        following = Signal(self.address_bits)
        first = Signal(self.levels)
        # A loop's end is known one cycle ahead, which keeps the comparison out of the adder's path.
        final = Signal(self.levels)
        single = Signal(self.levels)
        last = Signal(self.levels)
        counts = [Signal(self.count_bits, name=f"count_{k}") for k in range(self.levels)]
        steps = [Signal(self.address_bits, name=f"step_{k}") for k in range(self.levels)]
        # The number of a loop's next iteration, from 1 on. It begins with a constant, which a
        # register takes for nothing; a number counting down would have to be loaded. All loops of a
        # nest end with it, so that the next one finds them at their beginnings.
        upcoming = [Signal(self.count_bits, init=2, name=f"upcoming_{k}")
                    for k in range(self.levels)]

        m.d.comb += [
            self.o.valid.eq(valid),
            o.address.eq(address.value),
            o.outside.eq(address.outside),
            o.first.eq(first),
            o.last.eq(last),
            o.final.eq(final),
            last.eq(Cat(final[:k + 1].all() for k in range(self.levels))),
            self.idle.eq(idle),
            self.renews.eq(idle | last[-1]),
            self.i.ready.eq(self.renews & (~valid | self.o.ready)),
        ]
        step = steps[-1]
        for k in reversed(range(self.levels - 1)):
            step = Mux(final[k], step, steps[k])
        m.d.comb += following.eq(address.value + step)
        for k in range(self.levels):
            with m.If(valid & self.o.ready & (last[k - 1] if k else 1)):
                m.d.sync += upcoming[k].eq(Mux(final[k], 2, upcoming[k] + 1))

        # What is not valid, and counts and steps behind the last iteration, may be anything.
        single_counts = Cat(nest.counts[k] == 1 for k in range(self.levels))
        following_final = [
            Mux(self.renews, single_counts[k], Mux(final[k], single[k], upcoming[k] == counts[k]))
            for k in range(self.levels)]
        m.d.comb += self.ends.eq(following_final[0])
        with m.If(~valid | self.o.ready):
            m.d.sync += [
                valid.eq(~self.renews | self.i.valid),
                idle.eq(self.renews & ~self.i.valid),
                address.eq(Mux(self.renews, nest.address, following)),
                first.eq(Mux(self.renews, ~0, last)),
            ]
            for k in range(self.levels):
                with m.If(self.renews | (last[k - 1] if k else 1)):
                    m.d.sync += final[k].eq(following_final[k])
        with m.If(self.renews):
            m.d.sync += single.eq(single_counts)
            for k in range(self.levels):
                m.d.sync += [counts[k].eq(nest.counts[k]), steps[k].eq(nest.steps[k])]
        return m
