"""Array and post-processor of the sequential core, on one set of multipliers.

**Array.** A pass reads four weight words, a row each, and then a pixel a cycle. Sums are added to
the accumulators; what is to be written instead is cleared before. Passes do not overlap, so that no
accumulator is read before what was added to it is there.

**Post-processor.** It finishes one byte of all pixels' words, then the next, since the weights are
those of a channel then. Where a pixel fills two words, a byte is two channels, `COLUMN_GROUP`
columns apart: each has its weights in a half of the columns, and they take turns. A channel's value
plus bias is cut into digits, which take the place of activations; the rest is in `requantize`. A
value that is too large, or whose shift is not one of `FastShift`, stops it: when what was in front
has been written, the program finishes the value and goes on.
"""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import Config
from .nest import Nest
from .ports import (
    ALONE,
    COLUMN_GROUP,
    ROWS,
    WRITE,
    Mode,
    Output,
    ScratchpadPort,
    written,
)
from .products import LATENCY as PRODUCTS_LATENCY
from .products import Products
from .requantize import LATENCY as REQUANTIZE_LATENCY
from .requantize import Requantizer

__all__ = ["Engine"]

_SETTLING = 2
"""Cycles behind a pass in which it is still busy. The program needs three more from then to the
next PASS, and so all sums are in their place when the accumulators are walked again."""


