"""Store mover: random instructions against a reference written from the instruction set."""

import cocotb

from benches.movers import EngineMonitor, field_bits
from systolith.hw.config import Config
from systolith.hw.isa import ErrorCode, Store, steps_of
from systolith.hw.ports import instruction_layout, scratchpad_latency
from systolith.sim.agents import Bench, MemoryModel, ReadResponder


class Setup:
    """Agents on all ports of a store mover, with a random scratchpad."""

    def __init__(self, dut, *, stall=0.0):
        self.bench = bench = Bench(dut)
        self.config = config = Config.from_dict(bench.parameters["config"])

        def stalls():
            return bench.stalls(stall, burst=3) if stall else None

        self.words = [bench.random.randbytes(config.rows) for _ in range(config.scratchpad_words)]
        self.memory = MemoryModel(
            bench, bytearray(bench.random.randbytes(config.memory_size)),
            config.memory_bytes_per_beat, write="write", stalls=stalls())
        self.source = bench.source("engine__instruction", instruction_layout(Store).size,
                                   stalls=stalls())
        self.read = ReadResponder(bench, "read", self.respond, scratchpad_latency(config),
                                  stalls=stalls())
        self.writes_at_retire = []
        self.engine = EngineMonitor(
            bench, lambda: self.writes_at_retire.append(len(self.memory.writes)))

    def respond(self, address):
        assert address < self.config.scratchpad_words
        return int.from_bytes(self.words[address], "little")

    def send(self, instruction):
        self.source.send([field_bits(instruction)])

    async def start(self):
        await self.bench.reset()

    def rows_of(self, instruction):
        """Rows of an instruction: (byte address, bytes), in order."""
        source, destination = instruction.source, instruction.destination
        words = -(-instruction.row_bytes // self.config.rows)
        for _ in range(instruction.planes):
            for row in range(instruction.rows):
                content = b"".join(self.words[source:source + words])
                yield destination, content[:instruction.row_bytes]
                source += words - 1
                if row < instruction.rows - 1:
                    source += instruction.source_row_step
                    destination += instruction.destination_row_step
            source += instruction.source_plane_step
            destination += instruction.destination_plane_step

    def beats(self, address, size):
        beat = self.config.memory_bytes_per_beat
        return (address + size - 1) // beat - address // beat + 1

    def random_store(self):
        random, config = self.bench.random, self.config
        row_bytes = random.choice((1, config.rows, random.randrange(1, 2 * config.rows),
                                   random.randrange(1, 7 * config.rows)))
        counts = [random.choice((1, 1, 2, 4)) for _ in range(2)]
        words = -(-row_bytes // config.rows)
        # Rows may overlap, or go backwards, in the scratchpad as in main memory.
        step = random.choice((1, 2, 1 - words, 1 - 2 * words))
        span = (counts[0] * counts[1] - 1) * (words - 1 + step)
        low, high = min(0, span), max(0, span) + words
        source = random.choice((-low, config.scratchpad_words - high))
        strides = [random.choice((row_bytes, random.randrange(-90, 90))) for _ in range(2)]
        reach = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
        low = sum(min(0, span) for span in reach)
        high = sum(max(0, span) for span in reach) + row_bytes
        destination = random.choice((-low, config.memory_size - high,
                                     random.randrange(-low, config.memory_size - high)))
        steps = steps_of(tuple(counts), tuple(strides))
        return Store(source=source, row_bytes=row_bytes, rows=counts[0], source_row_step=step,
                     planes=counts[1], source_plane_step=step, destination=destination,
                     destination_row_step=steps[0], destination_plane_step=steps[1])


async def run_random(dut, *, stall):
    setup = Setup(dut, stall=stall)
    await setup.start()
    expected = bytearray(setup.memory.data)
    beats, ends = 0, []
    for _ in range(count := setup.bench.parameters["count"]):
        instruction = setup.random_store()
        setup.send(instruction)
        for address, content in setup.rows_of(instruction):
            expected[address:address + len(content)] = content
            beats += setup.beats(address, len(content))
        ends.append(beats)
    await setup.bench.until(lambda: setup.engine.retired == count or setup.engine.error)
    assert setup.engine.error == ErrorCode.NONE, f"seed {setup.bench.seed}"
    assert setup.memory.data == expected, f"seed {setup.bench.seed}"
    for retired, (there, end) in enumerate(zip(setup.writes_at_retire, ends, strict=True)):
        assert end <= there <= end + 1, f"instruction {retired} (seed {setup.bench.seed})"
    assert len(setup.memory.writes) == setup.engine.active == beats
    await setup.bench.ticks(50)
    assert setup.engine.retired == count


@cocotb.test()
async def random_instructions(dut):
    await run_random(dut, stall=0.35)


@cocotb.test()
async def random_instructions_without_stalls(dut):
    await run_random(dut, stall=0.0)


def wrong_instructions(config):
    """Instructions with one mistake each, the error, and the beats of the rows before it."""
    size, words, rows = config.memory_size, config.scratchpad_words, config.rows
    for name in ("row_bytes", "rows", "planes"):
        yield Store(**{name: 0}), ErrorCode.LENGTH, 0
    yield from ((item, ErrorCode.ADDRESS, beats) for item, beats in (
        (Store(destination=size - 4, row_bytes=5), 0),
        (Store(destination=(1 << 32) - 1, row_bytes=2), 0),
        (Store(rows=2, destination_row_step=-1), 1),
        (Store(planes=2, destination_plane_step=size), 1),
        (Store(source=words), 0),
        (Store(source=words - 1, row_bytes=rows + 1), 0),
        (Store(rows=2, source_row_step=-1), 1),
        (Store(planes=3, source_plane_step=words // 2), 2)))


@cocotb.test()
async def wrong_instructions_are_found(dut):
    """The error comes when the instructions before have retired, and nothing after it happens."""
    setup = Setup(dut, stall=0.2)
    for number, (wrong, code, beats) in enumerate(wrong_instructions(setup.config)):
        await setup.start()
        setup.engine.retired, setup.engine.error = 0, ErrorCode.NONE
        setup.memory.writes.clear()
        before = [setup.random_store() for _ in range(number % 4)]
        for instruction in (*before, wrong, Store(row_bytes=setup.config.rows)):
            setup.send(instruction)
        await setup.bench.until(lambda: setup.engine.error)
        await setup.bench.ticks(100)
        assert (setup.engine.error, setup.engine.retired) == (code, len(before)), wrong
        beats += sum(setup.beats(address, len(content)) for instruction in before
                     for address, content in setup.rows_of(instruction))
        assert len(setup.memory.writes) == beats, wrong
        assert int(setup.bench.port("engine__error").value) == code


OVERHEAD = 14  # from taking an instruction to its first beat, and from the last to retiring


@cocotb.test()
async def long_stores_take_a_beat_a_cycle(dut):
    setup = Setup(dut)
    config = setup.config
    await setup.start()
    size = 128 * config.memory_bytes_per_beat
    width = min(config.rows, config.memory_bytes_per_beat)
    whole = Store(row_bytes=size)
    # Odd addresses cost the beats they touch; instructions follow each other without a gap.
    odd = Store(row_bytes=size // 8, rows=8, source_row_step=1, destination=size + 1,
                destination_row_step=size // 8 + 1)
    cost = 2 * size // width + sum(
        max(setup.beats(address, len(content)), size // 8 // config.rows)
        for _ in range(2) for address, content in setup.rows_of(odd))
    begin = setup.bench.cycle
    for instruction in (whole, odd, whole, odd):
        setup.send(instruction)
    await setup.bench.until(lambda: setup.engine.retired == 4)
    assert setup.bench.cycle - begin <= cost + OVERHEAD
