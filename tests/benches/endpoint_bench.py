"""The endpoint against the golden peer: the same bytes in, the same answers and memory."""

import struct
import zlib

import cocotb
from cobs import cobs

from benches.endpoint_setup import SESSION, Setup
from systolith.hw.isa import ErrorCode, Queue
from systolith.hw.protocol import (
    ANSWER,
    MAX_DATA,
    REFUSED,
    WATCHDOG_DEFAULT,
    Command,
    Frame,
    Identity,
    Refusal,
    Status,
    decode_frame,
    encode_frame,
    words,
)


def random_range(source, size, longest):
    length = source.choice((1, 2, source.randrange(1, longest + 1), longest))
    return source.randrange(size - length + 1), length


@cocotb.test()
async def identity_is_told(dut):
    setup = Setup(dut, line=0.3)
    await setup.reset()
    identity = await setup.hello(previous=1)
    assert identity == Identity.of(setup.config, build=setup.bench.parameters["build"],
                                   session=SESSION)
    await setup.exchange(setup.frame(Command.STATUS))
    again = await setup.hello()
    assert again.expected == 1 and not again.continued, "a repeated HELLO keeps the session"
    other = await setup.hello(0x1234, SESSION)
    assert other.expected == 0 and other.continued
    stranger = await setup.hello(0x4321, SESSION)
    assert not stranger.continued, "the session before was another"


async def transfers(setup, rounds):
    """Random WRITE, READ, CRC, FILL and COPY requests of any alignment, several on the way."""
    source, size = setup.bench.random, setup.config.memory_size
    await setup.reset()
    await setup.hello()
    for _ in range(rounds):
        batch = bytearray()
        for _ in range(source.randrange(1, 5)):
            address, length = random_range(source, size, MAX_DATA)
            match source.choice(("write", "write", "read", "read", "crc", "fill", "copy")):
                case "write":
                    body = source.randbytes(length)
                    if source.random() < 0.3:
                        body = bytes(b & source.choice((0, 0xFF)) for b in body)
                    batch += setup.frame(Command.WRITE, address, data=body)
                case "read":
                    batch += setup.frame(Command.READ, address, length)
                case "crc":
                    batch += setup.frame(Command.CRC, address, length, source.getrandbits(32))
                case "fill":
                    batch += setup.frame(Command.FILL, address, length)
                case "copy":
                    target = (address + length + source.randrange(100)) % size
                    if target + length <= size and not (target < address < target + length):
                        batch += setup.frame(Command.COPY, address, length, target)
        await setup.exchange(bytes(batch))
    setup.check_memory()


@cocotb.test()
async def transfers_without_stalls(dut):
    await transfers(Setup(dut), 30)


@cocotb.test()
async def transfers_with_stalls(dut):
    await transfers(Setup(dut, line=0.3, memory=0.5, latency=20), 20)


@cocotb.test()
async def transfers_on_a_slow_line(dut):
    await transfers(Setup(dut, line=0.8, latency=2), 4)


@cocotb.test()
async def long_crc_and_fill(dut):
    setup = Setup(dut, memory=0.1)
    await setup.reset()
    await setup.hello()
    size = setup.config.memory_size
    frames = await setup.exchange(setup.frame(Command.CRC, 3, size - 5, 7))
    assert frames[0].payload == words(zlib.crc32(setup.data[3:size - 2], 7))
    await setup.exchange(setup.frame(Command.FILL, 1, size - 2))
    setup.check_memory()
    assert not any(setup.data[1:size - 1]) and setup.data[0] and setup.data[-1]