class Engine(wiring.Component):
    """Members
    -------
    output, port, value : In
        The processor's ports.
    weight : In
        Words for the weight memory.
    scratchpad : Out(ScratchpadPort)
    busy : Out(1)
        A pass is being walked, or values of the post-processor are on their way.
    fault, stopped, unfinished : Out(1)
        As in `Status`.
    word : Out(1)
        As in `Status`; only where a pixel fills two words.
    stop : Out(32)
        `Input.VALUE`.
    """

    def __init__(self, config: Config):
        self._config = config
        self._groups = config.column_words
        super().__init__({
            "output": In(1), "port": In(5), "value": In(32),
            "weight": In(WRITE),
            "scratchpad": Out(ScratchpadPort(config)),
            "busy": Out(1), "fault": Out(1), "stopped": Out(1), "unfinished": Out(1),
            **({"word": Out(1)} if self._groups > 1 else {}),
            "stop": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        words = 2 * config.accumulator_words
        m.submodules.nest = self._nest = nest = Nest(hops=self._groups > 1)
        m.submodules.products = self._products = Products(config.columns)
        m.submodules.accumulators = accumulators = Memory(
            shape=32 * config.columns, depth=words, init=[])
        self._read, self._write = accumulators.read_port(), accumulators.write_port()

        m.d.comb += [nest.output.eq(self.output), nest.port.eq(self.port),
                     nest.value.eq(self.value), self.unfinished.eq(nest.active)]

        # What runs ------------------------------------------------------------------------------
        self._mode = mode = Signal(2)
        self._base = base = Signal(range(2 * words))  # of a pass; of the next value to be written
        self._place = place = Signal(range(words))    # that is read
        running, loading = Signal(), Signal()
        self._walking = walking = Signal()            # the nest gives an address in this cycle
        self._running = running
        self._post_issue = Signal()
        self._no_weight = Signal()                    # where the next one is looked for
        self._settling = []
        self._adding = Signal()                       # to the accumulators, in this cycle
        self._finishing = Signal()                    # post-processed values are on their way
        self._outside = outside = (nest.address >> (config.scratchpad_words - 1).bit_length()).any()
        next_pass = written(self, Output.PASS)
        self._run = run = written(self, Output.RUN) | next_pass
        started = Signal(2)
        m.d.comb += started.eq(Mux(next_pass, Mode.ARRAY, self.value[:2]))
        with m.If(run):
            m.d.sync += [mode.eq(started), self.stopped.eq(0), place.eq(base),
                         loading.eq(started == Mode.ARRAY), running.eq(started != Mode.ARRAY)]
        # Counts are taken anew unless values are still to be finished.
        m.d.comb += nest.begin.eq(run & ~nest.active)
        with m.If(written(self, Output.ACCUMULATOR)):
            m.d.sync += base.eq(self.value)

        self._elaborate_weights(m, loading, running)
        self._elaborate_array(m)
        self._elaborate_post(m)

        m.d.comb += self.busy.eq(
            loading | running | self._finishing | Cat(self._settling).any())

        # The scratchpad ---------------------------------------------------------------------------
        result = Signal()  # to be written
        jumped = Signal()
        m.d.sync += jumped.eq(written(self, Output.JUMP))
        self._result_data = Signal(8)
        by_hand = written(self, Output.RESULT)
        post = self._post_valid
        filling = Signal()
        accesses = Signal()
        m.d.comb += [
            result.eq(by_hand | post),
            filling.eq(walking & (mode == Mode.FILL)),
            accesses.eq(result | (walking & (mode != Mode.CLEAR))),
            self._result_data.eq(Mux(by_hand, self.value, Mux(
                post, self._requantizer.result, self._zero))),
            self.scratchpad.enable.eq(accesses | jumped),
            self.scratchpad.address.eq(nest.address),
            self.scratchpad.data.eq(Cat(self._result_data for _ in range(ROWS))),
            self.scratchpad.mask.eq(Mux(outside, 0, filling.replicate(ROWS)
                                        | Mux(result, 1 << self._column, 0))),
        ]
        pixel = result  # whose last word is written
        if self._groups > 1:
            pixel = result & self.word
            m.d.comb += nest.hop.eq(result & ~self.word)
            with m.If(result):
                m.d.sync += self.word.eq(~self.word)
            with m.If(written(self, Output.ADDRESS)):
                m.d.sync += self.word.eq(0)
        m.d.comb += nest.step.eq(walking | pixel)
        wrong = Signal()
        m.d.comb += [
            wrong.eq((outside & accesses) | (result & base[-1]) | (self._adding & self._target[-1])
                     | self._no_weight),
            nest.stop.eq(wrong | written(self, Output.STOP)),
        ]
        with m.If(wrong):
            m.d.sync += [self.fault.eq(1), running.eq(0), loading.eq(0)]
        with m.If(written(self, Output.ADDRESS)):
            m.d.sync += self.fault.eq(0)
        with m.If(written(self, Output.STOP)):
            m.d.sync += [running.eq(0), loading.eq(0), self.stopped.eq(0)]
        with m.If(pixel):
            m.d.sync += base.eq(base + 1)
        return m

    def _elaborate_weights(self, m, loading, running):
        config, groups = self._config, self._groups
        m.submodules.weights = weights = Memory(
            shape=8 * config.columns, depth=config.weight_words, init=[])
        write, read = weights.write_port(granularity=8 * COLUMN_GROUP), weights.read_port()
        products = self._products
        part = self.weight.address[:groups - 1]
        m.d.comb += [write.addr.eq(self.weight.address[len(part):]),
                     write.data.eq(self.weight.data.replicate(groups)),
                     write.en.eq(self.weight.enable << part if groups > 1 else
                                 self.weight.enable)]
        word = Signal(range(2 * config.weight_words))
        row = Signal(range(ROWS * groups))
        group = row[ROWS.bit_length() - 1:]  # of columns, where they are not loaded all at once
        row_of_group = row[:ROWS.bit_length() - 1]
        fetched = Signal()
        by_hand = written(self, Output.ROW)
        m.d.comb += [
            read.addr.eq(word),
            self._no_weight.eq(loading & word[-1]),
            products.weights.eq(Mux(fetched, read.data, self.value.replicate(groups))),
        ]
        m.d.sync += fetched.eq(loading)
        with m.If(loading):
            m.d.sync += word.eq(word + 1)
        taken = fetched | by_hand
        with m.If(taken):
            for k in range(groups):
                rows = products.load[ROWS * k:ROWS * (k + 1)]
                if groups == 1:
                    m.d.comb += rows.eq(1 << row)
                else:
                    m.d.comb += rows.eq((fetched | (group == k)) << row_of_group)
            m.d.sync += row.eq(row + 1)
        # The fourth word is asked for in the cycle in which the third one comes.
        with m.If(loading & fetched & (row_of_group == ROWS - 2)):
            m.d.sync += [loading.eq(0), running.eq(1)]
        with m.If(written(self, Output.WEIGHT)):
            m.d.sync += word.eq(self.value)
        with m.If(written(self, Output.ADDRESS)):
            m.d.sync += row.eq(0)

    def _elaborate_array(self, m):
        """Pixels, and the accumulators."""
        nest, mode = self._nest, self._mode
        walking = self._walking
        array, clear = mode == Mode.ARRAY, mode == Mode.CLEAR
        m.d.comb += walking.eq(self._running & nest.active & (mode != Mode.POST))
        with m.If(walking & nest.last):
            m.d.sync += self._running.eq(0)

        # Scratchpad, products, accumulator, adder.
        moving = walking & array
        for stage in range(2 + PRODUCTS_LATENCY):
            following = Signal(name=f"moving_{stage}")
            m.d.sync += following.eq(moving)
            moving = following
            if stage < _SETTLING:
                self._settling.append(moving)
            if stage == PRODUCTS_LATENCY - 1:
                reading = moving
        self._target = target = Signal(len(self._base))
        added = Signal(32 * self._config.columns)
        for column in range(self._config.columns):
            before = self._read.data.word_select(column, 32)
            m.d.sync += added.word_select(column, 32).eq(before + self._products.sums[column])
        with m.If(clear):
            m.d.sync += added.eq(0)
        cleared = Signal()
        m.d.sync += cleared.eq(walking & clear)
        m.d.comb += [
            self._read.addr.eq(self._place),
            self._write.addr.eq(target), self._write.data.eq(added),
            self._adding.eq(moving | cleared),
            self._write.en.eq(self._adding & ~target[-1]),
        ]
        with m.If(self._adding):
            m.d.sync += target.eq(target + 1)
        with m.If(self._run):
            m.d.sync += target.eq(self._base)
        posted = self._post_issue
        if self._groups > 1:
            self._turn = turn = Signal()  # the word whose value is read
            posted = posted & turn
            with m.If(self._post_issue):
                m.d.sync += turn.eq(~turn)
            with m.If(self._run):
                m.d.sync += turn.eq(self.word)
        with m.If(reading | posted):
            m.d.sync += self._place.eq(self._place + 1)

    def _elaborate_post(self, m):
        """A value's way from the accumulators to the requantizer and out of it."""
        nest = self._nest
        groups = self._groups
        m.submodules.requantizer = self._requantizer = requantizer = Requantizer(groups)
        self._column = column = Signal(range(COLUMN_GROUP))
        shift = Signal(5 * groups)  # of the first word's channel, then of the next one's
        bias = Signal(32 * groups)
        with m.If(written(self, Output.SHIFT)):
            m.d.sync += shift.eq(Cat(shift[5:], self.value[:5]))
        with m.If(written(self, Output.BIAS)):
            m.d.sync += bias.eq(Cat(bias[32:], self.value))
        self._zero = zero = Signal(8)
        low, high = Signal(8), Signal(8)
        posts = self._mode == Mode.POST
        with m.If(written(self, Output.BOUNDS)):
            m.d.sync += Cat(zero, low, high, column).eq(self.value)
        m.d.comb += [requantizer.shift.eq(Cat(shift[5 * k:5 * k + 4] for k in range(groups))),
                     requantizer.sums.eq(self._products.sums),
                     requantizer.zero.eq(zero), requantizer.low.eq(low), requantizer.high.eq(high)]

        value = self.stop
        there, summed = Signal(), Signal()  # the word from the accumulators; the value
        large, stopping = Signal(), Signal()
        source, offset, is_slow = column, bias, shift[4]
        if groups > 1:
            turns = [self._turn]
            for stage in range(2 + PRODUCTS_LATENCY):
                turns.append(Signal(name=f"turn_{stage}"))
                m.d.sync += turns[-1].eq(turns[-2])
            source, offset = Cat(column, turns[1]), bias.word_select(turns[1], 32)
            is_slow = Mux(turns[2], shift[9], shift[4])
            m.d.comb += requantizer.word.eq(turns[-1])
        m.d.comb += [
            self._post_issue.eq(self._running & nest.active & posts & ~stopping),
            # 22 bits and sign, moved by DIGITS.
            large.eq(is_slow | value[24:].any() | (value[22] == value[23])),
            stopping.eq(summed & large),
        ]
        m.d.sync += [
            there.eq(self._post_issue),
            summed.eq(there & ~stopping & nest.active),
        ]
        accumulated = self._read.data.word_select(source, 32)
        if self._config.residual:
            alone = Signal()
            with m.If(self._run):
                m.d.sync += alone.eq(self.value & ALONE != 0)
            accumulated &= (~alone).replicate(32)
        with m.If(there & ~stopping):
            m.d.sync += value.eq(accumulated + offset)
        with m.If(stopping & nest.active):
            m.d.sync += [self.stopped.eq(1), self._running.eq(0)]

        # Digits, activations; the third one twice as much again in the fourth row.
        digits = [Cat(value[8 * k:8 * k + 7], ~value[8 * k + 7]) for k in range(3)]
        m.d.comb += self._products.activations.eq(Mux(
            posts, Cat(*digits, 0, digits[2][:7]), self.scratchpad.read))

        moving = summed & ~large
        stages = []
        for stage in range(PRODUCTS_LATENCY + REQUANTIZE_LATENCY):
            following = Signal(name=f"finishing_{stage}")
            m.d.sync += following.eq(moving & nest.active)
            stages.append(following)
            moving = following
        self._post_valid = Signal()
        m.d.comb += [
            self._post_valid.eq(moving & nest.active),
            self._finishing.eq(Cat(there, summed, *stages).any() & nest.active & posts),
        ]
        with m.If(posts & ~nest.active & ~self._run):
            m.d.sync += self._running.eq(0)
