"""cocotb bench of the vector unit: instructions against numpy, their cycles, and their errors."""

import itertools
from dataclasses import replace

import cocotb
import numpy as np

from benches.array_engine_bench import Reader, Watch, payload_of
from systolith.hw.accumulator import REWRITE_DELAY
from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, LoadTarget, Vector, VectorMode, steps_of
from systolith.hw.ports import instruction_layout, load_write_signature, scratchpad_latency
from systolith.sim.agents import Bench, ReadResponder


def window_values(words, weights, i):
    """Values of one row of `words` ([count_0, lanes]), as the docstring of `Vector` defines them.

    `weights`: [taps, lanes].
    """
    if i.reduce:
        return [words.max(axis=0) if i.mode == VectorMode.MAX else words.sum(axis=0) * weights[0]]
    values = []
    for end in range(i.taps - 1, len(words), i.stride):
        window = words[end - i.taps + 1:end + 1]
        values.append(window.max(axis=0) if i.mode == VectorMode.MAX
                      else (window * weights).sum(axis=0))
    return values


class Setup:
    """The unit with random memories around it, and what its accumulators must hold."""

    def __init__(self, dut, *, stall):
        self.bench = bench = Bench(dut, watchdog=50_000)
        self.config = config = Config(**bench.parameters["config"])
        rng = bench.rng
        self.scratchpad = rng.integers(-128, 128, (config.scratchpad_words, config.rows),
                                       dtype=np.int8)
        self.scratchpad[:config.scratchpad_words // 4] = -128
        self.weights = rng.integers(-128, 128, (config.vector_weight_words, config.rows),
                                    dtype=np.int8)
        self.weights[:8] = -128
        self.accumulator_words = 2 * config.vector_accumulator_words
        self.expected = np.zeros((self.accumulator_words, config.rows), dtype=np.int64)
        self.source = bench.source("engine__instruction", instruction_layout(Vector),
                                   stalls=bench.stalls(stall, burst=4))
        self.load = bench.source("load", load_write_signature(config).members["payload"].shape)
        self.responder = ReadResponder(bench, "activation", lambda address: int.from_bytes(
            self.scratchpad[address].tobytes(), "little"), scratchpad_latency(config),
            stalls=bench.stalls(stall, burst=2))
        self.reader = Reader(bench, config.rows, self.accumulator_words, config.lanes)
        self.watch = Watch(bench)

    async def start(self):
        """Reset, and write the weight memory and all accumulators."""
        await self.bench.reset()
        self.load.send(
            {"target": LoadTarget.VECTOR_WEIGHT, "address": address, "part": 0,
             "data": int.from_bytes(weights.tobytes(), "little")}
            for address, weights in enumerate(self.weights))
        self.load.send(
            {"target": LoadTarget.WEIGHT, "address": address, "part": 0,
             "data": self.bench.random.getrandbits(8 * self.config.rows)} for address in range(8))
        await self.load.drained()
        self.watch.retired.clear()
        self.issue(Vector(mode=VectorMode.MAX, count_0=self.accumulator_words))
        await self.finished(1)
        self.watch.retired.clear()

    def issue(self, instruction):
        """Send an instruction and work out its effect."""
        i = instruction
        self.source.send([payload_of(i)])
        counts = [i.count_3, i.count_2, i.count_1, i.count_0]
        steps = [i.step_3, i.step_2, i.step_1, i.step_0]
        addresses, address, previous = [], i.activation, None
        for index in itertools.product(*map(range, counts)):
            if previous is not None:
                # The outermost loop that advanced is the first whose index changed.
                level = next(k for k in range(4) if index[k] != previous[k])
                address = (address + steps[level]) % (1 << 20)
            previous = index
            addresses.append(address)
        words = self.scratchpad[addresses].astype(np.int64).reshape(
            i.count_3 * i.count_2, i.count_1, i.count_0, -1)
        taps = 1 if i.reduce else i.taps
        for number, rows in enumerate(words):
            weights = None
            if i.mode == VectorMode.MAC:
                weights = self.weights[i.weight + number * taps:][:taps].astype(np.int64)
            values = [value for row in rows for value in window_values(row, weights, i)]
            for target, value in enumerate(values, i.accumulator):
                if number == 0 and not i.accumulate:
                    self.expected[target] = value
                elif i.mode == VectorMode.MAX:
                    self.expected[target] = np.maximum(self.expected[target], value)
                else:
                    self.expected[target] += value

    async def finished(self, instructions):
        """Wait until so many instructions have retired."""
        self.watch.enabled = True
        await self.bench.until(lambda: len(self.watch.retired) >= instructions)

    async def check(self):
        """Compare every accumulator word."""
        got = await self.reader.read(range(self.accumulator_words))
        assert not self.watch.errors, f"errors {self.watch.errors}, seed {self.bench.seed}"
        wrong = np.argwhere(got != self.expected)
        assert not len(wrong), (f"word {wrong[0][0]}, lane {wrong[0][1]} and {len(wrong) - 1} "
                                f"more differ, seed {self.bench.seed}")

    def random_instruction(self):
        """A valid instruction: every mode, windows longer than rows, strides of both signs."""
        random, config = self.bench.random, self.config
        words = config.scratchpad_words
        while True:
            counts = [random.choice((1, 2, 3, 5, 8, 13)), random.choice((1, 1, 2, 3)),
                      random.choice((1, 1, 2, 3)), random.choice((1, 1, 2))]
            strides = [random.choice((0, 1, 1, 2, -1, -3, 7, 20)) for _ in range(4)]
            reach = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
            lowest, highest = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
            if highest - lowest < words:
                break
        instruction = Vector(
            mode=random.choice(tuple(VectorMode)), reduce=random.random() < 0.3,
            taps=random.randint(1, config.vector_taps), stride=random.choice((1, 1, 2, 3, 15)),
            activation=random.randrange(-lowest, words - highest), accumulate=random.randrange(2),
            **{f"count_{k}": counts[k] for k in range(4)},
            **{f"step_{k}": step
               for k, step in enumerate(steps_of(tuple(counts), tuple(strides)))})
        values = counts[1] * (1 if instruction.reduce else max(
            0, (counts[0] - instruction.taps) // instruction.stride + 1))
        used = counts[2] * counts[3] * (1 if instruction.reduce else instruction.taps)
        return replace(
            instruction, accumulator=random.randint(0, self.accumulator_words - values),
            weight=random.randint(0, config.vector_weight_words - used))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def random_instructions(dut, stall):
    setup = Setup(dut, stall=stall)
    await setup.start()
    setup.reader.noise = 0.5
    for _ in range(150):
        setup.issue(setup.random_instruction())
    await setup.finished(150)
    await setup.check()


@cocotb.test()
async def short_instructions_that_hit_the_same_words(dut):
    setup = Setup(dut, stall=0.0)
    await setup.start()
    random = setup.bench.random
    for index in range(300):
        setup.issue(Vector(
            mode=random.choice((VectorMode.MAC, VectorMode.MAX, VectorMode.MAX)),
            count_0=random.choice((1, 1, 2)), count_2=random.choice((1, 1, 3)), step_0=1,
            weight=random.randrange(8), activation=random.randrange(50), accumulate=index % 5 > 0,
            accumulator=random.randrange(3)))
    await setup.finished(300)
    await setup.check()


@cocotb.test()
async def longest_sum_of_a_row(dut):
    setup = Setup(dut, stall=0.0)
    await setup.start()
    setup.issue(Vector(reduce=1, count_0=4095))
    setup.issue(Vector(reduce=1, count_0=4095, accumulator=1, weight=9))
    await setup.finished(2)
    assert setup.expected[0][0] == 4095 << 14
    await setup.check()


@cocotb.test()
async def a_word_every_cycle(dut):
    """Rows, passes and instructions follow each other without a bubble."""
    setup = Setup(dut, stall=0.0)
    await setup.start()
    config, watch, random = setup.config, setup.watch, setup.bench.random
    words = 0
    instructions = []
    for index in range(60):
        mode = random.choice(tuple(VectorMode))
        taps = random.randint(1, config.vector_taps)
        reduce = random.randrange(2)
        passes = random.randint(1, 3)
        width = random.randint(taps + 2, taps + 6)
        # Halves alternate, so that no value meets a word that is still being written.
        instructions.append(Vector(
            mode=mode, taps=taps, reduce=reduce, count_0=width, step_0=1, count_1=3, count_2=passes,
            weight=random.randrange(4), accumulator=index % 2 * config.vector_accumulator_words))
        words += width * 3 * passes
    watch.active.clear()
    watch.stalls.clear()
    for instruction in instructions:
        setup.issue(instruction)
    await setup.finished(len(instructions))
    start = watch.active[0]
    assert watch.active == list(range(start, start + words)), f"seed {setup.bench.seed}"
    assert not [cycle for cycle in watch.stalls if cycle > start]
    await setup.check()


@cocotb.test()
async def short_passes_wait_for_their_weights(dut):
    """A pass of n weight words begins n + 2 cycles after the one before it."""
    setup = Setup(dut, stall=0.0)
    await setup.start()
    for taps in range(1, setup.config.vector_taps + 1):
        setup.watch.active.clear()
        setup.watch.retired.clear()
        setup.issue(Vector(taps=taps, count_2=5, step_2=1))
        await setup.finished(1)
        start = setup.watch.active[0]
        assert setup.watch.active == [start + (taps + 2) * k for k in range(5)]
    await setup.check()


@cocotb.test()
async def values_of_one_word_keep_their_distance(dut):
    """Only a value waits for the value before it, and no longer than `REWRITE_DELAY` cycles."""
    setup = Setup(dut, stall=0.0)
    await setup.start()
    for width in range(1, 6):
        setup.watch.active.clear()
        setup.watch.retired.clear()
        setup.issue(Vector(mode=VectorMode.MAX, reduce=1, count_0=width, step_0=1, count_2=5,
                           step_2=7, activation=70))
        await setup.finished(1)
        start = setup.watch.active[0]
        period = max(width, REWRITE_DELAY + 1)
        values = [start + width - 1 + period * k for k in range(5)]
        assert setup.watch.active[width - 1::width] == values
        assert setup.watch.active[-1] - start == width - 1 + 4 * period
    await setup.check()


@cocotb.test()
async def retirement_means_written(dut):
    setup = Setup(dut, stall=0.0)
    await setup.start()
    for accumulator in (3, 0, 7):
        setup.watch.retired.clear()
        setup.issue(Vector(count_0=2, step_0=1, activation=60 + accumulator, weight=9,
                           accumulator=accumulator))
        await setup.finished(1)
        got = await setup.reader.read([accumulator + 1])
        assert (got[0] == setup.expected[accumulator + 1]).all(), f"seed {setup.bench.seed}"


@cocotb.test()
async def rows_shorter_than_the_window_give_nothing(dut):
    setup = Setup(dut, stall=0.0)
    await setup.start()
    taps = setup.config.vector_taps
    for mode in VectorMode:
        for width in range(1, taps):
            # No value, so no accumulator word is touched, not even one that does not exist.
            setup.issue(Vector(mode=mode, taps=taps, count_0=width, count_1=4, count_2=3,
                               step_0=1, accumulator=(1 << 16) - 1))
        setup.issue(Vector(mode=mode, taps=taps, count_0=taps, step_0=1, accumulator=mode))
    await setup.finished(2 * taps)
    await setup.check()


@cocotb.test()
async def wrong_instructions_stop_the_unit(dut):
    """The error comes when all before has retired, and nothing behind it is executed."""
    setup = Setup(dut, stall=0.2)
    config, bench, watch = setup.config, setup.bench, setup.watch
    words, accumulators = config.scratchpad_words, setup.accumulator_words
    weights, taps = config.vector_weight_words, config.vector_taps
    address, length = ErrorCode.ADDRESS, ErrorCode.LENGTH
    cases = [(Vector(**{f"count_{k}": 0}), length) for k in range(4)] + [
        (Vector(taps=0), length),
        (Vector(taps=taps + 1), length),
        (Vector(taps=15, mode=VectorMode.MAX), length),
        (Vector(stride=0), length),
        (Vector(activation=words), address),
        (Vector(mode=VectorMode.MAX, activation=words - 1, count_0=2, step_0=1), address),
        (Vector(activation=0, count_2=2, step_2=-1), address),
        (Vector(activation=(1 << 20) - 1), address),
        (Vector(accumulator=accumulators), address),
        (Vector(accumulator=accumulators - 1, count_1=2), address),
        (Vector(accumulator=(1 << 16) - 1, reduce=1), address),
        (Vector(weight=weights - taps + 1, taps=taps, count_0=taps), address),
        (Vector(weight=weights - 1, count_3=2), address),
        (Vector(weight=weights, reduce=1), address),
        (Vector(weight=(1 << 16) - 1), address),
    ]
    for wrong, code in cases:
        await setup.start()
        good = bench.random.randrange(4)
        for _ in range(good):
            setup.issue(setup.random_instruction())
        setup.source.send([payload_of(wrong)] + 2 * [payload_of(Vector())])
        await bench.until(lambda: bool(watch.errors))
        await bench.ticks(40)
        assert set(watch.errors) == {(code, good)}, f"{wrong}: {watch.errors}, seed {bench.seed}"
        assert len(watch.retired) == good
        watch.errors.clear()
        watch.enabled = False
