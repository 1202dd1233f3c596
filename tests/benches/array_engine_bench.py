"""cocotb bench of the array engine: instructions against numpy, their cycles, and their errors."""

import itertools
from dataclasses import fields

import cocotb
import numpy as np

from systolith.hw.config import Config
from systolith.hw.isa import Array, ErrorCode, Instruction, LoadTarget, steps_of
from systolith.hw.ports import (
    ACCUMULATOR_LATENCY,
    instruction_layout,
    load_write_signature,
    scratchpad_latency,
    tile_wait,
)
from systolith.sim.agents import Agent, Bench, ReadResponder


def payload_of(instruction):
    """An instruction's fields as the engine gets them: without waits and mark, steps wrapped."""
    common = {field.name for field in fields(Instruction)}
    return {field.name: getattr(instruction, field.name) % (1 << field.metadata["width"])
            for field in fields(instruction) if field.name not in common}


class Watch(Agent):
    """Records the cycles in which pixels enter, what stalls, retirements and errors."""

    def __init__(self, bench):
        self.bench = bench
        self.active, self.stalls, self.weight_stalls, self.retired = [], [], [], []
        self.errors = []
        self.enabled = False
        self.ports = [(port, cycles) for port, cycles in (
            ("engine__active", self.active), ("engine__stall", self.stalls),
            ("weight_stall", self.weight_stalls), ("engine__retire", self.retired))
            if hasattr(bench.dut, port)]
        bench.add(self)

    def sample(self):
        dut = self.bench.dut
        for port, cycles in self.ports:
            if self.enabled and int(self.bench.port(port).value):
                cycles.append(self.bench.cycle)
        if self.enabled and int(dut.engine__error.value):
            self.errors.append((int(dut.engine__error.value), len(self.retired)))


