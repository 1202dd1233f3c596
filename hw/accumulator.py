"""Accumulator memory: int32 words that values are added to in place."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .ports import AccumulatorReadSignature

__all__ = ["REWRITE_DELAY", "VALUE_DELAY", "AccumulatorMemory", "HazardGuard"]

REWRITE_DELAY = 2
"""Cycles from the reading of a word to its writing."""

VALUE_DELAY = 1 + REWRITE_DELAY
"""Cycles from the address of an accumulation to its values, and to the write."""


class HazardGuard(wiring.Component):
    """Says which address may not be accumulated to yet, because a write to it is under way.

    An accumulation reads its word `REWRITE_DELAY` cycles before it writes it, so that the same
    address must not follow within so many cycles. Pipelines of fixed latency keep the distances at
    which addresses were issued, hence the issuing side asks here and waits. The addresses that may
    come next are compared a cycle ahead.

    Parameters
    ----------
    address_bits : int
        Width of the address.
    choices : int
        Number of addresses that may follow.

    Members
    -------
    address : In
        Address that might be issued in this cycle.
    issue : In(1)
        It is; only together with `moves`.
    moves : In(1)
        In the next cycle one of `following` is on `address`; otherwise the same.
    following : In
        Addresses that may be.
    follows : In
        A bit for each: it will, if `moves`; of several the last. One of them has its bit.
    busy : Out(1)
        `address` must not be issued.
    """

    def __init__(self, address_bits: int, choices: int):
        super().__init__({
            "address": In(address_bits), "issue": In(1),
            "moves": In(1), "following": In(data.ArrayLayout(address_bits, choices)),
            "follows": In(choices), "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        # What the next cycle's address must differ from: those that were issued before this one,
        # and this one if it is issued, which is known last.
        before, last = [], (self.issue, self.address)
        for age in range(1, REWRITE_DELAY):
            issued = Signal(name=f"issued_{age}")
            address = Signal.like(self.address, name=f"address_{age}", reset_less=True)
            m.d.sync += [issued.eq(last[0]), address.eq(last[1])]
            last = issued, address
            before.append(last)

        def meets(following):
            return Cat(issued & (address == following) for issued, address in before).any()

        stays, unless, issued = Signal(), Signal(), Signal()
        m.d.comb += stays.eq(meets(self.address))
        for choice, follows in enumerate(self.follows):
            with m.If(follows):
                m.d.comb += [
                    unless.eq(meets(self.following[choice])),
                    issued.eq(unless | (self.address == self.following[choice])),
                ]
        with m.If(self.moves):
            m.d.sync += self.busy.eq(Mux(self.issue, issued, unless))
        with m.Else():
            m.d.sync += self.busy.eq(stays)
        return m


class AccumulatorMemory(wiring.Component):
    """Two halves of words of `lanes` int32 values, accumulated in place at one word a cycle.

    The lower half of the addresses is one half. Reads of the half that an accumulation reads in
    the same cycle are refused; the other half can always be read.

    Parameters
    ----------
    lanes : int
        Values a word.
    words_per_half : int
        Words a half, a power of two.
    value_bits : int
        Width of the signed values that come in; at most 32.
    maximum : bool
        Whether an accumulation may keep the larger value, instead of adding.
    read_lanes : int
        Values of a word that are read at a time; all by default. They are picked in front of the
        register of the answer, which need not hold what nobody looks at.

    Members
    -------
    i : In
        One accumulation: in a cycle with `valid` the `address`, `overwrite` (the word's contents do
        not count) and `maximum` (keep the larger value; only if the parameter says so);
        `VALUE_DELAY` cycles later its `values`. The word is read in the cycle behind the address,
        so that who else would like to read is refused by a register. The address of one must differ
        from those of the `REWRITE_DELAY` cycles before it (`HazardGuard`). `last` asks for `done`,
        in a cycle with or without `valid`.
    done : Out(1)
        All accumulations up to a cycle with `last` have been written: reads accepted from now on
        see them.
    read : In(AccumulatorReadSignature)
        The other engine's reads.
    """

    def __init__(self, lanes: int, words_per_half: int, *, value_bits: int, maximum: bool = False,
                 read_lanes: int | None = None):
        if not 1 <= value_bits <= 32:
            raise ValueError(f"value_bits must be between 1 and 32, not {value_bits}")
        if words_per_half < 2 or words_per_half & (words_per_half - 1):
            raise ValueError(f"words_per_half must be a power of two, not {words_per_half}")
        self.lanes = lanes
        self.words_per_half = words_per_half
        self.maximum = maximum
        self._read_lanes = read_lanes or lanes
        super().__init__({
            "i": In(wiring.Signature({
                "valid": Out(1), "address": Out(range(2 * words_per_half)), "overwrite": Out(1),
                "last": Out(1), **({"maximum": Out(1)} if maximum else {}),
                "values": Out(data.ArrayLayout(signed(value_bits), lanes))})),
            "done": Out(1),
            "read": In(AccumulatorReadSignature(
                self._read_lanes, 2 * words_per_half, lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        i, read = self.i, self.read
        word = data.ArrayLayout(signed(32), self.lanes)
        accumulates = Signal(2)     # an accumulation reads its word, of this half
        m.d.sync += accumulates.eq(Mux(i.valid & ~i.overwrite, 1 << i.address[-1], 0))

        halves = []
        for half in range(2):
            m.submodules[f"half_{half}"] = memory = Memory(
                shape=word.as_shape(), depth=self.words_per_half, init=[])
            halves.append((memory.read_port(), memory.write_port(
                granularity=32 if self.maximum else None)))

        # Address, memory output, operand: three stages behind `i`, the last of which writes.
        stages = []
        stage = {"valid": i.valid, "address": i.address, "overwrite": i.overwrite, "last": i.last}
        if self.maximum:
            stage["maximum"] = i.maximum
        for number in range(1, 1 + VALUE_DELAY):
            following = {}
            for name, signal in stage.items():
                following[name] = Signal.like(signal, name=f"{name}_{number}",
                                              reset_less=name not in ("valid", "last"))
                m.d.sync += following[name].eq(signal)
            stage = following
            stages.append(stage)
        reading, fetched, summed = stages

        read_accepted = Signal()
        read_half = Signal()
        part_bits = (self.lanes // self._read_lanes - 1).bit_length()
        read_part = Signal(part_bits)
        read_address = read.request.payload[part_bits:]
        m.d.comb += [
            read.request.ready.eq(~accumulates.bit_select(read_address[-1], 1)),
            read_accepted.eq(read.request.valid & read.request.ready),
        ]
        m.d.sync += [read_half.eq(read_address[-1]),
                     read_part.eq(read.request.payload[:part_bits])]
        read_fetched = Signal()
        m.d.sync += read_fetched.eq(read_accepted)

        operand = Signal(word, reset_less=True)
        result, writes = Signal(word), Signal(self.lanes)
        with m.If(fetched["valid"]):
            neutral = 0
            if self.maximum:
                neutral = Mux(fetched["maximum"], -1 << 31, 0)
            for lane in range(self.lanes):
                m.d.sync += operand[lane].eq(Mux(
                    fetched["overwrite"], neutral,
                    Mux(fetched["address"][-1], *(port.data[32 * lane:32 * lane + 32]
                                                  for port in (halves[1][0], halves[0][0])))))
        for lane in range(self.lanes):
            old, new = operand[lane], i.values[lane]
            total = old + new
            if self.maximum:
                # Where the old value is larger it stays: nothing is written.
                m.d.comb += writes[lane].eq(~summed["maximum"] | (new >= old))
                total = Mux(summed["maximum"], new, total)
            else:
                m.d.comb += writes[lane].eq(1)
            m.d.comb += result[lane].eq(total)

        # The memory answers late: of the parts of a word one in two is picked at once, and what is
        # left of them, in both halves, is picked in the cycle behind.
        answers = []
        low = read_part[:1]
        for half, (port, _) in enumerate(halves):
            parts = [port.data.word_select(k, 32 * self._read_lanes)
                     for k in range(self.lanes // self._read_lanes)]
            groups = [parts[k:k + 2] for k in range(0, len(parts), 2)]
            for k, group in enumerate(groups):
                answer = Signal(32 * self._read_lanes, name=f"answer_{half}_{k}", reset_less=True)
                with m.If(read_fetched):
                    m.d.sync += answer.eq(Cat(group).word_select(low, len(answer))
                                          if len(group) > 1 else group[0])
                answers.append(answer)
        answered = Signal(range(len(answers)))
        with m.If(read_fetched):
            m.d.sync += answered.eq(Cat(read_part[1:], read_half))
        m.d.comb += read.data.eq(Cat(answers).word_select(answered, 32 * self._read_lanes))

        for half, (read_port, write_port) in enumerate(halves):
            own = accumulates[half]
            m.d.comb += [
                # It reads all the time, as whether somebody looks at the answer is known late.
                read_port.addr.eq(Mux(own, reading["address"], read_address)),
                write_port.addr.eq(summed["address"]),
                write_port.data.eq(result),
                write_port.en.eq(Mux(summed["valid"] & (summed["address"][-1] == half),
                                     writes if self.maximum else 1, 0)),
            ]
        m.d.sync += self.done.eq(summed["last"])
        return m
