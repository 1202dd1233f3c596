"""The protocol's frames, numbers and golden peer."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from link_stand_ins import CONFIG, CountingCore
from systolith.hw.protocol import (
    ANSWER,
    ARGUMENTS,
    CRC_BYTES,
    EFFECTS,
    HEADER_BYTES,
    MAX_DATA,
    MAX_ENCODED,
    MAX_FRAME,
    REFUSED,
    VERSION,
    Command,
    Counter,
    Deframer,
    Frame,
    Identity,
    Refusal,
    Status,
    check_payload,
    decode_frame,
    encode_frame,
    words,
)
from systolith.sim.peer import Peer

SESSION = 0x1234


def test_frames_fit_the_hamming_distance_of_the_crc():
    assert MAX_FRAME == HEADER_BYTES + 4 + MAX_DATA + CRC_BYTES <= 371
    frame = encode_frame(Command.WRITE, 0, words(0) + bytes(range(1, 256)) + b"\1" * 97, SESSION)
    assert len(frame) == MAX_ENCODED + 2


def test_frame_on_the_line():
    body = bytes((Command.READ, 7, 8, 0)) + words(0x10203, 0)
    crc = zlib.crc32(body, SESSION).to_bytes(4, "little")
    line = encode_frame(Command.READ, 7, words(0x10203, 0), SESSION)
    assert line[0] == line[-1] == 0
    assert 0 not in line[1:-1]
    # COBS by hand: each block begins with its length and ends before a zero.
    decoded, at = bytearray(), 1
    while at < len(line) - 1:
        decoded += line[at + 1:at + line[at]] + b"\0"
        at += line[at]
    assert decoded[:-1] == body + crc


@given(opcode=st.integers(0, 255), sequence=st.integers(0, 255),
       payload=st.binary(max_size=4 + MAX_DATA), session=st.integers(1, 0xFFFF))
def test_frames_round_trip(opcode, sequence, payload, session):
    line = encode_frame(opcode, sequence, payload, session)
    assert Deframer().feed(line) == [line[1:-1]]
    assert decode_frame(line[1:-1], session) == Frame(opcode, sequence, payload)


@given(payload=st.binary(max_size=100), mine=st.integers(0, 0xFFFF), other=st.integers(0, 0xFFFF))
def test_a_frame_of_another_session_never_checks(payload, mine, other):
    line = encode_frame(Command.READ, 0, payload, mine)[1:-1]
    assert (decode_frame(line, other) is not None) == (mine == other)


def test_hello_is_of_no_session():
    for opcode in (Command.HELLO, Command.HELLO | ANSWER):
        assert decode_frame(encode_frame(opcode, 0, b"", 5)[1:-1], 9) == Frame(opcode, 0, b"")


def test_damage_is_found():
    """Up to four wrong bits in a decoded frame, and any in a coded one."""
    source = random.Random(3)
    good = encode_frame(Command.WRITE, 3, words(8) + source.randbytes(MAX_DATA), SESSION)[1:-1]
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(source.randrange(1, 5)):
            bad[source.randrange(len(bad))] ^= 1 << source.randrange(8)
        if bytes(bad) != good:
            assert all(decode_frame(piece, SESSION) is None
                       for piece in Deframer().feed(bytes(bad) + b"\0"))
    for cut in range(len(good)):
        assert decode_frame(good[:cut], SESSION) is None


def test_too_long_a_frame_is_refused():
    with pytest.raises(ValueError, match="at most 364 bytes, not 365"):
        encode_frame(Command.WRITE, 0, bytes(357), SESSION)


@given(chunks=st.lists(st.binary(max_size=700), max_size=6))
def test_deframer_is_independent_of_how_bytes_arrive(chunks):
    whole = b"".join(chunks)
    deframer = Deframer()
    pieces = [piece for chunk in chunks for piece in deframer.feed(chunk)]
    wanted = [part for part in whole.split(b"\0")[:-1] if part]
    assert [piece[:MAX_ENCODED + 1] for piece in pieces] == [
        part[:MAX_ENCODED + 1] for part in wanted]


def test_deframer_memory_is_bounded():
    deframer = Deframer()
    for _ in range(100):
        deframer.feed(b"\1" * 10_000)
    assert len(deframer._partial) <= 2 * MAX_ENCODED + 2
    deframer.clear()
    assert deframer.feed(b"ab\0") == [b"ab"]


def test_identity_and_status_round_trip():
    identity = Identity.of(CONFIG, build=0x1122334455667788, expected=9, session=0xABCD,
                           continued=True)
    assert Identity.decode(identity.encode()) == identity
    assert len(identity.encode()) == 36 and identity.encode()[0] == VERSION
    assert f"{identity.config_hash:016x}" == CONFIG.hash
    status = Status(busy=True, error=5, queue=3, address=0xFFFFFFFF, runs=65535, timestamps=512,
                    cycles=0xFEDCBA98)
    assert Status.decode(status.encode()) == status
    with pytest.raises(ValueError, match="36 bytes, not 3"):
        Identity.decode(b"abc")
    with pytest.raises(ValueError, match="20 bytes, not 0"):
        Status.decode(b"")


def test_every_command_has_its_arguments():
    assert set(ARGUMENTS) == set(Command) >= EFFECTS
    for command in Command:
        right = 4 * ARGUMENTS[command] + (command is Command.WRITE)
        assert check_payload(command, right) is None
        assert check_payload(command, right + 400) is Refusal.LENGTH
    assert check_payload(Command.WRITE, 4) is Refusal.LENGTH
    assert check_payload(Command.WRITE, 4 + MAX_DATA) is None
    assert check_payload(14, 0) is check_payload(0, 0) is Refusal.COMMAND


def test_counters_are_the_gatewares():
    ports = pytest.importorskip("systolith.hw.ports", reason="needs amaranth")
    assert [(c.name, c.value) for c in Counter] == [(c.name, c.value) for c in ports.Counter]


# The golden peer ---------------------------------------------------------------------------------


class Conversation:
    def __init__(self):
        self.memory = bytearray(CONFIG.memory_size)
        self.core = CountingCore()
        self.peer = Peer(CONFIG, self.memory, self.core)
        self.sequence = 0
        self.say(Command.HELLO, words(VERSION | SESSION << 16, 0), sequence=0)

    def say(self, opcode, payload=b"", sequence=None):
        """Send one request; the frames that come back."""
        if sequence is None:
            sequence, self.sequence = self.sequence, (self.sequence + 1) & 0xFF
        return self.send(encode_frame(opcode, sequence, payload, SESSION))

    def send(self, data):
        return [decode_frame(piece, SESSION) for piece in Deframer().feed(self.peer.receive(data))]


def test_peer_repeats_answers_but_not_effects():
    talk = Conversation()
    talk.say(Command.WRITE, words(100) + b"abc")
    talk.memory[100:103] = b"xyz"
    [again] = talk.say(Command.WRITE, words(100) + b"abc", sequence=0)
    assert again == Frame(Command.WRITE | ANSWER, 0, b"") and talk.memory[100:103] == b"xyz"
    [first] = talk.say(Command.RUN, words(64))
    [second] = talk.say(Command.RUN, words(64), sequence=1)
    assert first == second and talk.core.starts == [64]


def test_peer_asks_for_what_is_missing():
    talk = Conversation()
    [answer] = talk.say(Command.WRITE, words(0) + b"b", sequence=1)
    assert answer == Frame(REFUSED, 0, words(Refusal.RESEND))
    [answer] = talk.send(b"\0\5garbage\0")
    assert answer.payload[0] == Refusal.RESEND
    assert talk.memory[0] == 0 and not talk.peer.executed


def test_peer_counts_sequences_round_and_round():
    talk = Conversation()
    for number in range(600):
        [answer] = talk.say(Command.WRITE, words(number) + bytes([number & 0xFF]))
        assert answer == Frame(Command.WRITE | ANSWER, number & 0xFF, b"")
    assert talk.memory[:600] == bytes(i & 0xFF for i in range(600))


def test_peer_keeps_a_session_until_another_is_opened():
    talk = Conversation()
    talk.say(Command.STATUS)
    [frame] = talk.say(Command.HELLO, words(VERSION | SESSION << 16, 0), sequence=5)
    assert frame.sequence == 5 and Identity.decode(frame.payload).expected == 1
    [frame] = talk.say(Command.HELLO, words(VERSION | 0x777 << 16, SESSION), sequence=6)
    identity = Identity.decode(frame.payload)
    assert identity.continued and identity.expected == 0 and identity.session == 0x777
    [frame] = talk.say(Command.HELLO, words(VERSION | 0x778 << 16, SESSION), sequence=7)
    assert not Identity.decode(frame.payload).continued


def test_peer_refuses_a_second_run():
    talk = Conversation()
    talk.core.looks = 10**6
    talk.say(Command.RUN, words(0))
    [frame] = talk.say(Command.RUN, words(64))
    assert frame == Frame(REFUSED, 1, words(Refusal.BUSY | Command.RUN << 8 | 2 << 16))
    talk.core.left = 0
    [frame] = talk.say(Command.RUN, words(64), sequence=1)
    assert frame.opcode == REFUSED and talk.core.starts == [0]
