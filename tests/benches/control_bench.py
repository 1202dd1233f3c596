"""Fetch, sequencer and counters, with engines played by the bench."""

from collections import deque
from dataclasses import replace

import cocotb

from systolith.hw.config import Config
from systolith.hw.counters import counter_port
from systolith.hw.fetch import prefetch_slots
from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    INSTRUCTION_BYTES,
    Array,
    End,
    ErrorCode,
    Fill,
    Instruction,
    Load,
    Post,
    Queue,
    Store,
    Vector,
    encode,
    encode_descriptor,
    instruction_fields,
)
from systolith.hw.protocol import Counter
from systolith.sim.agents import Agent, Bench, MemoryModel

_HEADER = max(field.offset + field.width for field in instruction_fields(Instruction))
_KINDS = {Queue.LOAD: (Load, Fill), Queue.ARRAY: (Array,), Queue.VECTOR: (Vector,),
          Queue.POST: (Post,), Queue.STORE: (Store,)}


_WAITS = [f"wait_{queue.name.lower()}" for queue in Queue]


class Engine(Agent):
    """Plays an engine: takes instructions at random and retires them in order, later.

    Checks that each comes with its fields, in order, when its thresholds are met.
    """

    def __init__(self, control, queue):
        self.control, self.queue = control, queue
        self.bench = control.bench
        self.name = queue.name.lower()
        self.flight = deque()
        self.retiring = self.accepting = False
        self.begun = self.retired = 0
        self.hang = False          # takes instructions and never retires them
        self.fail_at = None        # index of the instruction that turns out to be wrong
        self.error = ErrorCode.NONE
        self.bench.add(self)

    def port(self, part):
        return self.bench.port(f"{self.name}__{part}")

    def reset(self):
        self.flight.clear()
        self.begun = self.retired = 0
        self.fail_at, self.hang, self.error = None, False, ErrorCode.NONE

    def drive(self):
        random = self.bench.random
        self.accepting = random.random() < 0.5 and len(self.flight) < 5
        self.port("instruction__ready").value = int(self.accepting)
        wrong = self.fail_at is not None and self.retired == self.fail_at and bool(self.flight)
        self.retiring = (bool(self.flight) and not self.hang and not wrong
                         and random.random() < self.control.speed)
        self.port("retire").value = int(self.retiring)
        if wrong and random.random() < 0.2:
            self.error = ErrorCode.LENGTH
        self.port("error").value = self.error
        self.port("active").value = int(bool(self.flight))
        self.port("stall").value = 0

    def sample(self):
        if int(self.bench.port("clear").value):
            self.flight.clear()
            self.error = ErrorCode.NONE
            return
        if self.retiring:
            self.flight.popleft()
            self.retired += 1
        if self.accepting and int(self.port("instruction__valid").value):
            instruction = self.control.lists[self.queue][self.begun]
            bits = int.from_bytes(encode(instruction), "little") >> _HEADER
            if self.queue == Queue.LOAD:
                bits = bits << 1 | isinstance(instruction, Fill)
            assert int(self.port("instruction__payload").value) == bits, (
                f"{self.name} {self.begun} (seed {self.bench.seed})")
            for other, wait in zip(Queue, instruction.waits, strict=True):
                # An engine's retirement of this very cycle cannot have been seen.
                assert self.control.retired(other) >= wait, f"{self.name} {self.begun} began early"
            self.flight.append(self.begun)
            self.begun += 1


