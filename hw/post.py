"""The post-processor: accumulators or scratchpad operands to int8 words in the scratchpad."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .isa import LoadTarget, Post, PostSource
from .multiplier import registered_product
from .ports import (
    ACCUMULATOR_LATENCY,
    AccumulatorReadSignature,
    EngineSignature,
    ScratchpadReadSignature,
    instruction_layout,
    load_write_signature,
    scratchpad_latency,
    scratchpad_write_signature,
)
from .post_issue import OPERANDS, PostIssue, slots
from .post_memories import PARAMETER_LATENCY, ContextMemory, ParameterMemory, TableMemory
from .requantize import (
    CLAMP_STAGE,
    REQUANTIZE_LATENCY,
    ROUNDING_STAGE,
    ZERO_STAGE,
    Requantizer,
)
from .residual import (
    ADD_CLAMP_STAGE,
    ADD_LATENCY,
    ADD_MULTIPLIER_STAGE,
    ADD_SHIFT_STAGE,
    ADD_ZERO_STAGE,
    ResidualAdder,
)
from .slices import HoldRegister, words_for

__all__ = ["RESULTS", "PostProcessor", "Stages"]

RESULTS = 32
"""Items between issue and write: more than the pipeline is long, so that it need not idle."""


class Stages:
    """Cycles after an item's issue in which things happen.

    `select`: read data arrive and the item's lanes are picked; `requantize`: accumulators enter the
    requantizers; `look_up`: their results address the tables; `add`: operands enter the residual
    adders; `result`: the bytes go to the result memory; `write`: they are offered to the
    scratchpad.
    """

    def __init__(self, config: Config):
        self.select = scratchpad_latency(config)
        self.requantize = self.select + (2 if config.residual else 1)
        self.look_up = self.requantize + REQUANTIZE_LATENCY
        self.add = self.look_up + (2 if config.table else 0)
        self.result = self.add + (ADD_LATENCY if config.residual else 0)
        self.write = self.result + 2


class PostProcessor(wiring.Component):
    """Engine of queue POST: executes `Post` instructions, `lanes` channels of a pixel a cycle.

    An item (those channels) is issued when its reads are accepted and there is room for its result;
    from then on the pipeline runs freely, so that refused reads and refused writes lose nothing and
    stop nothing in flight. Words of operand b are read ahead, also across instructions, and
    instructions follow each other with one cycle between them.

    Instructions are checked before they begin: DECODE for an absent unit (VECTOR without
    `vector_taps`, `use_table` without `table`, `use_add` or PRODUCT without `residual`), LENGTH for
    a count of 0, ADDRESS for a `byte_offset` that is no multiple of `columns` below `rows`.
    Addresses are checked item by item: accumulator and parameter addresses do not wrap, scratchpad
    addresses wrap at 20 bits. `byte_offset` and `word_step` (unsigned) are ignored where they mean
    nothing: outside of source ARRAY, and where columns are not fewer or not more than rows.

    Members
    -------
    engine : In
        Instructions, retirement, error, activity.
    array, vector : Out
        Reads of the accumulators; `vector` only with `vector_taps`.
    operand_a, operand_b : Out
        Reads of the scratchpad; `operand_b` only with `residual`.
    write : Out
        Results, the bytes of an item at a time.
    load : In
        Words for the parameter memory and the table; other targets are accepted and ignored. A word
        of the table takes `rows` cycles.
    """

    def __init__(self, config: Config):
        self._config = config
        members = {
            "engine": In(EngineSignature(instruction_layout(Post))),
            "array": Out(AccumulatorReadSignature(
                config.lanes, 2 * config.accumulator_words, config.columns)),
            "operand_a": Out(ScratchpadReadSignature(config)),
            "write": Out(scratchpad_write_signature(config)),
            "load": In(load_write_signature(config)),
        }
        if config.vector_taps:
            members["vector"] = Out(AccumulatorReadSignature(
                config.lanes, 2 * config.vector_accumulator_words, config.rows))
        if config.residual:
            members["operand_b"] = Out(ScratchpadReadSignature(config))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        self._platform = platform
        config, stages = self._config, Stages(self._config)
        m.submodules.issue = issue = PostIssue(config)
        offered = wiring.flipped(self.engine.instruction)
        if not config.relaxed:
            m.submodules.next = following = HoldRegister(instruction_layout(Post))
            wiring.connect(m, offered, following.i)
            offered = following.o
        wiring.connect(m, offered, issue.engine.instruction)
        m.d.comb += [getattr(self.engine, name).eq(getattr(issue.engine, name))
                     for name in ("retire", "error", "active", "stall")]
        wiring.connect(m, issue.array, wiring.flipped(self.array.request))
        wiring.connect(m, issue.operand_a, wiring.flipped(self.operand_a.request))
        if config.vector_taps:
            wiring.connect(m, issue.vector, wiring.flipped(self.vector.request))
        if config.residual:
            wiring.connect(m, issue.operand_b, wiring.flipped(self.operand_b.request))
        self._issue, self._stages = issue, stages

        # Where the pipeline holds items, and where the last one of an instruction.
        self._valid, self._last = [issue.issued], [issue.issued & issue.item.last]
        for k in range(stages.result):
            valid, last = Signal(name=f"valid_{k + 1}"), Signal(name=f"last_{k + 1}")
            m.d.sync += [valid.eq(self._valid[k]), last.eq(self._last[k])]
            self._valid.append(valid)
            self._last.append(last)

        accumulators, operands_b = self._select(m)
        values = self._requantize(m, accumulators)
        if config.table:
            values = self._look_up(m, values)
        if config.residual:
            values = self._add(m, values, operands_b)
        self._write(m, values)
        return m

    def _context(self, m, name, stage, **fields):
        """Values, by name with their expressions in the instruction, of the item in `stage`.

        They are read a stage earlier and wait in registers, since arithmetic follows them.
        """
        shapes = {field: value.shape() for field, value in fields.items()}
        m.submodules[name] = context = ContextMemory(shapes, slots(self._config))
        m.d.comb += [context.put.eq(self._issue.begin), context.step.eq(self._last[stage - 1])]
        m.d.comb += [context.values[field].eq(value) for field, value in fields.items()]
        current = Signal(context.current.shape(), name=f"{name}_{stage}")
        with m.If(self._valid[stage - 1]):
            m.d.sync += current.eq(context.current)
        return current

    def _select(self, m):
        """Accumulators and operand bytes of the item's lanes, as they enter the pipeline."""
        config, stage = self._config, self._stages.select
        lanes = range(config.lanes)
        items = [self._issue.item]
        for k in range(stage):
            delayed = Signal(items[-1].shape(), name=f"item_{k + 1}")
            with m.If(self._valid[k]):
                m.d.sync += delayed.eq(items[-1])
            items.append(delayed)
        item = items[stage]

        def pick(word, width, index):
            """Fields of `width` bits of the lanes in the `index`-th part of a word."""
            parts = len(word) // (width * config.lanes)
            part = Signal(width * config.lanes)
            m.d.comb += part.eq(word.word_select(index[:max(parts - 1, 0).bit_length()],
                                                 len(part)) if parts > 1 else word)
            return [part.word_select(lane, width).as_signed() for lane in lanes]

        # Accumulators, which are there first where the scratchpad takes longer.
        values = [self.array.data.word_select(lane, 32).as_signed() for lane in lanes]
        if config.vector_taps:
            of_vector = items[ACCUMULATOR_LATENCY].source == PostSource.VECTOR
            values = [Mux(of_vector, self.vector.data.word_select(lane, 32).as_signed(), value)
                      for lane, value in enumerate(values)]
        for k in range(ACCUMULATOR_LATENCY, stage + 1):
            picked = [Signal(signed(32), name=f"accumulator_{lane}_{k}") for lane in lanes]
            with m.If(self._valid[k]):
                m.d.sync += [picked[lane].eq(values[lane]) for lane in lanes]
            values = picked

        # Bytes of operands wait in registers of their own: they come a long way. What is made of
        # them is made behind those.
        of_operand = Signal()
        bytes_a = [Signal(signed(8), name=f"byte_{lane}") for lane in lanes]
        with m.If(self._valid[stage]):
            m.d.sync += of_operand.eq(item.source == PostSource.SCRATCHPAD)
            m.d.sync += [byte.eq(value) for byte, value in zip(
                bytes_a, pick(self.operand_a.data, 8, item.chunk), strict=True)]
        values = [Mux(of_operand, byte, value)
                  for byte, value in zip(bytes_a, values, strict=True)]
        if not config.residual:
            return values, None

        i = self._issue.engine.instruction.p
        zeros = self._context(m, "zeros", stage, a=i.zero_a, b=i.zero_b)
        bytes_b = pick(self._operand_words(m, item), 8, item.position)
        is_product = Signal()
        zero_a = Signal(signed(8))
        operands = [Signal(signed(8), name=f"operand_{lane}") for lane in lanes]
        differences = [Signal(signed(9), name=f"difference_{lane}") for lane in lanes]
        with m.If(self._valid[stage]):
            m.d.sync += [is_product.eq(item.source == PostSource.PRODUCT), zero_a.eq(zeros.a)]
            m.d.sync += [operands[k].eq(bytes_b[k]) for k in lanes]
            m.d.sync += [differences[k].eq(bytes_b[k] - zeros.b) for k in lanes]
        chosen = Signal()
        delayed = [Signal(signed(32), name=f"delayed_{lane}") for lane in lanes]
        with m.If(self._valid[stage + 1]):
            m.d.sync += [chosen.eq(is_product), *(delayed[k].eq(values[k]) for k in lanes)]
        accumulators = []
        for k in lanes:
            product = registered_product(
                m, self._platform, "residual", f"product_{k}", bytes_a[k] - zero_a,
                differences[k], enable=self._valid[stage + 1])
            accumulators.append(Mux(chosen, product, delayed[k]))
        return accumulators, operands

    def _operand_words(self, m, item):
        """The word of operand b for the item in stage `select`, from the words read ahead."""
        m.submodules.operands = cells = memory.Memory(
            shape=8 * self._config.rows, depth=OPERANDS, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        arriving = self._issue.read_b
        for k in range(self._stages.select):
            delayed = Signal(name=f"arriving_{k + 1}")
            m.d.sync += delayed.eq(arriving)
            arriving = delayed
        pop = self._valid[self._stages.select] & item.pop_b
        m.d.sync += [write.addr.eq(write.addr + arriving), read.addr.eq(read.addr + pop)]
        m.d.comb += [
            write.en.eq(arriving), write.data.eq(self.operand_b.data),
            self._issue.popped.eq(pop),
        ]
        return read.data

    def _requantize(self, m, accumulators):
        config, start = self._config, self._stages.requantize
        m.submodules.parameters = parameters = ParameterMemory(config)
        # The memory takes time, so the word is asked for before the requantizers want it.
        address = self._issue.item.parameter
        words = words_for(m, self.load, LoadTarget.PARAMETER)
        for k in range(start - PARAMETER_LATENCY):
            delayed = Signal(address.shape(), name=f"parameter_{k + 1}")
            with m.If(self._valid[k]):
                m.d.sync += delayed.eq(address)
            address = delayed
        m.d.comb += [
            parameters.address.eq(address),
            parameters.enable.eq(Cat(
                self._valid[start - PARAMETER_LATENCY:start + ROUNDING_STAGE])),
            *(getattr(parameters.write, name).eq(words[name])
              for name in parameters.write.signature.members),
        ]
        if not config.table:
            m.d.comb += self.load.ready.eq(1)

        i = self._issue.engine.instruction.p
        zero = self._context(m, "zero", start + ZERO_STAGE, point=i.zero).point
        bounds = self._context(m, "bounds", start + CLAMP_STAGE, low=i.low, high=i.high)
        results = []
        for k in range(config.lanes):
            m.submodules[f"requantizer_{k}"] = lane = Requantizer(config)
            m.d.comb += [
                lane.enable.eq(Cat(self._valid[start:start + REQUANTIZE_LATENCY])),
                lane.acc.eq(accumulators[k]),
                lane.bias.eq(parameters.bias[k]),
                lane.shift.eq(parameters.shift[k]),
                lane.zero.eq(zero), lane.low.eq(bounds.low), lane.high.eq(bounds.high),
            ]
            for name in ("multiplier", "rounding"):
                if name in lane.signature.members:
                    m.d.comb += getattr(lane, name).eq(getattr(parameters, name)[k])
            results.append(lane.o)
        return results

    def _look_up(self, m, values):
        stage = self._stages.look_up
        m.submodules.table = table = TableMemory(self._config)
        is_table = self.load.p.target == LoadTarget.TABLE
        m.d.comb += [
            table.write.valid.eq(self.load.valid & is_table),
            table.write.address.eq(self.load.p.address),
            table.write.data.eq(self.load.p.data),
            self.load.ready.eq(~is_table | table.write.ready),
            table.enable.eq(self._valid[stage]),
        ]
        use = self._context(m, "use", stage + 1,
                            table=self._issue.engine.instruction.p.use_table).table
        results = []
        for k, value in enumerate(values):
            delayed = Signal(signed(8), name=f"plain_{k}")
            chosen = Signal(signed(8), name=f"chosen_{k}")
            m.d.comb += table.index[k].eq(value)
            with m.If(self._valid[stage]):
                m.d.sync += delayed.eq(value)
            with m.If(self._valid[stage + 1]):
                m.d.sync += chosen.eq(Mux(use, table.o[k], delayed))
            results.append(chosen)
        return results

    def _add(self, m, values, operands):
        """Residual adders. Without `use_add` they compute (y * 1 + b * 0) / 1."""
        config, start = self._config, self._stages.add
        i = self._issue.engine.instruction.p

        # Operand b waits in a ring, a word a cycle, until the other operand is there.
        wait = start - (self._stages.select + 1)
        m.submodules.delay = ring = memory.Memory(
            shape=8 * config.lanes, depth=1 << wait.bit_length(), init=[])
        write, read = ring.write_port(), ring.read_port()
        m.d.sync += write.addr.eq(write.addr + 1)
        m.d.comb += [
            write.en.eq(self._valid[self._stages.select + 1]), write.data.eq(Cat(operands)),
            read.en.eq(self._valid[start - 1]), read.addr.eq(write.addr - (wait - 1)),
        ]

        def context(name, stage, **fields):
            return self._context(m, name, start + stage, **{
                field: Mux(i.use_add, value, neutral)
                for field, (value, neutral) in fields.items()})

        inputs = context("add_inputs", 0, a=(i.zero_a, 0), b=(i.zero_b, 0))
        scales = context("add_scales", ADD_MULTIPLIER_STAGE, a=(i.multiplier_a, 1),
                         b=(i.multiplier_b, 0))
        shift = context("add_shift", ADD_SHIFT_STAGE, n=(i.add_shift, 0))
        zero = context("add_zero", ADD_ZERO_STAGE, point=(i.add_zero, 0)).point
        bounds = context("add_bounds", ADD_CLAMP_STAGE, low=(i.add_low, -128),
                         high=(i.add_high, 127))
        results = []
        for k, value in enumerate(values):
            m.submodules[f"adder_{k}"] = lane = ResidualAdder()
            m.d.comb += [
                lane.enable.eq(Cat(self._valid[start:start + ADD_LATENCY])),
                lane.a.eq(value), lane.b.eq(read.data.word_select(k, 8)),
                lane.zero_a.eq(inputs.a), lane.zero_b.eq(inputs.b),
                lane.multiplier_a.eq(scales.a), lane.multiplier_b.eq(scales.b),
                lane.shift.eq(shift.n),
                lane.zero.eq(zero), lane.low.eq(bounds.low), lane.high.eq(bounds.high),
            ]
            results.append(lane.o)
        return results

    def _write(self, m, values):
        """Results wait in a ring; where they go was written there when the item was issued."""
        config, item = self._config, self._issue.item
        where = Cat(item.address, item.position, item.last)
        m.submodules.places = places = memory.Memory(shape=len(where), depth=RESULTS, init=[])
        m.submodules.results = results = memory.Memory(
            shape=8 * config.lanes, depth=RESULTS, init=[])
        issued = Signal(range(2 * RESULTS))
        computed = Signal(range(2 * RESULTS))
        taken = Signal(range(2 * RESULTS))
        held = Signal(range(RESULTS + 1))  # issued and not taken
        room = Signal(init=1)
        valid = Signal()
        take = Signal()
        for cells, count, enable, value in (
                (places, issued, self._issue.issued, where),
                (results, computed, self._valid[self._stages.result], Cat(values))):
            write, read = cells.write_port(), cells.read_port()
            m.d.comb += [
                write.addr.eq(count), write.data.eq(value), write.en.eq(enable),
                read.addr.eq(taken), read.en.eq(take),
            ]
            m.d.sync += count.eq(count + enable)
            if cells is places:
                place = read.data
            else:
                data = read.data
        m.d.comb += [
            self._issue.room.eq(room),
            take.eq((computed != taken) & (~valid | self.write.ready)),
        ]
        m.d.sync += [taken.eq(taken + take), held.eq(held + self._issue.issued - take)]
        with m.If(self._issue.issued & ~take):
            m.d.sync += room.eq(held != RESULTS - 1)
        with m.Elif(take & ~self._issue.issued):
            m.d.sync += room.eq(1)
        with m.If(take):
            m.d.sync += valid.eq(1)
        with m.Elif(self.write.ready):
            m.d.sync += valid.eq(0)

        address = place[:len(item.address)]
        position = place[len(item.address):len(place) - 1]
        parts = config.rows // config.lanes
        m.d.comb += [
            self.write.valid.eq(valid),
            self.write.p.address.eq(address),
            self.write.p.data.eq(data.replicate(parts)),
            self.write.p.mask.eq(Cat((position == part).replicate(config.lanes)
                                     for part in range(parts))),
        ]
        m.d.sync += self._issue.retired.eq(valid & self.write.ready & place[-1])
