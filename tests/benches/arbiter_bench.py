"""Memory arbiter: random readers and writers on a few beats of memory."""

import cocotb
from amaranth.lib import data

from systolith.sim.agents import Agent, Bench, MemoryModel

REQUEST = data.StructLayout({"address": 32, "beats": range(65)})


def write_layout(beat):
    return data.StructLayout({"address": 32, "data": 8 * beat, "mask": beat})


class Recorder(Agent):
    """Cycles and payloads of the transfers on a stream."""

    def __init__(self, bench, name):
        self._bench = bench
        self._ports = [bench.port(f"{name}__{part}") for part in ("valid", "ready", "payload")]
        self.items = []
        bench.add(self)

    def sample(self):
        valid, ready, payload = self._ports
        if int(valid.value) and int(ready.value):
            self.items.append((self._bench.cycle, int(payload.value)))


class Memory(MemoryModel):
    """Main memory that can be told to refuse writes, while it takes reads."""

    refuse_writes = False

    def drive(self):
        super().drive()
        if self.refuse_writes:
            self._writes_open = False
            self._write[2].value = 0


class Masters:
    """Sources and recorders on all ports, and the memory behind the arbiter."""

    def __init__(self, dut, *, stall=0.3, latency=4):
        self.bench = bench = Bench(dut)
        parameters = bench.parameters
        self.beat, readers, writers = (parameters[name] for name in ("beat", "readers", "writers"))
        self.memory = Memory(
            bench, bytearray(64 * self.beat), self.beat, read="memory_read", write="memory_write",
            latency=latency, stalls=bench.stalls(stall, burst=2))

        def stalls():
            return bench.stalls(stall, burst=2)

        self.requests = [bench.source(f"readers__{i}__request", REQUEST, stalls=stalls())
                         for i in range(readers)]
        self.data = [bench.sink(f"readers__{i}__data", 8 * self.beat, stalls=stalls())
                     for i in range(readers)]
        self.accepted = [Recorder(bench, f"readers__{i}__request") for i in range(readers)]
        self.writes = [bench.source(f"writers__{i}", write_layout(self.beat), stalls=stalls())
                       for i in range(writers)]
        self.written = [Recorder(bench, f"writers__{i}") for i in range(writers)]
        bench.port("discard").value = 0
        bench.port("hurry").value = 0

    def read(self, reader, address, beats):
        self.requests[reader].send([{"address": address, "beats": beats}])


@cocotb.test()
async def reads_see_earlier_writes(dut):
    """Every beat has a value at least as new as what was written before the request."""
    masters = Masters(dut)
    bench, beat = masters.bench, masters.beat
    await bench.reset()
    number = 0
    for _ in range(300):
        for reader in range(len(masters.requests)):
            beats = bench.random.choice((1, 1, 2, 5))
            masters.read(reader, beat * bench.random.randrange(8 - beats + 1), beats)
        for source in masters.writes:
            number += 1
            source.send([{"address": beat * bench.random.randrange(8), "data": number,
                          "mask": (1 << beat) - 1}])
    expected = [sum(p >> 32 for p in source._queue) for source in masters.requests]
    await bench.until(lambda: all(
        len(sink.items) == count for sink, count in zip(masters.data, expected, strict=True))
        and all(source.empty for source in masters.writes))
    history = {address: [(-1, 0)] for address in range(0, 8 * beat, beat)}
    for cycle, payload in sorted(item for recorder in masters.written for item in recorder.items):
        history[payload & 0xFFFFFFFF].append((cycle, payload >> 32 & (1 << 8 * beat) - 1))
    for sink, recorder in zip(masters.data, masters.accepted, strict=True):
        values, times = iter(sink.items), iter(sink.times)
        for cycle, payload in recorder.items:
            address, beats = payload & 0xFFFFFFFF, payload >> 32
            for _ in range(beats):
                value, returned = next(values), next(times)
                before = [v for c, v in history[address] if c < cycle][-1]
                later = [v for c, v in history[address] if cycle <= c <= returned]
                assert value in (before, *later), (
                    f"{value} at {address:#x}, written before: {before} (seed {bench.seed})")
                address += beat


