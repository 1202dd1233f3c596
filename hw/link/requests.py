"""States of the endpoint that take a request: its header, its place in the order, its arguments.

They end in state "EXECUTE" when the request can be executed, in "REFUSE" when it is wrong, and
begin anew when it is to be ignored.
"""

from amaranth import Cat, Module, Mux, Signal

from ..compare import exceeds
from ..isa import DESCRIPTOR_BYTES
from ..protocol import ARGUMENTS, MAX_DATA, MAX_TIMESTAMPS, Command, Refusal

__all__ = ["request_states"]


def request_states(m: Module, x, source, dropped, config, timestamp_count) -> None:
    """Add the states to the finite state machine that is being described.

    Parameters
    ----------
    m : Module
    x : Exchange
    source : stream of bytes
        Checked requests; the bytes of WRITE's data are left on it.
    dropped : Signal(1)
        Something was dropped since the host was last asked to send again.
    config : Config
    timestamp_count : Value
        Entries of the timestamp log.
    """
    silent = Signal()   # a request that is skipped is not answered either
    take = Signal()     # a byte of the request is taken now
    m.d.comb += take.eq(source.valid & source.ready)
    byte = source.payload

    with m.State("OPCODE"):
        m.d.comb += source.ready.eq(1)
        m.d.sync += [x.refused.eq(0), x.count.eq(0), x.index.eq(0), x.beyond.eq(0), silent.eq(0)]
        with m.If(take):
            m.d.sync += x.opcode.eq(byte)
            m.next = "HEADER"
        with m.Elif(dropped):
            m.d.sync += [dropped.eq(0), x.opcode.eq(0), x.sequence.eq(x.expected)]
            x.refuse(m, Refusal.RESEND)

    with m.State("HEADER"):
        m.d.comb += source.ready.eq(1)
        with m.If(take):
            m.d.sync += x.count.eq(x.count + 1)
            with m.Switch(x.count[:2]):
                with m.Case(0):
                    m.d.sync += x.sequence.eq(byte)
                with m.Case(1):
                    m.d.sync += x.left[:8].eq(byte)
                with m.Default():
                    m.d.sync += [x.left[8].eq(byte[0]), x.count.eq(0)]
                    m.next = "ORDER"

    with m.State("ORDER"):
        age = Signal(8)
        good_length = Signal()
        known = Signal()
        m.d.comb += age.eq(x.expected - x.sequence)
        with m.Switch(x.opcode):
            for command in Command:
                nbytes = 4 * ARGUMENTS[command]
                with m.Case(command):
                    m.d.comb += [
                        known.eq(1),
                        good_length.eq(x.left > nbytes if command is Command.WRITE
                                       else x.left == nbytes),
                    ]
        with m.If((x.opcode == Command.HELLO) & good_length):
            m.next = "ARGUMENTS"
        with m.Elif(age[7]):
            m.d.sync += [dropped.eq(1), silent.eq(1)]
            m.next = "SKIP"
        with m.Else():
            m.d.sync += x.repeated.eq(age != 0)
            with m.If(age == 0):
                m.d.sync += x.expected.eq(x.expected + 1)
            with m.If(~known):
                x.refuse(m, Refusal.COMMAND, "SKIP")
            with m.Elif(~good_length):
                x.refuse(m, Refusal.LENGTH, "SKIP")
            with m.Elif(x.left == 0):
                m.next = "EXECUTE"
            with m.Else():
                m.next = "ARGUMENTS"

    with m.State("ARGUMENTS"):
        m.d.comb += source.ready.eq(1)
        # Which argument of the request goes where: see `Exchange`.
        whole = Signal()
        m.d.comb += whole.eq(x.count[3] | (~x.count[2] & (
            (x.opcode == Command.HELLO) | (x.opcode == Command.WATCHDOG))))
        with m.If(take):
            m.d.sync += [x.count.eq(x.count + 1), x.left.eq(x.left - 1)]
            with m.If(whole):
                m.d.sync += x.word.eq(Cat(x.word[8:], byte))
            with m.Else(), m.Switch(x.count[:3]):
                for number, argument in enumerate((x.address, x.length)):
                    for place in range(4):
                        part = argument[8 * place:8 * place + 8]
                        with m.Case(4 * number + place):
                            m.d.sync += part.eq(byte)
                            with m.If(byte[len(part):].any()):
                                m.d.sync += x.beyond[number].eq(1)
            with m.If(Mux(x.opcode == Command.WRITE, x.count == 3, x.left == 1)):
                m.d.sync += x.count.eq(0)
                m.next = "CHECK"

    _check_states(m, x, config, timestamp_count)

    with m.State("SKIP"):
        m.d.comb += source.ready.eq(x.left != 0)
        with m.If(take):
            m.d.sync += x.left.eq(x.left - 1)
        with m.If(x.left == 0):
            with m.If(silent):
                m.next = "OPCODE"
            with m.Else():
                m.next = "REFUSE"


def _check_states(m, x, config, timestamp_count):
    """States that check ranges before anything is done."""
    def of(command):
        return x.opcode == command

    nbytes = Signal.like(x.length)
    end = Signal(len(x.length) + 1)
    to_destination = Signal()   # of COPY, whose source is inside
    outside, too_long, misaligned = Signal(), Signal(), Signal()
    m.d.comb += [
        nbytes.eq(Mux(of(Command.WRITE), x.left,
                      Mux(of(Command.RUN), DESCRIPTOR_BYTES, x.length))),
        outside.eq(Mux(of(Command.TIMESTAMPS), end > timestamp_count,
                       exceeds(end, config.memory_size))),
        too_long.eq(
            (of(Command.READ) & (x.beyond[1] | (exceeds(x.length, MAX_DATA))))
            | (of(Command.TIMESTAMPS) & (x.beyond[1] | (exceeds(x.length, MAX_TIMESTAMPS))))),
        misaligned.eq(of(Command.RUN) & (x.address % DESCRIPTOR_BYTES != 0)),
    ]
    m.d.sync += end.eq(Mux(to_destination, x.word, x.address) + nbytes)

    with m.State("CHECK"):
        m.next = "RANGE"  # a cycle for the sum
    with m.State("RANGE"):
        m.d.sync += to_destination.eq(0)
        with m.If(to_destination):
            with m.If(x.word[len(x.address):].any() | outside):
                x.refuse(m, Refusal.ADDRESS, "SKIP")
            with m.Else():
                m.next = "EXECUTE"
        with m.Else(), m.Switch(x.opcode):
            with m.Case(Command.READ, Command.WRITE, Command.RUN, Command.TIMESTAMPS, Command.CRC,
                        Command.FILL, Command.COPY):
                with m.If((~x.beyond[1] & (nbytes == 0)) | too_long):
                    x.refuse(m, Refusal.LENGTH, "SKIP")
                with m.Elif(x.beyond.any() | outside | misaligned):
                    x.refuse(m, Refusal.ADDRESS, "SKIP")
                with m.Elif(x.opcode == Command.COPY):
                    m.d.sync += to_destination.eq(1)
                    m.next = "CHECK"
                with m.Else():
                    m.next = "EXECUTE"
            with m.Default():
                m.next = "EXECUTE"
