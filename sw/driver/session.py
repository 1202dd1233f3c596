"""The host's end of the protocol, without any input or output of its own.

`Session` is fed with the bytes that arrive and asked for the bytes to send; time is an argument.
So the same code serves serial ports, sockets, simulators and tests that run a virtual clock.

How loss is met: a request whose answer overtook an older one's shows that the older answer was
lost, and the older request is repeated at once. A RESEND refusal repeats everything on the way, at
most once a round trip. Whatever else is lost is found by a timer on the oldest request. When a
large request keeps failing, a new session is opened and what was not answered is asked anew in
smaller pieces; this is safe for reads and writes only, so all other requests with an effect are
repeated as they are, which the device recognizes.
"""

import math
import random
from collections import deque

from systolith.errors import DeviceError, Error, LinkError
from systolith.hw.protocol import (
    ANSWER,
    MAX_DATA,
    REFUSED,
    VERSION,
    Command,
    Deframer,
    Frame,
    Identity,
    Refusal,
    decode_frame,
    encode_frame,
    words,
)

from .jobs import Job, Piece

__all__ = ["Session", "Statistics"]

MIN_DATA = 16
"""Least data bytes of a request on a bad line."""
MAX_SPREAD = 100
"""Requests that may lie between the oldest unanswered one and the next; the device knows 127."""

_OVERHEAD = 24.0
"""Bytes of request and answer beside the data."""
_TRIES = 12
"""Least number of tries before a device is given up, however slow the line."""
_ALL_RETRIED = 32
"""Requests in a row that needed several tries, after which the line's round trip is doubted."""
_MEMORY = 64.0
"""Requests over which the damage is averaged."""


class Statistics:
    """What happened on a link so far."""

    def __init__(self) -> None:
        self.requests = 0       # requests answered
        self.repetitions = 0    # requests sent more than once
        self.sessions = 0       # sessions opened
        self.damaged = 0        # pieces received that are no frame of this session


