"""What the benches of both movers share: instructions as engines take them, and their outcome."""

from systolith.hw.isa import ErrorCode, Instruction, encode, instruction_fields
from systolith.sim.agents import Agent

__all__ = ["EngineMonitor", "field_bits"]

_HEADER = max(field.offset + field.width for field in instruction_fields(Instruction))


def field_bits(instruction):
    """An instruction's fields behind the common header, as the engine's payload bits."""
    return int.from_bytes(encode(instruction), "little") >> _HEADER


class EngineMonitor(Agent):
    """Counts retirements and keeps the first error of an engine; `on_retire` is called at each."""

    def __init__(self, bench, on_retire=lambda: None):
        self.bench, self.on_retire = bench, on_retire
        self.retired = self.active = self.stalled = 0
        self.times = []
        self.error = ErrorCode.NONE
        bench.add(self)

    def sample(self):
        port = self.bench.port
        if int(port("rst").value):
            return
        if int(port("engine__retire").value):
            self.retired += 1
            self.times.append(self.bench.cycle)
            self.on_retire()
        self.active += int(port("engine__active").value)
        self.stalled += int(port("engine__stall").value)
        assert not (int(port("engine__active").value) and int(port("engine__stall").value))
        if self.error == ErrorCode.NONE:
            self.error = ErrorCode(int(port("engine__error").value))