class Control:
    """The control unit, its memory, its engines, and programs to run."""

    def __init__(self, dut, *, stall=0.2, latency=15):
        self.bench = bench = Bench(dut, watchdog=200_000)
        self.config = config = Config.from_dict(bench.parameters["config"])
        self.memory = MemoryModel(
            bench, bytearray(config.memory_size), config.memory_bytes_per_beat, read="read",
            latency=latency, stalls=bench.stalls(stall, burst=3))
        self.speed = 0.3
        self.lists = {queue: [] for queue in Queue}
        self.engines = {queue: Engine(self, queue) for queue in Queue
                        if queue != Queue.VECTOR or config.vector_taps}
        self.ends = dict.fromkeys(Queue, 0)
        for name in ("start__valid", "cancel", "watchdog", "counter_index", "timestamp_index"):
            bench.port(f"control__{name}").value = 0

    def retired(self, queue):
        """Instructions of a queue that have retired, as the engines know; an END may have."""
        engine = self.engines.get(queue)
        done = engine.retired if engine else 0
        return done + (done == len(self.lists[queue]) - 1)

    async def reset(self):
        await self.bench.reset()

    def place(self, lists, base=0, config_hash=None):
        """Write a program into memory. Returns the address of each list."""
        self.lists = lists
        address, starts = base + DESCRIPTOR_BYTES, []
        for queue in Queue:
            starts.append(address)
            code = b"".join(map(encode, lists[queue]))
            self.memory.data[address:address + len(code)] = code
            address += len(code) + INSTRUCTION_BYTES * self.bench.random.randrange(3)
        config_hash = self.config.hash32 if config_hash is None else config_hash
        self.memory.data[base:base + DESCRIPTOR_BYTES] = encode_descriptor(
            config_hash, tuple(starts))
        return starts

    async def start(self, base=0):
        port = self.bench.port
        for engine in self.engines.values():
            engine.reset()
        assert int(port("control__start__ready").value) == 1
        port("control__start__payload").value = base
        port("control__start__valid").value = 1
        await self.bench.ticks()
        port("control__start__valid").value = 0
        await self.bench.ticks()
        assert int(port("control__busy").value) == 1
        assert int(port("control__start__ready").value) == 0

    async def finish(self):
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

    async def works(self):
        """Whatever happened before: a good program runs."""
        self.place(self.random_lists(12))
        assert await self.run() == (ErrorCode.NONE, Queue.LOAD, 0)
        self.check_all_retired()

    def check_all_retired(self):
        for queue, instructions in self.lists.items():
            assert self.counter(Counter[f"{queue.name}_RETIRED"]) == len(instructions)
            if queue in self.engines:
                assert self.engines[queue].retired == len(instructions) - 1

    def random_lists(self, count, *, mark=0.0):
        """Lists with random thresholds that a random order of all instructions satisfies."""
        random = self.bench.random
        lists = {queue: [] for queue in Queue}
        for _ in range(count):
            queue = random.choice(list(self.engines))
            cls = random.choice(_KINDS[queue])
            fields = {}
            for field in instruction_fields(cls)[6:]:
                bits = random.getrandbits(field.width)
                fields[field.name] = bits - (1 << field.width) * (
                    field.signed and bits >> field.width - 1)
            if cls is Load:
                fields["target"] = random.randrange(2)
            if cls is Post:
                fields.update(source=random.choice((0, 2)), use_table=0, use_add=0)
            lists[queue].append(self.with_waits(cls, lists, mark, fields))
        for queue in random.sample(list(Queue), len(Queue)):
            lists[queue].append(self.with_waits(End, lists, mark, {}))
        return lists

    def with_waits(self, cls, lists, mark, fields):
        random = self.bench.random
        waits = {f"wait_{queue.name.lower()}": random.choice((0, len(items), random.randint(
            0, len(items)))) for queue, items in lists.items()}
        return cls(mark=int(random.random() < mark), **waits, **fields)


@cocotb.test()
async def instructions_begin_in_order_and_in_time(dut):
    control = Control(dut)
    await control.reset()
    for number in range(12):
        control.speed = control.bench.random.choice((0.03, 0.3, 1.0))
        base = control.bench.random.randrange(16) * INSTRUCTION_BYTES
        control.place(control.random_lists(number * 12, mark=0.2), base)
        assert await control.run(base) == (ErrorCode.NONE, Queue.LOAD, 0), (
            f"seed {control.bench.seed}")
        control.check_all_retired()


