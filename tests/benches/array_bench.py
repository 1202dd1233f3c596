"""cocotb bench of the systolic array: every sum, its tag and its cycle against a matrix product."""

import cocotb
import numpy as np

from systolith.hw.array import TAG_LEAD
from systolith.sim.agents import Agent, Bench

TAG_BITS = 10


def word(values):
    """int8 values as the bits of a word, value 0 lowest."""
    return int.from_bytes(np.asarray(values, dtype=np.int8).tobytes(), "little")


class ArrayDriver(Agent):
    """Plays a schedule of pixels and weight rows, and checks each cycle's outputs.

    `pixels[cycle]` = (first, tag, activations), `weights[cycle]` = (row, weights),
    `tags[cycle]` and `sums[cycle]`: what must come out.
    """

    def __init__(self, bench, rows, columns, latency):
        self.bench, self.columns = bench, columns
        self.width = len(bench.port("o__sums")) // columns
        self.latency = latency
        self.pixels, self.weights, self.tags, self.sums = {}, {}, {}, {}
        self.checked = 0
        self.origin = 0
        bench.add(self)

    def enter(self, cycle, first, tag, activations, tile):
        self.pixels[cycle] = (first, tag, activations)
        self.tags[cycle + self.latency - TAG_LEAD] = tag
        self.sums[cycle + self.latency] = activations.astype(np.int64) @ tile.astype(np.int64)

    def drive(self):
        now, dut, noise = self.bench.cycle - self.origin, self.bench.dut, self.bench.random
        pixel, row = self.pixels.get(now), self.weights.get(now)
        dut.i__valid.value = int(pixel is not None)
        dut.i__first.value = int(pixel[0]) if pixel else 0
        dut.i__tag.value = pixel[1] if pixel else noise.getrandbits(TAG_BITS)
        dut.i__data.value = word(pixel[2]) if pixel else noise.getrandbits(len(dut.i__data))
        dut.load__valid.value = int(row is not None)
        dut.load__row.value = row[0] if row else noise.getrandbits(len(dut.load__row))
        dut.load__weights.value = (word(row[1]) if row
                                   else noise.getrandbits(len(dut.load__weights)))

    def sample(self):
        if int(self.bench.dut.rst.value):
            return
        now, dut = self.bench.cycle - self.origin, self.bench.dut
        where = f"cycle {now}, seed {self.bench.seed}"
        assert int(dut.o__valid.value) == (now in self.tags), f"valid, {where}"
        if now in self.tags:
            assert int(dut.o__tag.value) == self.tags[now], f"tag, {where}"
        if now in self.sums:
            bits = int(dut.o__sums.value)
            low = (bits >> self.width * np.arange(self.columns, dtype=object)) % (1 << self.width)
            got = [int(v) - (int(v) >> (self.width - 1) << self.width) for v in low]
            assert got == self.sums[now].tolist(), f"sums, {where}"
            self.checked += 1


def behind(bench):
    """Cycles between a tile's last row, one a cycle, and the last row to see a pixel."""
    rows = bench.parameters["rows"]
    return rows - rows // bench.parameters["stage_rows"]


def schedule(bench, driver, passes, *, bubbles, timing):
    """Random passes of a few pixels; tiles written as early, as late, or as randomly as allowed.

    Returns the cycle behind the last output.
    """
    rows, columns = bench.parameters["rows"], bench.parameters["columns"]
    rng, random, limit = bench.rng, bench.random, bench.parameters["limit"]
    start = 5
    entered = 0
    for index in range(passes):
        extreme = index % 4 == 1
        tile = (np.full((rows, columns), -limit) if extreme
                else rng.integers(-limit, limit, (rows, columns))).astype(np.int8)
        earliest = start
        latest = earliest + random.randrange(2 * rows)
        begin = {"early": earliest, "late": latest,
                 "random": random.randint(earliest, latest)}[timing]
        for r in range(rows):
            driver.weights[begin + r] = (r, tile[r])
        # The next pixel may enter one cycle after row 0 was written, if the others are in time.
        cycle = max(entered, begin + 1 + bench.parameters["buffered"] + behind(bench))
        pixels = random.choice((1, 2, rows - 1, rows, rows, rows + 3))
        for pixel in range(pixels):
            while random.random() < bubbles:
                cycle += 1
            values = (np.full(rows, -128) if extreme
                      else rng.integers(-128, 128, rows)).astype(np.int8)
            driver.enter(cycle, pixel == 0, random.getrandbits(TAG_BITS), values, tile)
            if pixel == 0:
                start = max(cycle, begin + rows)  # row r is written no earlier than it is taken
            cycle += 1
        entered = cycle
    return entered + driver.latency + 1


@cocotb.test()
@cocotb.parametrize(bubbles=[0.0, 0.4], timing=["early", "late", "random"])
async def sums_of_random_passes(dut, bubbles, timing):
    bench = Bench(dut)
    driver = ArrayDriver(bench, bench.parameters["rows"], bench.parameters["columns"],
                         bench.parameters["latency"])
    await bench.reset()
    driver.origin = bench.cycle
    end = schedule(bench, driver, 60, bubbles=bubbles, timing=timing)
    await bench.ticks(end)
    assert driver.checked == len(driver.sums) > 100


@cocotb.test()
async def passes_of_as_many_pixels_as_rows_leave_no_bubble(dut):
    bench = Bench(dut)
    rows, columns = bench.parameters["rows"], bench.parameters["columns"]
    limit = bench.parameters["limit"]
    driver = ArrayDriver(bench, rows, columns, bench.parameters["latency"])
    await bench.reset()
    driver.origin = bench.cycle
    passes = 12
    late = 1 + bench.parameters["buffered"] + behind(bench)
    pixels = rows + behind(bench)  # beyond as many as rows: until the next tile is there
    for index in range(passes):
        tile = bench.rng.integers(-limit, limit, (rows, columns)).astype(np.int8)
        for r in range(rows):
            driver.weights[index * pixels + r] = (r, tile[r])
        for pixel in range(pixels):
            driver.enter(late + index * pixels + pixel, pixel == 0, index,
                         bench.rng.integers(-128, 128, rows).astype(np.int8), tile)
    await bench.ticks((passes + 1) * pixels + driver.latency)
    assert driver.checked == passes * pixels
