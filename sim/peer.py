"""The golden peer: what the link endpoint does, in Python.

It answers the bytes a host sends, over any memory and any core, so that the driver's session can
be tested at speed, and so that the gateware has something to be compared with.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from systolith.hw.config import Config
from systolith.hw.isa import DESCRIPTOR_BYTES, ErrorCode, Queue
from systolith.hw.protocol import (
    ANSWER,
    ARGUMENTS,
    COUNTERS,
    EFFECTS,
    MAX_DATA,
    MAX_TIMESTAMPS,
    REFUSED,
    WATCHDOG_DEFAULT,
    Command,
    Counter,
    Deframer,
    Frame,
    Identity,
    Refusal,
    Status,
    check_payload,
    decode_frame,
    encode_frame,
    words,
)

__all__ = ["Core", "GoldenCore", "Peer"]

_SPANS: dict[Command, tuple[tuple[int, int], ...]] = {
    Command.READ: ((0, 1),), Command.CRC: ((0, 1),), Command.FILL: ((0, 1),),
    Command.COPY: ((0, 1), (2, 1)),
}
"""For each command, argument numbers of address and length of the ranges it touches."""


class Core(Protocol):
    """The accelerator core as the endpoint sees it."""

    watchdog: int

    @property
    def busy(self) -> bool:
        """Whether a run is in progress."""

    @property
    def outcome(self) -> tuple[ErrorCode, Queue, int]:
        """Error, queue and instruction address of the last run."""

    @property
    def counters(self) -> Sequence[int]:
        """The last run's counters, in the order of `protocol.Counter`."""

    @property
    def timestamps(self) -> Sequence[tuple[int, int]]:
        """The last run's log: cycle and active cycles at each mark."""

    def start(self, base: int) -> None:
        """Begin the run whose descriptor lies at `base`."""

    def cancel(self) -> None:
        """Stop the run in progress, if any."""


class GoldenCore:
    """A core that runs the golden interpreter, to the end, in the moment it is started.

    `memory` is main memory, a writable buffer of `config.memory_size` bytes.
    """

    def __init__(self, config: Config, memory: Any):
        from .golden import Golden

        self._golden = Golden(config)
        self._memory = memory
        self.watchdog = WATCHDOG_DEFAULT
        self.busy = False
        self.outcome = (ErrorCode.NONE, Queue.LOAD, 0)
        self.counters: list[int] = [0] * COUNTERS
        self.timestamps: list[tuple[int, int]] = []

    def start(self, base: int) -> None:
        """Run the program at `base`."""
        outcome = self._golden.run(self._memory, base)
        self.outcome = (ErrorCode(outcome.error), Queue(outcome.queue), outcome.address)

    def cancel(self) -> None:
        """Nothing is ever in progress."""


