"""The engine of queue ARRAY: streams pixels through the array and accumulates what comes out.

Three things run ahead of each other. The *loader* reads the next pass's weight tile into the
array's shadow weights, the *issue* side reads one pixel a cycle from the scratchpad, and pixels in
the array's pipeline end in the accumulators. An instruction is held until both loader and issue
side have taken it, so that the loader can prefetch the next instruction's first tile.

**Cycles.** With its inputs there in time, a pass starts `max(pixels, rows)` cycles after the pass
before it started, within and across instructions; in a relaxed core no less than `tile_wait + 3`.
"""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .accumulator import VALUE_DELAY, AccumulatorMemory, HazardGuard
from .array import TAG_LEAD, SystolicArray
from .config import Config
from .intake import Intake
from .isa import Array, ErrorCode, LoadTarget
from .loops import CheckedAddress, LoopNest
from .ports import (
    AccumulatorReadSignature,
    EngineSignature,
    ScratchpadReadSignature,
    buffers_weights,
    instruction_layout,
    load_write_signature,
    scratchpad_latency,
    tile_wait,
)
from .slices import words_for

__all__ = ["ArrayEngine"]

_LEVELS = 5
_PIXEL_LEVELS = 2
"""Of the loops of an instruction, the inner two walk the pixels of a pass."""

_IN_FLIGHT_BITS = 3
"""Instructions begin at least `rows` cycles apart: no more than 6 fit between issue and retire."""

assert VALUE_DELAY == TAG_LEAD


