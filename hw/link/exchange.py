"""One request and its answer: what the endpoint's states share."""

from amaranth import Signal

from ..config import Config
from ..protocol import COUNTERS, MAX_DATA, MAX_TIMESTAMPS, Command

__all__ = ["Exchange"]


class Exchange:
    """Registers of the exchange in progress.

    Members
    -------
    opcode, sequence : Signal(8)
        The request's.
    command : Value
        The lower bits of `opcode`, which tell one `Command` from another and are few enough for a
        short decision. Where the opcode may be another, they mean nothing.
    expected : Signal(8)
        Sequence number of the next request.
    left : Signal
        Bytes of the request's payload that have not been taken; of a READ's answer, its length.
    count : Signal(4)
        Bytes of the part in progress.
    address, length : Signal
        The first two arguments, as many bits as main memory and the timestamp log need.
    beyond : Signal(2)
        Of address and length: bits above those are set.
    word : Signal(32)
        The third argument; a CRC; the word that is answered. HELLO's and WATCHDOG's only or first
        argument, which needs all its bits, is here as well.
    repeated : Signal(1)
        The request was executed before.
    cancels : Signal(1)
        The request is executed, in this cycle, and cancels a run.
    refused : Signal(1), reason : Signal(3)
        The answer is a refusal, and its reason.
    chooses : Signal(1)
        It is state "WORD", from a register: `word` becomes the next word of the answer, which is
        right in that state's last cycle, and not looked at before.
    words : Signal, index : Signal
        Words of the answer that are still to be sent, and the number of the next one.
    """

    def __init__(self, config: Config):
        # HELLO's second argument is a session number of 16 bits.
        bits = max(16, config.memory_size.bit_length(), config.timestamps.bit_length())
        self.opcode = Signal(8)
        self.command = self.opcode[:max(Command).bit_length()]
        self.sequence = Signal(8)
        self.expected = Signal(8)
        self.left = Signal(range(4 + MAX_DATA + 1))
        self.count = Signal(4)
        self.address = Signal(bits)
        self.length = Signal(bits)
        self.beyond = Signal(2)
        self.word = Signal(32)
        self.repeated = Signal()
        self.cancels = Signal()
        self.refused = Signal()
        self.reason = Signal(3)
        self.chooses = Signal()
        self.words = Signal(range(COUNTERS + 1 + 2 * MAX_TIMESTAMPS))
        self.index = Signal.like(self.words)

    def count_on(self, m):
        """Add 1 to `address`, which counts less than 2^16 then: entries, cycles or places."""
        m.d.sync += self.address[:16].eq(self.address[:16] + 1)

    def refuse(self, m, reason, state="REFUSE"):
        """Go and refuse the request; by state "SKIP" where bytes of it may be left."""
        m.d.sync += self.reason.eq(reason)
        m.next = state

    def answer(self, m):
        """Go and answer; `words` says with how many."""
        m.next = "ANSWER"
