"""The USB serial device against a host at its wires."""

import struct

import cocotb

from benches.usb_host import Host
from systolith.sim.agents import Bench

PACKET = 64
SOMETIMES = 0.2


async def enumerated(dut, *, bit=4.0, refuse=0.0, pause=0.0, delays=(1, 2)):
    """A device as a host leaves it that has just found it, and its two streams."""
    bench = Bench(dut)
    host = Host(bench, bit=bit, delays=delays)
    source = bench.source("tx", 8, stalls=bench.stalls(pause))
    sink = bench.sink("rx", 8, stalls=bench.stalls(refuse, burst=500))
    await bench.reset(40)
    await bench.until(lambda: int(dut.pullup.value))
    await enumerate_again(host)
    return bench, host, source, sink


async def enumerate_again(host):
    await host.bench.ticks(100)
    await host.reset_bus()
    assert await host.control(0x00, 5, value=9) == b""
    host.address = 9
    assert await host.control(0x00, 9, value=1) == b""
    await host.bench.ticks(100)  # until the device has seen the host's last acknowledgement


@cocotb.test()
async def the_device_describes_a_serial_port(dut):
    bench, host, _, _ = await enumerated(dut)
    device = await host.control(0x80, 6, value=0x0100, length=18)
    assert struct.unpack_from("<HHH", device, 8)[:2] == (0x1209, 0x0001)
    configuration = await host.control(0x80, 6, value=0x0200, length=9)
    total, = struct.unpack_from("<H", configuration, 2)
    configuration = await host.control(0x80, 6, value=0x0200, length=total)
    assert len(configuration) == total > PACKET
    parts = []
    while configuration:
        parts.append(configuration[:configuration[0]])
        configuration = configuration[configuration[0]:]
    interfaces = [tuple(part[5:8]) for part in parts if part[1] == 4]
    assert interfaces == [(2, 2, 0), (10, 0, 0)]
    endpoints = {part[2]: struct.unpack_from("<BH", part, 3) for part in parts if part[1] == 5}
    assert endpoints == {0x81: (3, 8), 0x82: (2, PACKET), 0x02: (2, PACKET)}
    assert await host.control(0x80, 8, length=1) == b"\x01"
    name = await host.control(0x80, 6, value=0x0300 | device[15], index=0x0409, length=255)
    assert name[2:].decode("utf-16-le") == bench.parameters["product"]


@cocotb.test()
async def requests_of_serial_drivers_are_taken_and_others_refused(dut):
    _, host, source, sink = await enumerated(dut)
    for rate in (3_000_000, 115_200):
        assert await host.control(0x21, 0x20, data=struct.pack("<IBBB", rate, 0, 0, 8)) == b""
        assert await host.control(0x21, 0x22, value=3) == b""
    assert await host.control(0x21, 0x23, value=0xFFFF) is None     # a break
    assert await host.control(0xA1, 0x21, length=7) is None         # the rate, which it forgot
    assert await host.control(0x80, 6, value=0x0600, length=10) is None     # for high speed
    assert await host.read(1) == b""
    source.send(b"on")
    assert await host.write(2, b"off")
    assert bytes(await sink.receive(3)) == b"off"
    assert await received(host, 2) == b"on"


async def sent(host, data, *, mishaps=0.0):
    """Send bytes in packets of any length, with some of them damaged and some answers lost."""
    random, limit = host.bench.random, host.bench.cycle + 500_000
    while data:
        size = random.choice((1, 2, 63, 64, random.randint(1, 64)))
        payload, data = data[:size], data[size:]
        while not await host.write(2, payload, damage=random.random() < mishaps,
                                   deaf=random.random() < mishaps):
            assert host.bench.cycle < limit, f"{len(data)} bytes are left"


async def received(host, count, *, mishaps=0.0):
    """Ask until so many bytes have come, with some acknowledgements lost."""
    random, data, limit = host.bench.random, b"", host.bench.cycle + 200_000
    while len(data) < count:
        assert host.bench.cycle < limit, f"only {len(data)} of {count} bytes"
        payload = await host.read(2, acknowledge=random.random() >= mishaps)
        assert len(payload) < PACKET, "a full packet, which holds the host's answer back"
        data += payload
    return data


async def to_device(dut, **how):
    bench, host, _, sink = await enumerated(dut, refuse=0.7, **how)
    data = bench.random.randbytes(1500)
    await sent(host, data, mishaps=SOMETIMES)
    assert bytes(await sink.receive(len(data))) == data, f"seed {bench.seed}"
    await bench.ticks(500)
    assert not sink.items, f"seed {bench.seed}"


async def to_host(dut, **how):
    bench, host, source, _ = await enumerated(dut, pause=0.9, **how)
    data = bench.random.randbytes(1500)
    source.send(data)
    assert await received(host, len(data), mishaps=SOMETIMES) == data, f"seed {bench.seed}"
    assert await host.read(2) == b"", f"seed {bench.seed}"


@cocotb.test()
async def bytes_reach_the_device(dut):
    await to_device(dut)


@cocotb.test()
async def bytes_reach_the_host(dut):
    await to_host(dut)


@cocotb.test()
async def a_fast_host_is_understood(dut):
    """A host's clock may be off by 500 ppm, and oscillators by 50: here it is five times that."""
    await to_device(dut, bit=4 * 0.9972)


@cocotb.test()
async def a_slow_host_is_understood(dut):
    await to_host(dut, bit=4 * 1.0028)


@cocotb.test()
async def answers_of_every_length_end(dut):
    """The last byte is never kept for the next answer."""
    bench, host, source, _ = await enumerated(dut)
    for length in (1, 62, 63, 64, 65, 126, 127, 128, 129, 192):
        data = bench.random.randbytes(length)
        source.send(data)
        assert await received(host, length) == data


@cocotb.test()
async def a_host_that_comes_again_finds_the_first_packet_expected(dut):
    bench, host, source, sink = await enumerated(dut)
    for round_ in range(3):
        for packet in range(round_ + 1):
            data = bench.random.randbytes(10)
            assert await host.write(2, data)
            assert bytes(await sink.receive(10)) == data, f"round {round_}, packet {packet}"
            source.send(data)
            assert await received(host, 10) == data, f"round {round_}, packet {packet}"
        await enumerate_again(host)


@cocotb.test()
async def both_directions_are_as_fast_as_the_bus(dut):
    bench, host, source, sink = await enumerated(dut)
    data = bench.random.randbytes(1890)
    begun = bench.cycle
    for i in range(0, len(data), 63):
        assert await host.write(2, data[i:i + 63])
    out = 48e6 * len(data) / (bench.cycle - begun)
    assert bytes(await sink.receive(len(data))) == data
    source.send(data)
    await bench.until(lambda: source.sent >= 60)
    begun = bench.cycle
    assert await received(host, len(data)) == data
    back = 48e6 * len(data) / (bench.cycle - begun)
    first, last = (found(host.turnarounds) / 4 for found in (min, max))
    bench.dut._log.info("%.0f bytes a second to the device, %.0f to the host, answers after %.1f "
                        "to %.1f bit times", out, back, first, last)
    assert out > 1.1e6 and back > 1.1e6
    # The standard gives a device 7.5, so that 16 are enough for a host behind cables and hubs.
    assert last < 12
