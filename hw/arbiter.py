"""Several masters on one main memory port."""

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .ports import MAX_BURST_BEATS, MemoryReadSignature, memory_write_signature
from .slices import register_slice

__all__ = ["MemoryArbiter", "RoundRobin"]


class RoundRobin:
    """Adds to `m` a choice among `requests` that takes turns.

    `choice` is the index of the next request behind the one that was chosen when `advance` was
    last 1; without any request it means nothing. `grants` are the requests but for those that are
    not chosen: the same as bits, which are known earlier.
    """

    def __init__(self, m, requests, advance, name):
        count = len(requests)
        self.choice = Signal(range(max(count, 2)), name=f"{name}_choice")
        self.grants = Signal(count, name=f"{name}_grants")
        last = Signal(range(max(count, 2)), name=f"{name}_last")
        with m.Switch(last):
            for previous in range(count):
                with m.Case(previous):
                    order = [(previous + distance) % count for distance in range(1, count + 1)]
                    for place, index in enumerate(order):
                        earlier = Cat(requests[other] for other in order[:place]).any()
                        m.d.comb += self.grants[index].eq(requests[index] & ~earlier)
                    first = Const(0)
                    for index in reversed(order):
                        first = Mux(requests[index], index, first)
                    m.d.comb += self.choice.eq(first)
        with m.If(advance):
            m.d.sync += last.eq(self.choice)