class Peer:
    """The device's end of one link.

    Parameters
    ----------
    config
        The device's configuration.
    memory
        Main memory, a writable buffer of `config.memory_size` bytes.
    core
        What RUN starts.
    build
        Build identity for HELLO.
    """

    def __init__(self, config: Config, memory: Any, core: Core, *, build: int = 0):
        self.config = config
        self.core = core
        self.executed: list[Frame] = []
        """Requests with an effect, as they were executed (a record for tests)."""
        self._memory = memoryview(memory).cast("B")
        self._build = build
        self._deframer = Deframer()
        self._session = 0
        self._continued = False
        self._expected = 0
        self._dropped = False
        self._runs = 0
        self._run_sequence: int | None = None

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the line and return those that the device sends in answer."""
        out = bytearray()
        for piece in self._deframer.feed(data):
            frame = decode_frame(piece, self._session)
            if frame is None:
                self._dropped = True
            elif frame.opcode == Command.HELLO and check_payload(*_head(frame)) is None:
                out += self._hello(frame)
            else:
                out += self._ordered(frame)
        if self._dropped:
            self._dropped = False
            out += self._refuse(self._expected, Refusal.RESEND, 0)
        return bytes(out)

    def _hello(self, frame: Frame) -> bytes:
        first, previous = _words(frame.payload)
        session = first >> 16
        if session != self._session:
            self._continued = self._session == previous & 0xFFFF
            self._session = session
            self._expected = 0
            self._run_sequence = None
            self._dropped = False
        identity = Identity.of(self.config, build=self._build, expected=self._expected,
                               session=session, continued=self._continued)
        return encode_frame(frame.opcode | ANSWER, frame.sequence, identity.encode(), session)

    def _ordered(self, frame: Frame) -> bytes:
        age = (self._expected - frame.sequence) & 0xFF
        if age >= 128:
            self._dropped = True
            return b""
        repeated = age != 0
        if not repeated:
            self._expected = (self._expected + 1) & 0xFF
        answer = self._execute(frame, repeated)
        if isinstance(answer, Refusal):
            return self._refuse(frame.sequence, answer, frame.opcode)
        return encode_frame(frame.opcode | ANSWER, frame.sequence, answer, self._session)

    def _refuse(self, sequence: int, reason: Refusal, opcode: int) -> bytes:
        payload = words(reason | opcode << 8 | self._expected << 16)
        return encode_frame(REFUSED, sequence, payload, self._session)

    def _execute(self, frame: Frame, repeated: bool) -> bytes | Refusal:
        refusal = check_payload(*_head(frame))
        if refusal is not None:
            return refusal
        command = Command(frame.opcode)
        count = ARGUMENTS[command]
        arguments = _words(frame.payload[:4 * count])
        refusal = self._check_ranges(command, arguments, len(frame.payload) - 4 * count)
        if refusal is not None:
            return refusal
        if command is Command.RUN:
            if not repeated:
                self._run_sequence = None if self.core.busy else frame.sequence
            if self._run_sequence != frame.sequence:
                return Refusal.BUSY
        if not (repeated and command in EFFECTS):
            if command in EFFECTS:
                self.executed.append(frame)
            handler: Callable[..., bytes] = getattr(self, f"_{command.name.lower()}")
            return handler(*arguments, *((frame.payload[4:],) if command is Command.WRITE else ()))
        return words(self._runs) if command is Command.RUN else b""

    def _check_ranges(self, command: Command, arguments: tuple[int, ...], data: int
                      ) -> Refusal | None:
        size = self.config.memory_size
        if command is Command.READ and arguments[1] > MAX_DATA:
            return Refusal.LENGTH
        for address, length in _SPANS.get(command, ()):
            nbytes = arguments[length]
            if nbytes == 0:
                return Refusal.LENGTH
            if arguments[address] + nbytes > size:
                return Refusal.ADDRESS
        if command is Command.WRITE and arguments[0] + data > size:
            return Refusal.ADDRESS
        if command is Command.RUN and (arguments[0] % DESCRIPTOR_BYTES
                                       or arguments[0] + DESCRIPTOR_BYTES > size):
            return Refusal.ADDRESS
        if command is Command.TIMESTAMPS:
            if not 1 <= arguments[1] <= MAX_TIMESTAMPS:
                return Refusal.LENGTH
            if sum(arguments) > len(self.core.timestamps):
                return Refusal.ADDRESS
        return None

    # One method a command, called by its name ----------------------------------------------------

    def _read(self, address: int, length: int) -> bytes:
        return bytes(self._memory[address:address + length])

    def _write(self, address: int, data: bytes) -> bytes:
        self._memory[address:address + len(data)] = data
        return b""

    def _run(self, base: int) -> bytes:
        self._runs = (self._runs + 1) & 0xFFFF
        self.core.start(base)
        return words(self._runs)

    def _status(self) -> bytes:
        error, queue, address = self.core.outcome
        return Status(busy=self.core.busy, error=error, queue=queue, address=address,
                      runs=self._runs, timestamps=len(self.core.timestamps),
                      cycles=self.core.counters[Counter.CYCLES]).encode()

    def _cancel(self) -> bytes:
        self.core.cancel()
        return b""

    def _reset(self) -> bytes:
        self.core.cancel()
        self.core.watchdog = WATCHDOG_DEFAULT
        self._runs = 0
        self._run_sequence = None
        return b""

    def _counters(self) -> bytes:
        return words(*self.core.counters)

    def _timestamps(self, first: int, count: int) -> bytes:
        return b"".join(words(*entry) for entry in self.core.timestamps[first:first + count])

    def _crc(self, address: int, length: int, start: int) -> bytes:
        return words(zlib.crc32(self._memory[address:address + length], start))

    def _watchdog(self, cycles: int) -> bytes:
        self.core.watchdog = cycles
        return b""

    def _fill(self, address: int, length: int) -> bytes:
        self._memory[address:address + length] = bytes(length)
        return b""

    def _copy(self, source: int, length: int, destination: int) -> bytes:
        self._memory[destination:destination + length] = bytes(
            self._memory[source:source + length])
        return b""


def _head(frame: Frame) -> tuple[int, int]:
    return frame.opcode, len(frame.payload)


def _words(payload: bytes) -> tuple[int, ...]:
    assert len(payload) % 4 == 0
    return tuple(int.from_bytes(payload[i:i + 4], "little") for i in range(0, len(payload), 4))
