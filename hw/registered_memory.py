"""Memory whose answer passes a register inside of the block RAM: a plain model, and the primitive.

A block RAM answers half a clock's period late; the register behind it, which tools do not infer,
takes that out of the reader's path. On a platform of ECP5 chips the blocks are instantiated, and
elsewhere the register is an ordinary one behind an ordinary memory. The cycles are the same.
"""

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .multiplier import family_of

__all__ = ["REGISTERED_LATENCY", "RegisteredMemory"]

REGISTERED_LATENCY = 2
"""Cycles from an address to the word."""

_BLOCK_BITS = 1 << 14  # of data, however they are cut into words; a byte may have a ninth


class RegisteredMemory(wiring.Component):
    """`depth` words of `width` bytes, with one port that writes bytes and one that reads words.

    A word that is written in the cycle in which its address is read is undefined on the chip; here
    it reads as it was.

    Parameters
    ----------
    depth : int
        Words, a power of two.
    width : int
        Bytes a word.

    Members
    -------
    write_address, write_data, write_mask : In
        Bytes to write, none where the mask is 0.
    read_address : In
    read_data : Out
        The word, `REGISTERED_LATENCY` cycles after its address.
    """

    def __init__(self, depth: int, width: int):
        self._depth = depth
        self._width = width
        super().__init__({
            "write_address": In(range(depth)), "write_data": In(8 * width),
            "write_mask": In(width),
            "read_address": In(range(depth)), "read_data": Out(8 * width),
        })

    def elaborate(self, platform):
        m = Module()
        # Smaller and larger ones would need blocks side by side in other ways: the tool knows them.
        if family_of(platform) == "ecp5" and _BLOCK_BITS // 8 <= self._depth <= _BLOCK_BITS:
            self._blocks(m)
            return m
        m.submodules.memory = cells = memory.Memory(
            shape=8 * self._width, depth=self._depth, init=[])
        write, read = cells.write_port(granularity=8), cells.read_port()
        m.d.comb += [
            write.addr.eq(self.write_address), write.data.eq(self.write_data),
            write.en.eq(self.write_mask), read.addr.eq(self.read_address),
        ]
        passed = Signal(8 * self._width, reset_less=True)
        m.d.sync += passed.eq(read.data)
        m.d.comb += self.read_data.eq(passed)
        return m

    def _blocks(self, m):
        """ECP5's block RAM (FPGA-TN-02204): port A writes, port B reads, each block a part of one
        byte of all words."""
        bits = min(8, _BLOCK_BITS // self._depth)  # of a word in a block
        unused = 14 - (self._depth - 1).bit_length()  # pins of the address, the lowest ones
        width = 9 if bits == 8 else bits
        for part in range(8 * self._width // bits):
            output = Signal(18, name=f"output_{part}")
            m.submodules[f"block_{part}"] = Instance(
                "DP16KD",
                p_DATA_WIDTH_A=width, p_DATA_WIDTH_B=width,
                p_REGMODE_A="NOREG", p_REGMODE_B="OUTREG",
                p_RESETMODE="SYNC", p_ASYNC_RESET_RELEASE="SYNC",
                p_CSDECODE_A="0b000", p_CSDECODE_B="0b000",
                p_CLKAMUX="CLKA", p_CLKBMUX="CLKB",
                p_WRITEMODE_A="NORMAL", p_WRITEMODE_B="NORMAL", p_GSR="AUTO",
                i_CLKA=ClockSignal(), i_CEA=Const(1), i_OCEA=Const(1), i_RSTA=Const(0),
                i_WEA=self.write_mask[part * bits // 8],
                i_CLKB=ClockSignal(), i_CEB=Const(1), i_OCEB=Const(1), i_RSTB=Const(0),
                i_WEB=Const(0),
                **{f"i_CS{port}{k}": Const(0) for port in "AB" for k in range(3)},
                **_pins("i_ADA", Cat(Const(0, unused), self.write_address), 14),
                **_pins("i_ADB", Cat(Const(0, unused), self.read_address), 14),
                **_pins("i_DIA", self.write_data.word_select(part, bits), 18),
                **_pins("i_DIB", Const(0, 18), 18), **_pins("o_DOB", output, 18))
            m.d.comb += self.read_data.word_select(part, bits).eq(output)


def _pins(name, value, count):
    """Connections of pins that are numbered one by one; zeros where there is no bit of `value`."""
    return {f"{name}{k}": value[k] if k < len(value) else Const(0) for k in range(count)}
