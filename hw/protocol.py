"""The host link's protocol: the one definition that gateware, driver and golden peer share.

**Frames.** A frame is COBS-coded and stands between zero bytes, one before and one behind it, so
that nothing that precedes a good frame can spoil it. Decoded it is

    opcode 8 | sequence 8 | length 16 | payload | CRC-32 over all of it

little-endian, with at most `MAX_FRAME` bytes, up to which CRC-32 finds every four wrong bits
(Hamming distance 5). The CRC is zlib's with the session number as start value; sessions differ, so
a frame left over from another session never checks, whatever its length. HELLO and its answer use
session 0. A frame that does not check is dropped.

**Sessions.** HELLO opens one: it names a session number that the host draws at random, and the one
the host had before. A device that has this session already only answers; otherwise it takes the new
number and expects sequence 0. The answer says whether the session before was the host's, so that a
device that was restarted is found out. HELLO is outside the sequence; its number is echoed.

**Order.** The device executes requests in sequence, modulo 256. A request from the future is
dropped, and after anything dropped the device sends one RESEND refusal that names the sequence it
expects, once nothing else is left to do. A request from the past is a repetition: it is answered
again, and what has an effect (`EFFECTS`) is not done again. What has none is done again, so a host
must not have a request with an effect on the way together with one whose answer depends on it.
A refused request counts as executed.

**Requests.** A payload is 32-bit arguments (`ARGUMENTS`), behind which only WRITE has data. Answers
carry the request's opcode with bit `ANSWER` set. Byte addresses and lengths have any alignment.
A range outside of main memory is refused, and so is one without bytes.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from cobs import cobs

from .config import Config

__all__ = [
    "ANSWER",
    "ARGUMENTS",
    "COUNTERS",
    "CRC_BYTES",
    "DELIMITER",
    "EFFECTS",
    "HEADER_BYTES",
    "MAX_DATA",
    "MAX_ENCODED",
    "MAX_FRAME",
    "MAX_TIMESTAMPS",
    "REFUSED",
    "VERSION",
    "WATCHDOG_DEFAULT",
    "Command",
    "Counter",
    "Deframer",
    "Frame",
    "Identity",
    "Refusal",
    "Status",
    "check_payload",
    "decode_frame",
    "encode_frame",
    "words",
]

VERSION = 1
DELIMITER = 0
ANSWER = 0x80
REFUSED = ANSWER
"""Opcode of a refusal: payload `reason | opcode << 8 | expected sequence << 16`."""

HEADER_BYTES = 4
CRC_BYTES = 4
MAX_DATA = 352
"""Most data bytes of a READ or WRITE."""
MAX_FRAME = HEADER_BYTES + 4 + MAX_DATA + CRC_BYTES
"""Most bytes of a decoded frame (CRC-32 has Hamming distance 5 up to 371)."""
MAX_ENCODED = MAX_FRAME + 2
"""Most bytes of a COBS-coded frame, without delimiters."""
MAX_TIMESTAMPS = MAX_DATA // 8
"""Most entries of the timestamp log in one answer."""
WATCHDOG_DEFAULT = 1 << 24
"""Cycles after which a run that retires nothing is stopped, until the host sets another number."""


class Command(IntEnum):
    """Opcodes of requests, with their arguments and the payload of the answer."""

    HELLO = 1        # version | session << 16, session before -> Identity
    READ = 2         # address, length (1 to MAX_DATA) -> the bytes
    WRITE = 3        # address, then 1 to MAX_DATA bytes of data -> nothing
    RUN = 4          # descriptor's address, a multiple of 64 -> runs begun so far, modulo 65536
    STATUS = 5       # -> Status
    CANCEL = 6       # -> nothing; a run in progress ends as CANCELLED
    RESET = 7        # cancels, waits until the core is idle, forgets watchdog and runs -> nothing
    COUNTERS = 8     # -> one word a `Counter`
    TIMESTAMPS = 9   # first entry, entries (1 to MAX_TIMESTAMPS) -> cycle, active cycles of each
    CRC = 10         # address, length, start value -> zlib.crc32(the bytes, start value)
    WATCHDOG = 11    # cycles -> nothing
    FILL = 12        # address, length -> nothing; the bytes become 0
    COPY = 13        # address, length, destination, which must not overlap -> nothing


ARGUMENTS: dict[Command, int] = {
    Command.HELLO: 2, Command.READ: 2, Command.WRITE: 1, Command.RUN: 1, Command.STATUS: 0,
    Command.CANCEL: 0, Command.RESET: 0, Command.COUNTERS: 0, Command.TIMESTAMPS: 2,
    Command.CRC: 3, Command.WATCHDOG: 1, Command.FILL: 2, Command.COPY: 3,
}
"""32-bit arguments of each request."""

EFFECTS = frozenset({Command.WRITE, Command.RUN, Command.CANCEL, Command.RESET, Command.WATCHDOG,
                     Command.FILL, Command.COPY})
"""Requests that change something, which a repetition does not do again."""


class Refusal(IntEnum):
    """Why a request was not executed."""

    RESEND = 1   # something was dropped; the expected sequence comes next
    COMMAND = 2  # no such opcode
    LENGTH = 3   # payload or length argument does not suit the opcode
    ADDRESS = 4  # outside of main memory or the timestamp log, or a misaligned descriptor
    BUSY = 5     # RUN while a run is in progress


class Counter(IntEnum):
    """32-bit counters of a run, in the order of the COUNTERS answer; cleared when a run starts.

    For each queue: ACTIVE cycles do useful work (the array: a pixel enters it), WAIT cycles have an
    instruction whose thresholds are not met, STALL cycles have begun one but were refused a
    resource, RETIRED counts instructions. ARRAY_WEIGHT is the part of the array's stalls in which
    the next tile was not there yet.
    """

    CYCLES = 0
    BYTES_READ = 1
    BYTES_WRITTEN = 2
    ARRAY_WEIGHT = 3
    LOAD_ACTIVE = 4
    LOAD_WAIT = 5
    LOAD_STALL = 6
    LOAD_RETIRED = 7
    ARRAY_ACTIVE = 8
    ARRAY_WAIT = 9
    ARRAY_STALL = 10
    ARRAY_RETIRED = 11
    VECTOR_ACTIVE = 12
    VECTOR_WAIT = 13
    VECTOR_STALL = 14
    VECTOR_RETIRED = 15
    POST_ACTIVE = 16
    POST_WAIT = 17
    POST_STALL = 18
    POST_RETIRED = 19
    STORE_ACTIVE = 20
    STORE_WAIT = 21
    STORE_STALL = 22
    STORE_RETIRED = 23


COUNTERS = len(Counter)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a device says about itself in HELLO.

    `expected` is the next sequence number, `continued` whether the device still had the host's
    session; `config_hash` is 64 bits, `build` identifies the bitstream or simulator build.
    """

    version: int
    expected: int
    session: int
    continued: bool
    rows: int
    columns: int
    lanes: int
    beat_bytes: int
    counters: int
    timestamps: int
    memory_size: int
    config_hash: int
    clock_khz: int
    build: int

    _LAYOUT = struct.Struct("<BBHBBBBBBHIQIQ")

    @classmethod
    def of(cls, config: Config, *, build: int = 0, expected: int = 0, session: int = 0,
           continued: bool = False) -> "Identity":
        """The identity of a device of this configuration."""
        return cls(
            version=VERSION, expected=expected, session=session, continued=continued,
            rows=config.rows, columns=config.columns, lanes=config.lanes,
            beat_bytes=config.memory_bytes_per_beat, counters=COUNTERS,
            timestamps=config.timestamps, memory_size=config.memory_size,
            config_hash=int(config.hash, 16), clock_khz=round(1000 * config.clock_mhz),
            build=build)

    def encode(self) -> bytes:
        """The HELLO answer's payload: nine 32-bit words."""
        return self._LAYOUT.pack(
            self.version, self.expected, self.session, self.continued, self.rows, self.columns,
            self.lanes, self.beat_bytes, self.counters, self.timestamps, self.memory_size,
            self.config_hash, self.clock_khz, self.build)

    @classmethod
    def decode(cls, payload: bytes) -> "Identity":
        """Raises ValueError when the payload is no identity of this version."""
        if len(payload) != cls._LAYOUT.size:
            raise ValueError(f"an identity has {cls._LAYOUT.size} bytes, not {len(payload)}")
        (version, expected, session, flags, rows, columns, lanes, beat, counters, timestamps,
         memory_size, config_hash, clock_khz, build) = cls._LAYOUT.unpack(payload)
        return cls(
            version=version, expected=expected, session=session, continued=bool(flags & 1),
            rows=rows, columns=columns, lanes=lanes, beat_bytes=beat, counters=counters,
            timestamps=timestamps, memory_size=memory_size, config_hash=config_hash,
            clock_khz=clock_khz, build=build)


