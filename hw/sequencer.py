"""The sequencer: starts instructions when their thresholds are met, ends runs, reports errors."""

from amaranth import Array, Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .fetch import beat_layout
from .head import ENGINE_LAYOUTS, Head, count_bits, engine_queues
from .isa import INSTRUCTION_BYTES, ErrorCode, Queue
from .ports import EngineSignature

__all__ = ["Sequencer", "add_run_domain"]

_QUEUES = len(Queue)


def _first(conditions):
    """Index of the first condition that holds, and whether one does."""
    index = 0
    for k in reversed(range(len(conditions))):
        index = Mux(conditions[k], k, index)
    return index, Cat(*conditions).any()


def add_run_domain(m, name, fresh):
    """A local domain for what must not know of earlier runs: `fresh` is its reset.

    Its registers have that reset and no other: anything in front of it would be in the way to
    thousands of them.
    """
    domain = ClockDomain(name, local=True)
    m.domains += domain
    m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(fresh)]


class Sequencer(wiring.Component):
    """Runs programs.

    An instruction is given to its engine when it was decoded, its thresholds are met, and the
    engine takes it; END retires when everything in front of it has. The run is over when all five
    queues have retired their END, or at the first error. Errors that show in the same cycle: the
    lowest queue's counts, and before DEADLOCK, WATCHDOG and CANCELLED, in this order. An error
    names the oldest instruction of its queue that has not retired; WATCHDOG and CANCELLED that of
    the lowest queue with an instruction in its engine, or else of the lowest unfinished queue.
    Until the queues are known the address is the descriptor's, and the queue LOAD.

    After a run, good or bad, `clear` is held until `drained`; then the next may start.

    Members
    -------
    start, cancel, watchdog, busy, error, error_queue, error_address
        As in `ControlSignature`; a `watchdog` of 0 never expires.
    load, array, vector, post, store : Out(EngineSignature)
        The engines that there are.
    fetch_start, base, described, code, start_queue, list_start, want, beat, beat_valid, missing
        See `Fetch`.
    clear : Out(1), drained : In(1)
        What a run left behind is thrown away; nothing of it is left in the memory system.
    fresh : Out(1)
        The same as `clear`, and 1 in the cycle after the domain's reset as well: the reset of
        `add_run_domain`, which nothing else waits for.
    begin : Out(1), running : Out(1)
        Pulse when a run starts; the run goes on.
    waiting, retired, marked : Out(5)
        A queue does nothing because thresholds are not met; an instruction retires; it is marked.
    log_pending : In(1)
        Marks are still being written.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "start": In(stream.Signature(32)),
            "cancel": In(1),
            "watchdog": In(32),
            "busy": Out(1),
            "error": Out(ErrorCode),
            "error_queue": Out(Queue),
            "error_address": Out(32),
            **{queue.name.lower(): Out(EngineSignature(ENGINE_LAYOUTS[queue]))
               for queue in engine_queues(config)},
            "fetch_start": Out(1),
            "base": Out(32),
            "described": In(1),
            "code": In(ErrorCode),
            "start_queue": Out(Queue),
            "list_start": In(32),
            "want": Out(_QUEUES),
            "beat": In(beat_layout(config)),
            "beat_valid": In(1),
            "missing": In(_QUEUES),
            "clear": Out(1),
            "fresh": Out(1, init=1),
            "drained": In(1),
            "begin": Out(1),
            "running": Out(1),
            "waiting": Out(_QUEUES),
            "retired": Out(_QUEUES),
            "marked": Out(_QUEUES),
            "log_pending": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        counts = Array(Signal(count_bits(self._config), name=f"retired_{queue.name.lower()}")
                       for queue in Queue)
        add_run_domain(m, "heads", self.fresh)
        heads = []
        codes = [Signal(ErrorCode, name=f"code_{queue.name.lower()}") for queue in Queue]
        for queue in Queue:
            head = Head(self._config, queue)
            m.submodules[f"head_{queue.name.lower()}"] = DomainRenamer("heads")(head)
            heads.append(head)
            engine = getattr(self, queue.name.lower(), None)
            if engine is not None:
                wiring.connect(m, head.engine, wiring.flipped(engine))
            m.d.comb += [
                head.beat.eq(self.beat),
                head.beat_valid.eq(self.beat_valid & (self.beat.queue == queue)),
                *(head.counts[other].eq(counts[other]) for other in Queue),
                self.want[queue].eq(head.want),
                self.waiting[queue].eq(self.running & head.waiting),
                self.retired[queue].eq(self.running & head.retire),
                self.marked[queue].eq(self.running & head.retire & head.mark),
            ]
            # Errors stay until the engines are cleared, so that they may be looked at later.
            with m.If(~self.running):
                m.d.sync += codes[queue].eq(ErrorCode.NONE)
            with m.Elif((head.code == ErrorCode.NONE) & head.want & head.idle
                        & self.missing[queue]):
                m.d.sync += codes[queue].eq(ErrorCode.ADDRESS)
            with m.Else():
                m.d.sync += codes[queue].eq(head.code)
            # Stopping at the last count keeps every threshold met, however long the list is.
            with m.If(self.begin):
                m.d.sync += counts[queue].eq(0)
            with m.Elif(self.retired[queue] & ~counts[queue].all()):
                m.d.sync += counts[queue].eq(counts[queue] + 1)
        self._control(m, heads, counts, codes)
        return m

    def _control(self, m, heads, counts, codes):
        known = Signal()  # the descriptor was good
        base = Signal(32)
        # Since anything retired, of which `restarts` tells a cycle late.
        idle_cycles, restarts, expired = Signal(32), Signal(), Signal()
        finished = Cat(head.ended for head in heads).all()
        # A cycle old, as the comparison of thresholds is long.
        goes_on, stopped = Signal(), Signal(_QUEUES)
        m.d.sync += [goes_on.eq(self.running & ~finished),
                     stopped.eq(Cat(head.ended | head.stuck for head in heads))]

        failed, any_failed = _first([code != ErrorCode.NONE for code in codes])
        unfinished, _ = _first([~head.ended for head in heads])
        executing, any_executing = _first([~head.idle for head in heads])
        oldest = Mux(any_executing, executing, unfinished)

        found = Signal(data.StructLayout({"code": ErrorCode, "queue": Queue}))
        with m.If(self.described & (self.code != ErrorCode.NONE)):
            m.d.comb += [found.code.eq(self.code), found.queue.eq(Queue.LOAD)]
        with m.Elif(any_failed):
            m.d.comb += [found.code.eq(Array(codes)[failed]), found.queue.eq(failed)]
        with m.Elif(goes_on & stopped.all()):
            m.d.comb += [found.code.eq(ErrorCode.DEADLOCK), found.queue.eq(unfinished)]
        with m.Elif(expired):
            m.d.comb += [found.code.eq(ErrorCode.WATCHDOG), found.queue.eq(oldest)]
        with m.Elif(self.cancel):
            m.d.comb += [found.code.eq(ErrorCode.CANCELLED), found.queue.eq(oldest)]

        # Acted on a cycle later; no queue with an error retires anything in between.
        stop = Signal.like(found)
        with m.If(self.running):
            m.d.sync += stop.eq(found)
        with m.Else():
            m.d.sync += stop.code.eq(ErrorCode.NONE)

        m.d.sync += [restarts.eq(self.retired.any()),
                     expired.eq(self.running & (self.watchdog != 0) & ~restarts
                                & (idle_cycles >= self.watchdog))]
        m.d.comb += [
            self.base.eq(base),
            self.start_queue.eq(self.error_queue),
            self.busy.eq(1),
        ]
        flushing = Signal()
        in_front = Signal.like(counts[0])   # instructions to be added to the error's address
        m.d.sync += [self.fresh.eq(0), self.clear.eq(0)]
        with m.FSM(name="run"):
            with m.State("IDLE"):
                m.d.comb += [
                    self.busy.eq(0),
                    self.start.ready.eq(1),
                    self.begin.eq(self.start.valid),
                ]
                m.d.sync += [base.eq(self.start.payload), known.eq(0), idle_cycles.eq(0)]
                with m.If(self.start.valid):
                    m.d.sync += [
                        self.running.eq(1),
                        self.error.eq(ErrorCode.NONE), self.error_queue.eq(Queue.LOAD),
                        self.error_address.eq(0),
                    ]
                    m.next = "START"
            with m.State("START"):
                m.d.comb += self.fetch_start.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += idle_cycles.eq(Mux(restarts, 1, idle_cycles + 1))
                with m.If(self.described):
                    m.d.sync += known.eq(self.code == ErrorCode.NONE)
                with m.If(stop.code != ErrorCode.NONE):
                    m.d.sync += [self.error.eq(stop.code), self.error_queue.eq(stop.queue),
                                 self.running.eq(0)]
                    m.next = "LOCATE"
                with m.Elif(finished & ~self.log_pending):
                    m.d.sync += [self.running.eq(0), self.fresh.eq(1), self.clear.eq(1)]
                    m.next = "FLUSH"
            with m.State("LOCATE"):
                # What retired in the cycle of the error was in front of it, and is counted by now.
                with m.If(known):
                    m.d.sync += [self.error_address.eq(self.list_start),
                                 in_front.eq(counts[self.error_queue])]
                with m.Else():
                    m.d.sync += self.error_address.eq(base)
                m.d.sync += [self.fresh.eq(1), self.clear.eq(1)]
                m.next = "FLUSH"
            with m.State("FLUSH"):
                # What engines were about to ask for shows in `drained` one cycle later.
                m.d.sync += [flushing.eq(1), self.fresh.eq(1), self.clear.eq(1), in_front.eq(0),
                             self.error_address.eq(self.error_address
                                                   + in_front * INSTRUCTION_BYTES)]
                with m.If(flushing & self.drained):
                    m.d.sync += [flushing.eq(0), self.fresh.eq(0), self.clear.eq(0)]
                    m.next = "IDLE"
