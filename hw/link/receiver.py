"""From the line's bytes to requests that have been checked."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..protocol import CRC_BYTES, DELIMITER, HEADER_BYTES, MAX_FRAME, Command
from ..slices import RegisterSlice
from .crc import CRC_RESIDUE, crc32_step
from .ring import ByteRing

__all__ = ["CobsDecoder", "FrameReceiver"]


class CobsDecoder(wiring.Component):
    """Takes the coding off frames. Garbage gives bad frames, never a lasting error.

    Members
    -------
    i : In(stream of bytes)
        The line.
    o : Out(stream)
        `data`: a byte; or, with `end` set, the end of a frame, in which `data` is 1 when its
        coding was complete. Frames without bytes give nothing. At most one item a byte, in the
        same cycle.
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(data.StructLayout({"data": 8, "end": 1})))

    def elaborate(self, platform):
        m = Module()
        byte, item = self.i.payload, self.o.payload
        inside = Signal()
        left = Signal(8)      # bytes to the end of the block
        zero = Signal()       # the block stands for a zero behind it
        emits = Signal()
        with m.If(byte == DELIMITER):
            m.d.comb += [emits.eq(inside), item.end.eq(1), item.data.eq(left == 0)]
        with m.Elif(left == 0):
            m.d.comb += [emits.eq(inside & zero), item.data.eq(0)]
        with m.Else():
            m.d.comb += [emits.eq(1), item.data.eq(byte)]
        m.d.comb += [
            self.o.valid.eq(self.i.valid & emits),
            self.i.ready.eq(self.o.ready | ~emits),
        ]
        with m.If(self.i.valid & self.i.ready):
            with m.If(byte == DELIMITER):
                m.d.sync += [inside.eq(0), left.eq(0)]
            with m.Elif(left == 0):
                # The longest block stands for no zero: it was cut, not ended by one.
                m.d.sync += [inside.eq(1), left.eq(byte - 1), zero.eq(byte != 255)]
            with m.Else():
                m.d.sync += left.eq(left - 1)
        return m


class FrameReceiver(wiring.Component):
    """Keeps frames until they have been checked, and passes on those that are good.

    Parameters
    ----------
    depth : int
        Bytes of the buffer; it holds every frame that is begun.

    Members
    -------
    rx : In(stream of bytes)
        The line. It is held back when the buffer is full of good frames.
    session : In(16)
        Start value of the CRC.
    o : Out(stream of bytes)
        Good frames behind each other: opcode, sequence, length, payload.
    dropped : Out(1)
        Pulse: a frame that was not good.
    """

    def __init__(self, depth: int = 1024):
        if depth <= MAX_FRAME:
            raise ValueError(f"depth must be more than {MAX_FRAME} bytes, the longest frame, "
                             f"not {depth}")
        self._depth = depth
        super().__init__({
            "rx": In(stream.Signature(8)),
            "session": In(16),
            "o": Out(stream.Signature(8)),
            "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = CobsDecoder()
        m.submodules.ring = ring = ByteRing(self._depth)
        m.submodules.line = line = RegisterSlice(8)
        wiring.connect(m, wiring.flipped(self.rx), line.i)
        wiring.connect(m, line.o, decoder.i)
        m.submodules.bytes = delivered = RegisterSlice(8)
        wiring.connect(m, ring.o, delivered.i)
        wiring.connect(m, delivered.o, wiring.flipped(self.o))

        m.submodules.items = items = RegisterSlice(
            data.StructLayout({"data": 8, "end": 1, "is_hello": 1}))
        m.d.comb += [
            items.i.valid.eq(decoder.o.valid),
            items.i.payload.data.eq(decoder.o.payload.data),
            items.i.payload.end.eq(decoder.o.payload.end),
            items.i.payload.is_hello.eq(decoder.o.payload.data[:7] == Command.HELLO),
            decoder.o.ready.eq(items.i.ready),
        ]
        item = items.o.payload
        position = Signal(ring.position_bits)   # of the next byte
        checked = Signal(ring.position_bits)    # behind the last good frame
        count = Signal(range(MAX_FRAME + 2))    # bytes of the frame; stays at one too many
        place = Signal(4, init=1)               # a bit each of the first four bytes: the next's
        length = Signal(len(count) + 1)         # stated in the frame, header and CRC added
        beyond = Signal()                       # bits of it above those that `count` has
        crc = Signal(32)
        too_long = Signal()                     # `count` is one too many
        m.d.comb += [
            ring.limit.eq(checked),
            ring.end.eq(position),
            ring.grows.eq(ring.write_enable),
            ring.write_position.eq(position),
            ring.write_data.eq(item.data),
            # A frame fits by itself, so a full ring always holds a good frame to be taken.
            items.o.ready.eq(~ring.full),
        ]
        with m.If(items.o.valid & items.o.ready):
            with m.If(item.end):
                m.d.sync += [count.eq(0), place.eq(1), too_long.eq(0), crc.eq(0)]
                good = Signal()
                m.d.comb += good.eq(item.data[0] & (crc == CRC_RESIDUE) & ~too_long
                                    & (count == length) & ~beyond)
                with m.If(good):
                    behind = Signal(ring.position_bits)
                    m.d.comb += behind.eq(position - CRC_BYTES)
                    m.d.sync += [checked.eq(behind), position.eq(behind)]
                with m.Else():
                    m.d.comb += self.dropped.eq(1)
                    m.d.sync += position.eq(checked)
            with m.Elif(~too_long):
                # Between frames the register is 0, so that the start value is added to it.
                start = Mux(place[0] & ~item.is_hello, self.session, 0)
                m.d.comb += ring.write_enable.eq(1)
                m.d.sync += [
                    count.eq(count + 1),
                    place.eq(place << 1),
                    too_long.eq(count == MAX_FRAME),
                    position.eq(position + 1),
                    crc.eq(crc32_step(crc ^ start, item.data)),
                ]
                with m.If(place[2]):
                    m.d.sync += length.eq(item.data + (HEADER_BYTES + CRC_BYTES))
                with m.If(place[3]):
                    upper = len(count) - 8
                    m.d.sync += [
                        length[8:].eq(length[8:] + item.data[:upper]),
                        beyond.eq(item.data[upper:].any()),
                    ]
        return m
