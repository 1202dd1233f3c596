"""The whole core: programs of all kinds against the golden model, one after the other."""

import cocotb
from amaranth.lib import data

from systolith.hw.config import Config
from systolith.hw.counters import counter_port
from systolith.hw.isa import (
    INSTRUCTION_BYTES,
    Array,
    End,
    ErrorCode,
    Fill,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    decode_descriptor,
)
from systolith.hw.protocol import Counter
from systolith.sim.agents import Bench, MemoryModel
from systolith.sim.golden import Golden
from systolith.sim.programs import assemble, random_program

REQUEST = data.StructLayout({"address": 32, "beats": range(65)})


class Machine:
    """A core with main memory, and the golden model of it beside."""

    def __init__(self, dut, *, stall=0.0, latency=20):
        self.bench = bench = Bench(dut, watchdog=3_000_000)
        self.config = config = Config.from_dict(bench.parameters["config"])
        self.memory = MemoryModel(
            bench, bytearray(config.memory_size), config.memory_bytes_per_beat, read="read",
            write="write", latency=latency, stalls=bench.stalls(stall, burst=3) if stall else None)
        self.golden = Golden(config)
        for name in ("start__valid", "cancel", "watchdog", "counter_index", "timestamp_index"):
            bench.port(f"control__{name}").value = 0
        for name in ("host_read__request__valid", "host_write__valid"):
            bench.port(name).value = 0
        bench.port("control__watchdog").value = bench.parameters.get("watchdog", 5000)

    async def reset(self):
        await self.bench.reset()

    async def start(self, base=0):
        port = self.bench.port
        assert int(port("control__start__ready").value) == 1
        port("control__start__payload").value = base
        port("control__start__valid").value = 1
        await self.bench.ticks()
        port("control__start__valid").value = 0
        await self.bench.ticks()
        assert int(port("control__busy").value) == 1

    async def finish(self):
        """Wait for the end of the run. Returns error, queue and address."""
        port = self.bench.port
        await self.bench.until(lambda: not int(port("control__busy").value))
        return (ErrorCode(int(port("control__error").value)),
                Queue(int(port("control__error_queue").value)),
                int(port("control__error_address").value))

    async def run(self, base=0):
        await self.start(base)
        return await self.finish()

    def counter(self, counter):
        return int(self.bench.port(counter_port(counter)).value)

    async def compare(self, base=0):
        """Run what lies at `base`, here and on the golden model: same outcome, same memory."""
        expected = bytearray(self.memory.data)
        outcome = self.golden.run(expected, base)
        result = await self.run(base)
        assert result == (outcome.error, outcome.queue, outcome.address), (
            f"seed {self.bench.seed}")
        if outcome.error == ErrorCode.NONE:
            assert self.memory.data == expected, f"seed {self.bench.seed}"
            for queue in Queue:
                assert (self.counter(Counter[f"{queue.name}_RETIRED"])
                        == outcome.retired[queue])
        return outcome


    def place(self, lists):
        """Write a program of some queues' instructions; the others' lists are empty."""
        lists = {queue: [*lists.get(queue, ()), End()] for queue in Queue}
        image = assemble(self.config, lists)
        self.memory.data[:len(image)] = image
        return decode_descriptor(image)[1]

    def place_random(self, number):
        program = random_program(self.config, 1000 * self.bench.seed + number,
                                 instructions=self.bench.parameters.get("instructions", 40))
        self.memory.data[:] = program.memory().tobytes()

    async def works(self):
        """Whatever happened before: a good program runs, and right."""
        self.place_random(999)
        assert (await self.compare()).error == ErrorCode.NONE


@cocotb.test()
async def random_programs(dut):
    """Programs of all instructions, run after each other without a reset between."""
    machine = Machine(dut, stall=0.2)
    await machine.reset()
    for number in range(machine.bench.parameters["programs"]):
        machine.place_random(number)
        assert (await machine.compare()).error == ErrorCode.NONE, f"program {number}"


