"""SPRAM against numpy memories: two masters that know nothing of each other, in every cycle."""

from collections import deque

import cocotb
import numpy as np

from systolith.sim.agents import Agent, Bench


class Masters(Agent):
    """Drives all three ports at random, and looks at every answer."""

    def __init__(self, bench, *, busy):
        self.bench, self.random, self.busy = bench, bench.random, busy
        size, words = bench.parameters["size"], bench.parameters["words"]
        self.main = np.zeros(size // 4, np.uint32)
        self.scratchpad = np.zeros(words, np.uint32)
        self.filled = self.placed = 0  # words that have been written once
        self.request = self.write = self.access = self.answer = None
        self.expected = deque()  # addresses of words that were asked for
        self.refused = False
        self.reads = self.writes = self.accesses = 0

    @property
    def ready(self):
        """Whether every word has been written."""
        return self.filled == len(self.main) and self.placed == len(self.scratchpad)

    def _port(self, name):
        return self.bench.port(name)

    def _set(self, name, value):
        self._port(name).value = value

    def drive(self):
        random, words = self.random, len(self.main)
        filling = not self.ready
        self.access = None
        if random.random() < (0.5 if filling else self.busy):
            new = self.placed < len(self.scratchpad)
            place = self.placed if new else random.randrange(len(self.scratchpad))
            mask = 15 if new else random.choice((0, 0, 15, random.getrandbits(4)))
            self.placed += new
            self.access = place, mask, random.getrandbits(32)
            for name, value in zip(("address", "mask", "data"), self.access, strict=True):
                self._set(f"scratchpad__{name}", value)
        self._set("scratchpad__enable", int(self.access is not None))
        if self.write is None and (filling or random.random() < 0.1):
            new = self.filled < words
            place = self.filled if new else random.randrange(words)
            # What is being read is not written: the answer could be either.
            if place not in self.expected and (self.request is None or not (
                    self.request[0] <= place < sum(self.request))):
                mask = 15 if new else random.getrandbits(4)
                self.write = place, mask, random.getrandbits(32)
                self.filled += new
        if self.write is not None:
            place, mask, value = self.write
            self._set("write__payload", 4 * place | value << 32 | mask << 64)
        self._set("write__valid", int(self.write is not None))
        if self.request is None and not filling and random.random() < 0.1:
            beats = random.choice((1, 2, 7, 64))
            place = random.randrange(words - beats + 1)
            if self.write is None or not place <= self.write[0] < place + beats:
                self.request = place, beats
        if self.request is not None:
            place, beats = self.request
            self._set("read__request__payload", 4 * place | beats << 32)
        self._set("read__request__valid", int(self.request is not None))
        self.refused = random.random() < 0.3
        self._set("read__data__ready", int(not self.refused))

    def sample(self):
        if self.answer is not None:
            assert int(self._port("scratchpad__read").value) == self.answer, (
                f"scratchpad, cycle {self.bench.cycle}, seed {self.bench.seed}")
        self.answer = None
        if int(self._port("read__data__valid").value):
            wanted = int(self.main[self.expected[0]])
            assert int(self._port("read__data__payload").value) == wanted, (
                f"main memory, cycle {self.bench.cycle}, seed {self.bench.seed}")
            if not self.refused:
                self.expected.popleft()
                self.reads += 1
        if self.access is not None:
            place, mask, value = self.access
            self.accesses += 1
            if mask:
                self.scratchpad[place] = merged(self.scratchpad[place], mask, value)
            else:
                self.answer = int(self.scratchpad[place])
        if self.write is not None and int(self._port("write__ready").value):
            place, mask, value = self.write
            self.main[place] = merged(self.main[place], mask, value)
            self.write = None
            self.writes += 1
        if self.request is not None and int(self._port("read__request__ready").value):
            place, beats = self.request
            self.expected.extend(range(place, place + beats))
            self.request = None


def merged(old, mask, new):
    """A word with some of its bytes replaced."""
    bits = sum(0xFF << 8 * byte for byte in range(4) if mask >> byte & 1)
    return int(old) & ~bits & 0xFFFFFFFF | new & bits


async def run(dut, busy, cycles):
    bench = Bench(dut, watchdog=400_000)
    for name in ("read__request__valid", "read__data__ready", "write__valid", "scratchpad__enable"):
        bench.port(name).value = 0
    await bench.ticks()
    await bench.reset()
    masters = Masters(bench, busy=busy)
    bench.add(masters)
    words = len(masters.main)
    await bench.until(lambda: masters.ready, 4 * words)
    before = masters.reads
    await bench.ticks(cycles)
    assert masters.reads - before > cycles // 8 and masters.writes > words + cycles // 40


@cocotb.test()
async def scratchpad_seldom_used(dut):
    await run(dut, 0.05, 20_000)


@cocotb.test()
async def scratchpad_used_in_most_cycles(dut):
    await run(dut, 0.6, 20_000)
