"""The engine of queue VECTOR: depthwise windows and pooling, a lane a channel.

Every word read meets all taps at once, in transposed form: tap t adds its product to what tap t - 1
made of the word before, so that the last tap holds a whole window for each word. A window of fewer
taps than the unit has uses the last ones.

**Cycles.** A word a cycle, rows and passes behind each other without a gap, as long as the weights
are there: a MAC pass that reads n weight words can begin n + 2 cycles after the beginning of the
MAC pass before it.
"""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .accumulator import VALUE_DELAY, AccumulatorMemory, HazardGuard
from .config import Config
from .intake import Intake
from .isa import ErrorCode, LoadTarget, Vector, VectorMode
from .loops import CheckedAddress, LoopNest
from .multiplier import registered_product
from .ports import (
    AccumulatorReadSignature,
    EngineSignature,
    ScratchpadReadSignature,
    instruction_layout,
    load_write_signature,
    scratchpad_latency,
)
from .slices import words_for

__all__ = ["VectorLanes", "VectorUnit"]

_LEVELS = 4
_PASS_LEVELS = 2
"""Of the loops of an instruction, the inner two walk the words of a pass."""

_VALUE_BITS = 27
"""A row of 4,095 products of 2**14 at most stays below 2**26."""

_LANES_LATENCY = 3
"""Cycles from a word to its values."""

_IN_FLIGHT_BITS = 4
"""Instructions of one word follow each other every cycle and retire 7 cycles later."""


class VectorLanes(wiring.Component):
    """`lanes` channels with `taps` multipliers each; values `_LANES_LATENCY` cycles after a word.

    Parameters
    ----------
    lanes, taps : int
        Channels of a word, multipliers a channel.

    Members
    -------
    i : In
        `valid` and a word's `data`, with `swap` (the shadow weights become active from this word
        on), `begin` (one bit a tap: the window's first tap), `maximum` (instead of the sum of
        products), `hold` (the last tap goes on from its own value: running sum or maximum of a
        row), `restart` (but not for this word, the first of its row).
    load : In
        `valid`: write `weights` (int8) to the shadow of tap `tap`.
    values : Out
        What the last tap holds, a value a lane.
    """

    def __init__(self, lanes: int, taps: int):
        self.lanes = lanes
        self.taps = taps
        super().__init__({
            "i": In(wiring.Signature({
                "valid": Out(1), "data": Out(8 * lanes), "swap": Out(1), "begin": Out(taps),
                "maximum": Out(1), "hold": Out(1), "restart": Out(1)})),
            "load": In(wiring.Signature({
                "valid": Out(1), "tap": Out(range(taps)), "weights": Out(8 * lanes)})),
            "values": Out(data.ArrayLayout(signed(_VALUE_BITS), lanes)),
        })

    def elaborate(self, platform):
        m = Module()

        def register(bits, name):
            """A register of the data path: meaningless until data reach it, so never reset."""
            return Signal(signed(bits), name=name, reset_less=True)

        # A word's control reaches the products one cycle and the sums two cycles after the word.
        def delayed(signals, stage):
            following = {name: Signal.like(signal, name=f"{name}_{stage}",
                                           reset_less=name != "valid")
                         for name, signal in signals.items()}
            m.d.sync += [following[name].eq(signals[name]) for name in signals]
            return following

        word = {"valid": self.i.valid, "begin": self.i.begin, "maximum": self.i.maximum,
                "hold": self.i.hold, "restart": self.i.restart}
        multiplying = delayed(word, 1)
        summing = delayed(multiplying, 2)

        for lane in range(self.lanes):
            activation = self.i.data.word_select(lane, 8).as_signed()
            before = None
            sums = []
            for tap in range(self.taps):
                is_last = tap == self.taps - 1
                # A sum of 7 products at most, but of a whole row's in the last tap.
                total = register(_VALUE_BITS if is_last else 19, f"sum_{lane}_{tap}")
                shadow = register(8, f"shadow_{lane}_{tap}")
                with m.If(self.load.valid & (self.load.tap == tap)):
                    m.d.sync += shadow.eq(self.load.weights.word_select(lane, 8))
                # A maximum is taken of products with 1, so that nothing is behind the multiplier.
                product = registered_product(
                    m, platform, "vector", f"product_{lane}_{tap}", activation,
                    Mux(self.i.maximum, Const(1, signed(8)), shadow), enable=multiplying["valid"],
                    a_enable=self.i.valid,
                    b_enable=self.i.valid & (self.i.swap | self.i.maximum))
                begin = summing["begin"][tap]
                if is_last:
                    hold = summing["hold"]
                    begin = Mux(hold, summing["restart"], begin)
                    before = total if before is None else Mux(hold, total, before)
                if before is None:
                    with m.If(summing["valid"]):
                        m.d.sync += total.eq(product)
                else:
                    # Of bytes: whatever is not comes from before the window.
                    smaller = Signal(name=f"smaller_{lane}_{tap}")
                    keeps = Signal(name=f"keeps_{lane}_{tap}")  # its own value
                    m.d.comb += [
                        smaller.eq(summing["maximum"] & ~begin
                                   & (product[:8].as_signed() <= before[:8].as_signed())),
                        keeps.eq(smaller if before is total else 0),
                    ]
                    with m.If(summing["valid"] & ~keeps):
                        m.d.sync += total.eq(Mux(begin | summing["maximum"], product,
                                                 before + product))
                        if before is not total:
                            with m.If(smaller):
                                m.d.sync += total.eq(before)
                before = total
                sums.append(total)
            m.d.comb += self.values[lane].eq(sums[-1])
        return m