@cocotb.test()
async def host_and_program_share_memory(dut):
    """While a program runs the host reads and writes elsewhere, and neither disturbs the other."""
    machine = Machine(dut, stall=0.2)
    bench, beat = machine.bench, machine.config.memory_bytes_per_beat
    requests = bench.source("host_read__request", REQUEST, stalls=bench.stalls(0.5))
    answers = bench.sink("host_read__data", 8 * beat)
    writes = bench.source("host_write", data.StructLayout(
        {"address": 32, "data": 8 * beat, "mask": beat}), stalls=bench.stalls(0.5))
    await machine.reset()
    machine.place_random(0)
    # The end of memory is where the program's results go; the host uses the image's first beats.
    image = bytes(machine.memory.data[:4096])
    asked = [beat * bench.random.randrange(0, 4096 // beat - 8) for _ in range(200)]
    requests.send({"address": address, "beats": 1 + address // beat % 8} for address in asked)
    same = [beat * bench.random.randrange(0, 4096 // beat) for _ in range(200)]
    writes.send({"address": address, "mask": (1 << beat) - 1,
                 "data": int.from_bytes(image[address:address + beat], "little")}
                for address in same)
    assert (await machine.compare()).error == ErrorCode.NONE
    await bench.until(lambda: requests.empty and writes.empty)
    expected = [int.from_bytes(image[address + k * beat:address + (k + 1) * beat], "little")
                for address in asked for k in range(1 + address // beat % 8)]
    assert await answers.receive(len(expected)) == expected


@cocotb.test()
async def runs_can_be_cancelled_anywhere(dut):
    """Cancelling leaves nothing behind: the next run is right and drains no old data."""
    machine = Machine(dut, stall=0.2, latency=40)
    await machine.reset()
    port = machine.bench.port
    for number in range(12):
        machine.place_random(number)
        await machine.start()
        await machine.bench.ticks(machine.bench.random.choice((0, 3, 60, 300, 700)))
        port("control__cancel").value = 1
        await machine.bench.ticks()
        port("control__cancel").value = 0
        assert (await machine.finish())[0] == ErrorCode.CANCELLED
        reads = len(machine.memory.reads)
        await machine.bench.ticks(60)
        assert len(machine.memory.reads) == reads, "requests after the end of a run"
        if number % 3 == 2:
            await machine.works()


def wrong_programs(config):
    """Programs with one mistake: lists, error, queue, index of the instruction."""
    size, words = config.memory_size, config.scratchpad_words
    long = Load(source=size - 2048, chunk_bytes=2048)
    yield {Queue.LOAD: [long, Load(source=size), Fill()]}, ErrorCode.ADDRESS, Queue.LOAD, 1
    yield {Queue.LOAD: [long, long, Fill(words=0)]}, ErrorCode.LENGTH, Queue.LOAD, 2
    yield ({Queue.LOAD: [Fill(words=64)],
            Queue.STORE: [Store(row_bytes=64, destination=size // 2, wait_load=1),
                          Store(source=words, wait_load=1)]}, ErrorCode.ADDRESS, Queue.STORE, 1)
    yield {Queue.LOAD: [long, Load(target=7)]}, ErrorCode.DECODE, Queue.LOAD, 1
    yield ({Queue.LOAD: [long], Queue.ARRAY: [Array(wait_load=1, count_2=0)]},
           ErrorCode.LENGTH, Queue.ARRAY, 0)
    yield {Queue.POST: [Post(destination=words)]}, ErrorCode.ADDRESS, Queue.POST, 0
    yield ({Queue.VECTOR: [Vector(activation=words)]},
           ErrorCode.ADDRESS if config.vector_taps else ErrorCode.DECODE, Queue.VECTOR, 0)
    if config.columns > config.rows:
        # The last word of a pixel; records of the last columns.
        yield ({Queue.POST: [Post(destination=words - 1, word_step=1)]}, ErrorCode.ADDRESS,
               Queue.POST, 0)
        few = config.parameter_words - config.rows // config.lanes
        yield ({Queue.POST: [Post(source=PostSource.SCRATCHPAD, parameter=few),
                             Post(parameter=few)]}, ErrorCode.ADDRESS, Queue.POST, 1)
    if not config.vector_taps:
        yield {Queue.LOAD: [Load(target=LoadTarget.VECTOR_WEIGHT)]}, ErrorCode.DECODE, Queue.LOAD, 0
        yield {Queue.POST: [Post(source=PostSource.VECTOR)]}, ErrorCode.DECODE, Queue.POST, 0
    if not config.table:
        yield {Queue.LOAD: [Load(target=LoadTarget.TABLE)]}, ErrorCode.DECODE, Queue.LOAD, 0
        yield {Queue.POST: [Post(use_table=1)]}, ErrorCode.DECODE, Queue.POST, 0
    if not config.residual:
        yield {Queue.POST: [Post(use_add=1)]}, ErrorCode.DECODE, Queue.POST, 0
        # Found before its threshold is looked at, which can never be met.
        yield ({Queue.POST: [Post(source=PostSource.PRODUCT, wait_store=9)]},
               ErrorCode.DECODE, Queue.POST, 0)
    yield ({Queue.LOAD: [long, Fill(wait_store=1)], Queue.STORE: [Store(wait_load=2)]},
           ErrorCode.DEADLOCK, Queue.LOAD, 1)


@cocotb.test()
async def wrong_programs_are_stopped(dut):
    """Code, queue and address are the golden model's, and the next program runs."""
    machine = Machine(dut, stall=0.1, latency=30)
    await machine.reset()
    for number, (lists, code, queue, index) in enumerate(wrong_programs(machine.config)):
        starts = machine.place(lists)
        outcome = await machine.compare()
        assert (outcome.error, outcome.queue) == (code, queue), lists
        assert outcome.address == starts[queue] + INSTRUCTION_BYTES * index
        if number % 4 == 3:
            await machine.works()
    await machine.works()


@cocotb.test()
async def the_watchdog_ends_long_instructions(dut):
    machine = Machine(dut)
    await machine.reset()
    machine.bench.port("control__watchdog").value = 600
    starts = machine.place({Queue.LOAD: [Fill(), Fill(rows=60000, row_step=0)]})
    assert await machine.run() == (ErrorCode.WATCHDOG, Queue.LOAD,
                                   starts[Queue.LOAD] + INSTRUCTION_BYTES)
    machine.bench.port("control__watchdog").value = 0
    await machine.works()


@cocotb.test()
async def copies_cost_what_they_move(dut):
    """Loads and stores overlap; bytes and cycles are counted, latency is paid once."""
    machine = Machine(dut, latency=50)
    config = machine.config
    await machine.reset()
    machine.bench.port("control__watchdog").value = 0
    size, blocks = 32 * config.rows, 8
    source, target = config.memory_size // 2, 3 * config.memory_size // 4
    loads = [Load(source=source + size * k, chunk_bytes=size, destination=k % 2 * 32,
                  wait_store=max(0, k - 1), mark=1) for k in range(blocks)]
    stores = [Store(source=k % 2 * 32, row_bytes=size, destination=target + size * k,
                    wait_load=k + 1) for k in range(blocks)]
    machine.place({Queue.LOAD: loads, Queue.STORE: stores})
    assert (await machine.compare()).error == ErrorCode.NONE
    assert machine.counter(Counter.BYTES_WRITTEN) == size * blocks
    code = machine.counter(Counter.BYTES_READ) - size * blocks
    assert (2 * blocks + 6) * INSTRUCTION_BYTES <= code <= 70 * INSTRUCTION_BYTES
    cycles = machine.counter(Counter.CYCLES)
    beats = size // min(config.rows, config.memory_bytes_per_beat)
    assert machine.counter(Counter.STORE_ACTIVE) == size * blocks // config.memory_bytes_per_beat
    # Two blocks alternate, so that a load's latency, its data and a store's data follow each other.
    turn = 2 * beats + 50 + 60
    assert blocks * beats < cycles <= blocks * turn // 2 + turn + 300
    assert int(machine.bench.port("control__timestamp_count").value) == blocks
