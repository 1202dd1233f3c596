"""Main memory of block RAM against a numpy memory, with random masters."""

import cocotb
import numpy as np
from amaranth.lib import data

from systolith.sim.agents import Bench

REQUEST = data.StructLayout({"address": 32, "beats": range(65)})


async def mix(dut, rounds, *, stall=0.0, refuse=0.0):
    """Groups of writes, then of reads, each complete before the next is offered."""
    bench = Bench(dut, watchdog=20_000)
    random, beat, size = bench.random, bench.parameters["beat"], bench.parameters["size"]
    requests = bench.source("read__request", REQUEST, stalls=bench.stalls(stall, burst=3))
    read = bench.sink("read__data", 8 * beat, stalls=bench.stalls(refuse, burst=9))
    writes = bench.source("write", data.StructLayout(
        {"address": 32, "data": 8 * beat, "mask": beat}), stalls=bench.stalls(stall, burst=3))
    expected = bench.rng.integers(0, 256, size, np.uint8)
    await bench.ticks()
    await bench.reset()
    writes.send([{"address": address, "mask": (1 << beat) - 1, "data": int.from_bytes(
        expected[address:address + beat].tobytes(), "little")}
        for address in range(0, size, beat)])
    for _ in range(rounds):
        for _ in range(random.randrange(60)):
            address = random.randrange(0, size, beat)
            value, mask = random.getrandbits(8 * beat), random.getrandbits(beat)
            writes.send([{"address": address, "data": value, "mask": mask}])
            for lane in range(beat):
                if mask >> lane & 1:
                    expected[address + lane] = value >> 8 * lane & 0xFF
        await writes.drained()
        wanted = b""
        begun = bench.cycle
        for _ in range(random.randrange(1, 8)):
            beats = random.choice((1, 2, 7, 64))
            address = random.randrange(0, size - beats * beat + 1, beat)
            requests.send([{"address": address, "beats": beats}])
            wanted += expected[address:address + beats * beat].tobytes()
        values = await read.receive(len(wanted) // beat)
        got = b"".join(value.to_bytes(beat, "little") for value in values)
        assert got == wanted, f"seed {bench.seed}"
        if not stall and not refuse:
            cycles = bench.cycle - begun
            assert cycles <= len(values) + 6, f"{len(values)} beats took {cycles} cycles"


@cocotb.test()
async def a_beat_a_cycle(dut):
    await mix(dut, 60)


@cocotb.test()
async def stalls_change_nothing(dut):
    await mix(dut, 60, stall=0.3, refuse=0.4)
