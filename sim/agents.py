"""Building blocks of cocotb benches: one clock loop, and agents on a component's ports.

A bench is a coroutine that makes a `Bench`, puts agents on the ports, and waits:

    @cocotb.test()
    async def words_come_through(dut):
        bench = Bench(dut)                                  # seed, parameters: see run_bench
        source = bench.source("i", signed(8), stalls=bench.stalls(0.3))
        sink = bench.sink("o", signed(20), stalls=bench.stalls(0.5))
        await bench.reset()
        source.send(inputs)
        assert await sink.receive(len(inputs)) == expected

The loop sets the clock low, lets the test act, drives all agents, lets the design settle, samples
all agents, sets the clock high. So nothing races, in any simulator, and combinational paths from
one port to another are seen. What a test does between two waits happens while the clock is low: it
may write `dut.port.value` itself, and read what the last `await` left.

Stream rules are asserted at every sink: a valid payload stays until it is accepted. Payloads
without `valid`, and data without a request, are random, so that a design that looks at them fails.
"""

import faulthandler
import json
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Shape, ShapeCastable
from cocotb.triggers import Event, ReadWrite, Timer

__all__ = ["Agent", "Bench", "MemoryModel", "ReadResponder", "StreamSink", "StreamSource", "pack",
           "unpack"]


def pack(shape: Any, value: Any) -> int:
    """Bits of `value` in an Amaranth shape: an int, or a dict for a struct layout."""
    if isinstance(shape, ShapeCastable):
        return int(shape.const(value).as_value().value) & ((1 << Shape.cast(shape).width) - 1)
    cast = Shape.cast(shape)
    value = int(value)
    low, high = (-(1 << cast.width - 1), 1 << cast.width - 1) if cast.signed else (
        0, 1 << cast.width)
    assert low <= value < high, f"{value} does not fit {cast}"
    return value & ((1 << cast.width) - 1)


def unpack(shape: Any, bits: int) -> Any:
    """Value of `bits` in an Amaranth shape: an int, or a constant whose fields are attributes."""
    if isinstance(shape, ShapeCastable):
        return shape.from_bits(bits)
    cast = Shape.cast(shape)
    return bits - (1 << cast.width) if cast.signed and bits >> (cast.width - 1) else bits


class Agent:
    """Something that acts on ports every cycle."""

    def drive(self) -> None:
        """Set the component's inputs for this cycle."""

    def sample(self) -> None:
        """Look at the settled ports, just before the clock edge."""

    def clear(self) -> None:
        """Forget everything in flight; called when the bench resets."""


class Bench:
    """The clock, the random numbers and the watchdog of one test.

    Parameters
    ----------
    dut
        cocotb's handle of the top module.
    watchdog
        Cycles that one `until` may take.

    Members: `parameters` (dict given to `run_bench`), `seed`, `random` (`random.Random`), `rng`
    (numpy Generator), `cycle` (edges since the test began).
    """

    def __init__(self, dut: Any, *, watchdog: int = 100_000):
        settings = json.loads(os.environ.get("SYSTOLITH_BENCH", "{}"))
        self.dut = dut
        self.parameters: dict[str, Any] = settings.get("parameters", {})
        self.seed: int = settings.get("seed", 1)
        self.random = random.Random(self.seed)
        self.rng = np.random.default_rng(self.seed)
        self.cycle = 0
        self._watchdog = watchdog
        self._agents: list[Agent] = []
        self._waiting: list[tuple[Callable[[], bool], Event]] = []
        # A simulator that hangs outside of Python is beyond any watchdog that counts cycles.
        faulthandler.dump_traceback_later(settings.get("timeout", 600), exit=True,
                                          file=sys.__stderr__)
        # Here and not when the loop begins to run, which is after a test's first lines.
        dut.clk.value = 0
        dut.rst.value = 0
        cocotb.start_soon(self._run())

    # Ports --------------------------------------------------------------------------------------

    def add(self, agent: Agent) -> Agent:
        """Have `agent` act every cycle."""
        self._agents.append(agent)
        return agent

    def source(self, name: str, shape: Any, *, stalls: Iterator[bool] | None = None
               ) -> "StreamSource":
        """A source on the component's input stream `name`."""
        source = StreamSource(self, name, shape, stalls)
        self.add(source)
        return source

    def sink(self, name: str, shape: Any, *, stalls: Iterator[bool] | None = None) -> "StreamSink":
        """A sink on the component's output stream `name`."""
        sink = StreamSink(self, name, shape, stalls)
        self.add(sink)
        return sink

    def port(self, name: str) -> Any:
        """The cocotb handle of port `name`."""
        return getattr(self.dut, name)

    def stalls(self, probability: float, *, burst: float = 1.0) -> Iterator[bool]:
        """Endless random stall pattern, true in the cycles in which nothing may move.

        `probability` is the share of stalled cycles (0: never), `burst` the mean length of a stall
        in cycles.
        """
        source = random.Random(self.random.getrandbits(64))
        stalled = False
        leave = 1 / burst
        enter = min(1.0, leave * probability / (1 - probability)) if probability < 1 else 1.0
        while True:
            stalled = source.random() >= leave if stalled else source.random() < enter
            yield stalled and probability > 0

    # Time ---------------------------------------------------------------------------------------

    async def reset(self, cycles: int = 2) -> None:
        """Hold reset for some cycles, with all agents silent."""
        for agent in self._agents:
            agent.clear()
        self.dut.rst.value = 1
        await self.ticks(cycles)
        assert int(self.dut.rst.value), "somebody else drives the reset"
        self.dut.rst.value = 0

    async def ticks(self, cycles: int = 1) -> None:
        """Wait for a number of clock edges."""
        target = self.cycle + cycles
        await self.until(lambda: self.cycle >= target, cycles + 1)

    async def until(self, condition: Callable[[], bool], cycles: int | None = None) -> None:
        """Wait until `condition` holds behind a clock edge. Fails after `cycles` (the watchdog)."""
        event = Event()
        limit = self.cycle + (self._watchdog if cycles is None else cycles)
        timed_out = False

        def check() -> bool:
            nonlocal timed_out
            timed_out = self.cycle > limit
            return timed_out or condition()

        self._waiting.append((check, event))
        await event.wait()
        assert not timed_out or condition(), (
            f"watchdog: still waiting in cycle {self.cycle} (seed {self.seed})")

    async def _run(self) -> None:
        clock, half = self.dut.clk, Timer(1, "ns")
        while True:
            clock.value = 0
            ready = [item for item in self._waiting if item[0]()]
            if ready:
                self._waiting = [item for item in self._waiting if item not in ready]
                for _, event in ready:
                    event.set()
                await ReadWrite()
            for agent in self._agents:
                agent.drive()
            await half
            for agent in self._agents:
                agent.sample()
            clock.value = 1
            await half
            self.cycle += 1


