"""cocotb benches of `Requantizer`: any record against any accumulator, and the latency."""

from collections import deque

import cocotb
import numpy as np

from systolith.hw.requantize import (
    CLAMP_STAGE,
    MULTIPLIER_STAGE,
    REQUANTIZE_LATENCY,
    ROUNDING_STAGE,
    ZERO_STAGE,
)
from systolith.sim import numerics
from systolith.sim.agents import Agent, Bench

STAGES = {"acc": 0, "bias": 0, "multiplier": MULTIPLIER_STAGE, "shift": MULTIPLIER_STAGE,
          "rounding": ROUNDING_STAGE, "zero": ZERO_STAGE, "low": CLAMP_STAGE,
          "high": CLAMP_STAGE}


def any_values(rng, count, bits):
    """Every field anywhere in its range; accumulators of every magnitude."""
    magnitude = rng.integers(0, 33, count)
    limit = 1 << np.minimum(magnitude, 31)
    return {
        "acc": np.clip(rng.integers(-limit, limit), -2**31, 2**31 - 1),
        "bias": np.where(rng.random(count) < 0.5, rng.integers(-2**31, 2**31, count),
                         rng.integers(-300, 300, count)),
        "rounding": rng.integers(-2**24, 2**24, count),
        "multiplier": rng.integers(0, 2**24, count),
        "shift": rng.integers(0, 64, count),
        "zero": rng.integers(-128, 128, count),
        "low": rng.integers(-128, 128, count),
        "high": rng.integers(-128, 128, count),
    }


def near_ties(rng, count, bits):
    """Sensible records; products on ties, at the ends of their float32 windows, and one beside."""
    width = bits or 1
    multiplier = rng.integers(1 << (width - 1), 1 << width, count)
    shift = rng.integers(max(width - 2, 1), width + 15, count)
    quotient = rng.integers(0, 140, count)
    _, length = np.frexp(quotient)
    exponent = shift - 25 + length
    window = np.where(exponent < 0, 0, 1 << np.maximum(exponent, 0))
    product = ((2 * quotient + 1) << (shift - 1)) + rng.integers(-1, 2, count) * window
    product += rng.integers(-1, 2, count)
    acc = product // multiplier
    sign = rng.choice([-1, 1], count)
    return {
        "acc": acc * sign, "bias": np.zeros(count, np.int64),
        "rounding": (product - acc * multiplier) * sign,
        "multiplier": multiplier, "shift": shift, "zero": rng.integers(-3, 4, count),
        "low": np.full(count, -128), "high": np.full(count, 127),
    }


class Lane(Agent):
    """Feeds values, their fields at the right stages, and collects results with their cycles."""

    def __init__(self, bench, values, stalls):
        self.bench, self.values, self.stalls = bench, values, stalls
        self.ports = {name: bench.port(name) for name in STAGES if hasattr(bench.dut, name)}
        self.masks = {name: (1 << len(port)) - 1 for name, port in self.ports.items()}
        self.enable, self.o = bench.port("enable"), bench.port("o")
        self.count = len(values["acc"])
        self.columns = {name: [int(v) & self.masks[name] for v in values[name]]
                        for name in self.ports}
        self.pipe = deque([None] * (REQUANTIZE_LATENCY + 1), REQUANTIZE_LATENCY + 1)
        self.next = 0
        self.results = []
        bench.add(self)

    def drive(self):
        item = None
        if self.next < self.count and not next(self.stalls):
            item, self.next = self.next, self.next + 1
        self.pipe.appendleft(item)
        self.enable.value = sum((self.pipe[k] is not None) << k
                                for k in range(REQUANTIZE_LATENCY))
        for name, port in self.ports.items():
            index = self.pipe[STAGES[name]]
            port.value = (self.bench.random.getrandbits(len(port)) if index is None
                          else self.columns[name][index])

    def sample(self):
        if self.pipe[REQUANTIZE_LATENCY] is not None:
            value = int(self.o.value)
            self.results.append(value - 256 if value >= 128 else value)


async def compare(dut, make, stall):
    bench = Bench(dut)
    bits, exact = bench.parameters["bits"], bench.parameters["bias"] == "exact"
    count = bench.parameters["count"]
    values = make(bench.rng, count, bits)
    await bench.reset()
    lane = Lane(bench, values, bench.stalls(stall))  # which begins at once
    await bench.until(lambda: len(lane.results) == count)
    fields = dict(values)
    if not exact:
        fields["rounding"] = np.zeros(count, np.int64)
    expected = numerics.requantize(**fields, multiplier_bits=bits)
    wrong = np.flatnonzero(np.array(lane.results) != expected)
    assert wrong.size == 0, (
        f"{wrong.size} of {count} differ, first {wrong[0]}: "
        f"{({name: int(v[wrong[0]]) for name, v in fields.items()})} gave "
        f"{lane.results[wrong[0]]}, not {expected[wrong[0]]} (seed {bench.seed})")


@cocotb.test()
async def any_record(dut):
    await compare(dut, any_values, 0.2)


@cocotb.test()
async def ties(dut):
    await compare(dut, near_ties, 0.0)
