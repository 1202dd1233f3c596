"""The half of the SDRAM controller that opens rows, refreshes, and starts the chip."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .sdram_layout import BANK_BITS, Command, Geometry

__all__ = ["SdramRows"]


class SdramRows(wiring.Component):
    """Opens the row of the next burst while the current one works, and refreshes.

    Members: `i`, bursts; `o`, bursts whose row is open, with `count` beats; `current` bank of the
    burst in work, if it is `valid`; `go` and `write` of its commands; `busy`, no command of this
    part in this cycle; `command` (RAS#, CAS#, WE#), `address` and `bank`; `pause`, the burst in
    work has to wait; `booting`.
    """

    def __init__(self, geometry: Geometry):
        self._geometry = geometry
        g = geometry
        super().__init__({
            "i": In(stream.Signature(g.burst_layout)),
            "o": Out(stream.Signature(g.burst_layout)), "count": Out(g.column_bits),
            "valid": In(1), "current": In(BANK_BITS), "go": In(1), "write": In(1),
            "busy": In(1),
            "command": Out(Command, init=Command.INACTIVE), "address": Out(g.chip.address_bits),
            "bank": Out(BANK_BITS),
            "pause": Out(1, init=1), "booting": Out(1, init=1),
        })

    def elaborate(self, platform):
        m = Module()
        g = self._geometry
        cycles = g.cycles
        due, booted = self._clocks(m)
        next_burst = self.o.payload
        held = Signal()

        # Banks: the row that is open, and the cycles that no PRECHARGE may follow.
        is_open = Signal(g.chip.banks)
        rows = [Signal(g.chip.row_bits, name=f"row_{bank}") for bank in range(g.chip.banks)]
        # Counters run out two cycles early: one is their own, one that of `blocked` and `quiet`.
        after_read, after_write = max(g.words - 2, 0), max(g.words - 1 + cycles.tWR - 2, 0)
        after_active = max(cycles.tRAS, cycles.tRC - cycles.tRP, 2) - 2
        recent = []
        for bank in range(g.chip.banks):
            counter = Signal(range(max(after_read, after_write) + 1), name=f"recent_{bank}")
            with m.If(self.go & (self.current == bank)):
                m.d.sync += counter.eq(Mux(self.write, after_write, after_read))
            with m.Elif(counter != 0):
                m.d.sync += counter.eq(counter - 1)
            recent.append(counter != 0)
        since_active = Signal(range(after_active + 1))
        with m.If(since_active != 0):
            m.d.sync += since_active.eq(since_active - 1)

        # Looked up a cycle ahead, for the burst that is held.
        hit, opened, blocked, quiet = Signal(), Signal(), Signal(), Signal()
        again = Signal(g.chip.row_bits)  # row of the burst in work
        bank = next_burst.bank
        m.d.sync += [
            opened.eq(is_open.bit_select(bank, 1)),
            hit.eq(is_open.bit_select(bank, 1) & (Array(rows)[bank] == next_burst.row)),
            blocked.eq((self.valid & (self.current == bank)) | Cat(recent).bit_select(bank, 1)
                       | (since_active != 0)),
            quiet.eq(~Cat(recent).any() & (since_active == 0)),
            again.eq(Array(rows)[self.current]),
            self.count.eq(next_burst.end - next_burst.column),
        ]

        wait = Signal(range(max(cycles.tRFC, cycles.tRP, cycles.tRCD, cycles.tMRD) + 1))
        over = Signal()
        m.d.comb += over.eq(wait == 0)
        with m.If(~over):
            m.d.sync += wait.eq(wait - 1)
        refreshes_left = Signal(range(g.chip.initial_refreshes + 1),
                                init=g.chip.initial_refreshes)
        # READ and WRITE follow ACTIVE two cycles after its wait, others one; and the next burst's
        # ACTIVE can follow two cycles after the first command of this one.
        to_column = max(cycles.tRCD, cycles.tRRD - 1, 2) - 2

        # Bank and address follow from the state alone: without a command nobody looks at them.
        def activate(bank):
            m.d.comb += self.command.eq(Command.ACTIVE)
            m.d.sync += [wait.eq(to_column), since_active.eq(after_active),
                         is_open.bit_select(bank, 1).eq(1)]

        m.d.comb += self.bank.eq(bank)
        take = Signal()  # the next burst, if there is one
        with m.If(take):
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += [held.eq(self.i.valid), next_burst.eq(self.i.payload)]

        with m.FSM():
            with m.State("power up"), m.If(booted):
                m.next = "precharge all"

            with m.State("idle"):
                with m.If(due):
                    m.d.sync += self.pause.eq(1)
                    m.next = "pause"
                with m.Else():
                    m.d.comb += take.eq(1)
                    with m.If(self.i.valid):
                        m.next = "look up"

            with m.State("look up"):
                m.next = "choose"

            with m.State("choose"):
                with m.If(~opened):
                    m.d.comb += self.address.eq(next_burst.row)
                with m.If(due):
                    m.d.sync += self.pause.eq(1)
                    m.next = "pause"
                with m.Elif(hit):
                    m.d.comb += [self.o.valid.eq(1), take.eq(self.o.ready)]
                    with m.If(self.o.ready):
                        m.next = "idle"
                        with m.If(self.i.valid):
                            m.next = "look up"
                with m.Elif(~self.busy & ~opened):
                    activate(bank)
                    m.next = "activated"
                with m.Elif(~self.busy & ~blocked):
                    m.d.comb += self.command.eq(Command.PRECHARGE)
                    m.d.sync += [wait.eq(cycles.tRP - 1), is_open.bit_select(bank, 1).eq(0)]
                    m.next = "precharged"

            with m.State("precharged"):
                m.d.comb += self.address.eq(next_burst.row)
                with m.If(over & ~self.busy):
                    activate(bank)
                    m.next = "activated"

            with m.State("activated"):
                for index, row in enumerate(rows):
                    with m.If(bank == index):
                        m.d.sync += row.eq(next_burst.row)
                with m.If(over):
                    with m.If(due):
                        m.d.sync += self.pause.eq(1)
                        m.next = "pause"
                    with m.Else():
                        m.d.comb += [self.o.valid.eq(1), take.eq(self.o.ready)]
                        with m.If(self.o.ready):
                            m.next = "idle"
                            with m.If(self.i.valid):
                                m.next = "look up"

            # The last command that the pause did not catch is only now known to `quiet`.
            with m.State("pause"):
                m.next = "quiet"
            with m.State("quiet"), m.If(quiet):
                m.next = "precharge all"
            with m.State("precharge all"):
                m.d.comb += [self.command.eq(Command.PRECHARGE), self.address.eq(1 << 10)]
                m.d.sync += [wait.eq(cycles.tRP - 1), is_open.eq(0)]
                m.next = "refresh"
            with m.State("refresh"), m.If(over):
                m.d.comb += self.command.eq(Command.REFRESH)
                m.d.sync += wait.eq(cycles.tRFC - 1)
                m.next = "refreshing"
            with m.State("refreshing"):
                m.d.comb += [self.bank.eq(self.current), self.address.eq(again)]
                with m.If(over):
                    with m.If(self.booting):
                        m.d.sync += refreshes_left.eq(refreshes_left - 1)
                        m.next = "refresh"
                        with m.If(refreshes_left == 1):
                            m.next = "load mode"
                    with m.Else():
                        m.next = "resume"
                        with m.If(self.valid):
                            activate(self.current)
            with m.State("load mode"):
                mode = g.chip.CL << 4 | g.word_bits
                m.d.comb += [self.command.eq(Command.LOAD_MODE), self.bank.eq(0),
                             self.address.eq(mode)]
                m.d.sync += [wait.eq(cycles.tMRD - 1), self.booting.eq(0)]
                m.next = "resume"
            with m.State("resume"), m.If(over):
                m.d.sync += self.pause.eq(0)
                m.next = "idle"
                with m.If(held):
                    m.next = "look up"
        return m

    def _clocks(self, m):
        """When the next refresh is due, and whether the time after power-up is over."""
        cycles = self._geometry.cycles
        # A cycle less than allowed makes up for what refreshes are late, over all rows.
        period = cycles.tREFI - 1
        interval = Signal(range(period))
        tick = Signal()
        m.d.sync += tick.eq(interval == 1)
        m.d.sync += interval.eq(Mux(tick, period - 1, interval - 1))
        due, booted = Signal(), Signal()
        with m.If(self.command == Command.REFRESH):
            m.d.sync += due.eq(0)
        with m.Elif(tick):
            m.d.sync += due.eq(1)
        ticks = -(-cycles.power_up // period) + 1
        left = Signal(range(ticks + 1), init=ticks)
        m.d.sync += booted.eq(left == 0)
        with m.If(tick & ~booted):
            m.d.sync += left.eq(left - 1)
        return due, booted