@cocotb.test()
async def refusals(dut):
    setup = Setup(dut, line=0.2, memory=0.2)
    await setup.reset()
    await setup.hello()
    size = setup.config.memory_size
    top = (1 << 32) - 1
    cases = [
        (Refusal.COMMAND, 0, (), b""), (Refusal.COMMAND, 14, (1, 2, 3), b"x"),
        (Refusal.COMMAND, 127, (), b""), (Refusal.COMMAND, 0xFF, (), b"abc"),
        (Refusal.LENGTH, Command.HELLO, (1,), b""), (Refusal.LENGTH, Command.STATUS, (0,), b""),
        (Refusal.LENGTH, Command.WRITE, (0,), b""), (Refusal.LENGTH, Command.WRITE, (), b"abc"),
        (Refusal.LENGTH, Command.READ, (0, 0), b""), (Refusal.LENGTH, Command.READ, (0,), b""),
        (Refusal.LENGTH, Command.READ, (0, MAX_DATA + 1), b""),
        (Refusal.LENGTH, Command.READ, (0, 1 << 31), b""),
        (Refusal.LENGTH, Command.COPY, (0, 0, 0), b""), (Refusal.LENGTH, Command.FILL, (0, 0), b""),
        (Refusal.LENGTH, Command.CRC, (0, 0, 0), b""), (Refusal.LENGTH, Command.CRC, (0, 4), b""),
        (Refusal.LENGTH, Command.TIMESTAMPS, (0, 0), b""),
        (Refusal.LENGTH, Command.TIMESTAMPS, (0, 45), b""),
        (Refusal.ADDRESS, Command.TIMESTAMPS, (0, 8), b""),
        (Refusal.ADDRESS, Command.TIMESTAMPS, (top, 1), b""),
        (Refusal.ADDRESS, Command.READ, (size, 1), b""),
        (Refusal.ADDRESS, Command.READ, (size - 1, 2), b""),
        (Refusal.ADDRESS, Command.READ, (top, 2), b""),
        (Refusal.ADDRESS, Command.WRITE, (size - 2,), b"abc"),
        (Refusal.ADDRESS, Command.WRITE, (top,), b"ab"),
        (Refusal.ADDRESS, Command.FILL, (0, size + 1), b""),
        (Refusal.ADDRESS, Command.FILL, (1, top), b""),
        (Refusal.ADDRESS, Command.CRC, (size, 1, 0), b""),
        (Refusal.ADDRESS, Command.COPY, (size - 3, 4, 0), b""),
        (Refusal.ADDRESS, Command.COPY, (0, 4, size - 3), b""),
        (Refusal.ADDRESS, Command.COPY, (0, 4, top), b""),
        (Refusal.ADDRESS, Command.RUN, (32,), b""), (Refusal.ADDRESS, Command.RUN, (size,), b""),
        (Refusal.ADDRESS, Command.RUN, (top - 63,), b""),
        # What would lie in memory without the upper bits.
        *((Refusal.ADDRESS, *case) for bit in (16, 20, 24, 31) for case in (
            (Command.READ, (1 << bit, 1), b""), (Command.WRITE, (1 << bit,), b"abc"),
            (Command.RUN, (1 << bit,), b""), (Command.CRC, (1 << bit, 1, 0), b""),
            (Command.CRC, (0, (1 << bit) + 1, 0), b""), (Command.FILL, (0, 1 << bit), b""),
            (Command.COPY, (1 << bit, 4, 0), b""), (Command.COPY, (0, 4, 1 << bit), b""),
            (Command.TIMESTAMPS, (1 << bit, 1), b""))),
        *((Refusal.LENGTH, *case) for bit in (16, 24) for case in (
            (Command.READ, (0, (1 << bit) + 1), b""),
            (Command.TIMESTAMPS, (0, (1 << bit) + 1), b""))),
    ]
    setup.bench.random.shuffle(cases)
    before = bytes(setup.data)
    for reason, opcode, arguments, data in cases:
        request = setup.frame(opcode, *arguments, data=data)
        for _ in range(2):  # a repetition is refused for the same reason
            frames = await setup.exchange(request)
            assert [frame.opcode for frame in frames] == [REFUSED], (reason, opcode, arguments)
            assert frames[0].payload[:2] == bytes((reason, opcode)), (frames, reason, opcode)
    assert bytes(setup.data) == before and not setup.core.starts
    await setup.exchange(setup.frame(Command.READ, size - MAX_DATA, MAX_DATA))
    await setup.exchange(setup.frame(Command.TIMESTAMPS, 5, 2))


