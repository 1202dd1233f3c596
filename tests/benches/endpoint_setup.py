"""Endpoint, memory, core and line of the endpoint's bench, and a peer with a copy of it all."""

from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, Queue
from systolith.hw.protocol import (
    COUNTERS,
    WATCHDOG_DEFAULT,
    Command,
    Deframer,
    Identity,
    decode_frame,
    encode_frame,
    words,
)
from systolith.sim.agents import Agent, Bench, MemoryModel
from systolith.sim.peer import Peer

__all__ = ["SESSION", "Setup"]

SESSION = 0x5A17


class CoreModel(Agent):
    """The core as endpoint and peer see it: runs last a set number of cycles.

    The peer's view (`busy`, `start`) is the model of what the ports do; both count the starts.
    """

    def __init__(self, bench, timestamps):
        self.bench = bench
        self.watchdog = WATCHDOG_DEFAULT
        self.outcome = (ErrorCode.NONE, Queue.LOAD, 0)
        self.counters = [bench.random.getrandbits(32) for _ in range(COUNTERS)]
        self.timestamps = [(bench.random.getrandbits(32), bench.random.getrandbits(32))
                           for _ in range(timestamps)]
        self.busy = False
        self.starts, self.peer_starts = [], []
        self.cancels = self.peer_cancels = 0
        self._index = (0, 0)
        bench.add(self)

    def start(self, base):
        self.peer_starts.append(base)

    def cancel(self):
        self.peer_cancels += 1

    def drive(self):
        port = self.bench.port
        error, queue, address = self.outcome
        port("control__busy").value = int(self.busy)
        port("control__error").value = int(error)
        port("control__error_queue").value = int(queue)
        port("control__error_address").value = address
        port("control__timestamp_count").value = len(self.timestamps)
        counter, stamp = self._index
        noise = self.bench.random.getrandbits
        ready = counter < COUNTERS and self.bench.random.random() < 0.1
        port("control__counter_ready").value = int(ready)
        port("control__counter_value").value = self.counters[counter] if ready else noise(32)
        cycles, active = (self.timestamps[stamp] if stamp < len(self.timestamps)
                          else (noise(32), noise(32)))
        port("control__timestamp_cycles").value = cycles
        port("control__timestamp_active").value = active
        port("control__start__ready").value = int(self.bench.random.random() < 0.5)

    def sample(self):
        port = self.bench.port
        self._index = (int(port("control__counter_index").value),
                       int(port("control__timestamp_index").value))
        if int(port("control__cancel").value):
            self.cancels += 1
        if int(port("control__start__valid").value) and int(port("control__start__ready").value):
            self.starts.append(int(port("control__start__payload").value))


class Setup:
    """Endpoint, memory, core and line, and a peer with a copy of all of it."""

    def __init__(self, dut, *, line=0.0, memory=0.0, latency=4, timestamps=7):
        self.bench = bench = Bench(dut)
        self.config = Config.from_dict(bench.parameters["config"])
        size = self.config.memory_size
        contents = bench.random.randbytes(size)
        self.data, self.peer_data = bytearray(contents), bytearray(contents)
        self.memory = MemoryModel(bench, self.data, self.config.memory_bytes_per_beat,
                                  read="read", write="write", latency=latency,
                                  stalls=bench.stalls(memory, burst=3))
        self.core = CoreModel(bench, timestamps)
        self.peer = Peer(self.config, self.peer_data, self.core,
                         build=bench.parameters["build"])
        self.rx = bench.source("rx", 8, stalls=bench.stalls(line, burst=4))
        self.tx = bench.sink("tx", 8, stalls=bench.stalls(line, burst=4))
        self.deframer = Deframer()
        self.pieces = []
        self.sequence = 0

    async def reset(self):
        await self.bench.reset()

    def answers(self, session=SESSION):
        """Frames sent so far, decoded; every one must check."""
        data, self.tx.items = bytes(self.tx.items), []
        frames = [decode_frame(piece, session) for piece in self.deframer.feed(data)]
        assert None not in frames, f"an answer does not check (seed {self.bench.seed})"
        return frames

    async def quiet(self, cycles=400):
        """Wait until nothing has been sent or received for some cycles."""
        await self.rx.drained()
        last = self.bench.cycle
        while self.bench.cycle - last < cycles:
            before = len(self.tx.items)
            await self.bench.ticks(50)
            if len(self.tx.items) != before:
                last = self.bench.cycle

    async def exchange(self, data, *, session=SESSION):
        """Send bytes to both; the endpoint's answers must be the peer's."""
        wanted = [decode_frame(piece, session)
                  for piece in Deframer().feed(self.peer.receive(data))]
        self.rx.send(data)
        await self.rx.drained()
        frames = []
        await self._collect(frames, len(wanted), session)
        assert frames == wanted, f"seed {self.bench.seed}: {frames} instead of {wanted}"
        return frames

    async def _collect(self, frames, count, session):
        deadline = self.bench.cycle + 60_000
        while len(frames) < count:
            assert self.bench.cycle < deadline, (
                f"only {len(frames)} of {count} answers (seed {self.bench.seed})")
            await self.bench.ticks(20)
            frames += self.answers(session)

    def frame(self, command, *arguments, data=b"", sequence=None):
        """The next request's bytes."""
        if sequence is None:
            sequence = self.sequence
            self.sequence = (self.sequence + 1) & 0xFF
        return encode_frame(command, sequence, words(*arguments) + data, SESSION)

    async def hello(self, session=SESSION, previous=0):
        frames = await self.exchange(
            encode_frame(Command.HELLO, 0, words(1 | session << 16, previous), session),
            session=session)
        self.sequence = 0
        return Identity.decode(frames[0].payload)

    def check_memory(self):
        assert self.data == self.peer_data, f"memories differ (seed {self.bench.seed})"
