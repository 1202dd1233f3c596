"""cocotb benches of `PostProcessor`: random instruction streams, latency, throughput, errors."""

import cocotb
import numpy as np

from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, LoadTarget, Post, PostSource, steps_of
from systolith.hw.ports import (
    ACCUMULATOR_LATENCY,
    instruction_layout,
    load_write_signature,
    scratchpad_latency,
)
from systolith.hw.post import Stages
from systolith.sim import numerics
from systolith.sim.agents import Agent, Bench, ReadResponder

FIELDS = tuple(instruction_layout(Post).members)
WRAP = (1 << 20) - 1


class Machine:
    """Contents of all memories, and what an instruction does to them, pixel by pixel."""

    def __init__(self, config, rng):
        self.config, self.rng = config, rng
        self.array = self.accumulators(2 * config.accumulator_words, config.columns)
        self.vector = self.accumulators(2 * config.vector_accumulator_words, config.rows)
        self.scratchpad = rng.integers(-128, 128, (config.scratchpad_words, config.rows))
        self.records = np.zeros((config.parameter_words, config.lanes, 16), np.uint8)
        self.table = np.zeros(256, np.int64)

    def accumulators(self, words, lanes):
        limit = 1 << self.rng.integers(4, 32, (words, 1))
        return self.rng.integers(-limit, limit, (words, lanes))

    def new_parameters(self):
        """Random records (of magnitudes that give results inside int8) and a random table."""
        config, rng = self.config, self.rng
        width = config.multiplier_bits
        count = config.parameter_words * config.lanes
        multiplier = rng.integers((1 << width) >> 1, 1 << width, count) if width else 1
        records = numerics.pack_records(
            rng.integers(-1000, 1000, count), rng.integers(-2**24, 2**24, count), multiplier,
            np.minimum(width + rng.integers(0, 24, count), 63))
        records[:, 12:] = rng.integers(0, 256, (count, 4))
        records[:, 7] ^= rng.integers(0, 2, count).astype(np.uint8) << 7  # bits that are not kept
        self.records = records.reshape(self.records.shape)
        self.table = rng.integers(-128, 128, 256)

    def loads(self):
        """Transfers that put parameters, and the table, into the component."""
        rows = self.config.rows
        for word, record in enumerate(self.records):
            data = record.tobytes()
            for part in range(len(data) // rows):
                yield {"target": LoadTarget.PARAMETER, "address": word, "part": part,
                       "data": int.from_bytes(data[part * rows:(part + 1) * rows], "little")}
        if self.config.table:
            entries = self.table.astype(np.int8).tobytes()
            for word in range(256 // rows):
                yield {"target": LoadTarget.TABLE, "address": word, "part": 0,
                       "data": int.from_bytes(entries[word * rows:(word + 1) * rows], "little")}

    def execute(self, i):
        """Do instruction `i`; returns the number of items it takes."""
        config = self.config
        from_array = i.source == PostSource.ARRAY
        channels = config.columns if from_array else config.rows
        wide = max(channels // config.rows, 1)
        span = min(channels, config.rows)
        first = i.byte_offset if channels < config.rows else 0
        words = channels // config.lanes
        bias, rounding, multiplier, shift = numerics.unpack_records(
            self.records[i.parameter:i.parameter + words], mode=config.bias,
            multiplier_bits=config.multiplier_bits)
        pixel = 0
        at = {name: getattr(i, name) for name in ("destination", "operand_a", "operand_b")}
        for _y in range(i.count_1):
            for x in range(i.count_0):
                def pixel_words(name):
                    return [(at[name] + k * i.word_step) & WRAP for k in range(wide)]

                def operand(name):
                    return self.scratchpad[pixel_words(name), first:first + span].reshape(-1)

                if from_array:
                    v = self.array[i.accumulator + pixel]
                elif i.source == PostSource.VECTOR:
                    v = self.vector[i.accumulator + pixel]
                elif i.source == PostSource.SCRATCHPAD:
                    v = operand("operand_a")
                else:
                    v = numerics.product(operand("operand_a"), operand("operand_b"), i.zero_a,
                                         i.zero_b)
                y = numerics.requantize(v, bias, rounding, multiplier, shift, i.zero, i.low, i.high,
                                        multiplier_bits=config.multiplier_bits)
                if i.use_table:
                    y = numerics.look_up(self.table, y)
                if i.use_add:
                    y = numerics.add(y, operand("operand_b"), i.zero_a, i.zero_b, i.multiplier_a,
                                     i.multiplier_b, i.add_shift, i.add_zero, i.add_low,
                                     i.add_high)
                self.scratchpad[pixel_words("destination"), first:first + span] = np.reshape(
                    y, (wide, span))
                pixel += 1
                step = 1 if x == i.count_0 - 1 else 0
                for name in at:
                    at[name] = (at[name] + getattr(i, f"{name}_step_{step}")) & WRAP
        return pixel * words

    def walk(self, counts, low, high, reach):
        """Base and steps of a random walk whose words, and `reach` words on, lie in [low, high)."""
        strides = self.rng.integers(-3, 4, 2) * [1, int(counts[0])]
        corners = [0, *np.cumsum((np.array(counts) - 1) * strides),
                   (counts[1] - 1) * strides[1]]
        base = int(self.rng.integers(low - min(corners), high - max(corners) - reach))
        return base, [step & WRAP for step in steps_of(counts, [int(s) for s in strides])]

    def instruction(self, pixels=30, **fixed):
        """A random valid instruction: operands from the lower half, results to the upper half."""
        config, rng = self.config, self.rng
        sources = [PostSource.ARRAY, PostSource.ARRAY, PostSource.SCRATCHPAD]
        sources += [PostSource.VECTOR] * bool(config.vector_taps)
        sources += [PostSource.PRODUCT] * config.residual
        values = {"source": int(rng.choice(sources)),
                  "use_table": int(config.table and rng.random() < 0.3),
                  "use_add": int(config.residual and rng.random() < 0.5)} | fixed
        source = values["source"]
        counts = (int(rng.integers(1, 7)), int(rng.integers(1, max(pixels // 6, 2))))
        channels = config.columns if source == PostSource.ARRAY else config.rows
        wide = max(channels // config.rows, 1)
        word_step = int(rng.integers(0, 8))
        half, top = config.scratchpad_words // 2, config.scratchpad_words
        depth = 2 * (config.vector_accumulator_words if source == PostSource.VECTOR
                     else config.accumulator_words)
        for name, low, high in (("destination", half, top), ("operand_a", 0, half),
                                ("operand_b", 0, half)):
            base, steps = self.walk(counts, low, high, (wide - 1) * word_step)
            values |= {name: base, f"{name}_step_0": steps[0], f"{name}_step_1": steps[1]}
        for name in ("zero", "low", "high", "zero_a", "zero_b", "add_zero", "add_low", "add_high"):
            values[name] = int(rng.integers(-128, 128))
        if rng.random() < 0.7:
            values |= {"low": -128, "high": 127, "add_low": -128, "add_high": 127}
        shift = int(rng.integers(0, 32))
        limit = 1 << int(np.clip(shift + rng.integers(-4, 4), 1, 22))
        values |= {
            "count_0": counts[0], "count_1": counts[1], "word_step": word_step,
            "byte_offset": int(rng.integers(64)), "add_shift": shift,
            "multiplier_a": int(rng.integers(-limit, limit)),
            "multiplier_b": int(rng.integers(-limit, limit)),
            "accumulator": int(rng.integers(depth - counts[0] * counts[1] + 1)),
            "parameter": int(rng.integers(config.parameter_words - channels // config.lanes + 1)),
        }
        if source == PostSource.ARRAY and config.columns < config.rows:
            values["byte_offset"] = config.columns * int(
                rng.integers(config.rows // config.columns))
        return Post(**(values | fixed))


class Writes(Agent):
    """Takes writes into a copy of the scratchpad; checks that no instruction retires early."""

    def __init__(self, bench, machine, stalls):
        self.bench, self.stalls, self.config = bench, stalls, machine.config
        self.scratchpad = machine.scratchpad.copy()
        self.valid, self.ready = bench.port("write__valid"), bench.port("write__ready")
        self.payload = bench.port("write__payload")
        self.retire, self.error = bench.port("engine__retire"), bench.port("engine__error")
        self.times, self.items_until, self.retired, self.refused = [], [], 0, None
        self.first_error = None
        bench.add(self)

    def drive(self):
        self.open = not next(self.stalls)
        self.ready.value = int(self.open)

    def sample(self):
        if int(self.bench.dut.rst.value):
            return
        if int(self.retire.value):
            assert len(self.times) >= self.items_until[self.retired], "retired before a write"
            self.retired += 1
        if int(self.error.value) and self.first_error is None:
            self.first_error = (ErrorCode(int(self.error.value)), self.retired)
        if not int(self.valid.value):
            assert self.refused is None, "valid fell before the write was accepted"
            return
        bits = int(self.payload.value)
        assert self.refused in (None, bits), "write changed before it was accepted"
        self.refused = None if self.open else bits
        if self.open:
            rows, words = self.config.rows, self.config.scratchpad_words
            width = (words - 1).bit_length()
            address, bits = bits & (words - 1), bits >> width
            data = np.frombuffer((bits & ((1 << 8 * rows) - 1)).to_bytes(rows, "little"), np.int8)
            mask = np.array([bits >> (8 * rows + k) & 1 for k in range(rows)], bool)
            self.scratchpad[address, mask] = data[mask]
            self.times.append(self.bench.cycle)

    def clear(self):
        self.times, self.items_until, self.retired, self.refused = [], [], 0, None
        self.first_error = None


class Setup:
    """A bench with agents on every port, which refuse or idle in a share `stall` of the cycles."""

    def __init__(self, dut, stall=0.0):
        self.bench = bench = Bench(dut, watchdog=60_000)
        self.stall = stall
        self.config = config = Config.from_dict(bench.parameters["config"])
        self.machine = machine = Machine(config, bench.rng)
        self.instructions = bench.source("engine__instruction", instruction_layout(Post),
                                         stalls=self.stalls())
        self.load = bench.source("load", load_write_signature(config).members["payload"].shape,
                                 stalls=self.stalls())
        self.writes = Writes(bench, machine, self.stalls())
        self.reads = {}
        self.operands = before = machine.scratchpad.copy()
        ports = [("array", machine.array, 4, ACCUMULATOR_LATENCY),
                 ("operand_a", before, 1, scratchpad_latency(config))]
        if config.vector_taps:
            ports.append(("vector", machine.vector, 4, ACCUMULATOR_LATENCY))
        if config.residual:
            ports.append(("operand_b", before, 1, scratchpad_latency(config)))
        for name, words, size, latency in ports:
            # Accumulators are read in parts of as many values as there are lanes.
            words = words if size == 1 else words.reshape(-1, config.lanes)

            def respond(address, words=words, size=size):
                return int.from_bytes(words[address].astype(f"<i{size}").tobytes(), "little")
            self.reads[name] = ReadResponder(bench, name, respond, latency,
                                             stalls=self.stalls())

    def stalls(self):
        stalled = False
        while True:
            stalled = self.bench.random.random() < (self.stall if not stalled
                                                    else (1 + self.stall) / 2)
            yield stalled and self.stall > 0

    async def load_parameters(self):
        self.machine.new_parameters()
        self.load.send(self.machine.loads())
        await self.load.drained()

    def send(self, instructions):
        """Queue instructions, and do them to the expected memories."""
        for i in instructions:
            items = self.machine.execute(i)
            self.writes.items_until.append((self.writes.items_until or [0])[-1] + items)
            self.instructions.send([{name: getattr(i, name) for name in FIELDS}])

    async def finish(self):
        await self.bench.until(lambda: self.writes.retired == len(self.writes.items_until))
        await self.bench.ticks(3)
        assert len(self.writes.times) == self.writes.items_until[-1]
        assert self.writes.first_error is None
        wrong = np.argwhere(self.writes.scratchpad != self.machine.scratchpad)
        assert len(wrong) == 0, (f"{len(wrong)} bytes differ, first in word, byte {wrong[0]} "
                                 f"(seed {self.bench.seed})")


@cocotb.test()
async def random_streams(dut):
    setup = Setup(dut)
    await setup.bench.reset()
    for stall in (0.0, 0.1, 0.3, 0.6):
        setup.stall = stall
        await setup.load_parameters()
        setup.send(setup.machine.instruction(int(setup.bench.rng.choice([1, 30])))
                   for _ in range(setup.bench.parameters["instructions"]))
        await setup.finish()


@cocotb.test()
async def latency(dut):
    setup = Setup(dut)
    await setup.bench.reset()
    await setup.load_parameters()
    issued = []

    class Watch(Agent):
        def sample(self):
            if int(dut.array__request__valid.value) and int(dut.array__request__ready.value):
                issued.append(setup.bench.cycle)

    setup.bench.add(Watch())
    setup.send([setup.machine.instruction(source=PostSource.ARRAY, use_add=0)])
    await setup.finish()
    assert setup.writes.times[0] - issued[0] == Stages(setup.config).write


@cocotb.test()
async def throughput(dut):
    """Items follow each other without a gap, but for a cycle between instructions of all kinds."""
    setup = Setup(dut)
    await setup.bench.reset()
    await setup.load_parameters()
    instructions = []
    while len(instructions) < 30:
        i = setup.machine.instruction()
        if i.count_0 * i.count_1 >= 10:
            instructions.append(i)
    setup.send(instructions)
    await setup.finish()
    times = setup.writes.times
    gaps = times[-1] - times[0] - (len(times) - 1)
    assert gaps == len(instructions) - 1


@cocotb.test()
async def table_entries(dut):
    """Every entry of the table, by way of records that change nothing."""
    setup = Setup(dut)
    config, machine, rows = setup.config, setup.machine, setup.config.rows
    if not config.table:
        return
    await setup.bench.reset()
    for _ in range(2):
        machine.new_parameters()
        shift = max(config.multiplier_bits - 1, 0)
        machine.records[:] = numerics.pack_records(0, 0, 1 << shift, shift)
        setup.load.send(machine.loads())
        await setup.load.drained()
        machine.scratchpad[:256 // rows] = setup.operands[:256 // rows] = np.arange(
            -128, 128).reshape(-1, rows)
        setup.writes.scratchpad[:256 // rows] = setup.operands[:256 // rows]
        setup.send([Post(source=PostSource.SCRATCHPAD, use_table=1, count_0=256 // rows,
                         operand_a_step_0=1, destination=100, destination_step_0=1)])
        await setup.finish()
        assert np.array_equal(machine.scratchpad[100:100 + 256 // rows].reshape(-1),
                              machine.table)


@cocotb.test()
async def short_instructions(dut):
    """Instructions of one pixel come at the rate at which the pipeline can tell them apart."""
    setup = Setup(dut)
    config = setup.config
    await setup.bench.reset()
    await setup.load_parameters()
    count = 64
    setup.send(setup.machine.instruction(source=PostSource.ARRAY, count_0=1, count_1=1,
                                         parameter=0, accumulator=k % 16, use_table=0, use_add=0)
               for k in range(count))
    await setup.finish()
    items = config.columns // config.lanes
    in_flight = 8 if config.lanes > 1 else 2
    # An instruction is accepted, checked, and begun, each in a cycle of its own, and its items are
    # issued a cycle after they are walked.
    turn = max(in_flight * max(items + 1, 3), Stages(config).write + 3 + items)
    span = setup.writes.times[-1] - setup.writes.times[0]
    assert span <= turn * count // in_flight, span


def bad_instructions(config, machine):
    """Instructions that must stop the engine, and the code each must give."""
    good = {"source": PostSource.ARRAY, "accumulator": 0, "parameter": 0}
    top = config.scratchpad_words
    depth = 2 * config.accumulator_words
    walk = {"destination_step_0": 1, "destination_step_1": 1, "count_0": 3, "count_1": 2}
    yield good | {"count_0": 0}, ErrorCode.LENGTH
    yield good | {"count_1": 0}, ErrorCode.LENGTH
    yield good | {"destination": top}, ErrorCode.ADDRESS
    yield good | walk | {"destination": top - 5, "word_step": 1}, ErrorCode.ADDRESS
    yield good | walk | {"accumulator": depth - 5}, ErrorCode.ADDRESS
    yield good | {"accumulator": 65535}, ErrorCode.ADDRESS
    words = config.columns // config.lanes
    yield good | {"parameter": (config.parameter_words + 1 - words) & 0xFFF}, (
        ErrorCode.ADDRESS if config.parameter_words + 1 - words < 4096 else None)
    yield {"source": PostSource.SCRATCHPAD, "operand_a": top + 1}, ErrorCode.ADDRESS
    yield ({"source": PostSource.SCRATCHPAD, "operand_a": top - 3, "count_0": 2, "count_1": 2,
            "operand_a_step_0": 1, "operand_a_step_1": 2}, ErrorCode.ADDRESS)
    if config.columns < config.rows:
        yield good | {"byte_offset": config.rows}, ErrorCode.ADDRESS
        yield good | {"byte_offset": config.columns // 2}, ErrorCode.ADDRESS
    if config.vector_taps:
        yield ({"source": PostSource.VECTOR, "accumulator": 2 * config.vector_accumulator_words,
                "parameter": 0}, ErrorCode.ADDRESS)
    else:
        yield good | {"source": PostSource.VECTOR}, ErrorCode.DECODE
        yield good | {"source": PostSource.VECTOR, "count_0": 0}, ErrorCode.DECODE
    if config.residual:
        yield good | {"use_add": 1, "operand_b": top}, ErrorCode.ADDRESS
        yield (good | {"use_add": 1, "operand_b": top - 2, "operand_b_step_0": 1, "count_0": 4,
                       "word_step": 0}, ErrorCode.ADDRESS)
    else:
        yield good | {"use_add": 1}, ErrorCode.DECODE
        yield good | {"source": PostSource.PRODUCT}, ErrorCode.DECODE
    if not config.table:
        yield good | {"use_table": 1}, ErrorCode.DECODE


@cocotb.test()
async def errors(dut):
    setup = Setup(dut)
    for stall in (0.0, 0.3):
        setup.stall = stall
        for bad, code in bad_instructions(setup.config, setup.machine):
            await setup.bench.reset()
            before = int(setup.bench.rng.integers(0, 4))
            setup.send(setup.machine.instruction() for _ in range(before))
            wrong = setup.machine.instruction(**bad)
            setup.instructions.send([{name: getattr(wrong, name) for name in FIELDS}])
            setup.instructions.send([{name: getattr(wrong, name) for name in FIELDS}])
            await setup.bench.until(lambda: setup.writes.first_error is not None)
            assert setup.writes.first_error == (code, before), (bad, setup.writes.first_error)
            await setup.bench.ticks(30)
            assert setup.writes.retired == before