@cocotb.test()
async def runs_and_status(dut):
    setup = Setup(dut, line=0.1)
    await setup.reset()
    await setup.hello()
    core = setup.core
    run = setup.frame(Command.RUN, 128)
    await setup.exchange(run)
    assert core.starts == [128]
    core.busy = True
    core.outcome = (ErrorCode.DEADLOCK, Queue.STORE, 0x12345678)
    frames = await setup.exchange(setup.frame(Command.STATUS))
    assert Status.decode(frames[0].payload) == Status(
        busy=True, error=5, queue=4, address=0x12345678, runs=1, timestamps=7,
        cycles=core.counters[0])
    frames = await setup.exchange(run)
    assert frames[0].opcode == Command.RUN | ANSWER, "a repeated RUN is answered as before"
    refused = setup.frame(Command.RUN, 64)
    frames = await setup.exchange(refused)
    assert frames[0].payload[0] == Refusal.BUSY
    core.busy = False
    frames = await setup.exchange(refused)
    assert frames[0].payload[0] == Refusal.BUSY, "what was refused is not done when repeated"
    assert core.starts == [128]
    await setup.exchange(setup.frame(Command.COUNTERS))
    await setup.exchange(setup.frame(Command.TIMESTAMPS, 0, 7))
    await setup.exchange(setup.frame(Command.TIMESTAMPS, 6, 1))
    await setup.exchange(setup.frame(Command.WATCHDOG, 0xDEADBEEF))
    assert int(setup.bench.port("control__watchdog").value) == 0xDEADBEEF
    cancel = setup.frame(Command.CANCEL)
    await setup.exchange(cancel)
    await setup.exchange(cancel)
    assert core.cancels == core.peer_cancels == 1
    for _ in range(2):
        await setup.exchange(setup.frame(Command.RUN, 0))
    assert core.starts == core.peer_starts == [128, 0, 0]
    await setup.exchange(setup.frame(Command.RESET))
    assert core.cancels == 2
    assert int(setup.bench.port("control__watchdog").value) == WATCHDOG_DEFAULT
    frames = await setup.exchange(setup.frame(Command.STATUS))
    assert Status.decode(frames[0].payload).runs == 0