@cocotb.test()
async def reads_wait_for_refused_writes(dut):
    """A write that the memory does not take for long is still seen by the read behind it."""
    masters = Masters(dut, stall=0.0, latency=1)
    bench, beat = masters.bench, masters.beat
    await bench.reset()
    masters.memory.refuse_writes = True
    for number in range(1, 41):
        address = beat * bench.random.randrange(8)
        masters.writes[0].send([{"address": address, "data": number, "mask": (1 << beat) - 1}])
        await masters.writes[0].drained()
        masters.read(0, address, 1)
        await bench.ticks(bench.random.randrange(12))
        masters.memory.refuse_writes = False
        assert await masters.data[0].receive(1) == [number]
        masters.memory.refuse_writes = True


@cocotb.test()
async def everybody_has_a_turn(dut):
    """Masters that always ask share the port evenly."""
    masters = Masters(dut, stall=0.0)
    bench, beat, count = masters.bench, masters.beat, len(masters.requests)
    await bench.reset()
    for reader in range(count):
        masters.requests[reader].send([{"address": 0, "beats": 4}] * 40)
    for source in masters.writes:
        source.send([{"address": 8 * beat, "data": 1, "mask": 1}] * 40 * count)
    begin = bench.cycle
    await bench.until(lambda: len(masters.data[0].items) == 80)
    # 20 bursts of 4 beats each for the first reader mean as many, or one fewer, for the others.
    assert all(76 <= len(sink.items) <= 84 for sink in masters.data)
    assert bench.cycle - begin <= 80 * count + 16, "one beat a cycle"
    turns = [source.sent for source in masters.writes]
    assert max(turns) - min(turns) <= 1


@cocotb.test()
async def who_hurries_goes_first(dut):
    masters = Masters(dut, stall=0.0)
    bench, urgent = masters.bench, len(masters.requests) - 1
    await bench.reset()
    bench.port("hurry").value = 1 << urgent
    for reader in range(len(masters.requests)):
        if reader != urgent:
            masters.requests[reader].send([{"address": 0, "beats": 4}] * 40)
    await bench.ticks(50)
    masters.requests[urgent].send([{"address": 0, "beats": 1}] * 5)
    await masters.data[urgent].receive(5)
    times = [cycle for cycle, _ in masters.accepted[urgent].items]
    # The request chosen last before them leaves room for another one a cycle later.
    between = [cycle for reader, recorder in enumerate(masters.accepted) if reader != urgent
               for cycle, _ in recorder.items if times[0] + 1 < cycle < times[-1]]
    assert not between, f"others were served at {between}, between {times}"
    await bench.until(lambda: all(source.empty for source in masters.requests))
    bench.port("hurry").value = 0


@cocotb.test()
async def discarded_data_does_not_arrive(dut):
    """A discarded reader's bursts vanish, the others' do not, and pending says when it is over."""
    masters = Masters(dut, stall=0.2, latency=20)
    bench, beat = masters.bench, masters.beat
    await bench.reset()
    for i in range(64):
        masters.memory.data[i * beat] = i
    last = len(masters.requests) - 1
    for k in range(3):
        masters.read(0, beat * (10 + 4 * k), 4)
        masters.read(last, beat * (30 + 4 * k), 4)
    await bench.until(lambda: masters.requests[last].sent == 2)
    seen = len(masters.data[last].items)
    bench.port("discard").value = 1 << last
    masters.requests[last].clear()
    masters.data[last]._stalls = iter(lambda: True, None)  # who is reset takes nothing
    await bench.until(lambda: not int(bench.port("reads_pending").value))
    assert len(masters.data[last].items) == seen
    assert masters.data[0].items == [10 + i for i in range(12)]
    bench.port("discard").value = 0
    masters.data[last]._stalls = None
    masters.read(last, beat * 50, 3)
    await masters.data[last].receive(seen)
    assert await masters.data[last].receive(3) == [50, 51, 52]


@cocotb.test()
async def pending_writes_are_told(dut):
    masters = Masters(dut, stall=0.0)
    bench, beat = masters.bench, masters.beat
    await bench.reset()
    masters.memory._stalls = iter(lambda: True, None)
    writer = len(masters.writes) - 1
    masters.writes[writer].send([{"address": 3 * beat, "data": 7, "mask": 1}])
    await masters.writes[writer].drained()
    await bench.ticks(3)
    assert int(bench.port("writes_pending").value) == 1 << writer
    assert masters.memory.data[3 * beat] == 0
    masters.memory._stalls = None
    await bench.ticks(2)
    assert int(bench.port("writes_pending").value) == 0
    assert masters.memory.data[3 * beat] == 7