class Session:
    """One host's conversation with one device.

    Parameters
    ----------
    window
        Requests on the way at once.
    timeout
        Seconds until the first repetition, before the round trip is known.
    floor
        Least seconds until a repetition afterwards.
    silence
        Seconds without any sign of life after which the device is given up; more on a line whose
        round trips take long.
    name
        What to call the device in messages.
    seed
        For the session numbers; random by default.

    Members
    -------
    identity
        The device's answer to HELLO, once there is one.
    silence
        The parameter, which may be changed.
    error
        Why the session is over, if it is; all its jobs have failed with this.
    """

    def __init__(self, *, window: int = 8, timeout: float = 0.25, floor: float = 0.02,
                 silence: float = 5.0, name: str = "the device", seed: int | None = None):
        self.identity: Identity | None = None
        self.error: Error | None = None
        self.statistics = Statistics()
        self._window = window
        self._timeout = timeout
        self._floor = floor
        self.silence = silence
        self._name = name
        self._random = random.Random(seed)
        self._deframer = Deframer()
        self._jobs: deque[Job] = deque()
        self._outstanding: dict[int, Piece] = {}
        self._resend: dict[int, Piece] = {}
        self._size = MAX_DATA
        self._bytes = float(MAX_DATA)
        self._losses = 0.0
        self._session = 0
        self._next = 0
        self._order = 0
        self._round_trip: float | None = None
        self._late = 0.0
        self._retried = 0
        self._went_back = -1e9
        self._heard: float | None = None
        self._progressed: float | None = None
        self._opening = False
        self._hello_at = -1e9
        self._hello_wait = timeout
        self._previous = 0
        self._open_session(0)

    # What the user of a session calls -----------------------------------------------------------

    def submit(self, job: Job, *, urgent: bool = False) -> None:
        """Queue a job; it is begun after those before it, or before all others if urgent."""
        if self.error is not None:
            job.fail(self.error)
        elif job.done:
            return
        elif urgent:
            self._jobs.appendleft(job)
        else:
            self._jobs.append(job)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return self.error is not None or not (self._opening or self._jobs or self._outstanding)

    def fail(self, error: Error) -> None:
        """End the session: every job not done fails with `error`."""
        self.error = self.error or error
        pending = {id(piece.job): piece.job for piece in self._outstanding.values()}
        pending |= {id(job): job for job in self._jobs}
        self._outstanding.clear()
        self._resend.clear()
        self._jobs.clear()
        for job in pending.values():
            if not job.done:
                job.fail(self.error)

    def transmit(self, now: float) -> bytes:
        """The bytes to be sent now."""
        if self.error is not None:
            return b""
        self._check_silence(now)
        if self._opening:
            return self._send_hello(now)
        out = bytearray()
        self._check_timer(now)
        for repeated in self._resend.values():
            out += self._send(repeated, now)
        self._resend.clear()
        if self._lost_session():
            return bytes(out) + self._send_hello(now)
        while len(self._outstanding) < self._window and (piece := self._next_piece()) is not None:
            piece.sequence, self._next = self._next, (self._next + 1) & 0xFF
            piece.frame = encode_frame(piece.command, piece.sequence, piece.payload,
                                       self._session)
            piece.attempts = 0
            self._outstanding[piece.sequence] = piece
            out += self._send(piece, now)
        return bytes(out)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes that arrived."""
        for piece in self._deframer.feed(data):
            frame = decode_frame(piece, self._session)
            if frame is None:
                self.statistics.damaged += 1
                continue
            if self._opening:
                self._take_identity(frame, now)
            else:
                self._take_answer(frame, now)

    def wake_at(self, now: float) -> float:
        """When `transmit` wants to be called again though nothing arrives."""
        if self.error is not None:
            return now
        if self._opening:
            return self._hello_at + self._hello_wait
        if not self._outstanding:
            return now + self.silence
        return min(self._deadline(next(iter(self._outstanding.values()))), now + self.silence)

    # Opening ------------------------------------------------------------------------------------

    def _open_session(self, previous: int) -> None:
        """Begin a new session; what is on the way goes back to its jobs."""
        back: list[Job] = []
        for piece in self._outstanding.values():
            piece.job.put_back(piece)
            if piece.job not in back and piece.job not in self._jobs:
                back.append(piece.job)
        self._jobs.extendleft(reversed(back))
        self._outstanding.clear()
        self._resend.clear()
        self._previous = previous
        self._session = self._random.randrange(1, 0xFFFF)
        if self._session == previous:
            self._session ^= 1
        self._next = 0
        self._hello_at = -1e9
        self._hello_wait = self._rto
        self._opening = True

    def _send_hello(self, now: float) -> bytes:
        if now < self._hello_at + self._hello_wait:
            return b""
        self._hello_at = now
        return encode_frame(Command.HELLO, 0, words(VERSION | self._session << 16, self._previous),
                            self._session)

    def _take_identity(self, frame: Frame, now: float) -> None:
        if frame.opcode != Command.HELLO | ANSWER:
            return
        self._heard = now
        version = frame.payload[0] if frame.payload else None
        if version != VERSION:
            self.fail(DeviceError(f"{self._name} speaks version {version} of the link protocol "
                                  f"and this driver version {VERSION}: use a bitstream and a "
                                  "driver of the same release"))
            return
        try:
            identity = Identity.decode(frame.payload)
        except ValueError:
            return
        if identity.session != self._session:
            return
        if self._previous and not identity.continued:
            self.fail(LinkError(f"{self._name} was restarted, or taken by another program, while "
                                "in use: open it again"))
            return
        self.identity = identity
        self._progressed = now
        self.statistics.sessions += 1
        self._opening = False

    # Sending ------------------------------------------------------------------------------------

    def _lost_session(self) -> bool:
        """Whether a new session is to be opened, asked again after something that may lose it."""
        return self._opening

    def _next_piece(self) -> Piece | None:
        """The next request, if there is one that may be on the way together with the others."""
        if self._outstanding:
            oldest = next(iter(self._outstanding))
            if (self._next - oldest) & 0xFF >= MAX_SPREAD:
                return None
        while self._jobs:
            job = self._jobs[0]
            if job.done:
                self._jobs.popleft()
                continue
            if any(other.job is not job and job.must_follow(other.job)
                   for other in self._outstanding.values()):
                return None
            piece = job.take(self._size)
            if piece is not None:
                return piece
            self._jobs.popleft()
        return None

    def _send(self, piece: Piece, now: float) -> bytes:
        if piece.attempts:
            self.statistics.repetitions += 1
        else:
            piece.first_sent_at = now
        self._order += 1
        piece.attempts += 1
        # Behind a request that takes the device long, an answer says nothing about the link.
        piece.timed = not any(other.job.patience for other in self._outstanding.values())
        piece.sent_at = now
        piece.order = self._order
        return piece.frame

    # Receiving ----------------------------------------------------------------------------------

    def _take_answer(self, frame: Frame, now: float) -> None:
        self._heard = now
        if frame.opcode == REFUSED:
            self._take_refusal(frame, now)
            return
        piece = self._outstanding.get(frame.sequence)
        if (piece is None or frame.opcode != piece.command | ANSWER
                or len(frame.payload) != piece.answer_bytes):
            return
        self._settle(piece, now)
        piece.job.answer(piece, frame.payload)

    def _settle(self, piece: Piece, now: float) -> None:
        """A request is answered: learn from it, and forget it."""
        del self._outstanding[piece.sequence]
        self._resend.pop(piece.sequence, None)
        self._progressed = now
        self.statistics.requests += 1
        piece.job.seconds = now - piece.first_sent_at
        if piece.attempts == 1:
            if piece.timed:
                sample = now - piece.sent_at
                old = sample if self._round_trip is None else self._round_trip
                self._round_trip = max(sample, old + (sample - old) / 8)
            self._retried = 0
            self._learn(piece, lost=False)
        elif piece.timed:
            self._settle_late(now - piece.first_sent_at)
        for older in self._outstanding.values():
            if older.order >= piece.order:
                break
            # The device answers in order, so this one's answer is lost.
            if older.sequence not in self._resend:
                self._resend[older.sequence] = older
                self._learn(older, lost=True)

    def _settle_late(self, seconds: float) -> None:
        """Nobody knows which of several tries was answered; the first, if the line is that slow.

        That is believed until an answer comes in time and can be timed, and believed again when
        none has for a long while.
        """
        self._retried += 1
        if self._retried >= _ALL_RETRIED:
            self._round_trip = None
        if self._round_trip is None:
            self._late = min(seconds, self.silence)

    def _take_refusal(self, frame: Frame, now: float) -> None:
        if len(frame.payload) != 4:
            return
        reason, opcode, expected, _ = frame.payload
        if reason == Refusal.RESEND:
            wait = self._timeout / 4 if self._round_trip is None else self._round_trip
            if self._outstanding and now - self._went_back >= wait:
                self._went_back = now
                self._resend = dict(self._outstanding)
                culprit = self._outstanding.get(expected)
                if culprit is not None:
                    self._learn(culprit, lost=True)
                    self._consider_smaller(culprit)
            return
        piece = self._outstanding.get(frame.sequence)
        if piece is None or piece.command != opcode:
            return
        self._settle(piece, now)
        name = Refusal(reason).name if reason in set(Refusal) else str(reason)
        piece.job.fail(DeviceError(
            f"{self._name} refused {piece.command.name} because of {name}: the driver and the "
            "device do not fit together, or another program is using it"))

    # Loss ---------------------------------------------------------------------------------------

    def _learn(self, piece: Piece, *, lost: bool) -> None:
        """Choose the size of pieces by the damage seen lately.

        With d damages a byte and h bytes around a piece's data, n data bytes get through with
        probability exp(-d(n + h)), and n/(n + h) of the line is of use: best is about sqrt(h/d).
        """
        self._bytes += (len(piece.frame) + piece.answer_bytes - self._bytes) / _MEMORY
        self._losses += ((1.0 if lost else 0.0) - self._losses) / _MEMORY
        if self._losses > 0:
            best = math.sqrt(_OVERHEAD * self._bytes / self._losses)
            self._size = max(MIN_DATA, min(MAX_DATA, int(best)))

    def _consider_smaller(self, piece: Piece | None) -> None:
        """Open a new session when a large request keeps failing."""
        if piece is None or piece.attempts < 4 or piece.nbytes <= MIN_DATA:
            return
        if any(other.job.effect for other in self._outstanding.values()):
            return
        self._size = max(MIN_DATA, min(self._size, piece.nbytes // 2))
        self._open_session(self._session)

    @property
    def _rto(self) -> float:
        """Seconds until a repetition."""
        if self._round_trip is None:
            return max(self._timeout, self._late)
        return max(self._floor, 2 * self._round_trip)

    def _deadline(self, piece: Piece) -> float:
        # Nobody else is on the line, so there is no reason to wait longer and longer.
        begun = piece.sent_at if self._progressed is None else max(piece.sent_at, self._progressed)
        return begun + self._rto + _patience(piece)

    def _check_timer(self, now: float) -> None:
        if not self._outstanding:
            return
        oldest = next(iter(self._outstanding.values()))
        if now >= self._deadline(oldest) and oldest.sequence not in self._resend:
            self._resend[oldest.sequence] = oldest
            self._learn(oldest, lost=True)
            self._consider_smaller(oldest)

    def _check_silence(self, now: float) -> None:
        """Give up when nothing was heard, or nothing achieved, for too long."""
        waiting = self._opening or bool(self._outstanding)
        if not waiting:
            self._heard = self._progressed = None
            return
        self._heard = now if self._heard is None else self._heard
        self._progressed = now if self._progressed is None else self._progressed
        patience = max(map(_patience, self._outstanding.values()), default=0.0)
        slow = self._late if self._round_trip is None else 2 * self._round_trip
        limit = max(self.silence, _TRIES * slow) + patience
        if now - self._heard > limit:
            self.fail(LinkError(
                f"{self._name} has not answered for {limit:.3g} s: check that it is powered, "
                "connected and runs a systolith bitstream"))
        elif now - self._progressed > 10 * limit:
            self.fail(LinkError(
                f"{self._name} answers but no request got through for {10 * limit:.3g} s: check "
                "the cable and the baud rate"))


def _patience(piece: Piece) -> float:
    """Seconds to wait for the device itself: twice as long with every try, for each try may have
    given it all of the work again."""
    return piece.job.patience * 2.0 ** min(piece.attempts - 1, _TRIES)
