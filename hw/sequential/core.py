"""The sequential core: the same ports as `hw/core.py`, the same programs, a third of the circuit.

One instruction runs at a time. A small processor (`processor.py`) with a fixed program
(`firmware.py`) reads and decodes instructions, keeps thresholds and walks the outer loops; the
inner ones are walked by the engine (array and post-processor) and the mover.

What differs from the parallel core, for those who look at it from outside:
- of the counters only CYCLES and RETIRED count, the others stay 0;
- timestamps have no active cycles (0);
- POST with a residual add writes all its values before it adds to them, so that it may write no
  word twice, and none of operand b; `add_shift` is 16 to 31;
- the watchdog and CANCEL are looked at every `ALARM_CYCLES` cycles, or at the end of an ARRAY's
  innermost loop of passes; the watchdog's limit is that of the run's beginning.
"""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Out

from systolith.errors import ConfigError

from ..config import Config
from ..counters import counter_port, watched_ports
from ..isa import ErrorCode, Queue
from ..ports import core_members
from ..protocol import Counter
from .engine import Engine
from .firmware import firmware
from .memory_kinds import without_block_ram
from .mover import Mover
from .ports import (
    LOG_COUNTERS,
    LOG_TIMESTAMPS,
    Input,
    Output,
    ScratchpadPort,
    Status,
    written,
)
from .processor import Processor
from .share import MemoryShare

__all__ = ["ALARM_CYCLES", "SequentialCore", "SequentialCoreWithScratchpad"]

ALARM_CYCLES = 4096

_LOG_WORDS = 256


