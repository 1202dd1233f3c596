"""cocotb bench of the accumulator memory: random accumulations beside random reads."""

from collections import deque

import cocotb
import numpy as np

from systolith.hw.accumulator import REWRITE_DELAY, VALUE_DELAY
from systolith.hw.ports import ACCUMULATOR_LATENCY
from systolith.sim.agents import Agent, Bench


def bits_of(values, width):
    return sum((int(v) & ((1 << width) - 1)) << (width * i) for i, v in enumerate(values))


class Accumulator(Agent):
    """Issues random accumulations that keep the distance, and reads; checks every word read.

    `memory` is what the memory must hold once everything in flight is written: a read is compared
    with it, and only addresses that nothing in flight goes to are read.
    """

    def __init__(self, bench):
        p = bench.parameters
        self.bench = bench
        self.lanes, self.words, self.bits = p["lanes"], p["words"], p["bits"]
        self.maximum = p["maximum"]
        self.read_lanes = p["read"]
        self.memory = np.zeros((2 * self.words, self.lanes), dtype=np.int64)
        self.known = np.zeros(2 * self.words, dtype=bool)
        self.recent = deque([None] * (VALUE_DELAY + 1), maxlen=VALUE_DELAY + 1)
        self.values = deque([None] * VALUE_DELAY)
        self.lasts = deque([False] * (VALUE_DELAY + 1))
        self.answers = deque([None] * ACCUMULATOR_LATENCY)
        self.issue_chance = self.read_chance = 0.0
        self.addresses = 2 * self.words
        self.accumulated = self.refused = self.read = 0
        self.running = False
        self.reserved = None    # half that an accumulation of the cycle before reads
        bench.add(self)

    def drive(self):
        dut, rng, random = self.bench.dut, self.bench.rng, self.bench.random
        dut.i__values.value = (random.getrandbits(self.lanes * self.bits)
                               if self.values[0] is None else self.values[0])
        self.values.popleft()
        address = int(rng.integers(self.addresses))
        issue = (self.running and random.random() < self.issue_chance
                 and address not in list(self.recent)[-REWRITE_DELAY:])
        overwrite = not self.known[address] or random.random() < 0.2
        maximum = self.maximum and random.random() < 0.5
        last = self.running and random.random() < 0.3
        dut.i__valid.value = int(issue)
        dut.i__address.value = address
        dut.i__overwrite.value = int(overwrite)
        dut.i__last.value = int(last)
        if self.maximum:
            dut.i__maximum.value = int(maximum)
        self.recent.append(address if issue else None)
        self.lasts.append(last)
        self.uses, self.reserved = (
            self.reserved, address // self.words if issue and not overwrite else None)
        if issue:
            self.accumulated += 1
            self.known[address] = True
            low, high = -1 << (self.bits - 1), (1 << (self.bits - 1)) - 1
            values = rng.choice([low, high, int(rng.integers(low, high + 1)), 0], self.lanes)
            self.values.append(bits_of(values, self.bits))
            old = self.memory[address]
            new = values if overwrite else (
                np.maximum(old, values) if maximum else old + values)
            self.memory[address] = (new + (1 << 31)) % (1 << 32) - (1 << 31)
        else:
            self.values.append(None)

        self.target = int(rng.integers(self.addresses))
        self.reading = (self.running and random.random() < self.read_chance
                        and self.known[self.target] and self.target not in self.recent)
        dut.read__request__valid.value = int(self.reading)
        parts = self.lanes // self.read_lanes
        self.part = random.randrange(parts)
        dut.read__request__payload.value = self.target * parts + self.part

    def sample(self):
        dut = self.bench.dut
        where = f"cycle {self.bench.cycle}, seed {self.bench.seed}"
        answer = self.answers.popleft()
        if answer is not None:
            assert int(dut.read__data.value) == answer, f"word read, {where}"
            self.read += 1
        done = self.lasts.popleft()
        if self.running:
            assert bool(int(dut.done.value)) == done, f"done, {where}"
        ready = bool(int(dut.read__request__ready.value))
        assert not self.reading or ready == (self.uses != self.target // self.words), (
            f"ready, {where}")
        self.refused += self.reading and not ready
        first = self.part * self.read_lanes
        part = self.memory[self.target][first:first + self.read_lanes]
        self.answers.append(bits_of(part, 32)
                            if self.reading and ready else None)


@cocotb.test()
@cocotb.parametrize(issue_chance=[0.3, 1.0], few=[True, False])
async def words_accumulate_in_place(dut, issue_chance, few):
    bench = Bench(dut)
    agent = Accumulator(bench)
    await bench.reset()
    agent.running = True
    agent.issue_chance, agent.read_chance = issue_chance, 0.7
    # Around the border of the halves, so that neighbours lie in different ones.
    if few:
        agent.addresses = agent.words + 2
    await bench.ticks(4000)
    agent.issue_chance = 0.0
    await bench.ticks(2000)
    assert agent.accumulated > 800 and agent.refused > 50
    assert agent.read > 1500


@cocotb.test()
async def written_words_can_be_read_when_done_says_so(dut):
    bench = Bench(dut)
    lanes, bits, read = (bench.parameters[name] for name in ("lanes", "bits", "read"))
    await bench.reset()
    dut.i__valid.value = 0
    dut.read__request__valid.value = 0
    if bench.parameters["maximum"]:
        dut.i__maximum.value = 0
    await bench.ticks(4)
    for value in (5, 7):
        dut.i__valid.value = dut.i__overwrite.value = dut.i__last.value = 1
        dut.i__address.value = 3
        await bench.ticks()
        dut.i__valid.value = 0
        dut.i__address.value = 0
        await bench.ticks(VALUE_DELAY - 1)
        dut.i__values.value = bits_of([value] * lanes, bits)
        await bench.ticks()
        assert int(dut.done.value) == 1, f"seed {bench.seed}"
        dut.i__values.value = 0
        dut.read__request__valid.value = 1
        dut.read__request__payload.value = 3 * (lanes // read)
        await bench.ticks()
        dut.read__request__valid.value = 0
        await bench.ticks(ACCUMULATOR_LATENCY)
        assert int(dut.read__data.value) == bits_of([value] * read, 32), f"seed {bench.seed}"