@cocotb.test()
async def errors_name_the_oldest_instruction(dut):
    """Of the engine, or of decoding: code, queue, address; and the next program runs."""
    control = Control(dut)
    await control.reset()
    random = control.bench.random
    for number in range(30):
        control.speed = random.choice((0.1, 1.0))
        lists = control.random_lists(40)
        queue = random.choice([queue for queue in control.engines if len(lists[queue]) > 2])
        index = random.randrange(len(lists[queue]) - 1)
        starts = control.place(lists)
        address = starts[queue] + index * INSTRUCTION_BYTES
        code = ErrorCode.DECODE
        kind = number % 5
        word = int.from_bytes(encode(lists[queue][index]), "little")
        if kind == 0:      # no such opcode
            word = word & ~15 | random.choice((0, 8, 15))
        elif kind == 1:    # another queue's
            other = next(cls for q, (cls, *_) in _KINDS.items() if q != queue)
            word = int.from_bytes(encode(other()), "little")
        elif kind == 2:    # a reserved bit, the first or any
            last = instruction_fields(type(lists[queue][index]))[-1]
            word |= 1 << random.choice((last.offset + last.width, 511,
                                        random.randrange(last.offset + last.width, 512)))
        elif kind == 3:    # reserved bits of END
            index = len(lists[queue]) - 1
            address = starts[queue] + index * INSTRUCTION_BYTES
            word = int.from_bytes(encode(lists[queue][index]), "little") | 1 << random.choice(
                (_HEADER, random.randrange(_HEADER, 512)))
        control.memory.data[address:address + INSTRUCTION_BYTES] = word.to_bytes(
            INSTRUCTION_BYTES, "little")
        await control.start()
        if kind == 4:      # the engine finds it
            control.engines[queue].fail_at, code = index, ErrorCode.LENGTH
        assert await control.finish() == (code, queue, address), (
            f"{number} (seed {control.bench.seed})")
        if queue in control.engines:
            assert control.engines[queue].retired == index
        await control.works()


