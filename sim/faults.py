"""A line that damages what it carries, to put between driver and device.

`PeerTransport` connects a driver to a golden peer on a virtual clock, so that hours of timeouts
pass in no time; `FaultyTransport` wraps it, or any other transport, and does harm in both
directions, by seed.
"""

import random
import re
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Protocol

from systolith.errors import LinkError

__all__ = ["Faults", "FaultyTransport", "PeerTransport"]


_PIECES = re.compile(rb"\0*[^\0]*\0|[^\0]+$", re.DOTALL)


class _Pipe(Protocol):
    name: str

    def write(self, data: bytes) -> None: ...
    def read(self, timeout: float) -> bytes: ...
    def now(self) -> float: ...
    def close(self) -> None: ...


class _Answering(Protocol):
    def receive(self, data: bytes) -> bytes: ...


class PeerTransport:
    """A perfect line to a peer, with a clock that only moves while the host waits.

    Parameters
    ----------
    peer
        What answers: `systolith.sim.peer.Peer`.
    latency
        Seconds one way.
    bytes_per_second
        Rate of the line in each direction.
    """

    def __init__(self, peer: _Answering, *, latency: float = 1e-3,
                 bytes_per_second: float = 300e3):
        self.name = "the peer"
        self._peer = peer
        self._latency = latency
        self._seconds_per_byte = 1 / bytes_per_second
        self._now = 0.0
        self._up: deque[tuple[float, bytes]] = deque()
        self._down: deque[tuple[float, bytes]] = deque()
        self._up_free = 0.0
        self._down_free = 0.0

    def now(self) -> float:
        """The virtual clock."""
        return self._now

    def write(self, data: bytes) -> None:
        """Send bytes to the peer, which sees each piece when its last byte has arrived."""
        for piece in _PIECES.findall(data):
            self._up_free = max(self._now, self._up_free) + len(piece) * self._seconds_per_byte
            self._up.append((self._up_free + self._latency, piece))

    def read(self, timeout: float) -> bytes:
        """What the peer sent; the clock moves to where it arrives, at most by `timeout`."""
        end = self._now + max(timeout, 0.0)
        while True:
            self._deliver(self._now)
            if self._down and self._down[0][0] <= self._now:
                return self._down.popleft()[1]
            events = [queue[0][0] for queue in (self._up, self._down) if queue]
            if not events or min(events) > end:
                self._now = end
                return b""
            self._now = min(events)

    def _deliver(self, now: float) -> None:
        while self._up and self._up[0][0] <= now:
            at, data = self._up.popleft()
            answer = self._peer.receive(data)
            if answer:
                self._down_free = max(at, self._down_free) + len(answer) * self._seconds_per_byte
                self._down.append((self._down_free + self._latency, answer))

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities of harm.

    `flip`, `drop` a byte; `duplicate`, `truncate`, `reorder` (with the next), `garbage` (put random
    bytes before), `stall` (hold back for `stall_seconds`) a piece, where pieces are cut at
    delimiters. After `cut_after` bytes in both directions together the connection breaks.
    """

    flip: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    truncate: float = 0.0
    reorder: float = 0.0
    garbage: float = 0.0
    stall: float = 0.0
    stall_seconds: float = 0.05
    cut_after: int | None = None

    def replace(self, **changes: Any) -> "Faults":
        """A copy with some fields changed."""
        return replace(self, **changes)


class _Line:
    """One direction: pieces go in, harmed pieces come out, each at its time."""

    def __init__(self, faults: Faults, source: random.Random):
        self._faults = faults
        self._random = source
        self._partial = b""
        self._held: bytes | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self.harmed = 0
        self.pieces = 0

    def put(self, data: bytes, now: float) -> None:
        *pieces, self._partial = (self._partial + data).split(b"\0")
        for piece in pieces:
            self._put_piece(piece + b"\0", now)

    def _chance(self, probability: float) -> bool:
        hit = probability > 0 and self._random.random() < probability
        self.harmed += hit
        return hit

    def _put_piece(self, piece: bytes, now: float) -> None:
        faults, source = self._faults, self._random
        self.pieces += len(piece) > 1
        copies = 2 if self._chance(faults.duplicate) else 1
        if self._chance(faults.truncate):
            piece = piece[:source.randrange(len(piece))]
        if faults.flip or faults.drop:
            piece = self._harm_bytes(piece)
        if self._chance(faults.garbage):
            piece = source.randbytes(source.randrange(1, 40)) + piece
        at = now + (faults.stall_seconds if self._chance(faults.stall) else 0.0)
        if self._queue:
            at = max(at, self._queue[-1][0])
        out = piece * copies
        if self._held is not None:
            out, self._held = out + self._held, None
        elif self._chance(faults.reorder):
            self._held = out
            return
        self._queue.append((at, out))

    def _harm_bytes(self, piece: bytes) -> bytes:
        faults, source = self._faults, self._random
        out = bytearray()
        for byte in piece:
            if self._chance(faults.drop):
                continue
            out.append(byte ^ (1 << source.randrange(8)) if self._chance(faults.flip) else byte)
        return bytes(out)

    def take(self, now: float) -> bytes:
        out = bytearray()
        while self._queue and self._queue[0][0] <= now:
            out += self._queue.popleft()[1]
        return bytes(out)

    def due(self) -> float:
        return self._queue[0][0] if self._queue else float("inf")

    def release(self) -> None:
        """What was held to be reordered goes on when nothing follows it."""
        if self._held is not None:
            self._queue.append((0.0, self._held))
            self._held = None


class FaultyTransport:
    """A transport that harms what passes through another one.

    `harmed` counts the faults done so far, `pieces` the frames and fragments that passed.
    """

    def __init__(self, inner: _Pipe, faults: Faults, seed: int):
        self.name = inner.name
        self._inner = inner
        self._cut = faults.cut_after
        self._passed = 0
        source = random.Random(seed)
        self._up = _Line(faults, random.Random(source.getrandbits(64)))
        self._down = _Line(faults, random.Random(source.getrandbits(64)))

    @property
    def harmed(self) -> int:
        """Faults done so far."""
        return self._up.harmed + self._down.harmed

    @property
    def pieces(self) -> int:
        """Frames and fragments of frames that passed, in both directions."""
        return self._up.pieces + self._down.pieces

    def now(self) -> float:
        """The inner transport's clock."""
        return self._inner.now()

    def _count(self, data: bytes) -> None:
        self._passed += len(data)
        if self._cut is not None and self._passed >= self._cut:
            raise LinkError(f"lost the connection to {self.name} (cut): plug the device in and "
                            "open it again")

    def write(self, data: bytes) -> None:
        """Send bytes, harmed."""
        self._count(data)
        self._up.put(data, self.now())
        self._forward()

    def _forward(self) -> None:
        data = self._up.take(self.now())
        if data:
            self._inner.write(data)

    def read(self, timeout: float) -> bytes:
        """Receive bytes, harmed."""
        end = self.now() + timeout
        while True:
            self._forward()
            out = self._down.take(self.now())
            if out:
                self._count(out)
                return out
            now = self.now()
            if now >= end:
                self._up.release()
                self._down.release()
                return b""
            until = min(end, self._up.due(), self._down.due())
            data = self._inner.read(max(until - now, 1e-6))
            self._down.put(data, self.now())

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()
