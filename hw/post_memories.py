"""Memories inside the post-processor: parameter records, tables, and instruction contexts."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .isa import PARAMETER_BYTES
from .requantize import MULTIPLIER_STAGE, ROUNDING_STAGE, rounding_width

__all__ = ["PARAMETER_LATENCY", "ContextMemory", "ParameterMemory", "TableMemory"]

PARAMETER_LATENCY = 2
"""Cycles from a parameter word's address to its records' biases."""


class ParameterMemory(wiring.Component):
    """Parameter records, `lanes` of them a word, given out field by field as a lane needs them.

    Members
    -------
    write : In
        `valid`: write piece `part` (of `rows` bytes) of word `address`.
    address, enable : In
        Word whose records are wanted, a word a cycle. Bit k of `enable`: the word named k cycles
        ago is wanted.
    bias : Out
        A lane, `PARAMETER_LATENCY` cycles after `address`.
    multiplier, shift : Out
        A lane, `MULTIPLIER_STAGE` cycles after the bias.
    rounding : Out
        A lane, `ROUNDING_STAGE` cycles after the bias.
    """

    def __init__(self, config: Config):
        self._config = config
        words = range(config.parameter_words)
        members = {
            "write": In(wiring.Signature({
                "valid": Out(1), "address": Out(words), "part": Out(8),
                "data": Out(8 * config.rows)})),
            "address": In(words),
            "enable": In(ROUNDING_STAGE + PARAMETER_LATENCY),
            "bias": Out(signed(32)).array(config.lanes),
            "shift": Out(6).array(config.lanes),
        }
        if config.multiplier_bits:
            members["multiplier"] = Out(config.multiplier_bits).array(config.lanes)
        if rounding_width(config):
            members["rounding"] = Out(signed(rounding_width(config))).array(config.lanes)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        bits, rounding = self._config.multiplier_bits, rounding_width(self._config)
        addresses = [self.address]
        for stage in range(ROUNDING_STAGE):
            address = Signal(self.address.shape(), name=f"address_{stage + 1}")
            with m.If(self.enable[stage]):
                m.d.sync += address.eq(addresses[-1])
            addresses.append(address)

        words_a_record, words_a_part = PARAMETER_BYTES // 4, self._config.rows // 4
        for lane in range(self._config.lanes):
            # PARAMETER_FIELDS as 32-bit words: bias; rounding; multiplier with shift above it.
            def word(index, base=lane * words_a_record):
                part, position = divmod(base + index, words_a_part)
                return (self.write.valid & (self.write.part == part),
                        self.write.data.word_select(position, 32))

            def keep(name, enable, value, stage, lane=lane):
                cells = memory.Memory(shape=len(value), depth=self._config.parameter_words,
                                      init=[])
                m.submodules[f"{name}_{lane}"] = cells
                write, read = cells.write_port(), cells.read_port()
                m.d.comb += [
                    write.addr.eq(self.write.address), write.data.eq(value), write.en.eq(enable),
                    read.addr.eq(addresses[stage]), read.en.eq(self.enable[stage]),
                ]
                # Adders and multipliers follow, and block RAM answers late.
                kept = Signal(len(value), name=f"{name}_{lane}")
                with m.If(self.enable[stage + 1]):
                    m.d.sync += kept.eq(read.data)
                return kept

            enable, value = word(0)
            m.d.comb += self.bias[lane].eq(keep("bias", enable, value, 0).as_signed())
            enable, value = word(2)
            scale = keep("scale", enable, Cat(value[:bits], value[24:30]), MULTIPLIER_STAGE)
            m.d.comb += self.shift[lane].eq(scale[bits:])
            if bits:
                m.d.comb += self.multiplier[lane].eq(scale[:bits])
            if rounding:
                enable, value = word(1)
                m.d.comb += self.rounding[lane].eq(
                    keep("rounding", enable, value[:rounding], ROUNDING_STAGE).as_signed())
        return m


class TableMemory(wiring.Component):
    """A table of 256 entries, with a copy a lane.

    A word of `rows` entries takes `rows` cycles to write, so that the copies are plain block RAM;
    it is accepted in the last of them, and complete two cycles later.

    Members
    -------
    write : In
        Stream side of a word: `valid`, `address` (in words), `data`, and `ready` back.
    enable, index : In
        Int8 values to look up, a lane.
    o : Out
        Entries, a lane, one cycle later.
    """

    def __init__(self, config: Config):
        self._config = config
        words = 256 // config.rows
        super().__init__({
            "write": In(wiring.Signature({
                "valid": Out(1), "ready": In(1), "address": Out(range(words)),
                "data": Out(8 * config.rows)})),
            "enable": In(1),
            "index": In(signed(8)).array(config.lanes),
            "o": Out(signed(8)).array(config.lanes),
        })

    def elaborate(self, platform):
        m = Module()
        last_position = self._config.rows - 1
        position = Signal(range(self._config.rows))
        ready = Signal()  # it is the last one
        m.d.comb += self.write.ready.eq(ready)
        with m.If(self.write.valid):
            m.d.sync += [position.eq(position + 1), ready.eq(position == last_position - 1)]
        # The word comes a long way; its entries are picked behind a register.
        word, later_position = Signal(8 * self._config.rows), Signal.like(position)
        later_address, arrived = Signal.like(self.write.address), Signal()
        entry, place, writes = Signal(8), Signal(8), Signal()
        m.d.sync += [
            word.eq(self.write.data), later_position.eq(position),
            later_address.eq(self.write.address), arrived.eq(self.write.valid),
            entry.eq(word.word_select(later_position, 8)),
            place.eq(Cat(later_position, later_address)),
            writes.eq(arrived),
        ]
        for lane in range(self._config.lanes):
            cells = memory.Memory(shape=signed(8), depth=256, init=[])
            m.submodules[f"table_{lane}"] = cells
            write, read = cells.write_port(), cells.read_port()
            m.d.comb += [
                write.addr.eq(place), write.data.eq(entry), write.en.eq(writes),
                read.addr.eq(self.index[lane] ^ 0x80),  # entry q + 128
                read.en.eq(self.enable),
                self.o[lane].eq(read.data),
            ]
        return m


class ContextMemory(wiring.Component):
    """What one pipeline stage needs to know of each instruction in flight.

    A value is put in when an instruction begins; the stage sees it from the instruction's first
    item to its last.

    Parameters
    ----------
    fields : dict
        Name to shape.
    slots : int
        Power of two; the instructions in flight are at most as many.

    Members
    -------
    put, values : In
        An instruction begins, with these values.
    step : In
        The last item of an instruction is in the stage.
    current : Out
        Values of the item in the stage.
    """

    def __init__(self, fields: dict, slots: int):
        self._slots = slots
        layout = data.StructLayout(fields)
        super().__init__({
            "put": In(1), "values": In(layout), "step": In(1), "current": Out(layout)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cells = cells = memory.Memory(
            shape=len(self.values.as_value()), depth=self._slots, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        m.d.sync += [write.addr.eq(write.addr + self.put), read.addr.eq(read.addr + self.step)]
        m.d.comb += [
            write.data.eq(self.values), write.en.eq(self.put),
            self.current.eq(read.data),
        ]
        return m
