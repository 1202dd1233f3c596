"""A ring of bytes in block RAM whose writer may go back and change what is not yet released."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["ByteRing"]


class ByteRing(wiring.Component):
    """Bytes written at any position, read in order up to a limit.

    Positions count bytes modulo twice the depth, so that full and empty differ.

    Parameters
    ----------
    depth : int
        Bytes, a power of two.

    Members
    -------
    write_enable, write_position, write_data : In
        A byte written now. It must lie behind `limit`, and not behind a full ring's `end`.
    limit : In
        Position before which all bytes are final.
    end, grows : In
        Position behind all bytes, final or not, and whether it is one more in the next cycle.
    full : Out(1)
        `end` is `depth` bytes behind the next byte to be read, and must not grow.
    o : Out(stream of bytes)
        The bytes before `limit`, in order, one a cycle.
    """

    def __init__(self, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two, not {depth}")
        self.depth = depth
        self.position_bits = depth.bit_length()
        super().__init__({
            "write_enable": In(1),
            "write_position": In(self.position_bits),
            "write_data": In(8),
            "limit": In(self.position_bits),
            "end": In(self.position_bits),
            "grows": In(1),
            "full": Out(1),
            "o": Out(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=self.depth, init=[])
        write = memory.write_port()
        read = memory.read_port()
        fetch = Signal(self.position_bits)      # of the next byte to be read
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_position),
            write.data.eq(self.write_data),
            read.addr.eq(fetch),
            self.o.payload.eq(read.data),
        ]
        advance = Signal()
        m.d.comb += advance.eq((fetch != self.limit) & (~self.o.valid | self.o.ready))
        m.d.comb += read.en.eq(advance)
        with m.If(advance):
            m.d.sync += [fetch.eq(fetch + 1), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        # Known without a comparison, as all that writes waits for it: full is what has grown to
        # its full size, until a byte is read.
        grown, read_on = Signal(), Signal()
        m.d.comb += self.full.eq(grown & ~read_on)
        m.d.sync += [
            grown.eq(self.full | (self.grows & (((self.end + 1) ^ fetch)[:self.position_bits]
                                                == self.depth))),
            read_on.eq(advance),
        ]
        return m
