"""A full-speed USB host at the wires: packets as bits, transactions, control requests.

What goes out is stuffed and encoded at the host's own bit time; what the device drives has to be
clean bits of four cycles. The wires come back to the device as it drives them, as on a board.
"""

from collections import deque

from systolith.sim.agents import Agent

OUT, IN, SETUP, SOF = 0x1, 0x9, 0xD, 0x5
DATA0, DATA1, ACK, NAK, STALL = 0x3, 0xB, 0x2, 0xA, 0xE
CYCLES = 4
"""Of the device's clock in a bit."""

_J, _K, _SE0 = (1, 0), (0, 1), (0, 0)


def _crc(data, bits, width, polynomial):
    """USB's CRC of the low `bits` of little-endian `data`, as an int that goes out bit 0 first."""
    register = (1 << width) - 1
    for i in range(bits):
        bit = data[i // 8] >> i % 8 & 1
        feedback = (register & 1) ^ bit
        register >>= 1
        if feedback:
            register ^= polynomial
    return register ^ ((1 << width) - 1)


def token(pid, address, endpoint):
    fields = address | endpoint << 7
    crc = _crc(fields.to_bytes(2, "little"), 11, 5, 0x14)
    return bytes([_pid(pid)]) + (fields | crc << 11).to_bytes(2, "little")


def data_packet(pid, payload):
    crc = _crc(payload, 8 * len(payload), 16, 0xA001)
    return bytes([_pid(pid)]) + payload + crc.to_bytes(2, "little")


def _pid(pid):
    return pid | (~pid & 15) << 4


def _line(packet):
    """States of the wires for a packet, one a bit, from its SYNC to the J behind its end."""
    raw = [0, 0, 0, 0, 0, 0, 0, 1] + [byte >> i & 1 for byte in packet for i in range(8)]
    level, states, ones = _J, [], 0
    for bit in raw:
        ones = ones + 1 if bit else 0
        if not bit:
            level = _K if level == _J else _J
        states.append(level)
        if ones == 6:
            level, ones = _K if level == _J else _J, 0
            states.append(level)
    return [*states, _SE0, _SE0, _J]


def _decode(states):
    """The packet in what the device drove, a state a cycle. Fails unless all is as it has to be."""
    assert len(states) % CYCLES == 0, f"driven for {len(states)} cycles"
    bits = []
    for i in range(0, len(states), CYCLES):
        assert len(set(states[i:i + CYCLES])) == 1, f"a bit of {states[i:i + CYCLES]}"
        bits.append(states[i])
    assert bits[-3:] == [_SE0, _SE0, _J], f"a packet that ends in {bits[-3:]}"
    level, raw, ones = _J, [], 0
    for state in bits[:-3]:
        assert state in (_J, _K), "a single-ended 0 in the middle"
        bit, level = int(state == level), state
        if ones == 6:
            assert bit == 0, "a stuffed bit is missing"
            ones = 0
            continue
        ones = ones + 1 if bit else 0
        raw.append(bit)
    assert raw[:8] == [0, 0, 0, 0, 0, 0, 0, 1], f"a SYNC of {raw[:8]}"
    assert len(raw) % 8 == 0, f"a packet of {len(raw)} bits"
    packet = bytes(sum(raw[i + k] << k for k in range(8)) for i in range(8, len(raw), 8))
    assert packet[0] & 15 == ~packet[0] >> 4 & 15, f"a packet id of {packet[0]:02x}"
    return packet


class Host(Agent):
    """The host, and the wires between it and the device.

    Parameters
    ----------
    bench : Bench
    bit : float
        The host's bit time in cycles of the device's clock.
    delays : tuple of int
        Cycles of the registers in the pads, out and in.
    """

    def __init__(self, bench, *, bit=4.0, delays=(1, 2)):
        self.bench, self.bit = bench, bit
        self.address = 0
        self.next_pid = {}          # by (direction, endpoint)
        self.turnarounds = []       # cycles from the end of a packet to the device's answer
        self._delays = delays
        self.clear()
        bench.add(self)

    def clear(self):
        self._driven = deque([None] * self._delays[0])
        self._seen = deque([_SE0] * self._delays[1])
        self._states, self._begun, self._ended = None, 0, 0
        self._device, self.heard = [], deque()

    # Wires ----------------------------------------------------------------------------------------

    def drive(self):
        device = self._driven.popleft()
        state = _J if int(self.bench.port("pullup").value) else _SE0
        if self._states is not None:
            index = int((self.bench.cycle - self._begun) / self.bit)
            if index < len(self._states):
                assert device is None, "both ends drive the wires"
                state = self._states[index]
            else:
                self._states, self._ended = None, self.bench.cycle
        if device is not None:
            if not self._device:
                # Counted from the J behind the packet's end, which is its last bit.
                self.turnarounds.append(self.bench.cycle - self._ended + self.bit)
            self._device.append(device)
            state = device
        elif self._device:
            self.heard.append(_decode(self._device))
            self._device = []
        self._seen.append(state)
        state = self._seen.popleft()
        self.bench.port("dp_i").value, self.bench.port("dn_i").value = state

    def sample(self):
        port = self.bench.port
        driving = int(port("oe").value) and not int(self.bench.dut.rst.value)
        self._driven.append((int(port("dp_o").value), int(port("dn_o").value))
                            if driving else None)

    async def _send_states(self, states):
        self._states, self._begun = states, self.bench.cycle
        await self.bench.until(lambda: self._states is None, round(self.bit * len(states)) + 9)

    async def _send(self, packet, *, gap=2):
        await self.bench.ticks(round(gap * self.bit))
        await self._send_states(_line(packet))

    async def _answer(self):
        """The device's packet, or None when a host would have given up on it."""
        limit = self.bench.cycle + 18 * CYCLES
        await self.bench.until(lambda: self.heard or (
            not self._device and self.bench.cycle >= limit), 4000)
        return self.heard.popleft() if self.heard else None

    async def reset_bus(self):
        """Reset the device, by 40 µs where a host would take 10 ms."""
        await self._send_states([_SE0] * 480)
        self.address, self.next_pid = 0, {}
        await self.bench.ticks(100)

    # Transactions -----------------------------------------------------------------------------

    async def send(self, pid, endpoint, payload, *, kind=OUT, damage=False, deaf=False):
        """One OUT or SETUP transaction: the handshake's id, None for none.

        `damage` makes the CRC wrong, `deaf` does as if the handshake had been lost.
        """
        await self._send(token(kind, self.address, endpoint))
        packet = bytearray(data_packet(pid, payload))
        packet[-1] ^= damage
        await self._send(bytes(packet))
        answer = await self._answer()
        assert answer is None or len(answer) == 1
        return None if answer is None or deaf else answer[0] & 15

    async def ask(self, endpoint, *, acknowledge=True):
        """One IN transaction: the id, and the payload of a data packet. Without `acknowledge` the
        device has to take the packet for lost."""
        await self._send(token(IN, self.address, endpoint))
        answer = await self._answer()
        assert answer is not None, "no answer to an IN token"
        pid = answer[0] & 15
        if pid not in (DATA0, DATA1):
            return pid, b""
        payload = answer[1:-2]
        assert answer == data_packet(pid, payload), "a packet with a wrong CRC"
        if acknowledge:
            await self._send(bytes([_pid(ACK)]))
        return pid, payload

    # Requests and streams ---------------------------------------------------------------------

    async def control(self, kind, request, value=0, index=0, length=0, data=b""):
        """A control request: what came back, or None when the device refused it."""
        length = len(data) or length
        setup = bytes([kind, request]) + b"".join(
            field.to_bytes(2, "little") for field in (value, index, length))
        assert await self.send(DATA0, 0, setup, kind=SETUP) == ACK
        if not kind & 0x80:
            if data:
                answer = await self.send(DATA1, 0, data)
                if answer == STALL:
                    return None
                assert answer == ACK
            answer = await self.ask(0)
            return None if answer[0] == STALL else b"" if answer == (DATA1, b"") else answer
        received, expected = b"", DATA1
        while True:
            pid, payload = await self.ask(0)
            if pid == STALL:
                return None
            if pid == NAK:
                continue
            assert pid == expected
            received += payload
            expected ^= DATA0 ^ DATA1
            if len(payload) < 64 or len(received) >= length:
                break
        assert await self.send(DATA1, 0, b"") == ACK
        return received

    def _toggle(self, key):
        self.next_pid[key] = self.next_pid.get(key, DATA0) ^ DATA0 ^ DATA1

    async def write(self, endpoint, payload, **how):
        """One packet for the device. Whether it was taken: the host's sequence then goes on."""
        key = OUT, endpoint
        answer = await self.send(self.next_pid.get(key, DATA0), endpoint, payload, **how)
        assert answer in (ACK, NAK, None)
        if answer == ACK:
            self._toggle(key)
        return answer == ACK

    async def read(self, endpoint, **how):
        """What the device has to say, b"" when nothing or when it is a repetition."""
        key = IN, endpoint
        pid, payload = await self.ask(endpoint, **how)
        if pid == NAK:
            return b""
        assert pid in (DATA0, DATA1)
        if not how.get("acknowledge", True) or pid != self.next_pid.get(key, DATA0):
            return b""
        self._toggle(key)
        return payload
