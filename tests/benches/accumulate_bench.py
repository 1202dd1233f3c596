"""cocotb bench of the stand-in `Accumulate`, which exercises the bench tools themselves."""

import cocotb
from amaranth import signed

from stand_ins import PAIR
from systolith.sim.agents import Bench


@cocotb.test()
async def totals_come_in_order(dut):
    bench = Bench(dut, watchdog=20_000)
    stall = bench.parameters["stall"]
    source = bench.source("i", PAIR, stalls=bench.stalls(stall, burst=3))
    sink = bench.sink("o", signed(24), stalls=bench.stalls(stall))
    await bench.reset()
    totals = [0] * 64
    items, expected = [], []
    for _ in range(bench.parameters["count"]):
        index, value = int(bench.rng.integers(64)), int(bench.rng.integers(-128, 128))
        totals[index] += value
        items.append({"index": index, "value": value})
        expected.append(totals[index])
    source.send(items)
    assert await sink.receive(len(items)) == expected
    if not stall:
        assert bench.cycle < len(items) + 10, "not one item a cycle"


@cocotb.test()
async def silent_without_input(dut):
    bench = Bench(dut)
    sink = bench.sink("o", signed(24))
    bench.source("i", PAIR)
    await bench.reset()
    await bench.ticks(50)
    assert sink.items == []
