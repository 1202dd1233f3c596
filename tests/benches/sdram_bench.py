"""The SDRAM controller between random masters and the model of the chip, which checks its rules."""

from itertools import pairwise, zip_longest

import cocotb
import numpy as np
from amaranth.lib import data

from systolith.hw import sdram_chips
from systolith.hw.load_request import LOAD_BURST_BEATS
from systolith.sim.agents import Agent, Bench
from systolith.sim.sdram import SdramModel

REQUEST = data.StructLayout({"address": 32, "beats": range(65)})
PINS = ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq_oe", "dq_o")


class Chip(Agent):
    """The chip on the controller's pins, powered up by the reset; data nobody drives is random."""

    def __init__(self, bench, model):
        self._bench, self._model, self._word = bench, model, None
        self._powered = False
        self._pins = [bench.port(f"pins__{name}") for name in PINS]
        self._dq_i = bench.port("pins__dq_i")
        bench.add(self)

    def drive(self):
        self._dq_i.value = (self._bench.random.getrandbits(len(self._dq_i))
                            if self._word is None else self._word)

    def clear(self):
        self._powered = True

    def sample(self):
        if not self._powered or int(self._bench.port("rst").value):
            return
        self._word = self._model.tick(*(int(pin.value) for pin in self._pins))
        assert not self._model.fault, f"{self._model.fault} (seed {self._bench.seed})"


