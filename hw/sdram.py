"""Controller of an SDR SDRAM chip, as main memory.

Requests are put into one order (`_Intake`), rows are opened ahead of them (`SdramRows`), and their
beats read and written (`_Columns`).
"""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.errors import ConfigError

from .config import Config
from .ports import MemoryReadSignature, memory_write_signature
from .sdram_chips import SdramChip
from .sdram_layout import BANK_BITS, Command, Geometry
from .sdram_rows import SdramRows

__all__ = ["WRITE_TURN", "SdramController", "SdramPins"]

WRITE_TURN = 16
"""Writes in a row that a waiting read burst lets pass: each change of direction costs cycles."""

_BUFFER_BEATS = 16
"""Beats that were read and wait to be taken: what one beat a cycle needs for the way to the chip
and back."""


class SdramPins(wiring.Signature):
    """Pins of the chip as the controller sees them, all in its clock: commands, address, `dqm` (a
    bit a byte, 1 masks), `dq_o` driven while `dq_oe`, and `dq_i`."""

    def __init__(self, chip: SdramChip):
        super().__init__({
            "cke": Out(1), "cs_n": Out(1, init=1), "ras_n": Out(1, init=1),
            "cas_n": Out(1, init=1), "we_n": Out(1, init=1),
            "ba": Out(BANK_BITS), "a": Out(chip.address_bits),
            "dqm": Out(chip.data_bits // 8, init=(1 << chip.data_bits // 8) - 1),
            "dq_o": Out(chip.data_bits), "dq_oe": Out(1), "dq_i": In(chip.data_bits),
        })


class _Intake(wiring.Component):
    """Puts reads and writes into one order, and cuts bursts where a row ends.

    Writes are taken in turns of up to `WRITE_TURN`, between two read bursts. An accepted request is
    held in a register, whose neighbour stage takes it not before the next cycle.
    """

    def __init__(self, geometry: Geometry, config: Config):
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
        take_read = Signal()    # and otherwise a write, if there is one
        m.d.comb += [
            take_read.eq(self.read.valid & ~(self.write.valid & prefer_writes)),
            self.write.ready.eq(~self.o.valid & self.write.valid
                                & (prefer_writes | ~self.read.valid)),
            self.read.ready.eq(~self.o.valid & take_read),
        ]
        with m.If(self.write.ready):
            m.d.sync += [writes_left.eq(writes_left - 1), prefer_writes.eq(writes_left != 0)]
        with m.Elif(self.read.ready):
            m.d.sync += [writes_left.eq(WRITE_TURN - 1), prefer_writes.eq(1)]

        burst = self.o.payload
        bank_row = Signal(BANK_BITS + g.chip.row_bits)
        full_row = Signal()  # the burst reaches the row's end, or has beats behind it
        address, end = Signal(32), Signal(g.column_bits + 1)

        def column(address):
            return address[g.byte_bits:g.byte_bits + g.column_bits]

        m.d.comb += [
            address.eq(Mux(take_read, self.read.payload.address, self.write.payload.address)),
            end.eq(Mux(take_read, column(self.read.payload.address) + self.read.payload.beats,
                       column(self.write.payload.address) + 1)),
            # Neighbouring rows lie in different banks, so that one is opened while the other works.
            burst.bank.eq(bank_row[:BANK_BITS]),
            burst.row.eq(bank_row[BANK_BITS:]),
        ]
        last = Signal(g.column_bits)
        m.d.comb += burst.end.eq(Mux(full_row, 0, last))
        with m.If(self.o.valid), m.If(self.o.ready):
            m.d.sync += [self.o.valid.eq(full_row & (last != 0)), full_row.eq(0),
                         burst.column.eq(0), bank_row.eq(bank_row + 1)]
        # While none is held, the registers follow what may be the next.
        with m.Else():
            m.d.sync += [
                self.o.valid.eq(self.write.ready | self.read.ready),
                burst.write.eq(~take_read),
                bank_row.eq(address[g.byte_bits + g.column_bits:]),
                burst.column.eq(column(address)),
                Cat(last, full_row).eq(end),
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

    def __init__(self, geometry: Geometry, config: Config, read_delay: int):
        self._geometry = geometry
        self._read_delay = read_delay
        g = geometry
        super().__init__({
            "i": In(stream.Signature(geometry.burst_layout)),
            "count": In(g.column_bits),
            "pause": In(1), "refuse": In(1),
            "valid": Out(1), "bank": Out(BANK_BITS), "go": Out(1), "write": Out(1),
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
        credit = Signal()  # of the next cycle
        # Known a cycle ahead, as the command pins, the next burst and the intake all wait for it:
        # there is a burst, and the bus and the buffer are ready for its next beat.
        able, able_last = Signal(), Signal()    # the latter: and it is the last
        m.d.comb += [
            self.go.eq(able & ~self.pause & ~self.refuse),
            self.i.ready.eq(~self.valid | (able_last & ~self.pause & ~self.refuse)),
            self.address.eq(column << g.word_bits),
        ]
        read = self.go & ~self.write
        next_write = Mux(self.i.ready, self.i.payload.write, self.write)
        next_able, next_last = Signal(), Signal()
        m.d.comb += [
            next_able.eq(Mux(self.i.ready, self.i.valid, self.valid)
                         & Mux(self.go, g.words == 1, slot <= 1)
                         & Mux(next_write, ~read & (turn <= 1), credit)),
            next_last.eq(Mux(self.i.ready, self.count == 1, Mux(self.go, left == 2, last))),
        ]
        m.d.sync += [able.eq(next_able), last.eq(next_last), able_last.eq(next_able & next_last)]
        with m.If(self.go):
            m.d.sync += [slot.eq(g.words - 1), column.eq(column + 1), left.eq(left - 1)]
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
                left.eq(self.count),
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
        m.d.comb += [
            buffer.w_data.eq(history), buffer.w_en.eq(complete[-1]),
            credit.eq(free >= 2),  # at most one is gone when this is made use of
        ]
        m.d.sync += free.eq(free - read + (self.o.valid & self.o.ready))


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
        self._geometry = Geometry(config, chip, clock_hz)
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
        m.submodules.rows = rows = SdramRows(g)
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
            m.d.comb += columns.refuse.eq(rows.command != Command.INACTIVE)

        command = Signal(Command)
        access = Mux(columns.write, Command.WRITE, Command.READ)
        m.d.comb += command.eq(Mux(columns.go, access, rows.command))
        m.d.sync += [
            pins.cke.eq(1),
            pins.cs_n.eq(command == Command.INACTIVE),
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