class VectorUnit(wiring.Component):
    """Executes `systolith.hw.isa.Vector` instructions.

    Parameters
    ----------
    config : Config
        With `vector_taps` other than 0. `vector_weight_words` words of weight memory and the vector
        accumulators lie in here.

    Members
    -------
    engine : In(EngineSignature)
        Instructions. Active cycles are those in which a word is read. A zero count or stride, no
        taps or more than the unit has are `ErrorCode.LENGTH`; a scratchpad, weight or accumulator
        address out of range is `ErrorCode.ADDRESS`. `error` stays until the engine is reset.
    activation : Out(ScratchpadReadSignature)
        Words of the channel group.
    load : In(stream)
        Writes of the vector weight memory; transfers to other targets are ignored.
    accumulators : In(AccumulatorReadSignature)
        Reads by the post-processor.
    """

    def __init__(self, config: Config):
        if not config.vector_taps:
            raise ValueError("the configuration has no vector unit: vector_taps is 0")
        self.config = config
        super().__init__({
            "engine": In(EngineSignature(instruction_layout(Vector))),
            "activation": Out(ScratchpadReadSignature(config)),
            "load": In(load_write_signature(config)),
            "accumulators": In(AccumulatorReadSignature(
                config.lanes, 2 * config.vector_accumulator_words, config.rows)),
        })

    def elaborate(self, platform):
        config = self.config
        taps = config.vector_taps
        m = Module()
        m.submodules.lanes = lanes = VectorLanes(config.rows, taps)
        m.submodules.nest = nest = LoopNest(_LEVELS, words=config.scratchpad_words)
        m.submodules.intake = intake = Intake(
            instruction_layout(Vector), in_place=config.relaxed)
        m.submodules.accumulator = accumulator = AccumulatorMemory(
            config.rows, config.vector_accumulator_words, value_bits=_VALUE_BITS, maximum=True,
            read_lanes=config.lanes)
        m.submodules.guard = guard = HazardGuard(len(accumulator.i.address), 4)
        wiring.connect(m, accumulator.read, wiring.flipped(self.accumulators))
        wiring.connect(m, intake.i, wiring.flipped(self.engine.instruction))

        # Intake -------------------------------------------------------------------------------
        offered, held = intake.i.p, intake.held
        m.d.comb += [
            intake.wrong.eq(Cat(
                *(offered[f"count_{k}"] == 0 for k in range(_LEVELS)), offered.stride == 0,
                offered.taps == 0, offered.taps > taps).any()),
            intake.uses_weights.eq(offered.mode == VectorMode.MAC),
            nest.i.valid.eq(intake.issue.valid),
            intake.issue.ready.eq(nest.i.ready),
            nest.i.p.address.eq(held.activation),
            *(nest.i.p.counts[k].eq(held[f"count_{k}"]) for k in range(_LEVELS)),
            *(nest.i.p.steps[k].eq(held[f"step_{k}"]) for k in range(_LEVELS)),
        ]

        # What holds for the whole instruction that is being issued
        maximum = Signal(reset_less=True)
        reduce = Signal(reset_less=True)
        begin = Signal(taps, reset_less=True)
        lead = Signal(4, reset_less=True)       # words of a row before its first value
        skip = Signal(4, reset_less=True)       # words between two values
        base = Signal(16, reset_less=True)

        # Loader: the weights of the next MAC pass ------------------------------------------------
        weights_ready = Signal()
        weights_wrong = Signal()
        weights_good = Signal()     # they are ready, and not wrong
        weights_taken = Signal()
        more_weights = Signal()     # the instruction whose weights were taken last needs more
        final_pass = Signal()
        self._elaborate_loader(m, lanes, intake, more=more_weights, ready=weights_ready,
                               wrong=weights_wrong, good=weights_good)
        with m.If(weights_taken):
            m.d.sync += [weights_ready.eq(0), weights_good.eq(0), more_weights.eq(~final_pass)]

        # Issue: one word a cycle ------------------------------------------------------------------
        o = nest.o.p
        request = self.activation.request
        place = CheckedAddress(16, 1 << len(guard.address), "target")
        target = place.value
        overwrite = Signal()
        until_value = Signal(4, reset_less=True)    # words before the next value
        needs_weights = Signal(reset_less=True)     # it is the first word of a MAC pass
        emits = Signal(reset_less=True)             # this word completes a value
        wrong_address = Signal()
        issued = Signal()
        m.d.comb += [
            final_pass.eq(o.final[_PASS_LEVELS:].all()),
            wrong_address.eq(o.outside | (emits & place.outside)
                             | (needs_weights & weights_ready & weights_wrong)),
            request.valid.eq(nest.o.valid & (~needs_weights | weights_good)),
            request.payload.eq(o.address),
            issued.eq(request.valid & request.ready & ~o.outside
                      & ~(emits & (place.outside | guard.busy))),
            nest.o.ready.eq(issued),
            weights_taken.eq(issued & needs_weights),
            guard.address.eq(target),
            guard.issue.eq(issued & emits),
            guard.moves.eq(~nest.o.valid | issued),
            guard.following[0].eq(target),
            guard.following[1].eq(target + 1),
            guard.following[2].eq(base),
            guard.following[3].eq(held.accumulator),
            guard.follows.eq(Cat(1, emits, o.last[_PASS_LEVELS - 1], nest.renews)),
        ]
        next_until = Signal.like(until_value)
        m.d.comb += next_until.eq(Mux(nest.renews, held.taps - 1, Mux(
            o.last[0], lead, Mux(emits, skip, until_value - 1))))
        with m.If(guard.moves):
            m.d.sync += [
                until_value.eq(next_until),
                emits.eq(Mux(Mux(nest.renews, held.reduce, reduce),
                             nest.ends, next_until == 0)),
                needs_weights.eq(Mux(nest.renews, held.mode != VectorMode.MAX,
                                     o.last[_PASS_LEVELS - 1] & ~maximum)),
                place.eq(Mux(nest.renews, held.accumulator,
                             Mux(o.last[_PASS_LEVELS - 1], base, target + emits))),
                overwrite.eq(Mux(nest.renews, ~held.accumulate,
                                 overwrite & ~o.last[_PASS_LEVELS - 1])),
            ]
        with m.If(nest.renews):
            m.d.sync += base.eq(held.accumulator)
        with m.If(nest.i.valid & nest.i.ready):
            m.d.sync += [
                maximum.eq(held.mode == VectorMode.MAX),
                reduce.eq(held.reduce),
                *(begin[tap].eq(held.taps == taps - tap) for tap in range(taps)),
                lead.eq(held.taps - 1),
                skip.eq(held.stride - 1),
            ]

        # Pipeline: scratchpad, lanes, accumulators ------------------------------------------------
        travelling = {
            "valid": issued, "swap": needs_weights, "begin": begin, "maximum": maximum,
            "hold": reduce, "restart": o.first[0], "emits": issued & emits,
            "address": guard.address, "overwrite": overwrite, "last": issued & o.last[-1]}
        for stage in range(1, scratchpad_latency(config) + _LANES_LATENCY - VALUE_DELAY + 1):
            following = {}
            for name, signal in travelling.items():
                following[name] = Signal(
                    len(signal), name=f"{name}_{stage}",
                    reset_less=name not in ("valid", "emits", "last"))
                m.d.sync += following[name].eq(signal)
            travelling = following
            if stage == scratchpad_latency(config):
                m.d.comb += lanes.i.data.eq(self.activation.data)
                for name in ("valid", "swap", "begin", "maximum", "hold", "restart"):
                    m.d.comb += getattr(lanes.i, name).eq(travelling[name])
        m.d.comb += [
            accumulator.i.valid.eq(travelling["emits"]),
            accumulator.i.address.eq(travelling["address"]),
            accumulator.i.overwrite.eq(travelling["overwrite"]),
            accumulator.i.maximum.eq(travelling["maximum"]),
            accumulator.i.last.eq(travelling["last"]),
            accumulator.i.values.eq(lanes.values),
        ]

        # Retirement and errors ------------------------------------------------------------------
        in_flight = Signal(_IN_FLIGHT_BITS)     # instructions issued to the end, not yet retired
        m.d.sync += in_flight.eq(in_flight + (issued & o.last[-1]) - accumulator.done)
        m.d.comb += [
            self.engine.retire.eq(accumulator.done),
            self.engine.active.eq(issued),
            self.engine.stall.eq(nest.o.valid & ~issued),
        ]
        with m.If(in_flight == 0):
            with m.If(nest.o.valid & wrong_address):
                m.d.comb += self.engine.error.eq(ErrorCode.ADDRESS)
            with m.Elif(~nest.o.valid & intake.is_wrong):
                m.d.comb += self.engine.error.eq(ErrorCode.LENGTH)
        return m

    def _elaborate_loader(self, m, lanes, intake, *, more, ready, wrong, good):
        """Vector weight memory, and the reading of a pass's taps out of it, a word a cycle.

        A read begins in the cycle after `start`, and two cycles later its word is written into the
        shadow weights. The word for which `ready` is looked at meets the weights
        `scratchpad_latency` cycles later, so `ready` may rise behind the last read.
        """
        config = self.config
        taps = config.vector_taps
        words = config.vector_weight_words
        m.submodules.weights = memory = Memory(shape=8 * config.rows, depth=words, init=[])
        write = memory.write_port()
        arrived = words_for(m, self.load, LoadTarget.VECTOR_WEIGHT)
        m.d.comb += [
            self.load.ready.eq(1),
            write.addr.eq(arrived.address),
            write.data.eq(arrived.data),
            write.en.eq(arrived.valid),
        ]

        start = Signal()
        reading = Signal()
        tap = Signal(range(taps))
        first_tap = Signal(range(taps), reset_less=True)    # of the instruction being loaded
        held_first_tap = Signal(range(taps))
        start_tap = Signal(range(taps))
        next_word = Signal(17, reset_less=True)
        word = Signal(17)
        address = Signal(range(words), reset_less=True)
        m.d.comb += [
            start.eq((more | intake.loader.valid) & ~ready & ~reading),
            intake.loader.ready.eq(start & ~more),
            held_first_tap.eq(Mux(intake.held.reduce, taps - 1, taps - intake.held.taps)),
            start_tap.eq(Mux(more, first_tap, held_first_tap)),
            word.eq(Mux(more, next_word, intake.held.weight)),
        ]
        with m.If(reading):
            m.d.sync += [tap.eq(tap + 1), address.eq(address + 1)]
            with m.If(tap == taps - 1):
                m.d.sync += [reading.eq(0), ready.eq(1), good.eq(1)]
        with m.If(start):
            # A power of two: upper bits tell whether the last word is in the memory.
            last = Signal(18)
            outside = last[(words - 1).bit_length():].any()
            m.d.comb += last.eq(word + (taps - 1 - start_tap))
            m.d.sync += [
                more.eq(0),
                first_tap.eq(start_tap),
                tap.eq(start_tap),
                next_word.eq(last + 1),
                address.eq(word),
                reading.eq(~outside),
                ready.eq(outside),
                wrong.eq(outside),
            ]

        read = memory.read_port()
        fetched = Signal()
        fetched_tap = Signal.like(tap, reset_less=True)
        loaded = Signal()
        loaded_tap = Signal.like(tap, reset_less=True)
        loaded_word = Signal(8 * config.rows, reset_less=True)
        m.d.comb += [
            read.addr.eq(address), read.en.eq(reading),
            lanes.load.valid.eq(loaded), lanes.load.tap.eq(loaded_tap),
            lanes.load.weights.eq(loaded_word),
        ]
        m.d.sync += [fetched.eq(reading), fetched_tap.eq(tap),
                     loaded.eq(fetched), loaded_tap.eq(fetched_tap)]
        with m.If(fetched):
            m.d.sync += loaded_word.eq(read.data)
