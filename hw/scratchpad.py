"""The activation scratchpad: banks behind a fixed-priority crossbar."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from .config import Config
from .ports import ScratchpadReadSignature, scratchpad_latency, scratchpad_write_signature
from .registered_memory import REGISTERED_LATENCY, RegisteredMemory

__all__ = ["READ_CLIENTS", "WRITE_CLIENTS", "Scratchpad", "read_groups"]

READ_CLIENTS = ("array", "vector", "operand_b", "operand_a", "store")
"""Readers, highest priority first."""

WRITE_CLIENTS = ("post", "load")
"""Writers, highest priority first."""


def read_groups(config: Config) -> tuple[tuple[str, ...], ...]:
    """Readers that have one way to the banks between them, the groups in order of priority.

    Where the post-processor's lanes need four cycles or more for a word, its operands and the store
    mover, which is as slow as main memory, hardly ever meet.
    """
    slow = ("operand_b", "operand_a", "store")
    if 4 * config.lanes > config.rows:
        return tuple((name,) for name in READ_CLIENTS)
    return (*((name,) for name in READ_CLIENTS if name not in slow), slow)


class Scratchpad(wiring.Component):
    """`scratchpad_banks` memories of `rows`-byte words, each with one read and one write a cycle.

    Consecutive addresses lie in consecutive banks, so that two clients that walk through memory
    word by word meet once and then run side by side. In each bank and cycle the reader and the
    writer of the highest priority are served; the others wait, and so do readers of a group of
    `read_groups` when one of higher priority asks, for whatever bank. A read that is accepted
    after a write sees it; one accepted in the same cycle reads the old word.

    Nobody waits forever: an instruction makes a finite number of accesses and a program has no
    jumps, so that whoever has priority runs out of accesses, at the latest when its next
    instruction waits for the one that waits here.

    Members
    -------
    array, vector, operand_b, operand_a, store : In(ScratchpadReadSignature)
        Readers, in order of falling priority; data `scratchpad_latency` cycles after acceptance.
    post, load : In(scratchpad_write_signature)
        Writers, in order of falling priority, with a byte mask.
    """

    def __init__(self, config: Config):
        self._config = config
        self._bank_bits = config.scratchpad_banks.bit_length() - 1
        super().__init__({
            **{name: In(ScratchpadReadSignature(config)) for name in READ_CLIENTS},
            **{name: In(scratchpad_write_signature(config)) for name in WRITE_CLIENTS},
        })

    def _bank_of(self, address):
        """The bank of a word, whose place in it is told by the other bits."""
        return address[:self._bank_bits]

    def elaborate(self, platform):
        m = Module()
        config = self._config
        readers = [getattr(self, name) for name in READ_CLIENTS]
        writers = [getattr(self, name) for name in WRITE_CLIENTS]

        def serve(requests, addresses, groups):
            """Accept a request unless one of higher priority wants the same bank, or is of the same
            group."""
            for index, request in enumerate(requests):
                blocked = [requests[k].valid & ((groups[k] == groups[index]) | (
                    self._bank_of(addresses[k]) == self._bank_of(addresses[index])))
                    for k in range(index)]
                m.d.comb += request.ready.eq(~Cat(*blocked).any())

        groups = read_groups(config)
        serve([reader.request for reader in readers],
              [reader.request.payload for reader in readers],
              [number for number, group in enumerate(groups) for _ in group])
        serve(writers, [writer.payload.address for writer in writers], range(len(writers)))

        # A group as one reader: the address that may be accepted, and whether one is asked for.
        ways = []
        for group in groups:
            members = [getattr(self, name) for name in group]
            asked, address = Signal(), Signal(range(config.scratchpad_words))
            m.d.comb += asked.eq(Cat(member.request.valid for member in members).any())
            chosen = members[-1].request.payload
            for member in reversed(members[:-1]):
                chosen = Mux(member.request.valid, member.request.payload, chosen)
            m.d.comb += address.eq(chosen)
            ways.append((members, asked, address))

        if config.scratchpad_banks == 1:
            self._one_bank(m, ways, writers)
        else:
            self._banks(m, ways, writers)
        return m

    def _banks(self, m, ways, writers):
        """Banks behind multiplexers, and a register behind the one that chooses an answer."""
        config = self._config
        read_data = []
        for bank in range(config.scratchpad_banks):
            m.submodules[f"bank_{bank}"] = storage = memory.Memory(
                shape=8 * config.rows, depth=config.scratchpad_bank_words, init=[])
            write, read = storage.write_port(granularity=8), storage.read_port()
            read_data.append(read.data)
            # Statements further down win: the lowest priority comes first.
            for _, asked, address in reversed(ways):
                with m.If(asked & (self._bank_of(address) == bank)):
                    m.d.comb += [read.addr.eq(address[self._bank_bits:]), read.en.eq(1)]
            for writer in reversed(writers):
                item = writer.payload
                with m.If(writer.valid & (self._bank_of(item.address) == bank)):
                    m.d.comb += [write.addr.eq(item.address[self._bank_bits:]),
                                 write.data.eq(item.data), write.en.eq(item.mask)]

        for members, _, address in ways:
            accepted = Signal()
            bank = Signal(range(config.scratchpad_banks))
            answer = Signal(8 * config.rows)
            m.d.sync += accepted.eq(Cat(
                member.request.valid & member.request.ready for member in members).any())
            m.d.sync += bank.eq(self._bank_of(address))
            with m.If(accepted), m.Switch(bank):
                for index, word in enumerate(read_data):
                    with m.Case(index):
                        m.d.sync += answer.eq(word)
            m.d.comb += [member.data.eq(answer) for member in members]

    def _one_bank(self, m, ways, writers):
        """One bank needs no multiplexer behind it: there are registers on both sides, where wires
        from and to all its blocks are long. Wide words have two of those in front, each beside a
        half of the blocks."""
        config = self._config
        halves = 2 if config.rows >= 8 else 1
        rows = config.rows // halves
        address = Signal(range(config.scratchpad_words))
        for _, asked, wanted in reversed(ways):
            with m.If(asked):
                m.d.comb += address.eq(wanted)
        item = Signal.like(writers[0].payload)
        for writer in reversed(writers):
            with m.If(writer.valid):
                m.d.comb += item.eq(writer.payload)
        written = Cat(writer.valid for writer in writers).any()
        words = []
        for half in range(halves):
            m.submodules[f"half_{half}"] = storage = RegisteredMemory(config.scratchpad_words, rows)
            # Registers that are equal but for their first value stay two when tools look for
            # equal ones.
            first = (config.scratchpad_words - 1) * half
            place = Signal.like(address, init=first, name=f"read_address_{half}")
            target = Signal.like(address, init=first, name=f"write_address_{half}")
            enable, data = Signal(rows, name=f"mask_{half}"), Signal(8 * rows, name=f"data_{half}")
            m.d.sync += [
                place.eq(address), target.eq(item.address),
                data.eq(item.data.word_select(half, 8 * rows)),
                enable.eq(item.mask.word_select(half, rows) & written.replicate(rows)),
            ]
            m.d.comb += [storage.read_address.eq(place), storage.write_address.eq(target),
                         storage.write_data.eq(data), storage.write_mask.eq(enable)]
            words.append(storage.read_data)
        answers = [Cat(words)] * len(ways)
        if scratchpad_latency(config) > 1 + REGISTERED_LATENCY:
            # One for the array, and one for all others: as above, they differ in their first value.
            bits = 8 * config.rows
            half_way = [Signal(bits, reset_less=True, init=init, name=f"half_way_{number}")
                        for number, init in enumerate((0, (1 << bits) - 1))]
            m.d.sync += [register.eq(Cat(words)) for register in half_way]
            answers = [half_way[min(number, 1)] for number in range(len(ways))]
        for (members, _, _), answer in zip(ways, answers, strict=True):
            m.d.comb += [member.data.eq(answer) for member in members]
