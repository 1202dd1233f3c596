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
    m.d.sync += x.cancels.eq(0)
    byte = source.payload

    with m.State("OPCODE"):
        m.d.comb += source.ready.eq(1)
        m.d.sync += [x.refused.eq(0), x.count.eq(0), x.index.eq(0), x.beyond.eq(0), silent.eq(0)]
        m.d.sync += x.opcode.eq(byte)
        with m.If(take):
            m.next = "HEADER"
        with m.Elif(dropped):
            m.d.sync += [dropped.eq(0), x.opcode.eq(0), x.sequence.eq(x.expected)]
            x.refuse(m, Refusal.RESEND)

    age = Signal(8)
    known, no_arguments, fits = Signal(), Signal(), Signal()
    with m.State("HEADER"):
        m.d.comb += source.ready.eq(1)
        # A register keeps what is there when its byte is taken.
        with m.Switch(x.count[:2]):
            with m.Case(0):
                m.d.sync += x.sequence.eq(byte)
            with m.Case(1):
                m.d.sync += x.left[:8].eq(byte)
            with m.Default():
                m.d.sync += x.left[8].eq(byte[0])
        with m.If(take):
            m.d.sync += x.count.eq(x.count + 1)
            with m.If(x.count[1]):
                m.d.sync += x.count.eq(0)
                m.next = "ORDER"
        # What state "ORDER" decides by: all of the header but for its last byte is here by now.
        m.d.sync += [age.eq(x.expected - x.sequence), known.eq(0)]
        with m.Switch(x.opcode):
            for command in Command:
                nbytes = 4 * ARGUMENTS[command]
                with m.Case(command):
                    m.d.sync += [
                        known.eq(1), no_arguments.eq(nbytes == 0),
                        fits.eq(x.left[:8] > nbytes if command is Command.WRITE
                                else x.left[:8] == nbytes),
                    ]

    with m.State("ORDER"):
        good_length = Mux(x.command == Command.WRITE, x.left[8] | fits, ~x.left[8] & fits)
        with m.If(known & (x.command == Command.HELLO) & good_length):
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
            with m.Elif(no_arguments):
                m.d.sync += x.cancels.eq((age == 0) & ((x.command == Command.CANCEL)
                                                       | (x.command == Command.RESET)))
                m.next = "EXECUTE"
            with m.Else():
                m.next = "ARGUMENTS"

    with m.State("ARGUMENTS"):
        m.d.comb += source.ready.eq(1)
        # Which argument of the request goes where: see `Exchange`.
        whole = Signal()
        m.d.comb += whole.eq(x.count[3] | (~x.count[2] & (
            (x.command == Command.HELLO) | (x.command == Command.WATCHDOG))))
        with m.If(take):
            m.d.sync += [x.count.eq(x.count + 1), x.left.eq(x.left - 1)]
            with m.If(whole):
                m.d.sync += x.word.eq(Cat(x.word[8:], byte))
            with m.If(Mux(x.command == Command.WRITE, x.count == 3, x.left == 1)):
                m.d.sync += x.count.eq(0)
                m.next = "CHECK"
        # These keep what is there when their byte is taken. What goes to `word` is here as well,
        # where nobody looks at it.
        with m.Switch(x.count):
            for number, argument in enumerate((x.address, x.length)):
                for place in range(4):
                    part = argument[8 * place:8 * place + 8]
                    with m.Case(4 * number + place):
                        m.d.sync += part.eq(byte)
                        with m.If(take & byte[len(part):].any()):
                            m.d.sync += x.beyond[number].eq(1)

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
    def of(*commands):
        return Cat(x.command == command for command in commands).any()

    nbytes = Signal.like(x.length)
    end = Signal(len(x.length) + 1)
    to_destination = Signal()   # of COPY, whose source is inside
    ranged, bad_length, bad_address, beyond = Signal(), Signal(), Signal(), Signal()
    outside = Signal()
    too_long = x.beyond[1] | Mux(of(Command.READ), exceeds(x.length, MAX_DATA),
                                 exceeds(x.length, MAX_TIMESTAMPS))
    misaligned = of(Command.RUN) & (x.address % DESCRIPTOR_BYTES != 0)
    m.d.comb += [
        nbytes.eq(Mux(of(Command.WRITE), x.left,
                      Mux(of(Command.RUN), DESCRIPTOR_BYTES, x.length))),
        outside.eq(Mux(of(Command.TIMESTAMPS), end > timestamp_count,
                       exceeds(end, config.memory_size))),
    ]
    # What state "RANGE" decides by, from the cycle before.
    m.d.sync += [
        end.eq(Mux(to_destination, x.word, x.address) + nbytes),
        ranged.eq(of(Command.READ, Command.WRITE, Command.RUN, Command.TIMESTAMPS, Command.CRC,
                     Command.FILL, Command.COPY)),
        bad_length.eq((~x.beyond[1] & (nbytes == 0))
                      | (of(Command.READ, Command.TIMESTAMPS) & too_long)),
        bad_address.eq(x.beyond.any() | misaligned),
        beyond.eq(x.word[len(x.address):].any()),
    ]

    with m.State("CHECK"):
        m.next = "RANGE"
    with m.State("RANGE"):
        m.d.sync += to_destination.eq(0)
        with m.If(to_destination):
            with m.If(beyond | outside):
                x.refuse(m, Refusal.ADDRESS, "SKIP")
            with m.Else():
                m.next = "EXECUTE"
        with m.Elif(ranged & bad_length):
            x.refuse(m, Refusal.LENGTH, "SKIP")
        with m.Elif(ranged & (bad_address | outside)):
            x.refuse(m, Refusal.ADDRESS, "SKIP")
        with m.Elif(x.command == Command.COPY):
            m.d.sync += to_destination.eq(1)
            m.next = "CHECK"
        with m.Else():
            m.next = "EXECUTE"
