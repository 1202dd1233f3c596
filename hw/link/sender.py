"""From answers to the line's bytes."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..protocol import CRC_BYTES, DELIMITER, Command
from ..slices import RegisterSlice
from .crc import crc32_step
from .ring import ByteRing

__all__ = ["FrameSender"]

_BLOCK = 255
"""Longest COBS block, its code included."""


class FrameSender(wiring.Component):
    """Adds CRC, coding and delimiters to frames.

    COBS writes before each block how long it is. The ring keeps a block until it is complete; a
    zero in the data then costs nothing, since its own place becomes the next block's code.

    Parameters
    ----------
    depth : int
        Bytes of the buffer, more than a block.

    Members
    -------
    i : In(stream)
        `data`: opcode, sequence, length and payload of frames; `last`: the frame's last byte.
    session : In(16)
        Start value of the CRC; must not change inside a frame.
    tx : Out(stream of bytes)
        The line.
    """

    def __init__(self, depth: int = 512):
        if depth <= _BLOCK + 1:
            raise ValueError(f"depth must be more than {_BLOCK + 1} bytes, a block and a "
                             f"delimiter, not {depth}")
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"data": 8, "last": 1}))),
            "session": In(16),
            "tx": Out(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ring = ring = ByteRing(self._depth)
        wiring.connect(m, ring.o, wiring.flipped(self.tx))
        m.submodules.bytes = taken = RegisterSlice(self.i.payload.shape())
        wiring.connect(m, wiring.flipped(self.i), taken.i)
        source = taken.o

        code = Signal(ring.position_bits)       # where the block's length will stand
        position = Signal(ring.position_bits)   # of the next byte
        length = Signal(8)                      # of the block, its code included
        block_full = Signal()                   # it is `_BLOCK`
        room = Signal()
        grows = Signal()                        # one more byte belongs to the frame
        crc = Signal(32)
        crc_bytes = Signal(range(CRC_BYTES))
        # Of a frame's first byte, which waits for its delimiter for a cycle at least.
        is_hello = Signal()
        m.d.sync += is_hello.eq(source.payload.data[:7] == Command.HELLO)
        m.d.comb += [
            ring.limit.eq(code),
            ring.end.eq(position),
            ring.grows.eq(grows),
            room.eq(~ring.full),
        ]
        with m.If(grows):
            m.d.sync += position.eq(position + 1)

        byte, is_zero = Signal(8, init=DELIMITER), Signal()
        inside = Signal()       # between the first code and the delimiter behind the frame
        put = Signal()          # append `byte` to the frame
        last_code = Signal()

        with m.FSM():
            # Behind a frame, position and code are the same.
            with m.State("DELIMITER"), m.If(source.valid & room):
                m.d.comb += grows.eq(1)
                m.d.sync += code.eq(position + 1)
                m.next = "CODE"
            # The first code has a place, and is not known yet.
            with m.State("CODE"), m.If(room):
                m.d.comb += grows.eq(1)
                m.d.sync += [length.eq(1), block_full.eq(0), crc_bytes.eq(0),
                             crc.eq(Mux(is_hello, 0, self.session))]
                m.next = "BYTES"
            with m.State("BYTES"):
                m.d.comb += [
                    inside.eq(1),
                    byte.eq(source.payload.data),
                    is_zero.eq(source.payload.data == 0),
                    put.eq(source.valid & room & ~block_full),
                    source.ready.eq(room & ~block_full),
                ]
                with m.If(put):
                    m.d.sync += crc.eq(crc32_step(crc, byte))
                    with m.If(source.payload.last):
                        m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += [
                    inside.eq(1),
                    byte.eq(crc[:8]),
                    is_zero.eq(crc[:8] == 0),
                    put.eq(room & ~block_full),
                ]
                with m.If(put):
                    m.d.sync += [crc.eq(crc >> 8), crc_bytes.eq(crc_bytes + 1)]
                    with m.If(crc_bytes == CRC_BYTES - 1):
                        m.next = "LAST CODE"
            with m.State("LAST CODE"):
                m.d.comb += last_code.eq(1)
                m.d.sync += code.eq(position)
                m.next = "END"
            with m.State("END"), m.If(room):
                m.d.comb += grows.eq(1)
                m.d.sync += code.eq(position + 1)
                m.next = "DELIMITER"

        # A zero, or the byte behind a full block, is the place of the next block's code.
        ends = Signal()
        m.d.comb += ends.eq(inside & (block_full | is_zero))
        with m.If(put | (inside & room & block_full)):
            m.d.comb += grows.eq(1)
            with m.If(ends):
                m.d.sync += [code.eq(position), length.eq(1), block_full.eq(0)]
            with m.Else():
                m.d.sync += [length.eq(length + 1), block_full.eq(length == _BLOCK - 1)]
        m.d.comb += [
            ring.write_enable.eq(grows | last_code),
            ring.write_position.eq(Mux(ends | last_code, code, position)),
            ring.write_data.eq(Mux(ends | last_code, length, byte)),
        ]
        return m
