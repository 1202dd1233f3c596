"""The activation scratchpad: banks behind a fixed-priority crossbar."""

from amaranth import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from .config import Config
from .ports import ScratchpadReadSignature, scratchpad_write_signature

__all__ = ["READ_CLIENTS", "WRITE_CLIENTS", "Scratchpad", "sharing_readers"]

READ_CLIENTS = ("array", "vector", "operand_b", "operand_a", "store")
"""Readers, highest priority first."""

WRITE_CLIENTS = ("post", "load")
"""Writers, highest priority first."""


def sharing_readers(config: Config) -> tuple[str, ...]:
    """The last of the readers, which share a way to the banks where the post-processor takes
    four cycles or more for a word, and so leaves most of them to others."""
    return READ_CLIENTS[2:] if 4 * config.lanes <= config.rows else ()


class Scratchpad(wiring.Component):
    """`scratchpad_banks` memories of `rows`-byte words, each with one read and one write a cycle.

    Consecutive addresses lie in consecutive banks, so that two clients that walk through memory
    word by word meet once and then run side by side. In each bank and cycle the reader and the
    writer of the highest priority are served; the others wait. A read that is accepted after a
    write sees it; one accepted in the same cycle reads the old word.

    Where there are few lanes, the readers of `sharing_readers` have one way to the banks together.
    It takes one request a cycle, and all of them see what was read, of which each knows its own.

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
        sharing = readers[len(readers) - len(sharing_readers(config)):]
        if sharing:
            readers = [*readers[:-len(sharing)], self._shared(m, sharing)]
        writers = [getattr(self, name) for name in WRITE_CLIENTS]

        def bank_of(address):
            return address[:bank_bits]

        def serve(requests, addresses):
            """Accept a request unless one of higher priority wants the same bank."""
            for index, request in enumerate(requests):
                blocked = [requests[k].valid & (bank_of(addresses[k]) == bank_of(addresses[index]))
                           for k in range(index)]
                m.d.comb += request.ready.eq(~Cat(*blocked).any())

        serve([reader.request for reader in readers],
              [reader.request.payload for reader in readers])
        serve(writers, [writer.payload.address for writer in writers])

        read_data = []
        for bank in range(config.scratchpad_banks):
            m.submodules[f"bank_{bank}"] = storage = memory.Memory(
                shape=8 * config.rows, depth=config.scratchpad_bank_words, init=[])
            write, read = storage.write_port(granularity=8), storage.read_port()
            read_data.append(read.data)
            # Statements further down win: the lowest priority comes first.
            for reader in reversed(readers):
                address = reader.request.payload
                with m.If(reader.request.valid & (bank_of(address) == bank)):
                    m.d.comb += [read.addr.eq(address[bank_bits:]), read.en.eq(1)]
            for writer in reversed(writers):
                item = writer.payload
                with m.If(writer.valid & (bank_of(item.address) == bank)):
                    m.d.comb += [write.addr.eq(item.address[bank_bits:]), write.data.eq(item.data),
                                 write.en.eq(item.mask)]

        for reader in readers:
            accepted = Signal()
            bank = Signal(range(config.scratchpad_banks))
            m.d.sync += accepted.eq(reader.request.valid & reader.request.ready)
            m.d.sync += bank.eq(bank_of(reader.request.payload))
            with m.If(accepted), m.Switch(bank):
                for index, word in enumerate(read_data):
                    with m.Case(index):
                        m.d.sync += reader.data.eq(word)
        return m

    def _shared(self, m, sharing):
        """One reader in the place of those `sharing`: the one of the highest priority asks."""
        shared = ScratchpadReadSignature(self._config).flip().create(path=("shared",))
        m.d.comb += shared.request.valid.eq(Cat(reader.request.valid for reader in sharing).any())
        before = 0
        for reader in sharing:
            m.d.comb += [reader.request.ready.eq(shared.request.ready & ~before),
                         reader.data.eq(shared.data)]
            before |= reader.request.valid
        # Statements further down win: the lowest priority comes first.
        for reader in reversed(sharing):
            with m.If(reader.request.valid):
                m.d.comb += shared.request.payload.eq(reader.request.payload)
        return shared
