"""Load mover: random instructions against a reference written from the instruction set."""

import cocotb

from benches.movers import EngineMonitor, field_bits
from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, Fill, Load, LoadTarget, steps_of
from systolith.hw.load_request import LOAD_LAYOUT, LOAD_WINDOW_BEATS
from systolith.hw.ports import load_write_signature, scratchpad_write_signature
from systolith.sim.agents import Agent, Bench, MemoryModel


class Setup:
    """Agents on all ports of a load mover, over random memory."""

    def __init__(self, dut, *, stall=0.0, latency=50):
        self.bench = bench = Bench(dut)
        self.config = config = Config.from_dict(bench.parameters["config"])

        def stalls():
            return bench.stalls(stall, burst=3) if stall else None

        self.memory = MemoryModel(
            bench, bytearray(bench.random.randbytes(config.memory_size)),
            config.memory_bytes_per_beat, read="read", latency=latency, stalls=stalls())
        self.source = bench.source("engine__instruction", LOAD_LAYOUT.size, stalls=stalls())
        self.write, self.load = (
            bench.sink(name, signature.members["payload"].shape, stalls=stalls())
            for name, signature in (("write", scratchpad_write_signature(config)),
                                    ("load", load_write_signature(config))))
        self.written_at_retire = []
        self.engine = EngineMonitor(bench, lambda: self.written_at_retire.append(
            (len(self.write.items), len(self.load.items))))

    def send(self, instruction):
        self.source.send([field_bits(instruction) << 1 | isinstance(instruction, Fill)])

    def word_bytes(self, target):
        return {LoadTarget.WEIGHT: self.config.weight_word_bytes,
                LoadTarget.PARAMETER: self.config.parameter_word_bytes}.get(
                    target, self.config.rows)

    def words(self, target):
        config = self.config
        return {LoadTarget.SCRATCHPAD: config.scratchpad_words,
                LoadTarget.WEIGHT: config.weight_words,
                LoadTarget.VECTOR_WEIGHT: config.vector_weight_words,
                LoadTarget.PARAMETER: config.parameter_words,
                LoadTarget.TABLE: 256 // config.rows}[target]

    def writes(self, instruction):
        """What an instruction writes: (target, address, part, bytes), in order."""
        rows = self.config.rows
        if isinstance(instruction, Fill):
            address = instruction.destination
            for _ in range(instruction.planes):
                for row in range(instruction.rows):
                    for word in range(instruction.words):
                        yield (LoadTarget.SCRATCHPAD, address & 0xFFFFF, 0,
                               bytes([instruction.value & 255]) * rows)
                        address += word < instruction.words - 1
                    if row < instruction.rows - 1:
                        address += instruction.row_step
                address += instruction.plane_step
            return
        source, address = instruction.source, instruction.destination
        target = LoadTarget(instruction.target)
        size = self.word_bytes(target)
        for _ in range(instruction.planes):
            for row in range(instruction.rows):
                content = bytearray()
                for chunk in range(instruction.chunks):
                    content += self.memory.data[source:source + instruction.chunk_bytes]
                    if chunk < instruction.chunks - 1:
                        source = source + instruction.chunk_step & 0xFFFFFFFF
                while len(content) % size:
                    content.append(instruction.fill & 255)
                for start in range(0, len(content), size):
                    for part in range(max(1, size // rows)):
                        first = start + part * rows
                        yield (target, address & 0xFFFFF, part,
                               bytes(content[first:first + min(rows, size)]))
                    address += start + size < len(content)
                if row < instruction.rows - 1:
                    source = source + instruction.row_step & 0xFFFFFFFF
                    address += instruction.destination_row_step
            source = source + instruction.plane_step & 0xFFFFFFFF
            address += instruction.destination_plane_step

    def seen(self):
        """What was written, in the form of `writes`: to the scratchpad, and elsewhere."""
        scratchpad = []
        for item in self.write.items:
            assert item.mask == (1 << self.config.rows) - 1
            scratchpad.append((LoadTarget.SCRATCHPAD, item.address, 0,
                               int(item.data).to_bytes(self.config.rows, "little")))
        other = []
        for item in self.load.items:
            size = min(self.config.rows, self.word_bytes(LoadTarget(item.target)))
            content = int(item.data).to_bytes(self.config.rows, "little")[:size]
            other.append((LoadTarget(item.target), item.address, item.part, content))
        return scratchpad, other

    # Random instructions ------------------------------------------------------------------------

    def random_load(self):
        random = self.bench.random
        target = random.choice([LoadTarget.SCRATCHPAD, LoadTarget.SCRATCHPAD, *LoadTarget])
        size, words = self.word_bytes(target), self.words(target)
        counts = [random.choice((1, 1, 2, 3)) for _ in range(3)]
        chunk_bytes = random.choice((1, size, random.randrange(1, 2 * size),
                                     random.randrange(1, 6 * self.config.rows)))
        row_words = -(-chunk_bytes * counts[0] // size)
        if counts[1] * counts[2] * row_words > words:
            counts[1:] = [1, 1]
        if row_words > words:
            counts[0], chunk_bytes, row_words = 1, size, 1
        strides = [random.randrange(-64, 64) for _ in range(3)]
        low = sum(min(0, (count - 1) * stride)
                  for count, stride in zip(counts, strides, strict=True))
        high = sum(max(0, (count - 1) * stride)
                   for count, stride in zip(counts, strides, strict=True)) + chunk_bytes
        size_of_memory = self.config.memory_size
        source = random.choice((-low, size_of_memory - high,
                                random.randrange(-low, size_of_memory - high + 1)))
        steps = steps_of(tuple(counts), tuple(strides))
        # Rows follow each other, with a gap, or backwards.
        total = counts[1] * counts[2] * row_words
        gap = random.choice((0, 0, min(3, (words - total) // (counts[1] * counts[2]))))
        if random.random() < 0.2:
            destination, step = words - row_words, 1 - 2 * row_words
        else:
            span = total + gap * (counts[1] * counts[2] - 1)
            destination, step = random.choice((0, words - span)), 1 + gap
        return Load(target=target, source=source, chunk_bytes=chunk_bytes, chunks=counts[0],
                    chunk_step=steps[0], rows=counts[1], row_step=steps[1], planes=counts[2],
                    plane_step=steps[2], destination=destination, destination_row_step=step,
                    destination_plane_step=step, fill=random.randrange(-128, 128))

    def random_fill(self):
        random = self.bench.random
        words, rows, planes = (random.choice((1, 1, 2, 5)) for _ in range(3))
        return Fill(destination=random.randrange(8), value=random.randrange(-128, 128), words=words,
                    rows=rows, row_step=random.randrange(1, 3), planes=planes,
                    plane_step=random.randrange(1, 3))

    def random_instruction(self):
        return self.random_fill() if self.bench.random.random() < 0.2 else self.random_load()

    async def start(self):
        await self.bench.reset()


async def run_random(dut, *, stall, latency):
    setup = Setup(dut, stall=stall, latency=latency)
    await setup.start()
    await check(setup, [setup.random_instruction()
                        for _ in range(setup.bench.parameters["count"])])


async def check(setup, instructions):
    """Send instructions and compare what they write, and when they retire."""
    expected = [], []
    ends = []
    for instruction in instructions:
        setup.send(instruction)
        for item in setup.writes(instruction):
            expected[item[0] != LoadTarget.SCRATCHPAD].append(item)
        ends.append((len(expected[0]), len(expected[1])))
    await setup.bench.until(lambda: setup.engine.retired == len(instructions)
                            or setup.engine.error)
    assert setup.engine.error == ErrorCode.NONE, f"seed {setup.bench.seed}"
    for seen, wanted in zip(setup.seen(), expected, strict=True):
        for number, (one, other) in enumerate(zip(seen, wanted, strict=True)):
            assert one == other, f"write {number} (seed {setup.bench.seed})"
    # What an instruction writes is there when it retires, and retiring does not wait for others.
    for retired, (there, end) in enumerate(zip(setup.written_at_retire, ends, strict=True)):
        assert there[0] >= end[0] and there[1] >= end[1], f"instruction {retired}"
        assert sum(there) <= sum(end) + 1, f"instruction {retired} retired late"
    await setup.bench.ticks(100)
    assert setup.engine.retired == len(instructions)


@cocotb.test()
async def random_instructions(dut):
    await run_random(dut, stall=0.3, latency=7)


@cocotb.test()
async def random_instructions_without_stalls(dut):
    await run_random(dut, stall=0.0, latency=50)


@cocotb.test()
async def large_counts(dut):
    """Rows that fill a target to the last byte, and counts of more than eight bits."""
    setup = Setup(dut, latency=20)
    await setup.start()
    words, rows = setup.config.scratchpad_words, setup.config.rows
    await check(setup, [
        Load(chunk_bytes=rows * (words // 128), chunks=128),
        Load(target=LoadTarget.TABLE, chunk_bytes=2, chunks=128, chunk_step=5),
        Fill(words=words), Fill(rows=600, row_step=1), Fill(planes=513, plane_step=1),
        Load(chunk_bytes=3, rows=2, row_step=7, destination_row_step=1, planes=260, plane_step=5,
             destination_plane_step=1)])


def wrong_instructions(setup):
    """Instructions with one mistake each, and the error each must give."""
    config, size = setup.config, setup.config.memory_size
    words, beat = config.scratchpad_words, config.memory_bytes_per_beat
    good = {"source": 0, "chunk_bytes": 2 * config.rows}
    yield from ((Load(**{**good, name: 0}), ErrorCode.LENGTH)
                for name in ("chunk_bytes", "chunks", "rows", "planes"))
    yield from ((Fill(**{name: 0}), ErrorCode.LENGTH) for name in ("words", "rows", "planes"))
    yield from ((Load(target=target), ErrorCode.DECODE) for target in range(5, 8))
    yield from ((item, ErrorCode.ADDRESS) for item in (
        Load(source=size - 2 * config.rows + 1, chunk_bytes=2 * config.rows),
        Load(source=size), Load(source=(1 << 32) - 1, chunk_bytes=2),
        Load(source=beat, chunks=2, chunk_step=-beat - 1),
        Load(source=0, rows=3, row_step=size // 2, destination_row_step=1),
        Load(source=0, planes=2, plane_step=size, destination_plane_step=1),
        Load(chunk_bytes=config.rows, destination=words),
        Load(chunk_bytes=config.rows + 1, destination=words - 1),
        Load(chunk_bytes=config.rows, chunks=3, destination=words - 2),
        Load(rows=2, destination_row_step=-1),
        Load(planes=2, destination_plane_step=words),
        Load(target=LoadTarget.WEIGHT, destination=config.weight_words),
        Load(target=LoadTarget.WEIGHT, chunk_bytes=config.weight_word_bytes + 1,
             destination=config.weight_words - 1),
        Load(target=LoadTarget.PARAMETER, chunk_bytes=config.parameter_word_bytes + 1,
             destination=config.parameter_words - 1),
        Load(target=LoadTarget.TABLE, chunk_bytes=257),
        # Rows that are much too long, at once and little by little.
        Load(target=LoadTarget.TABLE, chunk_bytes=size),
        Load(target=LoadTarget.TABLE, chunk_bytes=2, chunks=129),
        Load(chunk_bytes=config.rows * (words // 255 + 1), chunks=255), Fill(words=65535),
        Load(target=LoadTarget.VECTOR_WEIGHT, destination=config.vector_weight_words),
        Fill(destination=words), Fill(destination=words - 2, words=3),
        Fill(rows=2, row_step=-1), Fill(planes=2, plane_step=words)))


@cocotb.test()
async def wrong_instructions_are_found(dut):
    """The error comes when the instructions before have retired, and nothing after it happens."""
    setup = Setup(dut, stall=0.2, latency=20)
    for number, (wrong, code) in enumerate(wrong_instructions(setup)):
        await setup.start()
        setup.engine.retired, setup.engine.error = 0, ErrorCode.NONE
        before = [setup.random_instruction() for _ in range(number % 4)]
        for instruction in (*before, wrong, Fill(destination=1, value=5)):
            setup.send(instruction)
        await setup.bench.until(lambda: setup.engine.error)
        await setup.bench.ticks(100)
        assert (setup.engine.error, setup.engine.retired) == (code, len(before)), wrong
        assert all(item.address < setup.config.scratchpad_words for item in setup.write.items)
        assert int(setup.bench.port("engine__error").value) == code


# Cycles -----------------------------------------------------------------------------------------

LATENCY = 50
OVERHEAD = 12  # from the acceptance of an instruction to its request, and from data to retiring


async def cycles_of(setup, instructions):
    await setup.start()
    setup.engine.retired = 0
    begin = setup.bench.cycle
    for instruction in instructions:
        setup.send(instruction)
    await setup.bench.until(lambda: setup.engine.retired == len(instructions))
    return setup.bench.cycle - begin


def beats_touched(setup, source, size):
    beat = setup.config.memory_bytes_per_beat
    return (source + size - 1) // beat - source // beat + 1


class Outstanding(Agent):
    """The most beats that were asked for and had not come."""

    def __init__(self, setup):
        self.memory, self.most = setup.memory, 0
        setup.bench.add(self)

    def sample(self):
        self.most = max(self.most, len(self.memory._beats))


@cocotb.test()
async def long_loads_take_a_beat_a_cycle(dut):
    setup = Setup(dut, latency=LATENCY)
    config = setup.config
    outstanding = Outstanding(setup)
    cost = max(4096 // config.rows, 4096 // config.memory_bytes_per_beat)
    size = 4096 // config.rows
    one = Load(source=0, chunk_bytes=4096)
    assert await cycles_of(setup, [one]) <= cost + LATENCY + OVERHEAD
    # The latency is paid once, also across instructions, rows and odd addresses.
    odd = Load(source=3, chunk_bytes=128, rows=32, row_step=131, destination_row_step=1)
    assert size * 2 <= config.scratchpad_words
    beats = sum(beats_touched(setup, 3 + 131 * row, 128) for row in range(32))
    cycles = await cycles_of(setup, [one, odd, one, odd])
    assert cycles <= 2 * cost + 2 * max(beats, size) + LATENCY + OVERHEAD
    assert outstanding.most <= LOAD_WINDOW_BEATS


@cocotb.test()
async def short_loads_hide_the_latency(dut):
    """Weights and parameters of small tiles, one instruction each."""
    setup = Setup(dut, latency=LATENCY)
    config = setup.config
    size = 32 * config.memory_bytes_per_beat
    loads = [Load(target=LoadTarget.WEIGHT, source=size * i, chunk_bytes=size)
             for i in range(16)]
    narrow = min(config.rows, config.weight_word_bytes, config.memory_bytes_per_beat)
    cycles = await cycles_of(setup, loads)
    assert cycles <= 16 * size // narrow + LATENCY + OVERHEAD, cycles


@cocotb.test()
async def chunks_take_the_beats_they_touch(dut):
    """Neighbouring pixels of few channels: 15 bytes at stride 6."""
    setup = Setup(dut, latency=LATENCY)
    strides = (6, 100, 1200)
    counts = (1, 12, 10)
    steps = steps_of(counts, strides)
    load = Load(source=0, chunk_bytes=15, chunks=1, rows=12, row_step=steps[1], planes=10,
                plane_step=steps[2], destination_row_step=1, destination_plane_step=1)
    words = -(-15 // setup.config.rows)
    cost = sum(max(words, beats_touched(setup, 1200 * plane + 100 * row, 15))
               for plane in range(10) for row in range(12))
    depth = 32 if setup.config.rows > 8 else 16 if setup.config.rows > 4 else 4
    # As many chunks as may be outstanding have to cover the latency.
    limit = max(cost, 120 * (LATENCY + OVERHEAD) // depth)
    assert await cycles_of(setup, [load]) <= limit + LATENCY + OVERHEAD


@cocotb.test()
async def fills_write_a_word_a_cycle(dut):
    setup = Setup(dut, latency=LATENCY)
    fill = Fill(words=20, rows=5, row_step=1, value=-7)
    assert await cycles_of(setup, [fill] * 4) <= 400 + OVERHEAD
