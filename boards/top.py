"""A board's top level: clocks and resets, the SoC, its main memory, and the link's line.

Two clocks. The line's (`boards/line.py`) is the board's oscillator, so that bits on it are as exact
as a crystal; the core's comes from the PLL and drives everything else. Bytes cross in asynchronous
FIFOs, and nothing else does. The core leaves reset when the PLL has locked, and the link a while
later, so that no byte meets a core in reset. Small chips have one clock for both, from the PLL.
"""

from amaranth import ClockDomain, ClockSignal, DomainRenamer, Elaboratable, Module, Signal
from amaranth.lib import fifo, io, wiring
from amaranth.lib.cdc import FFSynchronizer, ResetSynchronizer
from amaranth.lib.wiring import In, Out

from systolith.hw.block_memory import BlockMemory
from systolith.hw.config import Config
from systolith.hw.sdram import SdramController
from systolith.hw.sequential.spram import SpramMemory
from systolith.hw.soc import SoC

from .board import FAMILIES, Board
from .line import line_of
from .sdram_pads import SdramPads, pad_timing

__all__ = ["BoardTop", "HeldReset"]

_RESET_CYCLES = 1 << 10
"""Cycles of the oscillator from the core's start to the link's: block RAM of the iCE40 cannot be
read in the first microseconds either."""

_FIFO_DEPTH = 16


class HeldReset(wiring.Component):
    """A reset that is kept for some cycles after `running` has become 1, and while it is 0.

    Parameters
    ----------
    cycles : int

    Members
    -------
    running : In(1)
    reset : Out(1)
        From a register, and 1 at power-up.
    """

    def __init__(self, cycles: int):
        self._cycles = cycles
        super().__init__({"running": In(1), "reset": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self._cycles), init=self._cycles - 1)
        with m.If(~self.running):
            m.d.sync += [left.eq(self._cycles - 1), self.reset.eq(1)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Else():
            m.d.sync += self.reset.eq(0)
        return m


class BoardTop(Elaboratable):
    """The whole design of a board.

    Parameters
    ----------
    board : Board
    config : Config
        Of the core; its `clock_mhz` is the core's clock.
    build : int
        64 bits that HELLO tells.
    """

    def __init__(self, board: Board, config: Config, *, build: int = 0):
        self.board = board
        self.config = config
        self.build = build

    def elaborate(self, platform):
        m = Module()
        self._chip = chip = self.board.memory_chip(self.config)
        self._timing = None if chip is None else pad_timing(chip, self.config.clock_mhz)
        m.submodules.soc = soc = SoC(self.config, build=self.build, scratchpad=self.board.spram)
        if self.board.one_clock:
            self._one_clock(m, platform)
            m.submodules.line = line = line_of(self.board, self.config.clock_mhz * 1e6)
            wiring.connect(m, line.rx, soc.rx)
            wiring.connect(m, soc.tx, line.tx)
        else:
            self._link(m, soc, self._clocks(m, platform))
        m.submodules.memory = memory = self._memory(m)
        wiring.connect(m, soc.memory_read, memory.read)
        wiring.connect(m, soc.memory_write, memory.write)
        if self.board.spram:
            wiring.connect(m, soc.scratchpad, memory.scratchpad)
        if self.board.prepare is not None:
            self.board.prepare(m, platform)
        return m

    def _memory(self, m):
        """Main memory: the board's SDRAM, SPRAM with the scratchpad in it, or block RAM."""
        chip = self._chip
        if self.board.spram:
            return SpramMemory(self.config)
        if chip is None:
            return BlockMemory(self.config)
        # Its reset is a register of its own, which can lie where the chip's pads are: from the
        # core's it is too far.
        reset = Signal(init=1)
        m.d.sync += reset.eq(0)
        m.domains.memory = domain = ClockDomain(local=True)
        m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(reset)]
        in_memory = DomainRenamer("memory")
        m.submodules.pads = pads = in_memory(SdramPads(chip))
        controller = SdramController(self.config, chip, self.config.clock_mhz * 1e6,
                                     read_delay=self._timing.delay)
        wiring.connect(m, controller.pins, pads.pins)
        return in_memory(controller)

    def _one_clock(self, m, platform):
        """Domain `sync` alone. What crosses clocks would be a tenth of an iCE40UP5K."""
        family = FAMILIES[self.board.family]
        pad = platform.request(platform.default_clk, dir="-")
        if family.pll_has_pad:
            source = pad.io
        else:
            m.submodules.oscillator = buffer = io.Buffer("i", pad)
            source = buffer.i
        core, locked = family.pll(m, source, platform.default_clk_frequency / 1e6,
                                  self.config.clock_mhz, self.board)
        m.domains.start = start = ClockDomain(reset_less=True)
        m.domains.sync = sync = ClockDomain()
        m.submodules.reset = reset = DomainRenamer("start")(HeldReset(_RESET_CYCLES))
        m.submodules.locked = FFSynchronizer(locked, reset.running, o_domain="start")
        m.d.comb += [start.clk.eq(core), sync.clk.eq(core), sync.rst.eq(reset.reset)]
        platform.add_clock_constraint(core, self.config.clock_mhz * 1e6)

    def _clocks(self, m, platform):
        """Domains `link` (the oscillator), `sync` (the core) and, where there is one, `sdram` (the
        chip). Returns the oscillator's Hz."""
        family = FAMILIES[self.board.family]
        m.submodules.oscillator = pin = io.Buffer(
            "i", platform.request(platform.default_clk, dir="-"))
        hertz = platform.default_clk_frequency
        oscillator = Signal(name="oscillator_clock")
        m.d.comb += oscillator.eq(pin.i)
        second = {}
        if self._timing is not None:
            m.domains.sdram = sdram = ClockDomain(reset_less=True)
            second["turned"] = sdram.clk, self._timing.quarters
        core, locked = family.pll(m, oscillator, hertz / 1e6, self.config.clock_mhz, self.board,
                                  **second)
        m.domains.start = start = ClockDomain(reset_less=True)
        m.domains.link = link = ClockDomain()
        m.domains.sync = sync = ClockDomain()
        m.d.comb += [start.clk.eq(oscillator), link.clk.eq(oscillator), sync.clk.eq(core)]
        platform.add_clock_constraint(sync.clk, self.config.clock_mhz * 1e6)
        if family.name == "gowin":
            # Its placement does not carry the pin's constraint past the input buffer.
            platform.add_clock_constraint(oscillator, hertz)
        m.submodules.core_reset = ResetSynchronizer(~locked, domain="sync")
        m.submodules.link_reset = link_reset = DomainRenamer("start")(HeldReset(_RESET_CYCLES))
        awake = Signal()
        m.d.sync += awake.eq(1)
        m.submodules.running = FFSynchronizer(awake, link_reset.running,
                                              o_domain="start")
        m.d.comb += link.rst.eq(link_reset.reset)
        return hertz

    def _link(self, m, soc, oscillator_hz):
        """Bytes between the line and the core."""
        m.submodules.line = line = DomainRenamer("link")(line_of(self.board, oscillator_hz))
        m.submodules.received = received = fifo.AsyncFIFOBuffered(
            width=8, depth=_FIFO_DEPTH, w_domain="link", r_domain="sync")
        m.submodules.sent = sent = fifo.AsyncFIFOBuffered(
            width=8, depth=_FIFO_DEPTH, w_domain="sync", r_domain="link")
        wiring.connect(m, line.rx, received.w_stream)
        wiring.connect(m, received.r_stream, soc.rx)
        wiring.connect(m, soc.tx, sent.w_stream)
        wiring.connect(m, sent.r_stream, line.tx)
