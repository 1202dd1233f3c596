"""Instruction fetch: reads the descriptor and prefetches the five instruction lists."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, memory, wiring
from amaranth.lib.wiring import In, Out

from .arbiter import RoundRobin
from .config import Config
from .descriptor import Descriptor, instruction_units
from .isa import DESCRIPTOR_BYTES, INSTRUCTION_BYTES, ErrorCode, Opcode, Queue
from .ports import MemoryReadSignature

__all__ = ["Fetch", "beat_layout", "prefetch_slots"]

_QUEUES = len(Queue)
_UNIT_BITS = (INSTRUCTION_BYTES - 1).bit_length()  # lists and descriptors are aligned to this
_OUTSTANDING = 16
"""Requests that wait for their data: behind a LOAD's, some hundred cycles; an instruction may be
wanted every ten."""


def prefetch_slots(config: Config) -> int:
    """Instructions a queue that wait in the prefetch buffer, which is one block RAM or two."""
    return 2 if config.rows <= 4 else 8


def beat_layout(config: Config) -> data.StructLayout:
    """A part of the instruction that goes to a queue: its `index`-th beat."""
    beats = INSTRUCTION_BYTES // config.memory_bytes_per_beat
    return data.StructLayout({"queue": 3, "index": range(max(beats, 2)), "last": 1,
                              "data": 8 * config.memory_bytes_per_beat})


class Fetch(wiring.Component):
    """Fetches programs from main memory.

    After `start` it reads the descriptor at `base` and reports it. Then it keeps the prefetch
    buffer of each queue filled up to the queue's END, and hands out instructions, a beat a cycle,
    to the queues that `want` one. The descriptor and each list begin at a multiple of
    `INSTRUCTION_BYTES`; nothing outside of main memory is read.

    Members
    -------
    start : In(1), base : In(32)
        Begin a run; `base` is looked at then. A running fetch is stopped by resetting it.
    read : Out(MemoryReadSignature)
    hurry : Out(1)
        A queue is about to run out of instructions: the request should not wait.
    described : Out(1)
        Pulse: the descriptor was read. `code` says what is wrong with it (ADDRESS: it lies outside
        of main memory or is not aligned).
    start_queue : In, list_start : Out(32)
        A queue, and the byte address of its list when the descriptor was read.
    want : In(5)
        Queues that have no instruction. `want` falls when the last beat has come.
    beat, beat_valid : Out
        Part of an instruction for a queue that wants one.
    missing : Out(5)
        The queue's next instruction is outside of main memory, or its list is not aligned, and
        everything in front of it has been handed out.
    """

    def __init__(self, config: Config):
        self._config = config
        self._beats = INSTRUCTION_BYTES // config.memory_bytes_per_beat
        super().__init__({
            "start": In(1),
            "base": In(32),
            "read": Out(MemoryReadSignature(config)),
            "hurry": Out(1),
            "described": Out(1),
            "code": Out(ErrorCode),
            "start_queue": In(Queue),
            "list_start": Out(32),
            "want": In(_QUEUES),
            "beat": Out(beat_layout(config)),
            "beat_valid": Out(1),
            "missing": Out(_QUEUES),
        })

    def elaborate(self, platform):
        m = Module()
        config, beats = self._config, self._beats
        units = instruction_units(config)
        slots = prefetch_slots(config)
        slot_bits = (slots - 1).bit_length()

        running = Signal()  # the descriptor was good
        request, taken = Signal(), Signal()
        address = Signal(range(units))
        m.d.comb += [
            self.read.request.valid.eq(request),
            self.read.request.payload.address.eq(address << _UNIT_BITS),
            self.read.request.payload.beats.eq(beats),
            self.read.data.ready.eq(1),  # there is a place for everything that was asked for
            taken.eq(request & self.read.request.ready),
        ]
        with m.If(taken):
            m.d.sync += request.eq(0)

        index = Signal(range(max(beats, 2)))
        arrived, last = self.read.data.valid, index == beats - 1
        with m.If(arrived):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        descriptor = self._descriptor(m, running, request, address, index, arrived, last, units)

        # Per queue: the next instruction to ask for, and the buffer's state.
        following = Array(Signal(range(units), name=f"next_{q}") for q in range(_QUEUES))
        outside = Array(Signal(name=f"outside_{q}") for q in range(_QUEUES))  # there is no such
        reserved = [Signal(range(slots + 1), name=f"reserved_{q}") for q in range(_QUEUES)]
        filled = [Signal(range(slots + 1), name=f"filled_{q}") for q in range(_QUEUES)]
        write_slot = Array(Signal(slot_bits, name=f"write_slot_{q}") for q in range(_QUEUES))
        read_slot = Array(Signal(slot_bits, name=f"read_slot_{q}") for q in range(_QUEUES))
        ended = Array(Signal(name=f"ended_{q}") for q in range(_QUEUES))

        # Requests, in turn, for queues with a free slot.
        m.submodules.owners = owners = fifo.SyncFIFO(width=3, depth=_OUTSTANDING)
        started = Signal()
        m.d.sync += started.eq(running)
        asking = [started & ~ended[q] & ~outside[q] & (reserved[q] != slots)
                  for q in range(_QUEUES)]
        few = Signal(_QUEUES)  # less than half of the slots in use: these go first
        m.d.comb += few.eq(Cat(asking[q] & (reserved[q] < slots // 2) for q in range(_QUEUES)))
        choose, chosen = Signal(), Signal()
        turn = RoundRobin(m, [Mux(few.any(), few[q], asking[q]) for q in range(_QUEUES)],
                          choose, "request")
        choice = Signal(3)
        m.d.comb += [
            choose.eq(~request & ~chosen & owners.w_rdy & Cat(*asking).any()),
            owners.w_en.eq(chosen), owners.w_data.eq(choice),
        ]
        asked = Signal()
        m.d.sync += [chosen.eq(choose), asked.eq(chosen)]
        with m.If(choose):
            m.d.sync += [choice.eq(turn.choice), self.hurry.eq(few.any())]
        with m.If(chosen):
            m.d.sync += [request.eq(1), address.eq(following[choice])]
        # Counted on a cycle later, from one register: the next choice comes no earlier.
        with m.If(asked):
            m.d.sync += [following[choice].eq(address + 1),
                         outside[choice].eq(address == units - 1)]
        for q in range(_QUEUES):
            with m.If(descriptor.known[q]):
                m.d.sync += [following[q].eq(descriptor.units[q]),
                             outside[q].eq(descriptor.outside[q])]

        # Data into the buffer.
        m.submodules.buffer = buffer = memory.Memory(
            shape=8 * config.memory_bytes_per_beat, depth=8 * slots * beats, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        owner = owners.r_data
        beat_bits = (beats - 1).bit_length()
        stored = Signal()
        m.d.comb += [
            stored.eq(running & arrived & last),
            owners.r_en.eq(stored),
            write.addr.eq(Cat(index[:beat_bits], write_slot[owner], owner)),
            write.data.eq(self.read.data.payload),
            write.en.eq(running & arrived),
        ]
        with m.If(stored):
            m.d.sync += write_slot[owner].eq(write_slot[owner] + 1)
        with m.If(running & arrived & (index == 0)
                  & (self.read.data.payload[:4] == Opcode.END)):
            m.d.sync += ended[owner].eq(1)

        # Instructions out of the buffer; a queue is not chosen twice before `want` could fall.
        loading = Signal()
        queue = Signal(3)
        read_index = Signal.like(index)
        done = loading & (read_index == beats - 1)
        fetched = Signal()  # the word of `coming` is at the buffer's output
        coming = Signal(data.StructLayout({
            name: self.beat[name].shape() for name in ("queue", "index", "last")}))
        wanted = [self.want[q] & (filled[q] != 0) & ~(loading & (queue == q))
                  & ~(fetched & (coming.queue == q))
                  & ~(self.beat_valid & (self.beat.queue == q)) for q in range(_QUEUES)]
        select = Signal()
        next_queue = RoundRobin(m, wanted, select, "deliver")
        m.d.comb += [
            select.eq((~loading | done) & Cat(*wanted).any()),
            read.addr.eq(Cat(read_index[:beat_bits], read_slot[queue], queue)),
            read.en.eq(loading),
        ]
        m.d.sync += [
            fetched.eq(loading),
            coming.queue.eq(queue), coming.index.eq(read_index), coming.last.eq(done),
            self.beat_valid.eq(fetched),
            *(self.beat[name].eq(coming[name]) for name in ("queue", "index", "last")),
            self.beat.data.eq(read.data),
        ]
        with m.If(loading):
            m.d.sync += read_index.eq(Mux(done, 0, read_index + 1))
        with m.If(done):
            m.d.sync += read_slot[queue].eq(read_slot[queue] + 1)
        with m.If(select):
            m.d.sync += [loading.eq(1), queue.eq(next_queue.choice)]
        with m.Elif(done):
            m.d.sync += loading.eq(0)

        delivered = self.beat_valid & self.beat.last
        for q in range(_QUEUES):
            out = delivered & (self.beat.queue == q)
            m.d.sync += [
                reserved[q].eq(reserved[q] + (chosen & (choice == q)) - out),
                filled[q].eq(filled[q] + (stored & (owner == q)) - out),
            ]
            m.d.comb += self.missing[q].eq(
                started & ~ended[q] & outside[q] & (reserved[q] == 0))
        return m

    def _descriptor(self, m, running, request, address, index, arrived, last, units):
        """Reads the descriptor; returns what takes it apart."""
        m.submodules.descriptor = descriptor = Descriptor(self._config)
        reading, asked, outside = Signal(), Signal(), Signal()
        assert DESCRIPTOR_BYTES == INSTRUCTION_BYTES

        with m.If(self.start):
            m.d.sync += [
                outside.eq(self.base[:_UNIT_BITS].any() | (self.base[_UNIT_BITS:] >= units)),
                address.eq(self.base[_UNIT_BITS:]),
                reading.eq(1),
            ]
        with m.If(reading & outside):
            m.d.sync += reading.eq(0)
            m.d.comb += [self.described.eq(1), self.code.eq(ErrorCode.ADDRESS)]
        with m.Elif(reading & ~asked):
            m.d.sync += [request.eq(1), asked.eq(1)]

        complete = Signal()
        m.d.sync += complete.eq(reading & arrived & last)
        with m.If(reading & arrived & last):
            m.d.sync += reading.eq(0)
        with m.If(complete):
            m.d.comb += [self.described.eq(1),
                         self.code.eq(Mux(descriptor.good, ErrorCode.NONE, ErrorCode.DESCRIPTOR))]
            m.d.sync += running.eq(descriptor.good)
        m.d.comb += [
            descriptor.valid.eq(reading & arrived),
            descriptor.index.eq(index),
            descriptor.data.eq(self.read.data.payload),
            descriptor.queue.eq(self.start_queue),
            self.list_start.eq(descriptor.start),
        ]
        return descriptor
