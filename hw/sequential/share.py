"""Main memory's port, shared by the host and the sequential core: the host goes first."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import Config
from ..ports import MAX_BURST_BEATS, MemoryReadSignature, memory_write_signature

__all__ = ["MemoryShare"]


class MemoryShare(wiring.Component):
    """One burst of reads at a time. What has been offered is not changed before it is taken.

    Members
    -------
    host_read, core_read : In(MemoryReadSignature)
    host_write, core_write : In(memory_write_signature)
    read, write : Out
        Main memory.
    """

    def __init__(self, config: Config):
        read, write = MemoryReadSignature(config), memory_write_signature(config)
        super().__init__({
            "host_read": In(read), "core_read": In(read), "read": Out(read),
            "host_write": In(write), "core_write": In(write), "write": Out(write),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(MAX_BURST_BEATS + 1))
        reader = Signal()  # the host's is the burst
        idle = left == 0
        host = self._first(m, "read", self.host_read.request, self.core_read.request, idle)
        request, beats = self.read.request, self.read.data
        m.d.comb += [
            request.valid.eq(idle & Mux(host, self.host_read.request.valid,
                                        self.core_read.request.valid)),
            request.p.eq(Mux(host, self.host_read.request.p, self.core_read.request.p)),
            self.host_read.request.ready.eq(idle & host & request.ready),
            self.core_read.request.ready.eq(idle & ~host & request.ready),
            self.host_read.data.p.eq(beats.p), self.core_read.data.p.eq(beats.p),
            self.host_read.data.valid.eq(~idle & reader & beats.valid),
            self.core_read.data.valid.eq(~idle & ~reader & beats.valid),
            beats.ready.eq(~idle & Mux(reader, self.host_read.data.ready,
                                       self.core_read.data.ready)),
        ]
        with m.If(request.valid & request.ready):
            m.d.sync += [left.eq(request.p.beats), reader.eq(host)]
        with m.Elif(beats.valid & beats.ready):
            m.d.sync += left.eq(left - 1)

        writer = self._first(m, "write", self.host_write, self.core_write, 1)
        m.d.comb += [
            self.write.valid.eq(Mux(writer, self.host_write.valid, self.core_write.valid)),
            self.write.p.eq(Mux(writer, self.host_write.p, self.core_write.p)),
            self.host_write.ready.eq(writer & self.write.ready),
            self.core_write.ready.eq(~writer & self.write.ready),
        ]
        return m

    @staticmethod
    def _first(m, name, host, core, open_):
        """Whether it is the host's turn."""
        held = Signal(name=f"{name}_held")  # the core's offer has not been taken
        turn = Signal(name=f"{name}_turn")
        m.d.comb += turn.eq(host.valid & ~held)
        m.d.sync += held.eq(open_ & ~turn & core.valid & ~core.ready)
        return turn