class MemoryArbiter(wiring.Component):
    """Puts several readers and writers on one main memory port, in turn.

    A turn is a burst of a reader, or a beat of a writer. Several bursts may be outstanding; data
    goes back in the order of the requests. A reader asks only for what it takes without delay:
    beats that are not taken hold up everybody's. A reader with `hurry` does not wait for its
    turn; it must not ask so without end.

    Requests and writes are held in a register before they reach the memory, so that the port sees
    no request vanish, whatever is reset; another one ends the logic of the readers. A read still
    never overtakes a write that was accepted before it.

    Parameters
    ----------
    config : Config
    readers, writers : int
        Number of masters of either kind.

    Members
    -------
    readers, writers
        Arrays of In(MemoryReadSignature) and In(memory_write_signature).
    memory_read, memory_write : Out
        The port.
    discard : In(readers)
        Readers whose requests vanish and whose data is thrown away.
    hurry : In(readers)
        Readers whose request goes first.
    reads_pending, writes_pending : Out
        A bit a master: it has data outstanding, or a write that the memory has not accepted.
    """

    def __init__(self, config: Config, readers: int, writers: int):
        for name, value in (("readers", readers), ("writers", writers)):
            if not 1 <= value <= 8:
                raise ValueError(f"{name} must be between 1 and 8, not {value}")
        self._config = config
        self._depth = config.outstanding_reads
        read, write = MemoryReadSignature(config), memory_write_signature(config)
        super().__init__({
            "readers": In(read).array(readers),
            "writers": In(write).array(writers),
            "memory_read": Out(read),
            "memory_write": Out(write),
            "discard": In(readers),
            "hurry": In(readers),
            "reads_pending": Out(readers),
            "writes_pending": Out(writers),
        })

    def elaborate(self, platform):
        m = Module()
        blocked = self._writes(m)
        self._reads(m, blocked)
        return m

    def _writes(self, m):
        """The writers' side. Returns what a read accepted now must wait for."""
        held = Signal()
        owner = Signal(range(max(len(self.writers), 2)))
        port = self.memory_write
        taken = Signal()
        m.d.comb += [port.valid.eq(held), taken.eq(~held | port.ready)]
        accepted = Signal()
        turn = RoundRobin(m, [writer.valid for writer in self.writers], accepted, "writer")
        m.d.comb += accepted.eq(taken & Cat(writer.valid for writer in self.writers).any())
        with m.If(taken):
            m.d.sync += held.eq(accepted)
        with m.Switch(turn.choice):
            for index, writer in enumerate(self.writers):
                with m.Case(index):
                    m.d.comb += writer.ready.eq(taken)
                    with m.If(taken):
                        m.d.sync += [port.payload.eq(writer.payload), owner.eq(index)]
        m.d.comb += self.writes_pending.eq(Mux(held, Const(1, len(self.writers)) << owner, 0))
        return held & ~port.ready

    def _wish(self, m, index):
        """A reader's requests, out of a register that is emptied when they are discarded."""
        reader, discard = self.readers[index], self.discard[index]
        wish = register_slice(self._config, data.StructLayout({
            "request": reader.request.payload.shape(), "hurry": 1}))
        m.submodules[f"wish_{index}"] = ResetInserter(discard)(wish)
        m.d.comb += [
            wish.i.payload.request.eq(reader.request.payload),
            wish.i.payload.hurry.eq(self.hurry[index]),
            wish.i.valid.eq(reader.request.valid),
            reader.request.ready.eq(wish.i.ready),
        ]
        return wish.o

    def _reads(self, m, write_waits):
        port = self.memory_read
        count = len(self.readers)
        # Owner and length of each burst whose data has not all arrived.
        m.submodules.bursts = bursts = fifo.SyncFIFOBuffered(
            width=3 + (MAX_BURST_BEATS - 1).bit_length(), depth=self._depth)
        outstanding = [Signal(range(self._depth + 1), name=f"outstanding_{index}")
                       for index in range(count)]

        held = Signal()
        # A write that the memory has not taken yet and that was there before the held request.
        older_write = Signal()
        wishes = [self._wish(m, index) for index in range(count)]
        requests = [wish.valid & ~self.discard[index] for index, wish in enumerate(wishes)]
        taken, accepted = Signal(), Signal()
        m.d.comb += [
            port.request.valid.eq(held & ~older_write),
            taken.eq((~held | (port.request.ready & ~older_write)) & bursts.w_rdy),
            accepted.eq(taken & Cat(*requests).any()),
            bursts.w_en.eq(accepted),
        ]
        hurried = Signal(count)
        m.d.comb += hurried.eq(Cat(*requests) & Cat(wish.payload.hurry for wish in wishes))
        turn = RoundRobin(m, requests, accepted & ~hurried.any(), "reader")
        chosen = turn.choice
        for index in reversed(range(count)):
            chosen = Mux(hurried[index], index, chosen)
        choice = Signal.like(turn.choice)
        m.d.comb += choice.eq(chosen)
        with m.If(accepted):
            m.d.sync += held.eq(1)
        with m.Elif(port.request.ready & ~older_write):
            m.d.sync += held.eq(0)
        with m.If(accepted):
            m.d.sync += older_write.eq(write_waits)
        with m.Elif(~write_waits):
            m.d.sync += older_write.eq(0)
        # Without any the request held is none, whatever it says.
        with m.Switch(choice):
            for index, wish in enumerate(wishes):
                request = wish.payload.request
                with m.Case(index):
                    m.d.comb += bursts.w_data.eq(Cat(Const(index, 3), request.beats - 1))
                    with m.If(taken):
                        m.d.sync += port.request.payload.eq(request)
        granted = Signal(count)
        for index, wish in enumerate(wishes):
            m.d.comb += [
                granted[index].eq(Mux(hurried.any(),
                                      hurried[index] & ~hurried[:index].any(),
                                      turn.grants[index])),
                wish.ready.eq(taken & granted[index]),
            ]

        owner, length = bursts.r_data[:3], bursts.r_data[3:]
        beat = Signal.like(length)
        moved, finished = Signal(), Signal()
        m.d.comb += [
            moved.eq(bursts.r_rdy & port.data.valid & port.data.ready),
            finished.eq(moved & (beat == length)),
            bursts.r_en.eq(finished),
        ]
        with m.If(moved):
            m.d.sync += beat.eq(Mux(finished, 0, beat + 1))
        with m.Switch(owner):
            for index, reader in enumerate(self.readers):
                with m.Case(index):
                    m.d.comb += port.data.ready.eq(
                        bursts.r_rdy & (reader.data.ready | self.discard[index]))
        for index, reader in enumerate(self.readers):
            mine = owner == index
            m.d.comb += [
                reader.data.payload.eq(port.data.payload),
                reader.data.valid.eq(
                    bursts.r_rdy & port.data.valid & mine & ~self.discard[index]),
                self.reads_pending[index].eq(outstanding[index] != 0),
            ]
            begun = taken & granted[index]
            m.d.sync += outstanding[index].eq(outstanding[index] + begun - (finished & mine))