@cocotb.test()
async def bad_descriptors_are_refused(dut):
    control = Control(dut)
    await control.reset()
    size = control.config.memory_size
    control.place(control.random_lists(5))
    good = bytes(control.memory.data[:DESCRIPTOR_BYTES])
    for position in (0, 3, 4, 7):
        control.memory.data[:DESCRIPTOR_BYTES] = good
        control.memory.data[position] ^= 0x40
        assert await control.run() == (ErrorCode.DESCRIPTOR, Queue.LOAD, 0)
    for base in (32, size, size - 32, (1 << 32) - 64):
        assert await control.run(base) == (ErrorCode.ADDRESS, Queue.LOAD, base)
    control.place(control.random_lists(5), size // 2, config_hash=control.config.hash32 ^ 1)
    assert await control.run(size // 2) == (ErrorCode.DESCRIPTOR, Queue.LOAD, size // 2)
    await control.works()


@cocotb.test()
async def lists_that_leave_memory_are_found(dut):
    """The list ends at the end of memory without END; or it does not lie in memory at all."""
    control = Control(dut)
    await control.reset()
    size = control.config.memory_size
    for queue in control.engines:
        lists = control.random_lists(4)
        lists[queue] = [_KINDS[queue][0](mark=1) for _ in range(3)]
        start = size - 3 * INSTRUCTION_BYTES
        starts = control.place(lists)
        code = b"".join(map(encode, lists[queue]))
        for other in Queue:
            lists[other] = [End()] if other != queue else lists[other]
        starts = control.place(lists)
        starts[queue] = start
        control.memory.data[start:size] = code
        control.memory.data[:DESCRIPTOR_BYTES] = encode_descriptor(
            control.config.hash32, tuple(starts))
        assert await control.run() == (ErrorCode.ADDRESS, queue, size)
        assert control.engines[queue].retired == 3
        for start in (size, (1 << 32) - 64, 96, 1):
            starts[queue] = start
            control.memory.data[:DESCRIPTOR_BYTES] = encode_descriptor(
                control.config.hash32, tuple(starts))
            assert await control.run() == (ErrorCode.ADDRESS, queue, start)
    await control.works()


def ends():
    return {queue: [End()] for queue in Queue}


@cocotb.test()
async def deadlocks_are_named(dut):
    control = Control(dut)
    await control.reset()
    for lists, queue, index in (
            ({Queue.POST: [Post(wait_post=1), End()]}, Queue.POST, 0),
            ({Queue.LOAD: [Fill(), Fill(wait_array=1), End()],
              Queue.ARRAY: [Array(wait_load=2), End()]}, Queue.LOAD, 1),
            ({Queue.STORE: [Store(), Store(), Store(), End(wait_store=4)]}, Queue.STORE, 3),
            ({Queue.ARRAY: [End(wait_load=2)]}, Queue.ARRAY, 0),
            ({Queue.LOAD: [End(wait_store=(1 << 20) - 1)],
              Queue.STORE: [Store(wait_load=1), End()]}, Queue.LOAD, 0),
            # More than a list can have, a bit at a time.
            *(({Queue.ARRAY: [End(wait_post=1 << bit)]}, Queue.ARRAY, 0) for bit in range(1, 20))):
        starts = control.place(ends() | lists)
        for engine in control.engines.values():
            engine.hang = False
        outcome = await control.run()
        assert outcome == (ErrorCode.DEADLOCK, queue, starts[queue] + 64 * index)
        await control.works()


@cocotb.test()
async def hanging_engines_meet_watchdog_and_cancel(dut):
    control = Control(dut)
    await control.reset()
    port = control.bench.port
    for stop in (ErrorCode.WATCHDOG, ErrorCode.CANCELLED):
        port("control__watchdog").value = 300 if stop == ErrorCode.WATCHDOG else 0
        starts = control.place(ends() | {
            Queue.LOAD: [Fill(wait_post=1), End()],
            Queue.POST: [Post(), Post(), Post(), End()]})
        await control.start()
        await control.bench.until(lambda: control.engines[Queue.POST].retired == 1)
        control.engines[Queue.POST].hang = True
        await control.bench.until(lambda: control.engines[Queue.LOAD].retired == 1)
        retired = control.engines[Queue.POST].retired
        begin = control.bench.cycle
        if stop == ErrorCode.CANCELLED:
            await control.bench.ticks(1000)
            assert int(port("control__busy").value) == 1, "a watchdog of 0 never expires"
            port("control__cancel").value = 1
            await control.bench.ticks()
            port("control__cancel").value = 0
        assert await control.finish() == (stop, Queue.POST, starts[Queue.POST] + 64 * retired)
        if stop == ErrorCode.WATCHDOG:
            assert 250 < control.bench.cycle - begin < 420
        port("control__watchdog").value = 0
        await control.works()
    # While the descriptor is being read, it is the descriptor that is named.
    await control.start(64)
    port("control__cancel").value = 1
    await control.bench.ticks()
    port("control__cancel").value = 0
    assert await control.finish() == (ErrorCode.CANCELLED, Queue.LOAD, 64)
    # Without a run there is nothing to cancel.
    port("control__cancel").value = 1
    await control.bench.ticks(3)
    port("control__cancel").value = 0
    await control.works()


class Marks(Agent):
    """Counts the log's pulses. `exact`: each comes as soon as it can, one a cycle, a cycle late."""

    def __init__(self, control, exact):
        self.control, self.exact = control, exact
        self.pulses, self.owed, self.retired = 0, 0, 0
        self.seen = dict.fromkeys(control.engines, 0)
        control.bench.add(self)

    def sample(self):
        pulse = int(self.control.bench.port("mark").value)
        self.pulses += pulse
        if not self.exact:
            return
        assert pulse == (self.owed > 0), f"seed {self.control.bench.seed}"
        self.owed += self.retired - pulse
        self.retired = 0
        for queue, engine in self.control.engines.items():
            if engine.retired > self.seen[queue]:
                self.retired += self.control.lists[queue][self.seen[queue]].mark
            self.seen[queue] = engine.retired


@cocotb.test()
async def marks_are_logged(dut):
    """Entry by entry, when instructions with and without marks retire together and in a row."""
    control = Control(dut)
    await control.reset()
    port = control.bench.port
    for fraction, exact in ((0.5, True), (0.9, True), (1.0, False)):
        lists = control.random_lists(80, mark=fraction)
        if exact:
            # Nobody waits, so that engines fill up; the bench does not know when an END retires.
            for items in lists.values():
                items[:] = [replace(item, mark=item.mark * (type(item) is not End),
                                    **dict.fromkeys(_WAITS, 0)) for item in items]
        marked = sum(item.mark for items in lists.values() for item in items)
        control.place(lists)
        await control.start()
        marks = Marks(control, exact)
        for speed in (0.02, 1.0) * 6 if exact else ():  # what waited in the engines retires at once
            control.speed = speed
            await control.bench.ticks(100 if speed < 1 else 12)
        assert (await control.finish())[0] == ErrorCode.NONE
        marks.exact = False
        assert marks.pulses == marked
        count = min(marked, control.config.timestamps)
        assert int(port("control__timestamp_count").value) == count
        before = (0, 0)
        for index in range(count):
            port("control__timestamp_index").value = index
            await control.bench.ticks(2)
            entry = (int(port("control__timestamp_cycles").value),
                     int(port("control__timestamp_active").value))
            assert entry[0] > before[0]
            assert entry[1] >= before[1]
            before = entry
        assert before[0] <= control.counter(Counter.CYCLES)


class Reader(Agent):
    """Asks for one counter after the other, and compares each with the register beside it."""

    def __init__(self, control):
        self.control, self.bench = control, control.bench
        self.index, self.patience, self.read = Counter.CYCLES, 0, []
        self.late = {}
        self.bench.add(self)

    def drive(self):
        self.bench.port("control__counter_index").value = self.index

    def sample(self):
        port = self.bench.port
        if int(port("control__counter_ready").value) and self.late:
            value = int(port("control__counter_value").value)
            assert value == self.late[self.index], f"{self.index.name} (seed {self.bench.seed})"
            self.read.append((self.index, value))
            self.index, self.patience = Counter((self.index + 7) % len(Counter)), 0
        else:
            self.patience += 1
            assert self.patience <= len(Counter) + 2
        # What happens in a cycle is in the registers one cycle, and shown two cycles later.
        self.late = {counter: self.control.counter(counter) for counter in Counter}


@cocotb.test()
async def counters_are_read_at_any_time(dut):
    """While a run goes on, in the very cycle in which it is over, and when the next begins."""
    control = Control(dut)
    await control.reset()
    reader = Reader(control)
    for speed, count in ((0.3, 150), (1.0, 600), (0.05, 40)):
        control.speed = speed
        control.place(control.random_lists(count))
        assert (await control.run())[0] == ErrorCode.NONE
        reader.read.clear()
        await control.bench.ticks(40 * len(Counter))
        assert {counter for counter, _ in reader.read} == set(Counter)
        assert any(value > 256 for _, value in reader.read)
        for counter, value in reader.read:
            assert value == control.counter(counter), counter.name


@cocotb.test()
async def instructions_are_fetched_ahead(dut):
    """Engines that take what they get see an instruction every few cycles in spite of latency."""
    control = Control(dut, stall=0.0, latency=50)
    await control.reset()
    control.speed = 1.0
    count = 40
    control.place(ends() | {queue: [*(_KINDS[queue][-1]() for _ in range(count)), End()]
                            for queue in (Queue.ARRAY, Queue.STORE)})
    begin = control.bench.cycle
    assert (await control.run())[0] == ErrorCode.NONE
    beats = INSTRUCTION_BYTES // control.config.memory_bytes_per_beat
    # At most 8 requests are outstanding, or what the two queues have slots for. A slot is free
    # again when latency, arrival and delivery (beside the other queue's) are over.
    ahead = min(8, 2 * prefetch_slots(control.config))
    limit = 2 * count * max(beats, (62 + 4 * beats) // ahead) + 250
    assert control.bench.cycle - begin <= limit