class SequentialCore(wiring.Component):
    """Members are those of `Core`, and `scratchpad`: Out(ScratchpadPort)."""

    def __init__(self, config: Config):
        if not config.sequential:
            raise ConfigError("the sequential core needs a configuration with sequential = true")
        self._config = config
        super().__init__({**core_members(config), "scratchpad": Out(ScratchpadPort(config)),
                          **watched_ports(True), "mark": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config, control = self._config, self.control
        m.submodules.processor = processor = Processor(firmware(config))
        m.submodules.engine = engine = Engine(config)
        m.submodules.mover = mover = Mover(config)
        m.submodules.share = share = MemoryShare(config)
        wiring.connect(m, wiring.flipped(self.host_read), share.host_read)
        wiring.connect(m, wiring.flipped(self.host_write), share.host_write)
        wiring.connect(m, mover.read, share.core_read)
        wiring.connect(m, mover.write, share.core_write)
        wiring.connect(m, share.read, wiring.flipped(self.read))
        wiring.connect(m, share.write, wiring.flipped(self.write))
        for part in (engine, mover):
            m.d.comb += [part.output.eq(processor.output), part.port.eq(processor.port),
                         part.value.eq(processor.value)]
        m.d.comb += [
            engine.weight.eq(mover.weight),
            processor.write.enable.eq(mover.data.enable),
            processor.write.address.eq(mover.data.address),
            processor.write.data.eq(mover.data.data),
        ]
        self._connect_scratchpad(m, engine, mover)

        # A run ------------------------------------------------------------------------------------
        idle = Signal(init=1)
        start, cycles = Signal(32), Signal(32)
        cancel, alarm = Signal(), Signal()
        m.d.comb += [control.busy.eq(~idle), control.start.ready.eq(idle)]
        with m.If(written(processor, Output.IDLE)):
            m.d.sync += idle.eq(1)
        with m.If(~idle):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(written(processor, Output.QUIET)):
            m.d.sync += alarm.eq(0)
        with m.If((cycles[:ALARM_CYCLES.bit_length() - 1].all()) | control.cancel):
            m.d.sync += alarm.eq(1)
        with m.If(control.cancel):
            m.d.sync += cancel.eq(1)
        with m.If(idle):
            m.d.sync += cancel.eq(0)
            with m.If(control.start.valid):
                m.d.sync += [idle.eq(0), start.eq(control.start.payload), cycles.eq(0)]

        busy = engine.busy | mover.busy
        status = {Status.ALARM: alarm, Status.FAULT: engine.fault, Status.STOPPED: engine.stopped,
                  Status.CANCEL: cancel, Status.UNFINISHED: engine.unfinished,
                  Status.STARTED: ~idle, Status.BUSY: busy}
        if config.column_words > 1:
            status[Status.WORD] = engine.word
        with m.Switch(processor.port[:3]):
            with m.Case(Input.STATUS):
                m.d.comb += [processor.input[bit].eq(value) for bit, value in status.items()]
            for port, value in (
                    (Input.VALUE, engine.stop), (Input.CYCLES, cycles), (Input.START, start),
                    (Input.WATCHDOG, control.watchdog)):
                with m.Case(port):
                    m.d.comb += processor.input.eq(value)
            with m.Default():
                m.d.comb += processor.input.eq(self.scratchpad.read)

        with m.If(written(processor, Output.ERROR)):
            m.d.sync += [control.error.eq(processor.value[:4]),
                         control.error_queue.eq(processor.value[4:])]
        with m.If(written(processor, Output.ERROR_ADDRESS)):
            m.d.sync += control.error_address.eq(processor.value)
        with m.If(written(processor, Output.TIMESTAMPS)):
            m.d.sync += control.timestamp_count.eq(processor.value)
        self._elaborate_log(m, platform, processor, cycles)
        return m

    def _connect_scratchpad(self, m, engine, mover):
        port = self.scratchpad
        with m.If(mover.scratchpad.enable):
            m.d.comb += [port.address.eq(mover.scratchpad.address),
                         port.mask.eq(mover.scratchpad.mask),
                         port.data.eq(mover.scratchpad.data)]
        with m.Else():
            m.d.comb += [port.address.eq(engine.scratchpad.address),
                         port.mask.eq(engine.scratchpad.mask),
                         port.data.eq(engine.scratchpad.data)]
        m.d.comb += [
            port.enable.eq(mover.scratchpad.enable | engine.scratchpad.enable),
            mover.scratchpad.read.eq(port.read), engine.scratchpad.read.eq(port.read),
        ]

    def _elaborate_log(self, m, platform, processor, cycles):
        """Counters and timestamps in one memory, of which the host reads either."""
        control, value = self.control, processor.value
        m.submodules.log = log = Memory(shape=32, depth=_LOG_WORDS, init=[],
                                        attrs=without_block_ram(platform, "distributed"))
        write, read = log.write_port(), log.read_port()
        place = Signal(range(_LOG_WORDS))
        logged = written(processor, Output.LOG)
        counting = control.counter_index != Counter.CYCLES
        counted = Signal()
        m.d.sync += counted.eq(counting)
        with m.If(logged):
            m.d.sync += place.eq(place + 1)
        with m.If(written(processor, Output.LOG_PLACE)):
            m.d.sync += place.eq(value)
        m.d.comb += [
            write.addr.eq(place), write.data.eq(value), write.en.eq(logged),
            read.addr.eq(Mux(counting, control.counter_index + LOG_COUNTERS,
                             control.timestamp_index + LOG_TIMESTAMPS)),
            control.counter_value.eq(Mux(counted, read.data, cycles)),
            control.timestamp_cycles.eq(read.data),
        ]
        shown = Signal.like(control.counter_index)  # whose value is at the memory's output
        m.d.sync += shown.eq(control.counter_index)
        m.d.comb += control.counter_ready.eq(shown == control.counter_index)
        marks = written(processor, Output.TIMESTAMPS)
        m.d.comb += self.mark.eq(marks & (value != 0))
        # For simulations alone: nothing of this is left where nobody looks at it.
        for counter in Counter:
            port = getattr(self, counter_port(counter))
            if counter == Counter.CYCLES:
                m.d.comb += port.eq(cycles)
                continue
            with m.If(logged & (place == LOG_COUNTERS + counter)):
                m.d.sync += port.eq(value)


class SequentialCoreWithScratchpad(wiring.Component):
    """The sequential core with a scratchpad of its own: all members of `Core`."""

    def __init__(self, config: Config):
        self._config = config
        self._core = SequentialCore(config)
        super().__init__({name: member for name, member in self._core.signature.members.items()
                          if name != "scratchpad"})

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self._core
        m.submodules.memory = memory = Memory(
            shape=data.ArrayLayout(8, 4), depth=self._config.scratchpad_words, init=[])
        write, read = memory.write_port(granularity=1), memory.read_port()
        port = core.scratchpad
        m.d.comb += [
            write.addr.eq(port.address), write.data.eq(port.data),
            write.en.eq(port.mask & port.enable.replicate(4)),
            read.addr.eq(port.address), read.en.eq(port.enable & ~port.mask.any()),
            port.read.eq(Cat(read.data)),
        ]
        for name, member in self.signature.members.items():
            if member.is_port:
                if member.flow == Out:
                    m.d.comb += getattr(self, name).eq(getattr(core, name))
                else:
                    m.d.comb += getattr(core, name).eq(getattr(self, name))
            elif member.flow == Out:
                wiring.connect(m, getattr(core, name), wiring.flipped(getattr(self, name)))
            else:
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(core, name))
        return m


assert len(Queue) == 5 and len(ErrorCode) <= 8
