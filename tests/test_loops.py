"""Loop nests against nested Python loops: addresses, flags, and no bubble between nests."""

import gc
import itertools
import random

import pytest
from amaranth.sim import Simulator

from systolith.hw.isa import steps_of
from systolith.hw.loops import LoopNest

WORDS = 128  # of the memory that is addressed


def walk(address, counts, strides, bits):
    """Addresses and flags of a nest, written as loops over strides."""
    levels = len(counts)
    result = []
    for reversed_index in itertools.product(*(range(count) for count in reversed(counts))):
        index = reversed_index[::-1]
        offset = sum(i * stride for i, stride in zip(index, strides, strict=True))
        at_end = [index[k] == counts[k] - 1 for k in range(levels)]
        at_start = [index[k] == 0 for k in range(levels)]
        result.append((
            (address + offset) % (1 << bits),
            sum(all(at_start[:k + 1]) << k for k in range(levels)),
            sum(all(at_end[:k + 1]) << k for k in range(levels)),
            sum(at_end[k] << k for k in range(levels)),
            (address + offset) % (1 << bits) >= WORDS,
        ))
    return result


def run(levels, bits, nests, *, ready_chance, seed):
    """Feed nests and collect the cycle of every address taken, and what comes with it."""
    dut = LoopNest(levels, words=WORDS, count_bits=6, address_bits=bits)
    rng = random.Random(seed)
    total = sum(len(walk(*nest, bits)) for nest in nests)
    taken = []

    async def feed(ctx):
        for address, counts, strides in nests:
            ctx.set(dut.i.p, {"address": address, "counts": [count % 64 for count in counts],
                              "steps": [step % (1 << bits) for step in steps_of(counts, strides)]})
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def collect(ctx):
        ctx.set(dut.o.ready, rng.random() < ready_chance)
        async for _clk, _reset, ready, valid, value in ctx.tick().sample(
                dut.o.ready, dut.o.valid, dut.o.p):
            if ready and valid:
                taken.append((value.address, value.first, value.last, value.final,
                              value.outside))
                cycles.append(len(history))
            history.append(valid)
            if len(taken) == total:
                return
            assert len(history) < 20 * total + 100, f"no progress, seed {seed}"
            ctx.set(dut.o.ready, rng.random() < ready_chance)

    history, cycles = [], []
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(collect)
    simulator.run()
    return taken, cycles


def random_nests(rng, levels, bits, number):
    nests = []
    for _ in range(number):
        counts = tuple(rng.choice((1, 1, 2, 3, 5)) for _ in range(levels))
        strides = tuple(rng.randrange(-40, 40) for _ in range(levels))
        nests.append((rng.randrange(1 << bits), counts, strides))
    return nests


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
@pytest.mark.parametrize("ready_chance", [1.0, 0.6])
def test_addresses_and_flags(levels, ready_chance):
    seed = 100 * levels + int(10 * ready_chance)
    nests = random_nests(random.Random(seed), levels, 10, 12)
    taken, cycles = run(levels, 10, nests, ready_chance=ready_chance, seed=seed)
    expected = [item for nest in nests for item in walk(*nest, 10)]
    assert taken == expected, f"seed {seed}"
    if ready_chance == 1.0:
        assert cycles == list(range(cycles[0], cycles[0] + len(expected))), "a bubble"


def test_first_address_follows_acceptance():
    _, cycles = run(2, 8, [(3, (1, 1), (0, 0))], ready_chance=1.0, seed=1)
    assert cycles == [1]


@pytest.mark.parametrize("count", [63, 64])
def test_largest_count(count):
    """The second stands for 0 in the field, which runs as often as the field has values."""
    nests = [(0, (count, 2), (1, 64)), (0, (2, count), (64, 1))]
    taken, _ = run(2, 8, nests, ready_chance=1.0, seed=1)
    assert taken == [item for nest in nests for item in walk(*nest, 8)]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_levels_are_validated():
    with pytest.raises(ValueError, match="levels must be at least 1, not 0"):
        LoopNest(0, words=WORDS)
    gc.collect()  # so that the discarded component's warning falls inside this test