class Reader(Agent):
    """Reads accumulator words, `lanes` values at a time; without work it reads at random, to be in
    the way."""

    def __init__(self, bench, values, words, lanes):
        self.bench, self.values, self.lanes = bench, values, lanes
        self.words = words * (values // lanes)
        self.queue, self.results, self.pending = [], [], [None] * ACCUMULATOR_LATENCY
        self.noise = 0.0
        self.request = None
        bench.add(self)

    def drive(self):
        dut, random = self.bench.dut, self.bench.random
        noisy = random.random() < self.noise
        self.request = (self.queue[0], True) if self.queue else (
            (random.randrange(self.words), False) if noisy else None)
        dut.accumulators__request__valid.value = int(self.request is not None)
        dut.accumulators__request__payload.value = (
            self.request[0] if self.request else random.randrange(self.words))

    def sample(self):
        dut = self.bench.dut
        if self.pending.pop(0):
            bits = int(dut.accumulators__data.value)
            self.results.append(np.frombuffer(
                bits.to_bytes(4 * self.lanes, "little"), dtype=np.int32))
        accepted = self.request is not None and int(dut.accumulators__request__ready.value)
        wanted = bool(accepted and self.request[1])
        if wanted:
            self.queue.pop(0)
        self.pending.append(wanted)

    async def read(self, addresses):
        self.results = []
        addresses = list(addresses)
        parts = self.values // self.lanes
        self.queue = [address * parts + part for address in addresses for part in range(parts)]
        await self.bench.until(lambda: len(self.results) == parts * len(addresses))
        return np.array(self.results).reshape(len(addresses), self.values)


class Setup:
    """The engine with random memories around it, and what its accumulators must hold."""

    def __init__(self, dut, *, stall):
        self.bench = bench = Bench(dut, watchdog=50_000)
        self.config = config = Config(**bench.parameters["config"])
        rng = bench.rng
        self.scratchpad = rng.integers(-128, 128, (config.scratchpad_words, config.rows),
                                       dtype=np.int8)
        low = -8 if config.weight_bits == 4 else -128
        self.weights = rng.integers(low, -low, (config.weight_words, config.columns),
                                    dtype=np.int8)
        self.expected = np.zeros((2 * config.accumulator_words, config.columns), dtype=np.int64)
        self.source = bench.source("engine__instruction", instruction_layout(Array),
                                   stalls=bench.stalls(stall, burst=4))
        self.load = bench.source("load", load_write_signature(config).members["payload"].shape)
        ReadResponder(bench, "activation", lambda address: int.from_bytes(
            self.scratchpad[address].tobytes(), "little"), scratchpad_latency(config),
            stalls=bench.stalls(stall, burst=2))
        self.reader = Reader(
            bench, config.columns, 2 * config.accumulator_words, config.lanes)
        self.watch = Watch(bench)

    async def start(self):
        """Reset, and write the weight memory and all accumulators."""
        await self.bench.reset()
        config = self.config
        for address, weights in enumerate(self.weights):
            data = weights.tobytes()
            if config.weight_bits == 4:
                nibbles = weights.astype(np.uint8) & 15
                data = (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()
            for part in range(max(1, len(data) // config.rows)):
                piece = data[part * config.rows:(part + 1) * config.rows]
                noise = self.bench.rng.bytes(config.rows - len(piece))
                self.load.send([{"target": LoadTarget.WEIGHT, "address": address, "part": part,
                                 "data": int.from_bytes(piece + noise, "little")}])
        # Other targets share the stream's type and must not disturb the weights.
        for address in range(8):
            self.load.send([{"target": LoadTarget.VECTOR_WEIGHT, "address": address, "part": 0,
                             "data": self.bench.random.getrandbits(8 * config.rows)}])
        await self.load.drained()
        self.watch.retired.clear()
        for half in range(2):
            self.issue(Array(count_0=config.accumulator_words,
                             accumulator=half * config.accumulator_words))
        await self.finished(2)
        self.watch.retired.clear()

    def issue(self, instruction):
        """Send an instruction and work out its effect."""
        i = instruction
        self.source.send([payload_of(i)])
        counts = [i.count_4, i.count_3, i.count_2, i.count_1, i.count_0]
        steps = [i.step_4, i.step_3, i.step_2, i.step_1, i.step_0]
        address, weight = i.activation, i.weight
        pixels = i.count_0 * i.count_1
        previous = None
        for number, index in enumerate(itertools.product(*map(range, counts))):
            if previous is not None:
                # The outermost loop that advanced is the first whose index changed.
                level = next(k for k in range(5) if index[k] != previous[k])
                address = (address + steps[level]) % (1 << 20)
            previous = index
            pixel, pass_number = number % pixels, number // pixels
            tile = self.weights[weight + pass_number * self.config.rows:][:self.config.rows]
            sums = self.scratchpad[address].astype(np.int64) @ tile.astype(np.int64)
            target = i.accumulator + pixel
            if pass_number == 0 and not i.accumulate:
                self.expected[target] = sums
            else:
                self.expected[target] += sums

    async def finished(self, instructions):
        """Wait until so many instructions have retired."""
        self.watch.enabled = True
        await self.bench.until(lambda: len(self.watch.retired) >= instructions)

    async def check(self):
        """Compare every accumulator word."""
        got = await self.reader.read(range(2 * self.config.accumulator_words))
        assert not self.watch.errors, f"errors {self.watch.errors}, seed {self.bench.seed}"
        wrong = np.argwhere(got != self.expected)
        assert not len(wrong), (f"word {wrong[0][0]}, column {wrong[0][1]} and {len(wrong) - 1} "
                                f"more differ, seed {self.bench.seed}")

    def random_instruction(self, *, pixels=None):
        """A valid instruction over the whole memories, with strides of both signs."""
        random, config = self.bench.random, self.config
        words = config.scratchpad_words
        while True:
            if pixels:
                counts = [pixels, 1]
            else:
                counts = [random.choice((1, 2, 3, 5, 9)), random.choice((1, 1, 2, 3))]
            counts += [random.choice((1, 1, 2, 3)) for _ in range(3)]
            strides = [random.choice((0, 1, 2, -1, -3, 7, 20)) for _ in range(5)]
            reach = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
            lowest, highest = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
            tiles = counts[2] * counts[3] * counts[4]
            if (highest - lowest < words and tiles * config.rows <= config.weight_words
                    and counts[0] * counts[1] <= 2 * config.accumulator_words):
                break
        start = random.randrange(-lowest, words - highest)
        steps = steps_of(tuple(counts), tuple(strides))
        return Array(
            activation=start, weight=random.randint(0, config.weight_words - tiles * config.rows),
            accumulator=random.randint(0, 2 * config.accumulator_words - counts[0] * counts[1]),
            accumulate=random.randrange(2),
            **{f"count_{k}": counts[k] for k in range(5)},
            **{f"step_{k}": steps[k] for k in range(5)})


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def random_instructions(dut, stall):
    setup = Setup(dut, stall=stall)
    await setup.start()
    setup.reader.noise = 0.5
    for _ in range(60):
        setup.issue(setup.random_instruction())
    await setup.finished(60)
    await setup.check()


@cocotb.test()
async def neighbours_that_hit_the_same_word(dut):
    setup = Setup(dut, stall=0.0)
    await setup.start()
    for index in range(150):
        pixels = setup.bench.random.choice((1, 1, 2, 3, setup.config.rows))
        setup.issue(Array(count_0=pixels, step_0=1, activation=index % 40, accumulate=index % 5 > 0,
                          count_2=setup.bench.random.choice((1, 1, 2)),
                          accumulator=setup.bench.random.randrange(3)))
    await setup.finished(150)
    await setup.check()


@cocotb.test()
async def passes_cost_their_pixels_or_the_rows(dut):
    """Every pass starts exactly when the pass before it and the reading of its tile allow."""
    setup = Setup(dut, stall=0.0)
    await setup.start()
    config, watch, random = setup.config, setup.watch, setup.bench.random
    rows, lead = config.rows, 2 + tile_wait(config)
    least = max(rows, lead + 1)  # cycles of a pass
    instructions = []
    for index in range(80):
        steady = index < 40
        pixels = rows + random.choice((0, 0, 1, 5)) if steady else random.randint(1, 2 * rows)
        pixels = min(pixels, config.accumulator_words)
        passes = random.choice((1, 1, 2, 3))
        # Halves alternate: no pixel meets a word that is still being written.
        instructions.append(Array(count_0=pixels, step_0=1, count_2=passes,
                                  accumulator=index % 2 * config.accumulator_words))
    watch.active.clear()
    watch.stalls.clear()
    watch.weight_stalls.clear()
    for instruction in instructions:
        setup.issue(instruction)
    await setup.finished(len(instructions))

    starts, passes = [], []
    read = enter = None
    for instruction in instructions:
        for _ in range(instruction.count_2):
            pixels = instruction.count_0
            if enter is None:
                enter = watch.active[0]
                read = enter - lead
            else:
                read = max(read + rows, enter + 1)
                enter = max(enter + passes[-1], read + lead)
            starts.append(enter)
            passes.append(pixels)
    expected = [start + i for start, pixels in zip(starts, passes, strict=True)
                for i in range(pixels)]
    assert watch.active == expected, f"seed {setup.bench.seed}"
    gaps = sorted(set(range(expected[0], expected[-1])) - set(expected))
    assert watch.weight_stalls == watch.stalls
    # Behind an instruction of a single pixel the next one may not have reached the intake yet.
    singles = {starts[sum(before.count_2 for before in instructions[:k])] + 1
               for k, i in enumerate(instructions) if i.count_0 * i.count_2 == 1}
    stalls = {cycle for cycle in watch.weight_stalls if cycle > expected[0]}
    assert set(gaps) - singles <= stalls <= set(gaps)
    steady = sum(i.count_2 for i in instructions[:40])
    assert starts[steady - 1] - starts[0] == sum(max(p, least) for p in passes[:steady - 1])
    await setup.check()


@cocotb.test()
async def retirement_means_written(dut):
    setup = Setup(dut, stall=0.0)
    await setup.start()
    for accumulator in (3, 0, 7):
        setup.watch.retired.clear()
        setup.issue(Array(count_0=2, step_0=1, activation=accumulator, accumulator=accumulator))
        await setup.finished(1)
        got = await setup.reader.read([accumulator + 1])
        assert (got[0] == setup.expected[accumulator + 1]).all(), f"seed {setup.bench.seed}"


@cocotb.test()
async def wrong_instructions_stop_the_engine(dut):
    """The error comes when all before has retired, and nothing behind it is executed."""
    setup = Setup(dut, stall=0.2)
    config, bench, watch = setup.config, setup.bench, setup.watch
    words, accumulators = config.scratchpad_words, 2 * config.accumulator_words
    address, length = ErrorCode.ADDRESS, ErrorCode.LENGTH
    cases = [(Array(**{f"count_{k}": 0}), length) for k in range(5)] + [
        (Array(activation=words), address),
        (Array(activation=words - 1, count_0=2, step_0=1), address),
        (Array(activation=0, count_2=2, step_2=-1), address),
        (Array(activation=(1 << 20) - 1), address),
        (Array(accumulator=accumulators), address),
        (Array(accumulator=accumulators - 1, count_1=2), address),
        (Array(accumulator=(1 << 16) - 1), address),
        (Array(weight=config.weight_words - config.rows + 1), address),
        (Array(weight=config.weight_words - config.rows, count_4=2), address),
        (Array(weight=(1 << 20) - 1), address),
    ]
    for wrong, code in cases:
        await setup.start()
        good = bench.random.randrange(4)
        for _ in range(good):
            setup.issue(setup.random_instruction())
        setup.source.send([payload_of(wrong)] + 2 * [payload_of(Array())])
        await bench.until(lambda: bool(watch.errors))
        await bench.ticks(3 * config.rows + 30)
        assert set(watch.errors) == {(code, good)}, f"{wrong}: {watch.errors}, seed {bench.seed}"
        assert len(watch.retired) == good
        watch.errors.clear()
        watch.enabled = False
