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
        m.submodules.bytes = taken = RegisterSlice(
            data.StructLayout({"data": 8, "last": 1, "is_hello": 1}))
        m.d.comb += [
            taken.i.valid.eq(self.i.valid),
            taken.i.payload.data.eq(self.i.payload.data),
            taken.i.payload.last.eq(self.i.payload.last),
            taken.i.payload.is_hello.eq(self.i.payload.data[:7] == Command.HELLO),
            self.i.ready.eq(taken.i.ready),
        ]
        source = taken.o

        code = Signal(ring.position_bits)       # where the block's length will stand
        position = Signal(ring.position_bits)   # of the next byte
        length = Signal(8)                      # of the block, its code included
        room = Signal()
        crc = Signal(32)
        crc_bytes = Signal(range(CRC_BYTES))
        first = Signal()
        m.d.comb += [
            ring.limit.eq(code),
            room.eq((position ^ ring.fetch) != self._depth),
        ]

        byte = Signal(8)
        put = Signal()      # append `byte` to the frame; needs `room` and no full block
        close = Signal()    # end a block that is full
        ends = Signal()     # a block ends: write its length and begin the next
        last_code = Signal()

        with m.FSM():
            # Behind a frame, position and code are the same.
            with m.State("DELIMITER"), m.If(source.valid & room):
                m.d.comb += [ring.write_enable.eq(1), ring.write_data.eq(DELIMITER)]
                m.d.sync += [code.eq(position + 1), position.eq(position + 1), first.eq(1)]
                m.next = "CODE"
            # The place of the first code is taken without being written yet.
            with m.State("CODE"), m.If(room):
                m.d.sync += [position.eq(position + 1), length.eq(1)]
                m.next = "BYTES"
            with m.State("BYTES"):
                with m.If(length == _BLOCK):
                    m.d.comb += close.eq(room)
                with m.Else():
                    m.d.comb += [
                        byte.eq(source.payload.data),
                        put.eq(source.valid & room),
                        source.ready.eq(room),
                    ]
                    with m.If(put):
                        # Before a frame the register is 0, so that the start value is added.
                        start = Mux(first & ~source.payload.is_hello, self.session, 0)
                        m.d.sync += [
                            first.eq(0),
                            crc.eq(crc32_step(crc ^ start, byte)),
                            crc_bytes.eq(0),
                        ]
                        with m.If(source.payload.last):
                            m.next = "CRC"
            with m.State("CRC"):
                with m.If(length == _BLOCK):
                    m.d.comb += close.eq(room)
                with m.Else():
                    m.d.comb += [byte.eq(crc[:8]), put.eq(room)]
                    with m.If(put):
                        m.d.sync += [crc.eq(crc >> 8), crc_bytes.eq(crc_bytes + 1)]
                        with m.If(crc_bytes == CRC_BYTES - 1):
                            m.next = "LAST CODE"
            with m.State("LAST CODE"):
                m.d.comb += [
                    last_code.eq(1),
                    ring.write_enable.eq(1),
                    ring.write_data.eq(length),
                ]
                m.d.sync += code.eq(position)
                m.next = "END"
            with m.State("END"), m.If(room):
                m.d.comb += [ring.write_enable.eq(1), ring.write_data.eq(DELIMITER)]
                m.d.sync += [code.eq(position + 1), position.eq(position + 1)]
                m.next = "DELIMITER"

        m.d.comb += ends.eq((put & (byte == 0)) | close)
        with m.If(ends):
            m.d.comb += [ring.write_enable.eq(1), ring.write_data.eq(length)]
            m.d.sync += [code.eq(position), position.eq(position + 1), length.eq(1)]
        with m.Elif(put):
            m.d.comb += [ring.write_enable.eq(1), ring.write_data.eq(byte)]
            m.d.sync += [position.eq(position + 1), length.eq(length + 1)]
        m.d.comb += ring.write_position.eq(Mux(ends | last_code, code, position))
        return m
