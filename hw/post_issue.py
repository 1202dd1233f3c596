"""The post-processor's front: checks instructions, walks their items, requests what they read."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .isa import ErrorCode, Post, PostSource
from .loops import CheckedAddress, LoopNest
from .ports import EngineSignature, instruction_layout
from .slices import register_slice

__all__ = ["OPERANDS", "PostIssue", "item_layout", "slots"]

OPERANDS = 8
"""Words of operand b read ahead; more than the cycles from a request to its use."""


def slots(config: Config) -> int:
    """Instructions in flight. A single lane spends many cycles on each and needs few."""
    return 8 if config.lanes > 1 else 2


def item_layout(config: Config) -> data.StructLayout:
    """What is known of an item (`lanes` channels of a pixel) when it is issued.

    `source`; `chunk`: which of the pixel's items; `position`: which `lanes` bytes of the scratchpad
    words; `address`: word to write; `parameter`: word of records; `use_b`, `pop_b`: it uses operand
    b, and is the last to use that word; `last`: it is the instruction's last.
    """
    return data.StructLayout({
        "source": PostSource,
        "chunk": range(max(config.rows, config.columns) // config.lanes),
        "position": range(config.rows // config.lanes),
        "address": range(config.scratchpad_words),
        "parameter": range(config.parameter_words),
        "use_b": 1, "pop_b": 1, "last": 1,
    })


class PostIssue(wiring.Component):
    """Issues one item a cycle, in order, when its reads are accepted and there is `room`.

    Members
    -------
    engine : In
        As of `PostProcessor`, which documents the checks.
    array, vector, operand_a, operand_b : Out
        Streams of read requests.
    read_b : Out
        A word of operand b is read in this cycle.
    room : In
        Another item may be issued. It stays set until one is.
    popped : In
        A word of operand b has left its buffer.
    retired : In
        The oldest instruction's last write was accepted.
    begin : Out
        The instruction on `engine` begins.
    issued, item : Out
        An item is issued in this cycle.
    """

    def __init__(self, config: Config):
        self._config = config
        words = stream.Signature(range(config.scratchpad_words))
        members = {
            "engine": In(EngineSignature(instruction_layout(Post))),
            "array": Out(stream.Signature(range(
                2 * config.accumulator_words * (config.columns // config.lanes)))),
            "operand_a": Out(words),
            "room": In(1),
            "popped": In(1),
            "retired": In(1),
            "begin": Out(1),
            "issued": Out(1),
            "item": Out(item_layout(config)),
        }
        if config.vector_taps:
            members["vector"] = Out(stream.Signature(
                range(2 * config.vector_accumulator_words * (config.rows // config.lanes))))
        if config.residual:
            members |= {"operand_b": Out(words), "read_b": Out(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        i = self.engine.instruction.p
        self._wide = self._config.column_words

        # Instructions: checked, then begun when the walk of the one before ends.
        wrong = Signal(ErrorCode)
        checked = Signal()
        m.d.sync += [wrong.eq(self._check(m, i)), checked.eq(
            self.engine.instruction.valid & ~self.engine.instruction.ready)]
        error = Signal(ErrorCode)
        in_flight = Signal(range(slots(self._config) + 1))
        free = Signal()
        started = checked & (wrong == ErrorCode.NONE)
        m.d.comb += [
            free.eq((in_flight != slots(self._config)) & (error == ErrorCode.NONE)),
            self.engine.instruction.ready.eq(checked & Mux(
                wrong == ErrorCode.NONE, self.begin,
                (in_flight == 0) & (error == ErrorCode.NONE))),
            self.engine.retire.eq(self.retired),
            self.engine.error.eq(error),
        ]
        m.d.sync += in_flight.eq(in_flight + self.begin - self.retired)

        m.submodules.nest = nest = self._nest()
        m.d.comb += self._load_nest(nest, i, i.destination, i.destination_step_0,
                                    i.destination_step_1)
        m.d.comb += nest.i.valid.eq(self.begin)
        use_b = Signal()    # the instruction begun last uses operand b
        with m.If(nest.idle):
            m.d.sync += use_b.eq(self._wants_b(i))
        b_ready, b_there, b_wrong = self._read_ahead(m, i, started & free)
        # It begins when the one before has ended, and not in the cycle of the last item, where it
        # would depend on whether that can be read.
        m.d.comb += self.begin.eq(started & free & ~nest.o.valid & b_ready)

        m.submodules.items = items = register_slice(self._config, self._walked_layout())
        item_wrong = self._walk(m, i, nest, items.i, use_b)
        starved = self._request(m, items.o, b_there) & b_wrong
        with m.If(error == ErrorCode.NONE):
            with m.If(self.engine.instruction.valid & self.engine.instruction.ready):
                m.d.sync += error.eq(wrong)
            with m.If(((nest.o.valid & item_wrong) | starved) & (in_flight == 1)):
                m.d.sync += error.eq(ErrorCode.ADDRESS)
        m.d.comb += [
            self.engine.active.eq(self.issued),
            self.engine.stall.eq((nest.o.valid | items.o.valid) & ~self.issued),
        ]
        return m

    def _check(self, m, i):
        """What is wrong with instruction `i`, as an `ErrorCode`."""
        config = self._config
        wrong = Signal(ErrorCode)
        absent = 0
        if not config.vector_taps:
            absent |= i.source == PostSource.VECTOR
        if not config.residual:
            absent |= (i.source == PostSource.PRODUCT) | i.use_add
        if not config.table:
            absent |= i.use_table
        misplaced = 0
        if config.columns < config.rows:
            inside = config.rows - config.columns  # its bits are those of a proper offset
            misplaced = (i.source == PostSource.ARRAY) & (i.byte_offset & ~inside).any()
        with m.If(absent):
            m.d.comb += wrong.eq(ErrorCode.DECODE)
        with m.Elif((i.count_0 == 0) | (i.count_1 == 0)):
            m.d.comb += wrong.eq(ErrorCode.LENGTH)
        with m.Elif(misplaced):
            m.d.comb += wrong.eq(ErrorCode.ADDRESS)
        return wrong

    def _nest(self):
        return LoopNest(3 if self._wide > 1 else 2, words=self._config.scratchpad_words)

    def _load_nest(self, nest, i, address, step_0, step_1):
        """Statements that put a walk over pixels, and over a wide pixel's words, on `nest.i`."""
        counts, steps = [i.count_0, i.count_1], [step_0, step_1]
        if self._wide > 1:
            from_array = i.source == PostSource.ARRAY
            back = Mux(from_array, i.word_step * (self._wide - 1), 0)
            counts = [Mux(from_array, self._wide, 1), *counts]
            steps = [i.word_step, *((step - back) for step in steps)]
        return [
            nest.i.p.address.eq(address),
            *(field.eq(count) for field, count in zip(nest.i.p.counts, counts, strict=True)),
            *(field.eq(step) for field, step in zip(nest.i.p.steps, steps, strict=True)),
        ]

    def _wants_b(self, i):
        return i.use_add | (i.source == PostSource.PRODUCT) if self._config.residual else Const(0)

    def _read_ahead(self, m, i, started):
        """Walk operand b, ahead of the items and across instructions.

        Returns whether the instruction may begin as far as b is concerned, whether a word of b is
        there for the next item, and whether the walk has met an address that does not exist.
        """
        if not self._config.residual:
            return Const(1), Const(1), Const(0)
        m.submodules.nest_b = nest = self._nest()
        wanted = self._wants_b(i)
        taken = Signal()      # the instruction on `engine` has its b walk already
        buffered = Signal(range(OPERANDS + 1))  # requested and not popped
        there = Signal(range(OPERANDS + 1))     # requested and not issued with an item
        # What they say that others wait for, each known a cycle ahead.
        full, enough = Signal(), Signal()
        outside = nest.o.p.outside
        accepted = self.read_b
        m.d.comb += self._load_nest(nest, i, i.operand_b, i.operand_b_step_0, i.operand_b_step_1)
        m.d.comb += [
            nest.i.valid.eq(started & wanted & ~taken & ~nest.o.valid),
            self.operand_b.p.eq(nest.o.p.address),
            # Who asks for an address that does not exist would be in the way to others for ever.
            self.operand_b.valid.eq(nest.o.valid & ~outside & ~full),
            accepted.eq(self.operand_b.valid & self.operand_b.ready),
            nest.o.ready.eq(accepted),
        ]
        used = self.issued & self.item.pop_b
        m.d.sync += [
            buffered.eq(buffered + accepted - self.popped),
            full.eq(~self.popped & ((buffered == OPERANDS)
                                    | (accepted & (buffered == OPERANDS - 1)))),
            there.eq(there + accepted - used),
            enough.eq(accepted | Mux(used, there > 1, there != 0)),
        ]
        with m.If(self.begin):
            m.d.sync += taken.eq(0)
        with m.Elif(nest.i.valid):
            m.d.sync += taken.eq(1)
        return ~wanted | taken | ~nest.o.valid, enough, nest.o.valid & outside

    def _walked_layout(self):
        """An item on its way from the walk to its requests: `place`, the accumulator's word or that
        of operand a, and who is asked for it."""
        config = self._config
        accumulators = 2 * max(config.accumulator_words,
                               config.vector_accumulator_words if config.vector_taps else 0)
        return data.StructLayout({
            "item": item_layout(config), "place": range(max(accumulators, config.scratchpad_words)),
            "from_array": 1, "from_scratchpad": 1,
            **({"from_vector": 1} if config.vector_taps else {})})

    def _walk(self, m, i, nest, walked, use_b):
        """Items of the instruction begun last, for `walked`. Returns whether the current one cannot
        be done."""
        config = self._config
        item, o = walked.p.item, nest.o.p
        source = Signal(PostSource)
        # Both kinds of accumulators are read at the same address.
        accumulator = CheckedAddress(16, 2 * config.accumulator_words, "accumulator")
        of_vector = CheckedAddress(16, 2 * config.vector_accumulator_words, "of_vector")
        parameter = CheckedAddress(13, config.parameter_words, "parameter")
        first_parameter = Signal(12)
        operand = CheckedAddress(20, config.scratchpad_words, "operand")
        operand_steps = [Signal(20, name=f"operand_step_{k}") for k in range(2)]
        first_position = Signal(item.position.shape())
        groups = config.rows // config.lanes
        groups_array = min(config.columns, config.rows) // config.lanes
        group = Signal(range(groups))
        chunk = Signal(item.chunk.shape())

        word_end = group == Mux(source == PostSource.ARRAY, groups_array - 1, groups - 1)
        pixel_end = word_end & (o.final[0] if self._wide > 1 else 1)
        m.d.comb += [
            item.source.eq(source),
            item.chunk.eq(chunk),
            item.position.eq(first_position + group),
            item.address.eq(o.address),
            item.parameter.eq(parameter.value),
            item.use_b.eq(use_b),
            item.pop_b.eq(use_b & word_end),
            item.last.eq(word_end & o.last[-1]),
        ]

        # What the next instruction begins with is taken as long as none is under way.
        idle = nest.idle
        wrong = Signal()
        from_scratchpad = (PostSource.SCRATCHPAD, *((PostSource.PRODUCT,) * config.residual))
        kinds = {"from_array": ((PostSource.ARRAY,), accumulator),
                 "from_scratchpad": (from_scratchpad, operand)}
        if config.vector_taps:
            kinds["from_vector"] = (PostSource.VECTOR,), of_vector
        m.d.comb += wrong.eq(o.outside | parameter.outside)
        for name, (sources, place) in kinds.items():
            selected = Signal(name=name)
            with m.If(idle):
                m.d.sync += selected.eq(Cat(i.source == kind for kind in sources).any())
            m.d.comb += walked.p[name].eq(selected)
            with m.If(selected & place.outside):
                m.d.comb += wrong.eq(1)
        taken = Signal()
        m.d.comb += [
            walked.p.place.eq(Mux(walked.p.from_scratchpad, operand.value, accumulator.value)),
            walked.valid.eq(nest.o.valid & ~wrong),
            taken.eq(walked.valid & walked.ready),
            nest.o.ready.eq(taken & word_end),
        ]
        step = Mux(o.final[-2], operand_steps[1], operand_steps[0])
        with m.If(taken):
            m.d.sync += [group.eq(Mux(word_end, 0, group + 1)),
                         chunk.eq(Mux(pixel_end, 0, chunk + 1))]
        with m.If(idle | taken):
            m.d.sync += parameter.eq(Mux(idle, i.parameter, Mux(
                pixel_end, first_parameter, parameter.value + 1)))
        with m.If(idle | (taken & pixel_end)):
            m.d.sync += [
                accumulator.eq(Mux(idle, i.accumulator, accumulator.value + 1)),
                of_vector.eq(Mux(idle, i.accumulator, accumulator.value + 1)),
                operand.eq(Mux(idle, i.operand_a, operand.value + step)),
            ]
        with m.If(idle):
            m.d.sync += [
                source.eq(i.source),
                first_parameter.eq(i.parameter),
                operand_steps[0].eq(i.operand_a_step_0),
                operand_steps[1].eq(i.operand_a_step_1),
                first_position.eq(0),
            ]
            if config.columns < config.rows:
                with m.If(i.source == PostSource.ARRAY):
                    m.d.sync += first_position.eq(i.byte_offset // config.lanes)
        return wrong

    def _request(self, m, walked, b_there):
        """Ask for what the item needs, and issue it. Returns whether it lacks a word of operand b.

        Whether it is read depends on everybody's requests, and is known late: it decides about what
        is in here alone.
        """
        config = self._config
        item = walked.p.item
        m.d.comb += self.item.eq(item)

        def part_of(values, words):
            """Address of the item's part of an accumulator word."""
            return Cat(item.chunk[:(values // config.lanes - 1).bit_length()],
                       walked.p.place[:(2 * words - 1).bit_length()])

        requests = [
            (self.array, walked.p.from_array, part_of(config.columns, config.accumulator_words)),
            (self.operand_a, walked.p.from_scratchpad, walked.p.place)]
        if config.vector_taps:
            requests.append((self.vector, walked.p.from_vector,
                             part_of(config.rows, config.vector_accumulator_words)))
        lacking = item.use_b & ~b_there
        may = Signal()
        m.d.comb += may.eq(walked.valid & self.room & ~lacking)
        for request, selected, address in requests:
            m.d.comb += [request.p.eq(address), request.valid.eq(selected & may)]
        m.d.comb += [
            self.issued.eq(may & Cat(selected & request.ready
                                     for request, selected, _ in requests).any()),
            walked.ready.eq(self.issued),
        ]
        return walked.valid & lacking
