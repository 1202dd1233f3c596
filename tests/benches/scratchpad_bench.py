"""Scratchpad: all clients at random on few banks, every word and every refusal checked."""

import cocotb
from amaranth.lib import data

from systolith.hw.scratchpad import READ_CLIENTS, WRITE_CLIENTS
from systolith.sim.agents import Agent, Bench


class Clients(Agent):
    """Drives every port and checks readiness and data against a byte array."""

    def __init__(self, bench):
        parameters = bench.parameters
        self.bench, self.bytes = bench, parameters["rows"]
        self.words, self.banks = parameters["words"], parameters["banks"]
        self.latency = parameters["latency"]
        self.group = {name: number for number, group in enumerate(parameters["groups"])
                      for name in group}
        self.memory = [None] * self.words
        self.layout = data.StructLayout({"address": range(self.words), "data": 8 * self.bytes,
                                         "mask": self.bytes})
        self.requests = dict.fromkeys((*READ_CLIENTS, *WRITE_CLIENTS))
        self.waiting = dict.fromkeys(self.requests, 0)
        self.expected = {name: {} for name in READ_CLIENTS}
        self.idle = {name: bench.stalls(0.4, burst=4) for name in self.requests}
        self.checked = self.refused = 0
        self.exact = False
        bench.add(self)

    def stream(self, name, part):
        return self.bench.port(f"{name}__request__{part}" if name in READ_CLIENTS
                               else f"{name}__{part}")

    def address(self):
        """A few words of all banks, so that clients meet."""
        first = self.bench.random.choice((0, 1, self.words // self.banks - 1)) * self.banks
        return first + self.bench.random.randrange(self.banks)

    def drive(self):
        for name, request in self.requests.items():
            if request is None and not next(self.idle[name]):
                request = self.address()
                if name in WRITE_CLIENTS:
                    random = self.bench.random
                    full = (1 << self.bytes) - 1
                    mask = random.choice((full, full, random.getrandbits(self.bytes)))
                    if self.memory[request] is None:
                        mask = full
                    request = (request, random.getrandbits(8 * self.bytes), mask)
                self.requests[name] = request
            self.stream(name, "valid").value = int(request is not None)
            if name in WRITE_CLIENTS and request is not None:
                address, value, mask = request
                bits = address | value << (bits_of := (self.words - 1).bit_length())
                self.stream(name, "payload").value = bits | mask << (bits_of + 8 * self.bytes)
            elif request is not None:
                self.stream(name, "payload").value = request

    def sample(self):
        cycle = self.bench.cycle
        for name in READ_CLIENTS:
            expected = self.expected[name].pop(cycle, None)
            if expected is not None:
                assert int(self.bench.port(f"{name}__data").value) == expected, (
                    f"{name} in cycle {cycle} (seed {self.bench.seed})")
                self.checked += 1
        for group in (READ_CLIENTS, WRITE_CLIENTS):
            busy, asking = set(), set()
            for name in group:
                request = self.requests[name]
                if request is None:
                    continue
                address = request if name in READ_CLIENTS else request[0]
                bank = address % self.banks
                ready = bool(int(self.stream(name, "ready").value))
                own = self.group.get(name, name)
                assert ready == (bank not in busy and own not in asking), (
                    f"{name} (seed {self.bench.seed})")
                busy.add(bank)
                asking.add(own)
                if not ready:
                    self.refused += 1
                    continue
                self.requests[name] = None
                if name in READ_CLIENTS:
                    if self.memory[address] is not None:
                        self.expected[name][cycle + self.latency] = self.memory[address]
                else:
                    self.write(*request)

    def write(self, address, value, mask):
        bits = sum(255 << 8 * lane for lane in range(self.bytes) if mask >> lane & 1)
        self.memory[address] = (self.memory[address] or 0) & ~bits | value & bits


@cocotb.test()
async def every_word_is_the_latest(dut):
    bench = Bench(dut)
    clients = Clients(bench)
    for name in (*READ_CLIENTS, *WRITE_CLIENTS):
        clients.stream(name, "valid").value = 0
    await bench.ticks(4000)
    assert clients.checked > 2000 and clients.refused > 500
