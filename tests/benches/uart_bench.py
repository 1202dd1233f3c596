"""The UART's pins against a line sampled at real bit times, with clocks that are not the same."""

import cocotb

from systolith.sim.agents import Agent, Bench


class PinDriver(Agent):
    """Puts bytes on the receive pin at a bit time in cycles that need not be whole."""

    def __init__(self, bench, cycles_per_bit):
        self.bench, self.cycles_per_bit = bench, cycles_per_bit
        self.levels, self.begun = [], None
        bench.add(self)

    def send(self, data, *, stop=1):
        for byte in data:
            self.levels += [0, *(byte >> i & 1 for i in range(8)), stop]

    @property
    def done(self):
        return not self.levels

    def drive(self):
        if not self.levels:
            self.begun = None
            self.bench.port("rx_pin").value = 1
            return
        if self.begun is None:
            self.begun = self.bench.cycle
            self.total = list(self.levels)
        index = int((self.bench.cycle - self.begun) / self.cycles_per_bit)
        if index >= len(self.total):
            self.levels, self.begun = [], None
            self.bench.port("rx_pin").value = 1
        else:
            self.bench.port("rx_pin").value = self.total[index]


class PinReader(Agent):
    """Reads bytes from the transmit pin, in the middle of its bits."""

    def __init__(self, bench, cycles_per_bit):
        self.bench, self.cycles_per_bit = bench, cycles_per_bit
        self.data, self.begun, self.bits = [], None, []
        bench.add(self)

    def sample(self):
        level = int(self.bench.port("tx_pin").value)
        if self.begun is None:
            if level == 0:
                self.begun, self.bits = self.bench.cycle, []
            return
        middle = self.begun + (len(self.bits) + 0.5) * self.cycles_per_bit
        if self.bench.cycle >= middle:
            self.bits.append(level)
            if len(self.bits) == 10:
                assert self.bits[0] == 0 and self.bits[9] == 1, f"bad frame {self.bits}"
                self.data.append(sum(bit << i for i, bit in enumerate(self.bits[1:9])))
                self.begun = None


async def ready(dut, *, skew=1.0, refuse=0.0):
    bench = Bench(dut)
    cycles = bench.parameters["clock"] / bench.parameters["baud"]
    driver, reader = PinDriver(bench, cycles * skew), PinReader(bench, cycles)
    source = bench.source("tx", 8)
    sink = bench.sink("rx", 8, stalls=bench.stalls(refuse))
    await bench.reset()
    return bench, driver, reader, source, sink


async def receive(dut, skew):
    bench, driver, _, _, sink = await ready(dut, skew=skew, refuse=0.2)
    data = bench.random.randbytes(40)
    driver.send(data)
    await bench.until(lambda: driver.done)
    await bench.ticks(50)
    assert bytes(sink.items) == data, f"seed {bench.seed}"


@cocotb.test()
async def bytes_are_received(dut):
    await receive(dut, 1.0)


@cocotb.test()
async def a_slow_sender_is_understood(dut):
    await receive(dut, 1.03)


@cocotb.test()
async def a_fast_sender_is_understood(dut):
    await receive(dut, 0.975)


@cocotb.test()
async def bytes_are_sent(dut):
    bench, _, reader, source, _ = await ready(dut)
    data = bench.random.randbytes(40)
    source.send(data)
    begun = bench.cycle
    await bench.until(lambda: len(reader.data) == len(data))
    assert bytes(reader.data) == data, f"seed {bench.seed}"
    bits = 10 * len(data) * bench.parameters["clock"] / bench.parameters["baud"]
    assert bench.cycle - begun < 1.03 * bits + 50, "the line was not kept busy"


@cocotb.test()
async def glitches_and_breaks_are_no_bytes(dut):
    bench, driver, _, _, sink = await ready(dut)
    cycles = bench.parameters["clock"] / bench.parameters["baud"]
    driver.levels = [0]
    driver.cycles_per_bit = cycles / 4
    await bench.until(lambda: driver.done)
    await bench.ticks(int(15 * cycles))
    driver.cycles_per_bit = cycles
    driver.send(b"\x00", stop=0)
    await bench.until(lambda: driver.done)
    await bench.ticks(int(15 * cycles))
    assert not sink.items
    driver.send(b"ok")
    await bench.until(lambda: driver.done)
    await bench.ticks(50)
    assert bytes(sink.items) == b"ok"