class StreamSource(Agent):
    """Sends items on a component's input stream, with idle cycles where `stalls` says so."""

    def __init__(self, bench: Bench, name: str, shape: Any, stalls: Iterator[bool] | None = None):
        self._bench, self._shape, self._stalls = bench, shape, stalls
        self._payload = bench.port(f"{name}__payload") if Shape.cast(shape).width else None
        self._valid = bench.port(f"{name}__valid")
        self._ready = bench.port(f"{name}__ready")
        self._width = Shape.cast(shape).width
        self._queue: deque[int] = deque()
        self._holding = False
        self._valid.value = 0
        self.sent = 0

    def send(self, items: Iterable[Any]) -> None:
        """Queue items, each an int or, for a struct, a dict."""
        self._queue.extend(pack(self._shape, item) for item in items)

    @property
    def empty(self) -> bool:
        """Whether everything queued has been accepted."""
        return not self._queue

    async def drained(self) -> None:
        """Wait until everything queued has been accepted."""
        await self._bench.until(lambda: self.empty)

    def clear(self) -> None:
        self._queue.clear()
        self._holding = False

    def drive(self) -> None:
        if self._holding:
            return
        stalled = self._stalls is not None and next(self._stalls)
        self._holding = bool(self._queue) and not stalled
        self._valid.value = int(self._holding)
        if self._payload is not None:
            self._payload.value = (self._queue[0] if self._holding
                                   else self._bench.random.getrandbits(self._width))

    def sample(self) -> None:
        if self._holding and int(self._ready.value):
            self._queue.popleft()
            self._holding = False
            self.sent += 1


class StreamSink(Agent):
    """Collects a component's output stream in `items`, refusing where `stalls` says so."""

    def __init__(self, bench: Bench, name: str, shape: Any, stalls: Iterator[bool] | None = None):
        self._bench, self._name, self._shape, self._stalls = bench, name, shape, stalls
        self._payload = bench.port(f"{name}__payload") if Shape.cast(shape).width else None
        self._valid = bench.port(f"{name}__valid")
        self._ready = bench.port(f"{name}__ready")
        self._accepting = False
        self._refused: int | None = None
        self._ready.value = 0
        self.items: list[Any] = []
        self.times: list[int] = []

    async def receive(self, count: int) -> list[Any]:
        """Wait for `count` items since the last call, and take them."""
        await self._bench.until(lambda: len(self.items) >= count)
        taken, self.items = self.items[:count], self.items[count:]
        return taken

    def clear(self) -> None:
        self.items.clear()
        self.times.clear()
        self._refused = None

    def drive(self) -> None:
        self._accepting = self._stalls is None or not next(self._stalls)
        self._ready.value = int(self._accepting)

    def sample(self) -> None:
        if not int(self._valid.value):
            assert self._refused is None or self._in_reset, (
                f"{self._name}: valid fell before the payload was accepted, cycle "
                f"{self._bench.cycle} (seed {self._bench.seed})")
            self._refused = None
            return
        bits = int(self._payload.value) if self._payload is not None else 0
        assert self._refused in (None, bits) or self._in_reset, (
            f"{self._name}: payload changed before it was accepted, cycle {self._bench.cycle} "
            f"(seed {self._bench.seed})")
        self._refused = None if self._accepting else bits
        if self._accepting and not self._in_reset:
            self.items.append(unpack(self._shape, bits))
            self.times.append(self._bench.cycle)

    @property
    def _in_reset(self) -> bool:
        return bool(int(self._bench.dut.rst.value))


