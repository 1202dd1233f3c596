"""States of the endpoint that answer a request, from "REFUSE" or "ANSWER" on."""

from amaranth import Module, Mux, Signal

from ..protocol import ANSWER, REFUSED, Command

__all__ = ["answer_states"]


def answer_states(m: Module, x, sink, reader, counter_ready) -> None:
    """Add the states to the finite state machine that is being described.

    Parameters
    ----------
    m : Module
    x : Exchange
    sink : stream of `data` and `last`
        Takes the answer.
    reader : ByteReader
        Delivers what READ asked for.
    counter_ready : Value
        The counter that may be in the next word is there.
    """
    reads = Signal()
    nbytes = Signal(16)
    over = Signal()     # they are 0; a cycle late, and looked at with a part's last byte
    m.d.comb += [
        reads.eq((x.command == Command.READ) & ~x.refused),
        nbytes.eq(Mux(reads, x.left, x.words << 2)),
    ]
    m.d.sync += over.eq(nbytes == 0)

    with m.State("REFUSE"):
        m.d.sync += [x.refused.eq(1), x.words.eq(1)]
        x.answer(m)

    with m.State("ANSWER"):
        m.d.comb += [sink.valid.eq(1), sink.payload.last.eq((x.count[:2] == 3) & over)]
        with m.Switch(x.count[:2]):
            with m.Case(0):
                m.d.comb += sink.payload.data.eq(Mux(x.refused, REFUSED, x.opcode | ANSWER))
            with m.Case(1):
                m.d.comb += sink.payload.data.eq(x.sequence)
            with m.Case(2):
                m.d.comb += sink.payload.data.eq(nbytes[:8])
            with m.Default():
                m.d.comb += sink.payload.data.eq(nbytes[8:])
        with m.If(sink.ready):
            m.d.sync += x.count.eq(x.count + 1)
            with m.If(x.count[:2] == 3):
                m.d.sync += x.count.eq(0)
                with m.If(reads):
                    m.next = "BYTES"
                with m.Elif(over):
                    m.next = "OPCODE"
                with m.Else():
                    m.next = "INDEX"

    with m.State("BYTES"):
        m.d.comb += [
            sink.payload.data.eq(reader.o.payload),
            sink.payload.last.eq(reader.last),
            sink.valid.eq(reader.o.valid),
            reader.o.ready.eq(sink.ready),
        ]
        with m.If(reader.o.valid & reader.o.ready & reader.last):
            m.next = "OPCODE"

    with m.State("INDEX"):
        # Counters and timestamps follow their index.
        m.d.sync += x.chooses.eq(1)
        m.next = "WORD"

    with m.State("WORD"), m.If(counter_ready | x.refused | ~(
            (x.command == Command.COUNTERS) | (x.command == Command.STATUS))):
        m.d.sync += x.chooses.eq(0)
        with m.If((x.command == Command.TIMESTAMPS) & x.index[0]):
            x.count_on(m)
        m.d.sync += [x.index.eq(x.index + 1), x.words.eq(x.words - 1)]
        m.next = "SEND"

    with m.State("SEND"):
        m.d.comb += [
            sink.payload.data.eq(x.word[:8]),
            sink.payload.last.eq((x.count[:2] == 3) & over),
            sink.valid.eq(1),
        ]
        with m.If(sink.ready):
            m.d.sync += [x.word.eq(x.word >> 8), x.count.eq(x.count + 1)]
            with m.If(x.count[:2] == 3):
                m.d.sync += x.count.eq(0)
                with m.If(over):
                    m.next = "OPCODE"
                with m.Else():
                    m.next = "INDEX"
