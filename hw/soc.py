"""The system on a chip: core and link endpoint, with main memory and the byte link outside."""

from amaranth import Cat, Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import Config
from .core import Core
from .counters import counter_port
from .isa import ErrorCode, Queue
from .link.endpoint import Endpoint
from .ports import MemoryReadSignature, memory_write_signature
from .protocol import Counter
from .sequential.core import SequentialCore, SequentialCoreWithScratchpad
from .sequential.ports import ScratchpadPort

__all__ = ["DirectSignature", "SoC"]


class DirectSignature(wiring.Signature):
    """Control of the core beside the link, as its initiator (a simulator) sees it.

    The members mean what they mean in `ControlSignature`. A `watchdog` of 0 leaves the link's in
    force.
    """

    def __init__(self):
        super().__init__({
            "start": Out(stream.Signature(32)),
            "cancel": Out(1),
            "watchdog": Out(32),
            "busy": In(1),
            "error": In(ErrorCode),
            "error_queue": In(Queue),
            "error_address": In(32),
        })


class SoC(wiring.Component):
    """Core and endpoint, connected.

    Parameters
    ----------
    config : Config
    build : int
        64 bits that identify this build, told in HELLO.
    direct : bool
        Add the ports by which a simulator controls and watches the core without the link.
    scratchpad : bool
        The scratchpad of a sequential core is outside, too.

    Members
    -------
    rx : In(stream of bytes), tx : Out(stream of bytes)
        The link.
    memory_read : Out(MemoryReadSignature), memory_write : Out(memory_write_signature)
        Main memory.
    direct : In(DirectSignature)
        Starts wait while the link starts a run.
    counters : Out(array of 32 bits)
        All counters, in the order of `Counter`.
    mark : Out(1)
        Pulse: a marked instruction is written to the timestamp log.
    scratchpad : Out(ScratchpadPort)
    """

    def __init__(self, config: Config, *, build: int = 0, direct: bool = False,
                 scratchpad: bool = False):
        self._config = config
        self._build = build
        self._direct = direct
        self._scratchpad = scratchpad
        super().__init__({
            "rx": In(stream.Signature(8)),
            "tx": Out(stream.Signature(8)),
            "memory_read": Out(MemoryReadSignature(config)),
            "memory_write": Out(memory_write_signature(config)),
            **({
                "direct": In(DirectSignature()),
                "counters": Out(data.ArrayLayout(32, len(Counter))),
                "mark": Out(1),
            } if direct else {}),
            **({"scratchpad": Out(ScratchpadPort(config))} if scratchpad else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self._core()
        m.submodules.endpoint = endpoint = self._endpoint()
        connect(m, flipped(self.rx), endpoint.rx)
        connect(m, endpoint.tx, flipped(self.tx))
        connect(m, endpoint.read, core.host_read)
        connect(m, endpoint.write, core.host_write)
        connect(m, core.read, flipped(self.memory_read))
        connect(m, core.write, flipped(self.memory_write))
        if self._scratchpad:
            connect(m, core.scratchpad, flipped(self.scratchpad))
        if self._direct:
            self._connect_direct(m, core, endpoint.control)
        else:
            connect(m, endpoint.control, core.control)
        return m

    def _endpoint(self):
        # A frame and a part of the next one, where block RAM is scarce.
        buffer = {"receive_bytes": 512} if self._config.sequential else {}
        return Endpoint(self._config, build=self._build, **buffer)

    def _core(self):
        if self._scratchpad:
            return SequentialCore(self._config)
        if self._config.sequential:
            return SequentialCoreWithScratchpad(self._config)
        return Core(self._config, watched=self._direct)

    def _connect_direct(self, m, core, link):
        control, direct = core.control, self.direct
        m.d.comb += [
            control.start.valid.eq(link.start.valid | direct.start.valid),
            control.start.payload.eq(Mux(link.start.valid, link.start.payload,
                                         direct.start.payload)),
            link.start.ready.eq(control.start.ready),
            direct.start.ready.eq(control.start.ready & ~link.start.valid),
            control.cancel.eq(link.cancel | direct.cancel),
            control.watchdog.eq(Mux(direct.watchdog == 0, link.watchdog, direct.watchdog)),
            control.counter_index.eq(link.counter_index),
            control.timestamp_index.eq(link.timestamp_index),
            *(getattr(link, name).eq(getattr(control, name)) for name in (
                "busy", "error", "error_queue", "error_address", "counter_value",
                "counter_ready", "timestamp_cycles", "timestamp_active", "timestamp_count")),
            *(getattr(direct, name).eq(getattr(control, name)) for name in (
                "busy", "error", "error_queue", "error_address")),
            self.counters.as_value().eq(Cat(getattr(core, counter_port(counter))
                                            for counter in Counter)),
            self.mark.eq(core.mark),
        ]