class ArrayEngine(wiring.Component):
    """Executes `systolith.hw.isa.Array` instructions.

    Parameters
    ----------
    config : Config
        Geometry; `weight_words` words of weight memory and the accumulators lie in here.

    Members
    -------
    engine : In(EngineSignature)
        Instructions. Active cycles are those in which a pixel is read for the array. A zero count
        is `ErrorCode.LENGTH`; a scratchpad, weight or accumulator address out of range is
        `ErrorCode.ADDRESS`. `error` stays until the engine is reset.
    activation : Out(ScratchpadReadSignature)
        Pixels.
    load : In(stream)
        Writes of the weight memory; transfers to other targets are ignored.
    accumulators : In(AccumulatorReadSignature)
        Reads by the post-processor.
    weight_stall : Out(1)
        A pixel could not be read in this cycle because its tile's weights were not there.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "engine": In(EngineSignature(instruction_layout(Array))),
            "activation": Out(ScratchpadReadSignature(config)),
            "load": In(load_write_signature(config)),
            "accumulators": In(AccumulatorReadSignature(
                config.lanes, 2 * config.accumulator_words, config.columns)),
            "weight_stall": Out(1),
        })

    def elaborate(self, platform):
        config = self.config
        m = Module()

        tag = data.StructLayout({
            "address": range(2 * config.accumulator_words), "overwrite": 1, "last": 1})
        m.submodules.array = array = SystolicArray(
            config.rows, config.columns, tag,
            paired_bits=config.paired_bits, buffered=buffers_weights(config),
            stage_rows=config.stage_rows)
        m.submodules.nest = nest = LoopNest(_LEVELS, words=config.scratchpad_words)
        m.submodules.guard = guard = HazardGuard(tag["address"].width, 3)
        m.submodules.accumulator = accumulator = AccumulatorMemory(
            config.columns, config.accumulator_words, value_bits=array.width,
            read_lanes=config.lanes)
        wiring.connect(m, accumulator.read, wiring.flipped(self.accumulators))

        # Intake -------------------------------------------------------------------------------
        m.submodules.intake = intake = Intake(
            instruction_layout(Array), in_place=config.relaxed)
        wiring.connect(m, intake.i, wiring.flipped(self.engine.instruction))
        held = intake.held
        m.d.comb += [
            intake.wrong.eq(Cat(intake.i.p[f"count_{k}"] == 0 for k in range(_LEVELS)).any()),
            intake.uses_weights.eq(1),
            nest.i.valid.eq(intake.issue.valid),
            intake.issue.ready.eq(nest.i.ready),
            nest.i.p.address.eq(held.activation),
            *(nest.i.p.counts[k].eq(held[f"count_{k}"]) for k in range(_LEVELS)),
            *(nest.i.p.steps[k].eq(held[f"step_{k}"]) for k in range(_LEVELS)),
        ]

        # Loader: weight tiles into the shadow weights -------------------------------------------
        tile_ready = Signal()       # the tile of the next pass can be relied on
        tile_wrong = Signal()       # its address is out of range
        tile_good = Signal()        # it is ready, and not wrong
        tile_taken = Signal()
        more_tiles = Signal()       # the instruction whose tile was taken last needs another one
        final_pass = Signal()
        self._elaborate_loader(
            m, array, intake, more=more_tiles, ready=tile_ready, wrong=tile_wrong, good=tile_good)
        with m.If(tile_taken):
            m.d.sync += [tile_ready.eq(0), tile_good.eq(0), more_tiles.eq(~final_pass)]

        # Issue: one pixel a cycle ---------------------------------------------------------------
        pixel = nest.o.p
        base = Signal(16, reset_less=True)
        place = CheckedAddress(16, 1 << len(guard.address), "word")
        word = place.value
        overwrite = Signal()
        wrong_address = Signal()
        first = pixel.first[_PIXEL_LEVELS - 1]
        last = pixel.last[_PIXEL_LEVELS - 1]
        issued = Signal()
        request = self.activation.request
        m.d.comb += [
            final_pass.eq(pixel.final[_PIXEL_LEVELS:].all()),
            wrong_address.eq(pixel.outside | place.outside | (first & tile_ready & tile_wrong)),
            request.valid.eq(nest.o.valid & (~first | tile_good)),
            request.payload.eq(pixel.address),
            issued.eq(request.valid & request.ready
                      & ~(pixel.outside | place.outside | guard.busy)),
            nest.o.ready.eq(issued),
            tile_taken.eq(issued & first),
            guard.address.eq(word),
            guard.issue.eq(issued),
            guard.moves.eq(~nest.o.valid | issued),
            guard.following[0].eq(word + 1),
            guard.following[1].eq(base),
            guard.following[2].eq(held.accumulator),
            guard.follows.eq(Cat(1, last, nest.renews)),
        ]
        with m.If(guard.moves):
            m.d.sync += [
                place.eq(Mux(nest.renews, held.accumulator, Mux(last, base, word + 1))),
                overwrite.eq(Mux(nest.renews, ~held.accumulate, overwrite & ~last)),
            ]
        with m.If(nest.renews):
            m.d.sync += base.eq(held.accumulator)

        # Pipeline: scratchpad, array, accumulators -----------------------------------------------
        valid, swap = issued, first
        travelling = Signal(tag)
        m.d.comb += [
            travelling.address.eq(word),
            travelling.overwrite.eq(overwrite),
            travelling.last.eq(pixel.last[-1]),
        ]
        for stage in range(scratchpad_latency(config)):
            next_valid = Signal(name=f"valid_{stage}")
            next_swap = Signal(name=f"swap_{stage}", reset_less=True)
            next_tag = Signal(tag, name=f"travelling_{stage}", reset_less=True)
            # Issue is known late: what it decides is decided behind it.
            m.d.sync += [next_valid.eq(valid), next_tag.eq(travelling),
                         next_swap.eq(swap & valid if stage else swap)]
            valid, swap, travelling = next_valid, next_swap, next_tag
        m.d.comb += [
            array.i.valid.eq(valid),
            array.i.first.eq(swap),
            array.i.tag.eq(travelling),
            array.i.data.eq(self.activation.data),
            accumulator.i.valid.eq(array.o.valid),
            accumulator.i.address.eq(array.o.tag.address),
            accumulator.i.overwrite.eq(array.o.tag.overwrite),
            accumulator.i.last.eq(array.o.valid & array.o.tag.last),
            accumulator.i.values.eq(array.o.sums),
        ]

        # Retirement and errors ------------------------------------------------------------------
        in_flight = Signal(_IN_FLIGHT_BITS)     # instructions issued to the end, not yet retired
        m.d.sync += in_flight.eq(in_flight + (issued & pixel.last[-1]) - accumulator.done)
        m.d.comb += [
            self.engine.retire.eq(accumulator.done),
            self.engine.active.eq(issued),
            self.engine.stall.eq(nest.o.valid & ~issued),
            self.weight_stall.eq(nest.o.valid & first & ~tile_ready),
        ]
        with m.If(in_flight == 0):
            with m.If(nest.o.valid), m.If(wrong_address):
                m.d.comb += self.engine.error.eq(ErrorCode.ADDRESS)
            with m.Elif(intake.is_wrong):
                m.d.comb += self.engine.error.eq(ErrorCode.LENGTH)
        return m

    def _elaborate_loader(self, m, array, intake, *, more, ready, wrong, good):
        """Weight memory, and the reading of tiles out of it, a row a cycle.

        A tile read begins in the cycle after `start`; two cycles later its first row is written
        into the shadow weights, the others follow each in the next cycle. The pixel for which
        `ready` is looked at reaches the array `scratchpad_latency` cycles later, so `ready` may
        rise two cycles after `start`, and where that is three, the array has a cycle for itself.
        It rises `tile_wait` cycles later where rows see the pixel earlier than one after the other.
        """
        config = self.config
        word_bits = 8 * config.weight_word_bytes
        part_bits = min(word_bits, 8 * config.rows)
        m.submodules.weights = memory = Memory(shape=word_bits, depth=config.weight_words, init=[])
        write = memory.write_port(granularity=part_bits)
        words = words_for(m, self.load, LoadTarget.WEIGHT)
        m.d.comb += [
            self.load.ready.eq(1),
            write.addr.eq(words.address),
            write.data.eq(Cat(words.data[:part_bits] for _ in range(word_bits // part_bits))),
        ]
        with m.If(words.valid):
            m.d.comb += write.en.eq(1 if len(write.en) == 1 else 1 << words.part)

        start = Signal()
        coming = Signal()
        wait = tile_wait(config)
        waiting = Signal(wait)  # for the rows, which come later than the pixel needs them
        begun, there = (Cat(coming, waiting).any(), waiting[-1]) if wait else (coming, coming)
        reading = Signal()
        row = Signal(range(config.rows))
        last_row = Signal()
        tile = Signal(20)
        next_tile = Signal(20, reset_less=True)
        address = Signal(range(config.weight_words), reset_less=True)
        m.d.comb += [
            last_row.eq(row == config.rows - 1),
            start.eq((more | intake.loader.valid) & ~ready & ~begun & (~reading | last_row)),
            intake.loader.ready.eq(start & ~more),
            tile.eq(Mux(more, next_tile, intake.held.weight)),
        ]
        m.d.sync += coming.eq(start)
        if wait:
            m.d.sync += waiting.eq(Cat(coming, waiting))
        with m.If(there):
            m.d.sync += [ready.eq(1), good.eq(~wrong)]
        with m.If(reading):
            m.d.sync += [row.eq(row + 1), address.eq(address + 1), reading.eq(~last_row)]
        with m.If(start):
            out_of_range = tile > config.weight_words - config.rows
            m.d.sync += [
                more.eq(0),
                next_tile.eq(tile + config.rows),
                address.eq(tile),
                reading.eq(~out_of_range),
                wrong.eq(out_of_range),
            ]

        read = memory.read_port()
        row_fetched = Signal.like(row, reset_less=True)
        fetched = Signal()
        fetched_word = Signal(word_bits, reset_less=True)
        row_loaded = Signal.like(row, reset_less=True)
        loaded = Signal()
        m.d.comb += [read.addr.eq(address), read.en.eq(reading)]
        m.d.sync += [
            fetched.eq(reading), row_fetched.eq(row),
            loaded.eq(fetched), row_loaded.eq(row_fetched),
        ]
        with m.If(fetched):
            m.d.sync += fetched_word.eq(read.data)
        m.d.comb += [array.load.valid.eq(loaded), array.load.row.eq(row_loaded)]
        for c in range(config.columns):
            weight = fetched_word.word_select(c, config.weight_bits).as_signed()
            extended = Signal(signed(8), name=f"weight_{c}")
            m.d.comb += [
                extended.eq(weight), array.load.weights.word_select(c, 8).eq(extended)]
