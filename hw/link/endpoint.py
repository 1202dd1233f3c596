"""The device's end of the link: executes requests and answers them.

The protocol is described, and all its numbers are defined, in `systolith.hw.protocol`.
"""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import Config
from ..isa import DESCRIPTOR_BYTES
from ..ports import ControlSignature, MemoryReadSignature, memory_write_signature
from ..protocol import (
    ANSWER,
    ARGUMENTS,
    COUNTERS,
    MAX_DATA,
    MAX_TIMESTAMPS,
    REFUSED,
    VERSION,
    WATCHDOG_DEFAULT,
    Command,
    Counter,
    Identity,
    Refusal,
)
from .crc import crc32_step
from .memory import ByteReader, ByteWriter
from .receiver import FrameReceiver
from .sender import FrameSender

__all__ = ["Endpoint"]

_QUIET_CYCLES = 1 << 15
"""Cycles that RESET gives the core to come to rest."""


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
        Beats read ahead from main memory; 1 saves the buffer. By default 32, or 1 in
        configurations of 4 rows, which are for the smallest devices.

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
        self._read_beats = (1 if config.rows == 4 else 32) if read_beats is None else read_beats
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
        m.submodules.reader = reader = ByteReader(config, self._read_beats)
        m.submodules.writer = writer = ByteWriter(config)
        wiring.connect(m, wiring.flipped(self.rx), receiver.rx)
        wiring.connect(m, sender.tx, wiring.flipped(self.tx))
        wiring.connect(m, reader.read, wiring.flipped(self.read))
        wiring.connect(m, writer.write, wiring.flipped(self.write))

        # The session.
        session = Signal(16)
        continued = Signal()
        expected = Signal(8)
        dropped = Signal()
        runs = Signal(16)
        run_sequence = Signal(9)    # of the run in progress or the last; bit 8: there is one
        m.d.comb += [receiver.session.eq(session), sender.session.eq(session)]
        watchdog = Signal(32, init=WATCHDOG_DEFAULT)
        m.d.comb += control.watchdog.eq(watchdog)

        # The request.
        opcode = Signal(8)
        sequence = Signal(8)
        left = Signal(range(4 + MAX_DATA + 1))      # bytes of payload, or of a READ's answer
        count = Signal(4)
        address, length, third = arguments = [Signal(32, name=f"argument_{i}") for i in range(3)]
        repeated = Signal()
        silent = Signal()
        m.d.comb += [
            reader.request.payload.address.eq(address),
            reader.request.payload.length.eq(length),
        ]

        # The answer.
        refused = Signal()
        reason = Signal(3)
        answer_words = Signal(range(COUNTERS + 1 + 2 * MAX_TIMESTAMPS))
        word_index = Signal.like(answer_words)
        word = Signal(32)
        m.d.comb += [
            control.counter_index.eq(Mux(opcode == Command.COUNTERS, word_index, Counter.CYCLES)),
            control.timestamp_index.eq(address),
        ]

        take = Signal()     # a byte of the request is taken now
        m.d.comb += take.eq(receiver.o.valid & receiver.o.ready)
        byte = receiver.o.payload

        def refuse(why, state="REFUSE"):
            m.d.sync += reason.eq(why)
            m.next = state  # SKIP where bytes of the request may be left

        def answer(words=0):
            m.d.sync += answer_words.eq(words)
            m.next = "ANSWER"

        with m.FSM():
            with m.State("OPCODE"):
                m.d.comb += receiver.o.ready.eq(1)
                m.d.sync += [refused.eq(0), silent.eq(0), count.eq(0), word_index.eq(0)]
                with m.If(take):
                    m.d.sync += opcode.eq(byte)
                    m.next = "HEADER"
                with m.Elif(dropped):
                    m.d.sync += [dropped.eq(0), opcode.eq(0), sequence.eq(expected)]
                    refuse(Refusal.RESEND)

            with m.State("HEADER"):
                m.d.comb += receiver.o.ready.eq(1)
                with m.If(take):
                    m.d.sync += count.eq(count + 1)
                    with m.Switch(count):
                        with m.Case(0):
                            m.d.sync += sequence.eq(byte)
                        with m.Case(1):
                            m.d.sync += left[:8].eq(byte)
                        with m.Default():
                            m.d.sync += [left[8].eq(byte[0]), count.eq(0)]
                            m.next = "ORDER"

            with m.State("ORDER"):
                age = Signal(8)
                m.d.comb += age.eq(expected - sequence)
                good_length = Signal()
                known = Signal()
                with m.Switch(opcode):
                    for command in Command:
                        with m.Case(command):
                            nbytes = 4 * ARGUMENTS[command]
                            m.d.comb += known.eq(1)
                            if command is Command.WRITE:
                                m.d.comb += good_length.eq(left > nbytes)
                            else:
                                m.d.comb += good_length.eq(left == nbytes)
                with m.If((opcode == Command.HELLO) & good_length):
                    m.next = "ARGUMENTS"
                with m.Elif(age[7]):
                    m.d.sync += [dropped.eq(1), silent.eq(1)]
                    m.next = "SKIP"
                with m.Else():
                    m.d.sync += repeated.eq(age != 0)
                    with m.If(age == 0):
                        m.d.sync += expected.eq(expected + 1)
                    with m.If(~known):
                        refuse(Refusal.COMMAND, "SKIP")
                    with m.Elif(~good_length):
                        refuse(Refusal.LENGTH, "SKIP")
                    with m.Elif(left == 0):
                        m.next = "EXECUTE"
                    with m.Else():
                        m.next = "ARGUMENTS"

            with m.State("ARGUMENTS"):
                m.d.comb += receiver.o.ready.eq(1)
                last = Signal()
                m.d.comb += last.eq(Mux(opcode == Command.WRITE, count == 3, left == 1))
                with m.If(take):
                    m.d.sync += [count.eq(count + 1), left.eq(left - 1)]
                    with m.Switch(count[2:]):
                        for number, argument in enumerate(arguments):
                            with m.Case(number):
                                m.d.sync += argument.eq(Cat(argument[8:], byte))
                    with m.If(last):
                        m.d.sync += count.eq(0)
                        m.next = "CHECK"

            self._check(m, opcode, arguments, left, refuse)

            with m.State("SKIP"):
                m.d.comb += receiver.o.ready.eq(left != 0)
                with m.If(take):
                    m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    with m.If(silent):
                        m.next = "OPCODE"
                    with m.Else():
                        m.next = "REFUSE"

            with m.State("DISCARD"):
                m.d.comb += receiver.o.ready.eq(left != 0)
                with m.If(take):
                    m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    answer()

            with m.State("EXECUTE"), m.Switch(opcode):
                with m.Case(Command.HELLO):
                    with m.If(address[16:] != session):
                        m.d.sync += [
                            continued.eq(session == length[:16]),
                            session.eq(address[16:]),
                            expected.eq(0),
                            run_sequence[8].eq(0),
                            dropped.eq(0),
                        ]
                    answer(9)
                with m.Case(Command.READ):
                    m.d.comb += reader.request.valid.eq(1)
                    m.d.sync += left.eq(length)
                    answer()
                with m.Case(Command.CRC):
                    m.d.comb += reader.request.valid.eq(1)
                    m.d.sync += third.eq(~third)
                    m.next = "CRC"
                with m.Case(Command.STATUS):
                    answer(5)
                with m.Case(Command.COUNTERS):
                    answer(COUNTERS)
                with m.Case(Command.TIMESTAMPS):
                    answer(length << 1)
                with m.Case(Command.RUN):
                    with m.If(repeated):
                        with m.If(run_sequence == Cat(sequence, Const(1))):
                            answer(1)
                        with m.Else():
                            refuse(Refusal.BUSY)
                    with m.Elif(control.busy):
                        m.d.sync += run_sequence[8].eq(0)
                        refuse(Refusal.BUSY)
                    with m.Else():
                        m.next = "START"
                with m.Default():
                    # What is left has an effect, and is not done again.
                    with m.If(repeated & (opcode == Command.WRITE)):
                        m.next = "DISCARD"
                    with m.Elif(repeated):
                        answer()
                    with m.Else():
                        self._effect(m, opcode, arguments, watchdog, reader, writer, answer)

            with m.State("START"):
                m.d.comb += control.start.valid.eq(1)
                with m.If(control.start.ready):
                    m.d.sync += [runs.eq(runs + 1), run_sequence.eq(Cat(sequence, Const(1)))]
                    answer(1)
            m.d.comb += control.start.payload.eq(address)

            with m.State("WRITE"):
                m.d.comb += [
                    writer.i.payload.data.eq(byte),
                    writer.i.payload.last.eq(left == 1),
                    writer.i.valid.eq(receiver.o.valid),
                    receiver.o.ready.eq(writer.i.ready),
                ]
                with m.If(take):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "SETTLE"

            with m.State("FILL"):
                width = config.memory_bytes_per_beat
                whole = writer.i.payload.whole
                m.d.comb += [
                    whole.eq((writer.lane == 0) & (length >= width)),
                    writer.i.payload.last.eq(length == 1),
                    writer.i.valid.eq(length != 0),
                ]
                with m.If(length == 0):
                    m.next = "SETTLE"
                with m.Elif(writer.i.ready):
                    m.d.sync += length.eq(length - Mux(whole, width, 1))

            with m.State("COPY"):
                m.d.comb += [
                    writer.i.payload.data.eq(reader.o.payload),
                    writer.i.payload.last.eq(length == 1),
                    writer.i.valid.eq(reader.o.valid),
                    reader.o.ready.eq(writer.i.ready),
                ]
                with m.If(reader.o.valid & reader.o.ready):
                    m.d.sync += length.eq(length - 1)
                    with m.If(length == 1):
                        m.next = "SETTLE"

            with m.State("SETTLE"), m.If(~writer.busy):
                answer()

            with m.State("CRC"):
                m.d.comb += reader.o.ready.eq(1)
                with m.If(reader.o.valid):
                    m.d.sync += [length.eq(length - 1), third.eq(crc32_step(third,
                                                                            reader.o.payload))]
                    with m.If(length == 1):
                        answer(1)

            with m.State("QUIET"):
                m.d.sync += address.eq(address + 1)
                with m.If(~control.busy | (address == _QUIET_CYCLES)):
                    m.d.sync += [watchdog.eq(WATCHDOG_DEFAULT), runs.eq(0), run_sequence.eq(0)]
                    answer()

            with m.State("REFUSE"):
                m.d.sync += refused.eq(1)
                answer(1)

            with m.State("ANSWER"):
                reads = Signal()
                nbytes = Signal(16)
                m.d.comb += [
                    reads.eq((opcode == Command.READ) & ~refused),
                    nbytes.eq(Mux(reads, left, answer_words << 2)),
                    sender.i.valid.eq(1),
                    sender.i.payload.last.eq((count == 3) & (nbytes == 0)),
                ]
                with m.Switch(count[:2]):
                    with m.Case(0):
                        m.d.comb += sender.i.payload.data.eq(Mux(refused, REFUSED,
                                                                 opcode | ANSWER))
                    with m.Case(1):
                        m.d.comb += sender.i.payload.data.eq(sequence)
                    with m.Case(2):
                        m.d.comb += sender.i.payload.data.eq(nbytes[:8])
                    with m.Default():
                        m.d.comb += sender.i.payload.data.eq(nbytes[8:])
                with m.If(sender.i.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == 3):
                        m.d.sync += count.eq(0)
                        with m.If(reads):
                            m.next = "BYTES"
                        with m.Elif(answer_words == 0):
                            m.next = "OPCODE"
                        with m.Else():
                            m.next = "INDEX"

            with m.State("BYTES"):
                m.d.comb += [
                    sender.i.payload.data.eq(reader.o.payload),
                    sender.i.payload.last.eq(left == 1),
                    sender.i.valid.eq(reader.o.valid),
                    reader.o.ready.eq(sender.i.ready),
                ]
                with m.If(reader.o.valid & reader.o.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "OPCODE"

            with m.State("INDEX"):
                # Counters and timestamps follow their index by a cycle.
                m.next = "WORD"

            with m.State("WORD"):
                with m.If(refused):
                    m.d.sync += word.eq(Cat(reason, Const(0, 8 - len(reason)), opcode, expected))
                with m.Else():
                    self._words(m, opcode, word_index, word, expected, session, continued, runs,
                                third)
                with m.If((opcode == Command.TIMESTAMPS) & word_index[0]):
                    m.d.sync += address.eq(address + 1)
                m.d.sync += [word_index.eq(word_index + 1), answer_words.eq(answer_words - 1)]
                m.next = "SEND"

            with m.State("SEND"):
                m.d.comb += [
                    sender.i.payload.data.eq(word[:8]),
                    sender.i.payload.last.eq((count == 3) & (answer_words == 0)),
                    sender.i.valid.eq(1),
                ]
                with m.If(sender.i.ready):
                    m.d.sync += [word.eq(word >> 8), count.eq(count + 1)]
                    with m.If(count == 3):
                        m.d.sync += count.eq(0)
                        with m.If(answer_words == 0):
                            m.next = "OPCODE"
                        with m.Else():
                            m.next = "INDEX"

        with m.If(receiver.dropped):
            m.d.sync += dropped.eq(1)
        return m

    def _check(self, m, opcode, arguments, left, refuse):
        """States that check ranges before anything is done."""
        address, length, third = arguments
        start = Signal(32)
        nbytes = Signal(32)
        limit = Signal(32)
        end = Signal(33)
        m.d.comb += [
            start.eq(address),
            nbytes.eq(length),
            limit.eq(self._config.memory_size),
            end.eq(start + nbytes),
        ]
        checked = (Command.READ, Command.WRITE, Command.RUN, Command.TIMESTAMPS, Command.CRC,
                   Command.FILL, Command.COPY)
        with m.State("CHECK"):
            too_long = Signal()
            misaligned = Signal()
            with m.Switch(opcode):
                with m.Case(Command.READ):
                    m.d.comb += too_long.eq(length > MAX_DATA)
                with m.Case(Command.WRITE):
                    m.d.comb += nbytes.eq(left)
                with m.Case(Command.RUN):
                    m.d.comb += [nbytes.eq(DESCRIPTOR_BYTES),
                                 misaligned.eq(address % DESCRIPTOR_BYTES != 0)]
                with m.Case(Command.TIMESTAMPS):
                    m.d.comb += [too_long.eq(length > MAX_TIMESTAMPS),
                                 limit.eq(self.control.timestamp_count)]
            with m.Switch(opcode):
                with m.Case(*checked):
                    with m.If((nbytes == 0) | too_long):
                        refuse(Refusal.LENGTH, "SKIP")
                    with m.Elif((end > limit) | misaligned):
                        refuse(Refusal.ADDRESS, "SKIP")
                    with m.Elif(opcode == Command.COPY):
                        m.next = "CHECK DESTINATION"
                    with m.Else():
                        m.next = "EXECUTE"
                with m.Default():
                    m.next = "EXECUTE"
        with m.State("CHECK DESTINATION"):
            m.d.comb += start.eq(third)
            with m.If(end > limit):
                refuse(Refusal.ADDRESS, "SKIP")
            with m.Else():
                m.next = "EXECUTE"

    def _effect(self, m, opcode, arguments, watchdog, reader, writer, answer):
        """What state EXECUTE does for the requests with an effect."""
        address, _, third = arguments
        m.d.comb += writer.address.eq(address)
        with m.Switch(opcode):
            with m.Case(Command.WRITE):
                m.d.comb += writer.start.eq(1)
                m.next = "WRITE"
            with m.Case(Command.FILL):
                m.d.comb += writer.start.eq(1)
                m.next = "FILL"
            with m.Case(Command.COPY):
                m.d.comb += [writer.start.eq(1), writer.address.eq(third),
                             reader.request.valid.eq(1)]
                m.next = "COPY"
            with m.Case(Command.CANCEL):
                m.d.comb += self.control.cancel.eq(1)
                answer()
            with m.Case(Command.RESET):
                m.d.comb += self.control.cancel.eq(1)
                m.d.sync += address.eq(0)
                m.next = "QUIET"
            with m.Case(Command.WATCHDOG):
                m.d.sync += watchdog.eq(address)
                answer()

    def _words(self, m, opcode, index, word, expected, session, continued, runs, crc):
        """What state WORD answers with, by opcode and index."""
        control = self.control
        with m.Switch(opcode):
            with m.Case(Command.HELLO):
                identity = Identity.of(self._config, build=self._build).encode()
                for number in range(len(identity) // 4):
                    with m.Switch(index), m.Case(number):
                        m.d.sync += word.eq(int.from_bytes(
                            identity[4 * number:4 * number + 4], "little"))
                with m.Switch(index):
                    with m.Case(0):
                        m.d.sync += word.eq(Cat(Const(VERSION, 8), expected, session))
                    with m.Case(1):
                        m.d.sync += word[0].eq(continued)
            with m.Case(Command.STATUS), m.Switch(index):
                with m.Case(0):
                    m.d.sync += word.eq(Cat(
                        control.busy, Const(0, 7),
                        control.error, Const(0, 8 - len(control.error)),
                        control.error_queue))
                with m.Case(1):
                    m.d.sync += word.eq(control.error_address)
                with m.Case(2):
                    m.d.sync += word.eq(runs)
                with m.Case(3):
                    m.d.sync += word.eq(control.timestamp_count)
                with m.Default():
                    m.d.sync += word.eq(control.counter_value)
            with m.Case(Command.COUNTERS):
                m.d.sync += word.eq(control.counter_value)
            with m.Case(Command.TIMESTAMPS):
                m.d.sync += word.eq(Mux(index[0], control.timestamp_active,
                                        control.timestamp_cycles))
            with m.Case(Command.RUN):
                m.d.sync += word.eq(runs)
            with m.Case(Command.CRC):
                m.d.sync += word.eq(~crc)