class ReadResponder(Agent):
    """Answers a port with a request stream and, a fixed number of cycles later, plain data.

    `respond` maps an address to the data's bits, when the request is accepted.
    """

    def __init__(self, bench: Bench, name: str, respond: Callable[[int], int], latency: int, *,
                 stalls: Iterator[bool] | None = None):
        self._bench, self._respond, self._stalls = bench, respond, stalls
        self._payload = bench.port(f"{name}__request__payload")
        self._valid = bench.port(f"{name}__request__valid")
        self._ready = bench.port(f"{name}__request__ready")
        self._data = bench.port(f"{name}__data")
        self._pipeline: deque[int | None] = deque([None] * (latency - 1))
        self._next: int | None = None
        self._accepting = False
        self._ready.value = 0
        self.addresses: list[int] = []
        bench.add(self)

    def drive(self) -> None:
        value = self._next
        self._data.value = (self._bench.random.getrandbits(len(self._data)) if value is None
                            else value)
        self._accepting = self._stalls is None or not next(self._stalls)
        self._ready.value = int(self._accepting)

    def sample(self) -> None:
        answer = None
        if self._accepting and int(self._valid.value):
            address = int(self._payload.value)
            self.addresses.append(address)
            answer = self._respond(address)
        self._pipeline.append(answer)
        self._next = self._pipeline.popleft()


class MemoryModel(Agent):
    """Main memory behind `MemoryReadSignature` and `memory_write_signature` ports.

    Parameters
    ----------
    data
        The memory, changed in place. A request outside of it fails the test.
    beat
        Bytes a beat.
    read, write
        Names of the component's ports, or None.
    latency
        Least cycles from a request to its first beat.
    stalls
        Pattern for all handshakes.
    """

    def __init__(self, bench: Bench, data: bytearray, beat: int, *, read: str | None = None,
                 write: str | None = None, latency: int = 4,
                 stalls: Iterator[bool] | None = None):
        self.data, self.beat, self._bench, self._latency = data, beat, bench, latency
        self._stalls = stalls
        self._beats: deque[tuple[int, int]] = deque()
        self._offered: int | None = None
        self._requests_open = self._writes_open = False
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self._read = None if read is None else tuple(bench.port(f"{read}__{name}") for name in (
            "request__payload", "request__valid", "request__ready", "data__payload",
            "data__valid", "data__ready"))
        self._write = None if write is None else tuple(bench.port(f"{write}__{name}") for name in (
            "payload", "valid", "ready"))
        if self._read is not None:
            self._read[2].value = self._read[4].value = 0
        if self._write is not None:
            self._write[2].value = 0
        bench.add(self)

    def clear(self) -> None:
        self._beats.clear()
        self._offered = None

    def _open(self) -> bool:
        return self._stalls is None or not next(self._stalls)

    def drive(self) -> None:
        if self._read is not None:
            self._requests_open = self._open()
            self._read[2].value = int(self._requests_open)
            if self._offered is None and self._beats and self._open():
                address, due = self._beats[0]
                if self._bench.cycle >= due:
                    self._offered = int.from_bytes(self.data[address:address + self.beat],
                                                   "little")
                    self._beats.popleft()
            self._read[4].value = int(self._offered is not None)
            self._read[3].value = (self._bench.random.getrandbits(8 * self.beat)
                                   if self._offered is None else self._offered)
        if self._write is not None:
            self._writes_open = self._open()
            self._write[2].value = int(self._writes_open)

    def sample(self) -> None:
        if self._read is not None:
            if self._offered is not None and int(self._read[5].value):
                self._offered = None
            if self._requests_open and int(self._read[1].value):
                payload = int(self._read[0].value)
                self._accept_read(payload & 0xFFFFFFFF, payload >> 32)
        if self._write is not None and self._writes_open and int(self._write[1].value):
            payload = int(self._write[0].value)
            self._accept_write(payload & 0xFFFFFFFF, payload >> 32)

    def _accept_read(self, address: int, beats: int) -> None:
        assert address % self.beat == 0 and 1 <= beats <= 64, (
            f"bad read of {beats} beats at {address:#x}")
        assert address + beats * self.beat <= len(self.data), (
            f"read of {beats} beats at {address:#x} leaves the memory")
        self.reads.append((address, beats))
        due = self._bench.cycle + self._latency
        self._beats.extend((address + i * self.beat, due) for i in range(beats))

    def _accept_write(self, address: int, rest: int) -> None:
        data, mask = rest & ((1 << 8 * self.beat) - 1), rest >> (8 * self.beat)
        assert address % self.beat == 0 and address + self.beat <= len(self.data), (
            f"bad write at {address:#x}")
        self.writes.append((address, mask))
        for i in range(self.beat):
            if mask >> i & 1:
                self.data[address + i] = data >> 8 * i & 0xFF
