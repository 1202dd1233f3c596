"""Controller of an SDR SDRAM chip, as main memory."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.errors import ConfigError

from .config import Config
from .ports import MemoryReadSignature, memory_write_signature
from .sdram_chips import SdramChip

__all__ = ["WRITE_TURN", "SdramController", "SdramPins"]

WRITE_TURN = 16
"""Writes in a row that a waiting read burst lets pass: each change of direction costs cycles."""

_BUFFER_BEATS = 16
"""Beats that were read and wait to be taken: what one beat a cycle needs for the way to the chip
and back."""

_INACTIVE, _ACTIVE, _READ, _WRITE, _PRECHARGE, _REFRESH, _LOAD_MODE = (
    0b111, 0b011, 0b101, 0b100, 0b010, 0b001, 0b000)  # RAS#, CAS#, WE#

_BANK_BITS = 2


class SdramPins(wiring.Signature):
    """Pins of the chip as the controller sees them, all in its clock: commands, address, `dqm` (a
    bit a byte, 1 masks), `dq_o` driven while `dq_oe`, and `dq_i`."""

    def __init__(self, chip: SdramChip):
        super().__init__({
            "cke": Out(1), "cs_n": Out(1, init=1), "ras_n": Out(1, init=1),
            "cas_n": Out(1, init=1), "we_n": Out(1, init=1),
            "ba": Out(_BANK_BITS), "a": Out(chip.address_bits),
            "dqm": Out(chip.data_bits // 8, init=(1 << chip.data_bits // 8) - 1),
            "dq_o": Out(chip.data_bits), "dq_oe": Out(1), "dq_i": In(chip.data_bits),
        })


class _Geometry:
    """Widths that the parts of the controller share; columns are counted in beats."""

    def __init__(self, config: Config, chip: SdramChip, clock_hz: float):
        beat_bits = 8 * config.memory_bytes_per_beat
        self.chip = chip
        self.words = beat_bits // chip.data_bits  # the chip's burst length
        if self.words not in (1, 2, 4, 8):
            raise ConfigError(f"{chip.name} with its {chip.data_bits} data pins cannot move beats "
                              f"of {config.memory_bytes_per_beat} bytes in one burst: set "
                              f"memory_bytes_per_beat to at most {chip.data_bits}")
        if config.memory_size > chip.size:
            raise ConfigError(f"{chip.name} has {chip.size} bytes: memory_size may not be "
                              f"{config.memory_size}")
        self.cycles = chip.cycles(clock_hz)
        self.beat_bits = beat_bits
        self.lanes = config.memory_bytes_per_beat
        self.byte_bits = self.lanes.bit_length() - 1  # of an address inside of a beat
        self.word_bits = self.words.bit_length() - 1
        self.column_bits = chip.column_bits - self.word_bits
        if self.cycles.tREFI < 100:
            raise ConfigError(f"{chip.name} wants a refresh every {self.cycles.tREFI} cycles of "
                              f"{clock_hz / 1e6:g} MHz, which leaves no time for accesses: "
                              "raise the clock")

    @property
    def burst_layout(self):
        """Beats in one row: from `column` up to `end`, both modulo the row's length. A write is
        one beat, and carries it."""
        return data.StructLayout({
            "write": 1, "bank": _BANK_BITS, "row": self.chip.row_bits,
            "column": self.column_bits, "end": self.column_bits,
            "data": self.beat_bits, "mask": self.lanes})


class _Intake(wiring.Component):
    """Puts reads and writes into one order, and cuts bursts where a row ends.

    Writes are taken in turns of up to `WRITE_TURN`, between two read bursts. An accepted request is
    held in a register, whose neighbour stage takes it not before the next cycle.
    """

    def __init__(self, geometry: _Geometry, config: Config):
        self._geometry = geometry
        super().__init__({
            "read": In(MemoryReadSignature(config).members["request"].signature),
            "write": In(memory_write_signature(config)),
            "o": Out(stream.Signature(geometry.burst_layout)),
        })

    def elaborate(self, platform):
        m = Module()
        g = self._geometry
        prefer_writes = Signal()
        writes_left = Signal(range(WRITE_TURN))
        take_write = Signal()
        m.d.comb += [
            take_write.eq(self.write.valid & (prefer_writes | ~self.read.valid)),
            self.write.ready.eq(~self.o.valid & take_write),
            self.read.ready.eq(~self.o.valid & self.read.valid & ~take_write),
        ]
        with m.If(self.write.ready):
            m.d.sync += [writes_left.eq(writes_left - 1), prefer_writes.eq(writes_left != 0)]
        with m.Elif(self.read.ready):
            m.d.sync += [writes_left.eq(WRITE_TURN - 1), prefer_writes.eq(1)]

        burst = self.o.payload
        bank_row = Signal(_BANK_BITS + g.chip.row_bits)
        crosses = Signal()  # the row's end lies inside of the burst
        address, end = Signal(32), Signal(g.column_bits + 1)
        column = address[g.byte_bits:g.byte_bits + g.column_bits]
        m.d.comb += [
            address.eq(Mux(take_write, self.write.payload.address, self.read.payload.address)),
            end.eq(column + Mux(take_write, 1, self.read.payload.beats)),
            # Neighbouring rows lie in different banks, so that one is opened while the other works.
            burst.bank.eq(bank_row[:_BANK_BITS]),
            burst.row.eq(bank_row[_BANK_BITS:]),
        ]
        last = Signal(g.column_bits)
        m.d.comb += burst.end.eq(Mux(crosses, 0, last))
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [self.o.valid.eq(crosses), crosses.eq(0), burst.column.eq(0),
                         bank_row.eq(bank_row + 1)]
        with m.If(self.write.ready | self.read.ready):
            m.d.sync += [
                self.o.valid.eq(1),
                burst.write.eq(take_write),
                bank_row.eq(address[g.byte_bits + g.column_bits:]),
                burst.column.eq(column),
                last.eq(end),
                crosses.eq(end[-1] & (end[:-1] != 0)),
                burst.data.eq(self.write.payload.data),
                burst.mask.eq(self.write.payload.mask),
            ]
        return m


class _Columns(wiring.Component):
    """Reads and writes the beats of bursts whose rows are open.

    Members: `i`, the next burst, whose first command may be given in the cycle after it is taken;
    `count`, its beats; `pause` and `refuse`, no command from the next or in this cycle; `go`, a
    command in this cycle, to `bank` and `address`; `valid`, there is a burst, a `write` or a read;
    data pins; `o`, the beats read.
    """

    def __init__(self, geometry: _Geometry, config: Config, read_delay: int):
        self._geometry = geometry
        self._read_delay = read_delay
        g = geometry
        super().__init__({
            "i": In(stream.Signature(geometry.burst_layout)),
            "count": In(g.column_bits),
            "pause": In(1), "refuse": In(1),
            "valid": Out(1), "bank": Out(_BANK_BITS), "go": Out(1), "write": Out(1),
            "address": Out(g.chip.column_bits),
            "dq_o": Out(g.chip.data_bits), "dq_oe": Out(1), "dqm": Out(g.chip.data_bits // 8),
            "dq_i": In(g.chip.data_bits),
            "o": Out(stream.Signature(g.beat_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        g = self._geometry
        width, lanes = g.chip.data_bits, g.chip.data_bits // 8
        column = Signal(g.column_bits)
        left, last = Signal(g.column_bits), Signal()
        values, masks = Signal(g.beat_bits), Signal(g.lanes)
        slot = Signal(range(g.words))  # cycles until the bus is free for the next beat
        # A write may begin when the chip has driven the last word of earlier reads, and the bus
        # has had a cycle to change hands.
        turn_cycles = g.chip.CL + g.words
        turn = Signal(range(turn_cycles + 1))
        credit = Signal()
        m.d.comb += [
            self.go.eq(self.valid & (slot == 0) & ~self.pause & ~self.refuse
                       & Mux(self.write, turn == 0, credit)),
            self.i.ready.eq(~self.valid | (self.go & last)),
            self.address.eq(column << g.word_bits),
        ]
        read = self.go & ~self.write
        with m.If(self.go):
            m.d.sync += [slot.eq(g.words - 1), column.eq(column + 1), left.eq(left - 1),
                         last.eq(left == 2)]
        with m.Elif(slot != 0):
            m.d.sync += slot.eq(slot - 1)
        with m.If(read):
            m.d.sync += turn.eq(turn_cycles)
        with m.Elif(turn != 0):
            m.d.sync += turn.eq(turn - 1)
        with m.If(self.i.ready):
            m.d.sync += [
                self.valid.eq(self.i.valid), self.write.eq(self.i.payload.write),
                self.bank.eq(self.i.payload.bank), column.eq(self.i.payload.column),
                left.eq(self.count), last.eq(self.count == 1),
            ]

        # Words written: the first with the command, the others from a shift register.
        with m.If(self.go & self.write):
            m.d.comb += [self.dq_oe.eq(1), self.dq_o.eq(values), self.dqm.eq(~masks[:lanes])]
        if g.words > 1:
            later, later_masks = Signal(g.beat_bits - width), Signal(g.lanes - lanes)
            writing = Signal(g.words - 1)
            with m.If(writing[0]):
                m.d.comb += [self.dq_oe.eq(1), self.dq_o.eq(later),
                             self.dqm.eq(~later_masks[:lanes])]
            m.d.sync += [writing.eq(writing >> 1), later.eq(later >> width),
                         later_masks.eq(later_masks >> lanes)]
            with m.If(self.go & self.write):
                m.d.sync += [writing.eq(~0), later.eq(values >> width),
                             later_masks.eq(masks >> lanes)]
        with m.If(self.i.ready):
            m.d.sync += [values.eq(self.i.payload.data), masks.eq(self.i.payload.mask)]

        self._collect(m, read, credit)
        return m

    def _collect(self, m, read, credit):
        """Words from the chip become beats, for each of which there is room when it is asked for.
        """
        g = self._geometry
        width = g.chip.data_bits
        history = Signal(g.beat_bits)  # the newest word is the highest, as it belongs in a beat
        m.d.sync += history.eq(Cat(history, self.dq_i)[width:])
        # The command leaves a register a cycle after `read`, its last word is at the pins CL and
        # the words before it later, and in `history` one cycle after that.
        complete = Signal(g.chip.CL + g.words + self._read_delay + 1)
        m.d.sync += complete.eq(Cat(read, complete))

        m.submodules.buffer = buffer = fifo.SyncFIFOBuffered(
            width=g.beat_bits, depth=_BUFFER_BEATS)
        wiring.connect(m, buffer.r_stream, wiring.flipped(self.o))
        free = Signal(range(_BUFFER_BEATS + 1), init=_BUFFER_BEATS)
        m.d.comb += [buffer.w_data.eq(history), buffer.w_en.eq(complete[-1])]
        m.d.sync += [
            free.eq(free - read + (self.o.valid & self.o.ready)),
            credit.eq(free >= 2),  # at most one is gone when this is looked at
        ]


class _Rows(wiring.Component):
    """Opens the row of the next burst while the current one works, and refreshes.

    Members: `i`, bursts; `o`, bursts whose row is open, with `count` beats; `current` bank of the
    burst in work, if it is `valid`; `go` and `write` of its commands; `busy`, no command of this
    part in this cycle; `command` (RAS#, CAS#, WE#), `address` and `bank`; `pause`, the burst in
    work has to wait; `booting`.
    """

    def __init__(self, geometry: _Geometry):
        self._geometry = geometry
        g = geometry
        super().__init__({
            "i": In(stream.Signature(g.burst_layout)),
            "o": Out(stream.Signature(g.burst_layout)), "count": Out(g.column_bits),
            "valid": In(1), "current": In(_BANK_BITS), "go": In(1), "write": In(1),
            "busy": In(1),
            "command": Out(3, init=_INACTIVE), "address": Out(g.chip.address_bits),
            "bank": Out(_BANK_BITS),
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

        def activate(bank, row):
            m.d.comb += [self.command.eq(_ACTIVE), self.bank.eq(bank), self.address.eq(row)]
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
                    activate(bank, next_burst.row)
                    m.next = "activated"
                with m.Elif(~self.busy & ~blocked):
                    m.d.comb += self.command.eq(_PRECHARGE)
                    m.d.sync += [wait.eq(cycles.tRP - 1), is_open.bit_select(bank, 1).eq(0)]
                    m.next = "precharged"

            with m.State("precharged"), m.If(over & ~self.busy):
                activate(bank, next_burst.row)
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
                m.d.comb += [self.command.eq(_PRECHARGE), self.address.eq(1 << 10)]
                m.d.sync += [wait.eq(cycles.tRP - 1), is_open.eq(0)]
                m.next = "refresh"
            with m.State("refresh"), m.If(over):
                m.d.comb += self.command.eq(_REFRESH)
                m.d.sync += wait.eq(cycles.tRFC - 1)
                m.next = "refreshing"
            with m.State("refreshing"), m.If(over):
                with m.If(self.booting):
                    m.d.sync += refreshes_left.eq(refreshes_left - 1)
                    m.next = "refresh"
                    with m.If(refreshes_left == 1):
                        m.next = "load mode"
                with m.Elif(self.valid):
                    activate(self.current, again)
                    m.next = "resume"
                with m.Else():
                    m.next = "resume"
            with m.State("load mode"):
                mode = g.chip.CL << 4 | g.word_bits
                m.d.comb += [self.command.eq(_LOAD_MODE), self.bank.eq(0), self.address.eq(mode)]
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
        with m.If(self.command == _REFRESH):
            m.d.sync += due.eq(0)
        with m.Elif(tick):
            m.d.sync += due.eq(1)
        ticks = -(-cycles.power_up // period) + 1
        left = Signal(range(ticks + 1), init=ticks)
        m.d.sync += booted.eq(left == 0)
        with m.If(tick & ~booted):
            m.d.sync += left.eq(left - 1)
        return due, booted


class SdramController(wiring.Component):
    """Main memory in an SDR SDRAM chip that runs at the clock of domain `sync`.

    A beat is a burst of the chip. Rows stay open; the row of the next burst is opened while the
    current one still moves data, if it lies in another bank, as neighbouring rows do. A beat can
    follow another without a gap, in either direction. Requests are served in the order in which
    they are accepted; one is held, and no more, until the chip has been initialized. A reader takes
    its data whatever becomes of writes, as these wait behind it.

    All pins come from registers, and `dq_i` goes into one. Command and address of cycle n are what
    the chip samples at the end of cycle n; it then drives its first word in cycle n + CL.

    Parameters
    ----------
    config : Config
        Of its size, the chip must have at least `memory_size`.
    chip : SdramChip
    clock_hz : float
        Of `sync`.
    read_delay : int
        Cycles by which words reach `dq_i` later than they would at the chip's own pins: registers
        in the pads, on the way out and back, count here.

    Members
    -------
    read : In(MemoryReadSignature), write : In(memory_write_signature)
        The main memory port.
    pins : Out(SdramPins)

    Raises
    ------
    ConfigError
        When the chip is too small, or its bus or timing does not go with this configuration.
    """

    def __init__(self, config: Config, chip: SdramChip, clock_hz: float, *, read_delay: int = 0):
        if not 0 <= read_delay <= 8:
            raise ConfigError(f"read_delay must be between 0 and 8 cycles, not {read_delay}")
        self._config = config
        self._read_delay = read_delay
        self._geometry = _Geometry(config, chip, clock_hz)
        self.chip = chip
        super().__init__({
            "read": In(MemoryReadSignature(config)),
            "write": In(memory_write_signature(config)),
            "pins": Out(SdramPins(chip)),
        })

    def elaborate(self, platform):
        m = Module()
        g, pins = self._geometry, self.pins
        m.submodules.intake = intake = _Intake(g, self._config)
        m.submodules.rows = rows = _Rows(g)
        m.submodules.columns = columns = _Columns(g, self._config, self._read_delay)
        wiring.connect(m, wiring.flipped(self.read.request), intake.read)
        wiring.connect(m, wiring.flipped(self.write), intake.write)
        wiring.connect(m, intake.o, rows.i)
        wiring.connect(m, rows.o, columns.i)
        wiring.connect(m, columns.o, wiring.flipped(self.read.data))
        m.d.comb += [
            columns.count.eq(rows.count), columns.pause.eq(rows.pause),
            rows.valid.eq(columns.valid), rows.current.eq(columns.bank),
            rows.go.eq(columns.go), rows.write.eq(columns.write),
            columns.dq_i.eq(pins.dq_i),
        ]
        # A beat of several words leaves the command pins alone often enough; where each cycle has
        # a beat, opening a row takes one.
        if g.words > 1:
            m.d.comb += rows.busy.eq(columns.go)
        else:
            m.d.comb += columns.refuse.eq(rows.command != _INACTIVE)

        command = Signal(3)
        m.d.comb += command.eq(Mux(columns.go, Mux(columns.write, _WRITE, _READ), rows.command))
        m.d.sync += [
            pins.cke.eq(1),
            pins.cs_n.eq(command == _INACTIVE),
            Cat(pins.we_n, pins.cas_n, pins.ras_n).eq(command),
            pins.ba.eq(Mux(columns.go, columns.bank, rows.bank)),
            pins.a.eq(Mux(columns.go, columns.address, rows.address)),
            pins.dqm.eq(columns.dqm),
            pins.dq_o.eq(columns.dq_o),
            pins.dq_oe.eq(columns.dq_oe),
        ]
        with m.If(rows.booting):
            m.d.sync += pins.dqm.eq(~0)
        return m