@dataclass(frozen=True, kw_only=True)
class Status:
    """The outcome of the last run, or the state of the present one.

    `error` is an `isa.ErrorCode`, `queue` an `isa.Queue`, `address` the byte address of the
    instruction that failed; `runs` counts the runs begun, modulo 65536, `timestamps` the log's
    entries, `cycles` the run's cycles (`Counter.CYCLES`).
    """

    busy: bool = False
    error: int = 0
    queue: int = 0
    address: int = 0
    runs: int = 0
    timestamps: int = 0
    cycles: int = 0

    _LAYOUT = struct.Struct("<BBBxIIII")

    def encode(self) -> bytes:
        """The STATUS answer's payload: five 32-bit words."""
        return self._LAYOUT.pack(self.busy, self.error, self.queue, self.address, self.runs,
                                 self.timestamps, self.cycles)

    @classmethod
    def decode(cls, payload: bytes) -> "Status":
        """Raises ValueError when the payload is no status."""
        if len(payload) != cls._LAYOUT.size:
            raise ValueError(f"a status has {cls._LAYOUT.size} bytes, not {len(payload)}")
        busy, error, queue, address, runs, timestamps, cycles = cls._LAYOUT.unpack(payload)
        return cls(busy=bool(busy), error=error, queue=queue, address=address, runs=runs,
                   timestamps=timestamps, cycles=cycles)