@cocotb.test()
async def repetitions_have_no_effect(dut):
    """Every request is sent again later, within what the device knows as the past."""
    setup = Setup(dut, memory=0.2)
    source, size = setup.bench.random, setup.config.memory_size
    await setup.reset()
    await setup.hello()
    sent = []
    for index in range(60):
        address, length = random_range(source, size, 40)
        if index % 3 == 0:
            request = setup.frame(Command.WRITE, address, data=source.randbytes(length))
        elif index % 3 == 1:
            request = setup.frame(Command.FILL, address, length)
        else:
            half = size // 2
            request = setup.frame(Command.COPY, address % half // 2, length, half + address % half
                                  // 2)
        sent.append(request)
        await setup.exchange(request + (source.choice(sent) if index % 2 else b""))
    setup.check_memory()


@cocotb.test()
async def lost_requests_are_asked_for(dut):
    setup = Setup(dut)
    await setup.reset()
    await setup.hello()
    first, second, third = (setup.frame(Command.WRITE, i, data=bytes([i + 1])) for i in range(3))
    before = bytes(setup.data)
    await setup.exchange(first)
    frames = await setup.exchange(third)
    assert frames == [Frame(REFUSED, 1, words(Refusal.RESEND | 1 << 16))]
    assert setup.data[2] == before[2]
    await setup.exchange(second + third)
    setup.check_memory()


@cocotb.test()
async def one_good_frame_ends_garbage(dut):
    """From every state that garbage can leave, the next good frame is executed."""
    setup = Setup(dut, line=0.1, memory=0.1)
    source = setup.bench.random
    await setup.reset()
    await setup.hello()
    for round_number in range(80):
        request = setup.frame(Command.WRITE, round_number, data=source.randbytes(
            source.randrange(1, 60)))
        match round_number % 4:
            case 0:
                noise = source.randbytes(source.randrange(1, 30))
            case 1:
                noise = request[:source.randrange(1, len(request) - 1)]
            case 2:
                damaged = bytearray(request)
                damaged[source.randrange(1, len(request) - 1)] ^= 1 << source.randrange(8)
                noise = bytes(damaged)
            case _:
                noise = bytes(source.randrange(1, 256) for _ in range(source.randrange(360, 800)))
        setup.rx.send(noise + request)
        await setup.quiet(200)
        done = [frame for frame in setup.answers() if frame.opcode == Command.WRITE | ANSWER]
        assert [frame.sequence for frame in done] == [round_number], (
            f"round {round_number}, seed {setup.bench.seed}")
        setup.peer.receive(request)
    setup.check_memory()


@cocotb.test()
async def damaged_frames_do_nothing(dut):
    """Any damage of up to four bits, or a lost or doubled byte, leaves memory as it was."""
    setup = Setup(dut)
    source = setup.bench.random
    await setup.reset()
    await setup.hello()
    before = bytes(setup.data)
    good = setup.frame(Command.WRITE, 0, data=source.randbytes(100), sequence=0)
    for _ in range(60):
        damaged = bytearray(good)
        kind = source.randrange(3)
        if kind == 0:
            for _ in range(source.randrange(1, 5)):
                damaged[source.randrange(1, len(good) - 1)] ^= 1 << source.randrange(8)
        elif kind == 1:
            del damaged[source.randrange(1, len(good) - 1)]
        else:
            place = source.randrange(1, len(good) - 1)
            damaged.insert(place, damaged[place])
        if bytes(damaged) != good and decode_frame(bytes(damaged).strip(b"\0"), SESSION) is None:
            setup.rx.send(bytes(damaged))
    await setup.quiet()
    assert all(frame.opcode == REFUSED and frame.payload[0] == Refusal.RESEND
               for frame in setup.answers())
    assert setup.data == before
    setup.rx.send(encode_frame(Command.WRITE, 0, words(0) + b"x", SESSION ^ 1))
    await setup.quiet()
    assert setup.data == before, "another session's frame was executed"


@cocotb.test()
async def frames_that_lie_about_their_length(dut):
    """Their CRC fits, and they are dropped: also those whose length fits but for lost bits."""
    setup = Setup(dut)
    await setup.reset()
    await setup.hello()
    status = setup.frame(Command.STATUS, sequence=0)
    bodies = [struct.pack("<BBH", Command.CRC, 0, stated & 0xFFFF) + words(0, 1, 0)
              for stated in (0, 11, 13, 12 + 256, 12 + 512, 12 + 1024, 12 + 0x8000, -1)]
    bodies += [b"", b"\5", b"\5\0", b"\5\0\0"]
    # Seven bytes in all, of which the third and fourth state -1 in nine bits.
    bodies += [body for body in (bytes((first, other, 255)) for first in range(2, 9)
                                 for other in range(256))
               if zlib.crc32(body, SESSION) & 0xFF == 1][:3]
    for body in bodies:
        frame = b"\0" + cobs.encode(body + words(zlib.crc32(body, SESSION))) + b"\0"
        frames = await setup.exchange(frame)
        assert frames == [Frame(REFUSED, 0, words(Refusal.RESEND))], body
    [frame] = await setup.exchange(status)
    assert frame.opcode == Command.STATUS | ANSWER


@cocotb.test()
async def frames_of_every_length(dut):
    """COBS blocks of every length, zeros at every place, in both directions."""
    setup = Setup(dut)
    source = setup.bench.random
    await setup.reset()
    await setup.hello()
    for length in (1, 2, *range(242, 254), MAX_DATA):
        body = bytes(source.randrange(1, 256) for _ in range(length))
        zeroed = bytearray(body)
        zeroed[source.randrange(length)] = 0
        for data in (body, bytes(zeroed), bytes(length)):
            await setup.exchange(setup.frame(Command.WRITE, 5, data=data)
                                 + setup.frame(Command.READ, 5, length))
    setup.check_memory()


@cocotb.test()
async def long_writes_keep_the_line_busy(dut):
    setup = Setup(dut, latency=50)
    await setup.reset()
    await setup.hello()
    frames = b"".join(setup.frame(Command.WRITE, MAX_DATA * i, data=setup.bench.random.randbytes(
        MAX_DATA)) for i in range(5))
    begun = setup.bench.cycle
    setup.rx.send(frames)
    await setup.rx.drained()
    cycles = setup.bench.cycle - begun
    assert cycles <= 1.02 * len(frames), f"{cycles} cycles for {len(frames)} bytes"
    count = 5
    await setup.quiet()
    setup.answers()
    begun = setup.bench.cycle
    setup.rx.send(b"".join(setup.frame(Command.READ, MAX_DATA * i, MAX_DATA)
                           for i in range(count)))
    got = []
    while len(got) < count:
        await setup.bench.ticks(10)
        got += setup.answers()
    cycles = setup.bench.cycle - begun
    if setup.config.rows > 4:  # the smallest configurations read a beat at a time
        assert cycles <= 1.4 * count * MAX_DATA, f"{cycles} cycles for {count * MAX_DATA} bytes"


