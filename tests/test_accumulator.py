"""The accumulator memory, and the guard that keeps accumulations to a word apart."""

import gc
import random

import pytest
from amaranth.sim import Simulator

from systolith.hw.accumulator import REWRITE_DELAY, AccumulatorMemory, HazardGuard
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("lanes", "words", "bits", "maximum", "read"), [
    (4, 16, 18, False, 4), (3, 8, 27, True, 3), (16, 64, 20, False, 4), (2, 16, 32, True, 1)])
def test_accumulator_memory(lanes, words, bits, maximum, read):
    memory = AccumulatorMemory(lanes, words, value_bits=bits, maximum=maximum, read_lanes=read)
    run_bench(memory, "benches.accumulator_bench", parameters={
        "lanes": lanes, "words": words, "bits": bits, "maximum": maximum, "read": read})


def test_guard_remembers_what_was_issued():
    seed = 1
    rng = random.Random(seed)
    dut = HazardGuard(3, 2)
    recent = [None] * REWRITE_DELAY
    refused = 0

    async def bench(ctx):
        nonlocal recent, refused
        address = 0
        for _ in range(2000):
            ctx.set(dut.address, address)
            busy = ctx.get(dut.busy)
            assert busy == (address in recent), f"seed {seed}"
            refused += busy
            moves = rng.random() < 0.9
            issue = rng.random() < 0.9 and moves and not busy
            ctx.set(dut.moves, moves)
            ctx.set(dut.issue, issue)
            recent = [*recent[1:], address if issue else None]
            choices = [rng.randrange(8) for _ in range(2)]
            follows = rng.randrange(1, 4)
            for choice, value in enumerate(choices):
                ctx.set(dut.following[choice], value)
                if moves and follows & 1 << choice:
                    address = value
            ctx.set(dut.follows, follows)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert refused > 100


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_arguments_are_validated():
    with pytest.raises(ValueError, match="value_bits must be between 1 and 32, not 33"):
        AccumulatorMemory(4, 16, value_bits=33)
    with pytest.raises(ValueError, match="words_per_half must be a power of two, not 12"):
        AccumulatorMemory(4, 12, value_bits=20)
    gc.collect()  # so that the discarded components' warnings fall inside this test