def check_payload(opcode: int, length: int) -> Refusal | None:
    """Whether a request's payload length suits its opcode; the reason for refusal if not."""
    try:
        command = Command(opcode)
    except ValueError:
        return Refusal.COMMAND
    extra = length - 4 * ARGUMENTS[command]
    allowed = 1 <= extra <= MAX_DATA if command is Command.WRITE else extra == 0
    return None if allowed else Refusal.LENGTH


class Frame(NamedTuple):
    """A decoded frame that checked."""

    opcode: int
    sequence: int
    payload: bytes


def words(*values: int) -> bytes:
    """32-bit little-endian words: the arguments of a request, or of an answer."""
    return struct.pack(f"<{len(values)}I", *values)


def encode_frame(opcode: int, sequence: int, payload: bytes, session: int) -> bytes:
    """The bytes of a frame on the line, delimiters included."""
    body = struct.pack("<BBH", opcode, sequence, len(payload)) + payload
    if len(body) + CRC_BYTES > MAX_FRAME:
        raise ValueError(f"a frame has at most {MAX_FRAME} bytes, not {len(body) + CRC_BYTES}")
    start = 0 if opcode & ~ANSWER == Command.HELLO else session
    return b"\0" + cobs.encode(body + words(zlib.crc32(body, start))) + b"\0"


def decode_frame(encoded: bytes, session: int) -> Frame | None:
    """The frame that the bytes between two delimiters hold, or None when it does not check."""
    try:
        body = cobs.decode(encoded)
    except cobs.DecodeError:
        return None
    length = len(body) - HEADER_BYTES - CRC_BYTES
    if not 0 <= length <= MAX_FRAME - HEADER_BYTES - CRC_BYTES:
        return None
    opcode, sequence, stated = struct.unpack_from("<BBH", body)
    start = 0 if opcode & ~ANSWER == Command.HELLO else session
    if stated != length or zlib.crc32(body[:-CRC_BYTES], start) != int.from_bytes(
            body[-CRC_BYTES:], "little"):
        return None
    return Frame(opcode, sequence, body[HEADER_BYTES:-CRC_BYTES])


class Deframer:
    """Cuts a stream of bytes at its delimiters, in bounded memory."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces that `data` completes, without empty ones. A piece that is too long to be a
        frame is cut off where it cannot become one any more."""
        *complete, rest = data.split(b"\0")
        pieces = []
        for part in complete:
            if self._partial:
                part = bytes(self._partial) + part
                self._partial.clear()
            if part:
                pieces.append(part[:MAX_ENCODED + 1])
        if len(self._partial) <= MAX_ENCODED:
            self._partial += rest[:MAX_ENCODED + 1]
        return pieces

    def clear(self) -> None:
        """Forget an incomplete piece."""
        self._partial.clear()
