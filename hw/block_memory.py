"""Main memory made of the device's own block RAM, for boards without another or before it works."""

from amaranth import Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from .config import Config
from .ports import MemoryReadSignature, memory_write_signature

__all__ = ["BlockMemory"]

_AHEAD = 8
"""Beats that may be on their way out: what the RAM's and the buffer's latency need for one a
cycle."""


class BlockMemory(wiring.Component):
    """`config.memory_size` bytes that read and write a beat in every cycle.

    Parameters
    ----------
    config : Config

    Members
    -------
    read : In(MemoryReadSignature), write : In(memory_write_signature)
        The main memory port.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "read": In(MemoryReadSignature(config)),
            "write": In(memory_write_signature(config)),
        })

    def elaborate(self, platform):
        m = Module()
        beat = self._config.memory_bytes_per_beat
        lane_bits = beat.bit_length() - 1
        depth = self._config.memory_size // beat
        m.submodules.memory = memory = Memory(shape=8 * beat, depth=depth, init=[])
        write = memory.write_port(granularity=8)
        m.d.comb += [
            self.write.ready.eq(1),
            write.addr.eq(self.write.p.address >> lane_bits),
            write.data.eq(self.write.p.data),
            write.en.eq(self.write.p.mask & self.write.valid.replicate(beat)),
        ]

        # A burst in progress takes the next one with its last beat.
        read = memory.read_port()
        m.submodules.buffer = buffer = fifo.SyncFIFOBuffered(width=8 * beat, depth=_AHEAD)
        wiring.connect(m, buffer.r_stream, wiring.flipped(self.read.data))
        word = Signal(range(depth), reset_less=True)
        left = Signal.like(self.read.request.p.beats)
        free = Signal(range(_AHEAD + 1), init=_AHEAD)
        issued = Signal()
        arriving = Signal()
        m.d.comb += [
            issued.eq((left != 0) & (free != 0)),
            read.addr.eq(word),
            read.en.eq(issued),
            buffer.w_data.eq(read.data),
            buffer.w_en.eq(arriving),
            self.read.request.ready.eq((left == 0) | ((left == 1) & issued)),
        ]
        taken = self.read.data.valid & self.read.data.ready
        m.d.sync += [arriving.eq(issued), free.eq(free - issued + taken)]
        with m.If(issued):
            m.d.sync += [word.eq(word + 1), left.eq(left - 1)]
        with m.If(self.read.request.valid & self.read.request.ready):
            m.d.sync += [
                word.eq(self.read.request.p.address >> lane_bits),
                left.eq(self.read.request.p.beats),
            ]
        return m
