"""Counters of nested loops whose ends are known a cycle ahead."""

from amaranth import Mux, Signal

__all__ = ["count_loops"]


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
