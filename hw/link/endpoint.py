"""The device's end of the link: executes requests and answers them.

The protocol is described, and all its numbers are defined, in `systolith.hw.protocol`.
"""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import Config
from ..ports import ControlSignature, MemoryReadSignature, memory_write_signature
from ..protocol import COUNTERS, VERSION, WATCHDOG_DEFAULT, Command, Counter, Identity, Refusal
from .answers import answer_states
from .crc import crc32_step
from .exchange import Exchange
from .memory import ByteReader, ByteWriter
from .receiver import FrameReceiver
from .requests import request_states
from .sender import FrameSender

__all__ = ["Endpoint"]

_QUIET_BITS = 15
"""RESET gives the core 2 to this many cycles to come to rest."""

_IDENTITY_WORDS = 9
"""Words of HELLO's answer, `Identity.encode`."""


class Endpoint(wiring.Component):
    """Serves one byte link.

    Every request is bounded: no length, address or garbage makes it wait for anything but the line,
    main memory, or the acceptance of a start by an idle core.

    Parameters
    ----------
    config : Config
    build : int
        64 bits that identify the bitstream or simulator build, told in HELLO.
    receive_bytes : int
        Buffer for requests.
    read_beats : int
        Beats read ahead from main memory; 1 saves the buffer. By default 32, or 1 where the array
        is smaller than 8x8: such are for the smallest devices, on lines that are slower than that.

    Members
    -------
    rx : In(stream of bytes), tx : Out(stream of bytes)
        The line.
    control : Out(ControlSignature)
        The core.
    read : Out(MemoryReadSignature), write : Out(memory_write_signature)
        Main memory.
    """

    def __init__(self, config: Config, *, build: int = 0, receive_bytes: int = 1024,
                 read_beats: int | None = None):
        if not 0 <= build < 1 << 64:
            raise ValueError(f"build must have at most 64 bits, not {build:#x}")
        self._config = config
        self._build = build
        self._receive_bytes = receive_bytes
        self._read_beats = (
            1 if config.rows * config.columns < 64 else 32) if read_beats is None else read_beats
        super().__init__({
            "rx": In(stream.Signature(8)),
            "tx": Out(stream.Signature(8)),
            "control": Out(ControlSignature(config)),
            "read": Out(MemoryReadSignature(config)),
            "write": Out(memory_write_signature(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        control = self.control
        m.submodules.receiver = receiver = FrameReceiver(self._receive_bytes)
        m.submodules.sender = sender = FrameSender()
        m.submodules.reader = self._reader = reader = ByteReader(config, self._read_beats)
        m.submodules.writer = self._writer = writer = ByteWriter(config)
        wiring.connect(m, wiring.flipped(self.rx), receiver.rx)
        wiring.connect(m, sender.tx, wiring.flipped(self.tx))
        wiring.connect(m, reader.read, wiring.flipped(self.read))
        wiring.connect(m, writer.write, wiring.flipped(self.write))

        self._session = session = Signal(16)
        self._continued = Signal()
        self._dropped = Signal()
        self._runs = Signal(16)
        self._run_sequence = Signal(9)  # of the run in progress or the last; bit 8: there is one
        self._watchdog = Signal(32, init=WATCHDOG_DEFAULT)
        self._starting = Signal()   # it is state START, of which the core learns from a register
        self._x = x = Exchange(config)
        # A block RAM is slow; the index has been there since the word before.
        self._timestamp = Signal(32)
        m.d.sync += self._timestamp.eq(Mux(x.index[0], control.timestamp_active,
                                           control.timestamp_cycles))
        m.d.comb += [
            receiver.session.eq(session),
            sender.session.eq(session),
            reader.request.payload.address.eq(x.address),
            reader.request.payload.length.eq(x.length),
            control.watchdog.eq(self._watchdog),
            control.cancel.eq(x.cancels),
            control.start.valid.eq(self._starting),
            control.start.payload.eq(x.address),
            writer.address.eq(Mux(x.command == Command.COPY, x.word, x.address)),
            control.counter_index.eq(Mux(x.command == Command.COUNTERS, x.index, Counter.CYCLES)),
            control.timestamp_index.eq(x.address),
        ]
        with m.FSM():
            request_states(m, x, receiver.o, self._dropped, config, control.timestamp_count)
            self._execute_state(m)
            self._run_states(m)
            self._memory_states(m, receiver.o)
            answer_states(m, x, sender.i, reader, control.counter_ready)
        with m.If(x.chooses & x.refused):
            m.d.sync += x.word.eq(Cat(x.reason, Const(0, 8 - len(x.reason)), x.opcode, x.expected))
        with m.Elif(x.chooses):
            self._words(m)
        with m.If(receiver.dropped):
            m.d.sync += self._dropped.eq(1)
        return m

    def _execute_state(self, m):
        x = self._x
        # Compared a cycle before, as both requests come here by way of the check of their ranges.
        new_session, same_run = Signal(), Signal()
        m.d.sync += [new_session.eq(x.word[16:] != self._session),
                     same_run.eq(self._run_sequence == Cat(x.sequence, Const(1)))]
        with m.State("EXECUTE"):
            m.d.comb += self._writer.start.eq(1)  # for whoever writes
            m.d.sync += x.words.eq(0)
            self._execute(m, new_session, same_run)

    def _execute(self, m, new_session, same_run):
        """What state EXECUTE does for each request."""
        x, control, session = self._x, self.control, self._session
        with m.Switch(x.command):
            with m.Case(Command.HELLO):
                with m.If(new_session):
                    m.d.sync += [
                        self._continued.eq(session == x.length[:16]),
                        session.eq(x.word[16:]),
                        x.expected.eq(0),
                        self._run_sequence[8].eq(0),
                        self._dropped.eq(0),
                    ]
                m.d.sync += x.words.eq(_IDENTITY_WORDS)
                x.answer(m)
            with m.Case(Command.READ):
                m.d.comb += self._reader.request.valid.eq(1)
                m.d.sync += x.left.eq(x.length)
                x.answer(m)
            with m.Case(Command.CRC):
                m.d.comb += self._reader.request.valid.eq(1)
                m.d.sync += x.words.eq(1)
                m.next = "CRC"
            with m.Case(Command.STATUS):
                m.d.sync += x.words.eq(5)
                x.answer(m)
            with m.Case(Command.COUNTERS):
                m.d.sync += x.words.eq(COUNTERS)
                x.answer(m)
            with m.Case(Command.TIMESTAMPS):
                m.d.sync += x.words.eq(x.length << 1)
                x.answer(m)
            with m.Case(Command.RUN):
                m.d.sync += x.words.eq(1)
                with m.If(x.repeated):
                    with m.If(same_run):
                        x.answer(m)
                    with m.Else():
                        x.refuse(m, Refusal.BUSY)
                with m.Elif(control.busy):
                    m.d.sync += self._run_sequence[8].eq(0)
                    x.refuse(m, Refusal.BUSY)
                with m.Else():
                    m.d.sync += self._starting.eq(1)
                    m.next = "START"
            with m.Default():
                # What is left has an effect, and is not done again.
                with m.If(x.repeated & (x.command == Command.WRITE)):
                    m.next = "DISCARD"
                with m.Elif(x.repeated):
                    x.answer(m)
                with m.Else():
                    self._effect(m)

    def _effect(self, m):
        """What state EXECUTE does for the requests with an effect."""
        x = self._x
        with m.Switch(x.command):
            with m.Case(Command.WRITE):
                m.next = "WRITE"
            with m.Case(Command.FILL):
                m.next = "FILL"
            with m.Case(Command.COPY):
                m.d.comb += self._reader.request.valid.eq(1)
                m.next = "COPY"
            with m.Case(Command.CANCEL):
                x.answer(m)
            with m.Case(Command.RESET):
                m.d.sync += x.address.eq(0)
                m.next = "QUIET"
            with m.Case(Command.WATCHDOG):
                m.d.sync += self._watchdog.eq(x.word)
                x.answer(m)

    def _run_states(self, m):
        x, control = self._x, self.control
        with m.State("START"), m.If(control.start.ready):
            m.d.sync += [self._starting.eq(0), self._runs.eq(self._runs + 1),
                         self._run_sequence.eq(Cat(x.sequence, Const(1)))]
            x.answer(m)

        with m.State("QUIET"):
            x.count_on(m)
            with m.If(~control.busy | x.address[_QUIET_BITS]):
                m.d.sync += [self._watchdog.eq(WATCHDOG_DEFAULT), self._runs.eq(0),
                             self._run_sequence.eq(0)]
                x.answer(m)

    def _memory_states(self, m, source):
        """States in which bytes move; `source` has the data of WRITE."""
        x, reader, writer = self._x, self._reader, self._writer
        with m.State("DISCARD"):
            m.d.comb += source.ready.eq(x.left != 0)
            with m.If(source.valid & source.ready):
                m.d.sync += x.left.eq(x.left - 1)
            with m.If(x.left == 0):
                x.answer(m)

        with m.State("WRITE"):
            m.d.comb += [
                writer.i.payload.data.eq(source.payload),
                writer.i.payload.last.eq(x.left == 1),
                writer.i.valid.eq(source.valid),
                source.ready.eq(writer.i.ready),
            ]
            with m.If(source.valid & source.ready):
                m.d.sync += x.left.eq(x.left - 1)
                with m.If(x.left == 1):
                    m.next = "SETTLE"

        width = self._config.memory_bytes_per_beat
        lane_bits = width.bit_length() - 1
        # Of FILL: a beat's bytes or more are left, known a cycle ahead; the next byte is a beat.
        fills_beat, whole = Signal(), Signal()
        m.d.sync += fills_beat.eq(x.length[lane_bits:] != 0)
        m.d.comb += whole.eq((x.address[:lane_bits] == 0) & fills_beat)
        with m.State("FILL"):
            rest, beats = x.length[:lane_bits], x.length[lane_bits:]
            m.d.comb += [
                writer.i.payload.whole.eq(whole),
                writer.i.payload.last.eq(~fills_beat & (rest == 1)),
                writer.i.valid.eq(fills_beat | (rest != 0)),
            ]
            with m.If(~fills_beat & (rest == 0)):
                m.next = "SETTLE"
            with m.Elif(writer.i.ready):
                m.d.sync += [
                    x.length.eq(x.length - Mux(whole, width, 1)),
                    fills_beat.eq(fills_beat & ~((beats == 1) & (whole | (rest == 0)))),
                ]
                with m.If(~whole):
                    x.count_on(m)  # of which only the place in its beat is looked at

        with m.State("COPY"):
            m.d.comb += [
                writer.i.payload.data.eq(reader.o.payload),
                writer.i.payload.last.eq(reader.last),
                writer.i.valid.eq(reader.o.valid),
                reader.o.ready.eq(writer.i.ready),
            ]
            with m.If(reader.o.valid & reader.o.ready & reader.last):
                m.next = "SETTLE"

        with m.State("SETTLE"), m.If(~writer.busy):
            x.answer(m)

        with m.State("CRC"):
            m.d.comb += reader.o.ready.eq(1)
            with m.If(reader.o.valid):
                m.d.sync += x.word.eq(crc32_step(x.word, reader.o.payload))
                with m.If(reader.last):
                    x.answer(m)

    def _words(self, m):
        """What `x.word` becomes for a word of an answer; a CRC is there already."""
        x, control, word = self._x, self.control, self._x.word
        with m.Switch(x.command):
            with m.Case(Command.HELLO):
                identity = Identity.of(self._config, build=self._build).encode()
                with m.Switch(x.index):
                    for number in range(_IDENTITY_WORDS):
                        with m.Case(number):
                            m.d.sync += word.eq(int.from_bytes(
                                identity[4 * number:4 * number + 4], "little"))
                with m.Switch(x.index):
                    with m.Case(0):
                        m.d.sync += word.eq(Cat(Const(VERSION, 8), x.expected, self._session))
                    with m.Case(1):
                        m.d.sync += word[0].eq(self._continued)
            with m.Case(Command.STATUS), m.Switch(x.index):
                with m.Case(0):
                    m.d.sync += word.eq(Cat(
                        control.busy, Const(0, 7),
                        control.error, Const(0, 8 - len(control.error)),
                        control.error_queue))
                with m.Case(1):
                    m.d.sync += word.eq(control.error_address)
                with m.Case(2):
                    m.d.sync += word.eq(self._runs)
                with m.Case(3):
                    m.d.sync += word.eq(control.timestamp_count)
                with m.Default():
                    m.d.sync += word.eq(control.counter_value)
            with m.Case(Command.COUNTERS):
                m.d.sync += word.eq(control.counter_value)
            with m.Case(Command.TIMESTAMPS):
                m.d.sync += word.eq(self._timestamp)
            with m.Case(Command.CRC):
                pass
            with m.Default():   # RUN; nobody else has words
                m.d.sync += word.eq(self._runs)