class Memory:
    """Sources and sinks of the memory port, and what the memory must contain."""

    def __init__(self, dut, *, stall=0.0, refuse=0.0):
        self.bench = bench = Bench(dut, watchdog=200_000)
        parameters = bench.parameters
        self.beat = parameters["beat"]
        chip = sdram_chips.SdramChip(**parameters["chip"])
        self.words = 8 * self.beat // chip.data_bits
        self.row = (chip.data_bits // 8) << chip.column_bits
        self.model = SdramModel(chip, parameters["clock"], delay=parameters["delay"])
        Chip(bench, self.model)
        self.size = parameters["size"]
        self.expected = bench.rng.integers(0, 256, self.size, np.uint8)
        self.model.memory[:self.size] = self.expected
        self.requests = bench.source("read__request", REQUEST, stalls=bench.stalls(stall, burst=3))
        self.data = bench.sink("read__data", 8 * self.beat, stalls=bench.stalls(refuse, burst=20))
        self.writes = bench.source("write", data.StructLayout(
            {"address": 32, "data": 8 * self.beat, "mask": self.beat}),
            stalls=bench.stalls(stall, burst=3))

    async def begin(self):
        await self.bench.ticks()
        await self.bench.reset()

    def read(self, address, beats):
        self.requests.send([{"address": address, "beats": beats}])

    def write(self, address, value, mask):
        self.writes.send([{"address": address, "data": value, "mask": mask}])

    async def received(self, beats):
        """The next beats, as bytes."""
        values = await self.data.receive(beats)
        return b"".join(value.to_bytes(self.beat, "little") for value in values)

    def place(self):
        """A random beat, mostly near a few rows' ends, so that rows and banks meet."""
        random = self.bench.random
        if random.random() < 0.2:
            address = random.randrange(self.size)
        else:
            row = random.randrange(12) * self.row * random.choice((1, 4))
            address = row + random.choice((0, 8, self.row - 8)) * self.beat
            address = (address + random.randrange(8) * self.beat) % self.size
        return address - address % self.beat


def same(memory):
    """Main memory is what the writes made of it."""
    difference = np.flatnonzero(memory.model.memory[:memory.size] != memory.expected)
    assert not len(difference), f"{difference[:4]} differ (seed {memory.bench.seed})"


async def mix(dut, rounds, **stalls):
    """Groups of reads, then of writes, each complete before the next is offered."""
    memory = Memory(dut, **stalls)
    bench, random, beat = memory.bench, memory.bench.random, memory.beat
    await memory.begin()
    for _ in range(rounds):
        wanted = b""
        for _ in range(random.randrange(5)):
            beats = random.choice((1, 2, 7, LOAD_BURST_BEATS, 64))
            address = min(memory.place(), memory.size - beats * beat)
            memory.read(address, beats)
            wanted += memory.expected[address:address + beats * beat].tobytes()
        if random.random() < 0.5:
            assert await memory.received(len(wanted) // beat) == wanted, f"seed {bench.seed}"
            wanted = b""
        await memory.requests.drained()
        address = memory.place()
        for _ in range(random.randrange(24)):
            value, mask = random.getrandbits(8 * beat), random.getrandbits(beat)
            if random.random() < 0.6:
                mask = (1 << beat) - 1
            memory.write(address, value, mask)
            for lane in range(beat):
                if mask >> lane & 1:
                    memory.expected[address + lane] = value >> 8 * lane & 0xFF
            address = ((address + beat) % memory.size if random.random() < 0.8
                       else memory.place())
        await memory.writes.drained()
        assert await memory.received(len(wanted) // beat) == wanted, f"seed {bench.seed}"
    await bench.ticks(100)
    same(memory)


@cocotb.test()
async def reads_see_earlier_writes(dut):
    await mix(dut, 120)


@cocotb.test()
async def stalls_change_nothing(dut):
    await mix(dut, 60, stall=0.3, refuse=0.4)


@cocotb.test()
async def reads_and_writes_take_turns(dut):
    """Both always wait: neither starves, and reads of what is not written are right."""
    memory = Memory(dut)
    bench, beat = memory.bench, memory.beat
    await memory.begin()
    half = memory.size // 2
    for k in range(40):
        memory.read(k * LOAD_BURST_BEATS * beat, LOAD_BURST_BEATS)
    for k in range(640):
        value = bench.random.getrandbits(8 * beat)
        memory.write(half + k * beat, value, (1 << beat) - 1)
        memory.expected[half + k * beat:half + k * beat + beat] = list(
            value.to_bytes(beat, "little"))
    bytes_read = 40 * LOAD_BURST_BEATS * beat
    progress = []
    for k in range(1, 5):
        await bench.until(lambda: len(memory.data.items) >= 320 * k)  # noqa: B023
        progress.append(memory.writes.sent)
    assert all(120 <= after - before <= 200 for before, after in zip(
        [0, *progress], progress, strict=False)), progress
    assert await memory.received(40 * LOAD_BURST_BEATS) == memory.expected[:bytes_read].tobytes()
    await memory.writes.drained()
    await bench.ticks(100)
    same(memory)


@cocotb.test()
async def refreshes_come_often_enough(dut):
    """None is more than tREFI behind the one before, so that rows cannot lag over many of them."""
    memory = Memory(dut)
    bench, model = memory.bench, memory.model
    await memory.begin()
    memory.read(0, 1)
    await memory.received(1)
    times = []
    for _ in range(5):
        count = model.refreshes
        await bench.until(lambda: model.refreshes > count)  # noqa: B023
        times.append(bench.cycle)
    interval = bench.parameters["chip"]["tREFI"] * bench.parameters["clock"] / 1e9
    assert all(0.99 * interval <= after - before <= interval
               for before, after in pairwise(times)), f"{times}, every {interval}"


def bursts_of(begin, row_bytes, row_step, rows, *, planes=1, plane_step=0, beat):
    """The read requests of a LOAD, as `LoadRequester` makes them."""
    for plane in range(planes):
        for row in range(rows):
            first = (begin + plane * plane_step + row * row_step) // beat
            end = -(-(begin + plane * plane_step + row * row_step + row_bytes) // beat)
            for start in range(first, end, LOAD_BURST_BEATS):
                yield start * beat, min(LOAD_BURST_BEATS, end - start)


async def rate(dut, least, patterns, *, writes=0):
    """The share of the bus' cycles that carry data is at least `least`.

    `patterns` are LOADs, as arguments of `bursts_of`, whose bursts take turns; `writes` beats are
    offered at the same time.
    """
    memory = Memory(dut)
    bench, beat = memory.bench, memory.beat
    await memory.begin()
    memory.read(0, 1)
    await memory.received(1)
    lists = [list(bursts_of(*arguments, beat=beat, **planes)) for arguments, planes in patterns]
    bursts = [burst for turn in zip_longest(*lists) for burst in turn if burst is not None]
    for address, beats in bursts:
        memory.read(address, beats)
    for k in range(writes):
        memory.write(memory.size // 2 + k * beat, 0, 0)
    begun, beats = bench.cycle, sum(count for _, count in bursts)
    data = await memory.received(beats)
    await memory.writes.drained()
    cycles = bench.cycle - begun
    assert data == b"".join(memory.expected[address:address + count * beat].tobytes()
                            for address, count in bursts), f"seed {bench.seed}"
    share = (beats + writes) * memory.words / cycles
    bench.dut._log.info("%d beats in %d cycles: %.1f %% of the bus", beats + writes, cycles,
                        100 * share)
    assert share >= least, f"{share:.3f} of the bus' cycles carried data"


WEIGHTS = ((0x8000, 32 << 10, 0, 1), {})
STRIPE = ((0x1230, 58 * 16, 112 * 16, 9), {"planes": 4, "plane_step": 112 * 112 * 16})
NARROW = ((0x4C08, 14 * 8, 14 * 8, 14), {"planes": 16, "plane_step": 14 * 14 * 8})
INSTRUCTIONS = ((0x60000, 4096, 0, 1), {})


@cocotb.test()
async def a_stream_of_weights_fills_the_bus(dut):
    await rate(dut, 0.97, [WEIGHTS])


@cocotb.test()
async def rows_of_a_stripe_nearly_fill_the_bus(dut):
    await rate(dut, 0.96, [STRIPE])


@cocotb.test()
async def narrow_rows_nearly_fill_the_bus(dut):
    await rate(dut, 0.96, [NARROW])


@cocotb.test()
async def streams_share_the_bus(dut):
    await rate(dut, 0.93, [WEIGHTS, STRIPE])


@cocotb.test()
async def writes_and_instructions_share_the_bus(dut):
    await rate(dut, 0.84, [WEIGHTS, INSTRUCTIONS], writes=1024)
