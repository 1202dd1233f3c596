"""A session over a transport: submit jobs and let them run, or call and wait."""

from collections.abc import Callable, Iterable
from typing import Self

from systolith.errors import LinkError
from systolith.hw.protocol import Identity

from .jobs import Job
from .session import Session, Statistics
from .transport import Transport

__all__ = ["Link"]

MAX_WAIT = 0.25
"""Longest single wait on a transport, in seconds, so that interrupts come through."""


class Link:
    """A reliable connection to one device.

    Opening it says HELLO. Every method raises `LinkError` when the connection or the device is
    gone, at the latest after `silence` seconds, and `DeviceError` when the device refuses.

    Parameters
    ----------
    transport
        The pipe; closed with the link.
    options
        Further arguments of `Session`.
    """

    def __init__(self, transport: Transport, **options: float):
        self._transport = transport
        self._session = Session(name=transport.name, **options)  # type: ignore[arg-type]
        try:
            self._pump_until(lambda: self._session.identity is not None)
        except BaseException:
            transport.close()
            raise
        assert self._session.identity is not None
        self.identity: Identity = self._session.identity

    @property
    def statistics(self) -> Statistics:
        """Requests, repetitions and damage so far."""
        return self._session.statistics

    @property
    def name(self) -> str:
        """The transport's name."""
        return self._transport.name

    @property
    def silence(self) -> float:
        """Seconds without an answer after which the device is given up."""
        return self._session.silence

    @silence.setter
    def silence(self, seconds: float) -> None:
        self._session.silence = seconds

    def now(self) -> float:
        """The transport's clock."""
        return self._transport.now()

    def submit(self, job: Job, *, urgent: bool = False) -> Job:
        """Queue a job, to be done while something waits. Returns it."""
        self._session.submit(job, urgent=urgent)
        return job

    def wait(self, *jobs: Job) -> None:
        """Run until all these jobs are done; raise the error of the first that failed."""
        self._pump_until(lambda: all(job.done for job in jobs))
        for job in jobs:
            if job.error is not None:
                raise job.error

    def call(self, job: Job, *, urgent: bool = False) -> bytes:
        """Submit a job, wait for it, and return its result."""
        self.wait(self.submit(job, urgent=urgent))
        return job.result

    def idle(self, seconds: float, until: Iterable[Job] = ()) -> None:
        """Let queued jobs run for some time, or until some are done."""
        end = self.now() + seconds
        watched = tuple(until)
        self._pump_until(lambda: self.now() >= end or (
            bool(watched) and all(job.done for job in watched)), end)

    def _pump_until(self, condition: Callable[[], bool], end: float = float("inf")) -> None:
        session, transport = self._session, self._transport
        try:
            while not condition():
                now = transport.now()
                data = session.transmit(now)
                if data:
                    transport.write(data)
                if session.error is not None:
                    raise session.error
                wait = min(session.wake_at(now), end) - now
                received = transport.read(min(max(wait, 0.0), MAX_WAIT))
                if received:
                    session.receive(received, transport.now())
                if session.error is not None:
                    raise session.error
        except LinkError as error:
            session.fail(error)
            raise

    def close(self) -> None:
        """Close the transport. May be called twice."""
        self._session.fail(LinkError(f"{self.name} is closed: open it again"))
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
