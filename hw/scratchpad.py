"""The activation scratchpad: banks behind a fixed-priority crossbar."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from .config import Config
from .ports import ScratchpadReadSignature, scratchpad_write_signature

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
        Readers, in order of falling priority; data `SCRATCHPAD_LATENCY` cycles after acceptance.
    post, load : In(scratchpad_write_signature)
        Writers, in order of falling priority, with a byte mask.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            **{name: In(ScratchpadReadSignature(config)) for name in READ_CLIENTS},
            **{name: In(scratchpad_write_signature(config)) for name in WRITE_CLIENTS},
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        bank_bits = config.scratchpad_banks.bit_length() - 1
        readers = [getattr(self, name) for name in READ_CLIENTS]
        writers = [getattr(self, name) for name in WRITE_CLIENTS]

        def bank_of(address):
            return address[:bank_bits]

        def serve(requests, addresses, groups):
            """Accept a request unless one of higher priority wants the same bank, or is of the same
            group."""
            for index, request in enumerate(requests):
                blocked = [requests[k].valid & ((groups[k] == groups[index]) | (
                    bank_of(addresses[k]) == bank_of(addresses[index]))) for k in range(index)]
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

        read_data = []
        for bank in range(config.scratchpad_banks):
            m.submodules[f"bank_{bank}"] = storage = memory.Memory(
                shape=8 * config.rows, depth=config.scratchpad_bank_words, init=[])
            write, read = storage.write_port(granularity=8), storage.read_port()
            read_data.append(read.data)
            # Statements further down win: the lowest priority comes first.
            for _, asked, address in reversed(ways):
                with m.If(asked & (bank_of(address) == bank)):
                    m.d.comb += [read.addr.eq(address[bank_bits:]), read.en.eq(1)]
            for writer in reversed(writers):
                item = writer.payload
                with m.If(writer.valid & (bank_of(item.address) == bank)):
                    m.d.comb += [write.addr.eq(item.address[bank_bits:]), write.data.eq(item.data),
                                 write.en.eq(item.mask)]

        for members, _, address in ways:
            accepted = Signal()
            bank = Signal(range(config.scratchpad_banks))
            answer = Signal(8 * config.rows)
            m.d.sync += accepted.eq(Cat(
                member.request.valid & member.request.ready for member in members).any())
            m.d.sync += bank.eq(bank_of(address))
            with m.If(accepted), m.Switch(bank):
                for index, word in enumerate(read_data):
                    with m.Case(index):
                        m.d.sync += answer.eq(word)
            m.d.comb += [member.data.eq(answer) for member in members]
        return m
