"""Real pipes: pseudo-terminals and TCP, with a peer behind them."""

import os
import termios
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

import systolith
from link_stand_ins import CONFIG, PeerDevice, copy_program
from systolith.driver import transport
from systolith.driver.simulate import PtyPort, TcpPort, serve, serve_device
from systolith.driver.transport import SimTransport, TcpTransport
from systolith.errors import DeviceError, InputError, LinkError
from systolith.hw.config import PRESETS
from systolith.sim.peer import GoldenCore, Peer


def golden_device():
    """A device of its own: a peer with memory and the golden interpreter."""
    memory = bytearray(CONFIG.memory_size)
    return PeerDevice(Peer(CONFIG, memory, GoldenCore(CONFIG, memory)))


@contextmanager
def served(port, device=None):
    """A device behind a port, in a thread; its peer."""
    device = device or golden_device()
    stop = threading.Event()
    thread = threading.Thread(target=serve_device, args=(device, port, stop.is_set))
    thread.start()
    try:
        yield device.peer
    finally:
        stop.set()
        thread.join(10)
        port.close()


@pytest.mark.parametrize("make_port", (PtyPort, lambda: TcpPort("127.0.0.1", 0)),
                         ids=("pty", "tcp"))
def test_a_program_runs_behind_a_port(make_port):
    batch = np.random.default_rng(1).normal(0, 20, (4, 3, 2, 2)).astype(np.float32)
    program = copy_program()
    wanted = program.inputs[0].dequantize(program.inputs[0].quantize(batch))
    port = make_port()
    with served(port):
        for _ in range(3):  # one connection after the other
            with systolith.open(port.address, config=CONFIG) as device:
                assert np.array_equal(device.run(program, batch), wanted)


def test_serial_transport_speaks_to_a_terminal():
    """A pty is a serial port as far as the driver can tell, baud rate included."""
    port = PtyPort()
    path = port.address.removeprefix("pty:")
    with served(port):
        with systolith.open(f"serial:{path}", baud=115_200) as device:
            assert device.identity.rows == CONFIG.rows
        with systolith.open(f"serial:{path}") as device:
            assert device.name == path


def test_wrong_configuration_is_refused():
    port = TcpPort("127.0.0.1", 0)
    with (served(port), pytest.raises(DeviceError, match=f"{CONFIG.hash} .* and not "
                                                         f"{PRESETS['small'].hash}")):
        systolith.open(port.address, config="small")


class UnpluggedPty(PtyPort):
    """A pty whose device end goes away after some bytes in both directions together."""

    def __init__(self, after):
        super().__init__()
        self._left = after
        os.close(self._slave)
        self._slave = -1
        self.unplugged = threading.Event()

    def exchange(self, data, timeout):
        if self.unplugged.is_set():
            time.sleep(0.001)
            return b""
        try:
            received = super().exchange(data[:max(self._left, 0)], 0.001)
        except OSError:
            return b""  # nobody has opened it yet
        self._left -= len(data) + len(received)
        if self._left <= 0:
            self.unplugged.set()
            os.close(self._master)
        return received[:max(0, len(received) + self._left)]

    def close(self):
        if not self.unplugged.is_set():
            os.close(self._master)


def session(address):
    with systolith.open(address, config=CONFIG, silence=1.0) as device:
        device.machine.write(16, b"abc" * 20)
        return device.machine.read(16, 60)


def test_unplug_at_every_byte_of_a_session():
    """A typed error within a second; and the same device, in whatever state that left it, answers
    the next connection, under another path as after plugging in again."""
    device = golden_device()
    whole = UnpluggedPty(1 << 20)
    with served(whole, device):
        assert session(whole.address) == b"abc" * 20
    total = (1 << 20) - whole._left
    for after in range(1, total):
        port = UnpluggedPty(after)
        with served(port, device):
            begun = time.monotonic()
            with pytest.raises(LinkError):
                session(port.address)
            assert time.monotonic() - begun < 1.0, f"{after} bytes"
        device.link_read(1 << 16)  # what was on its way is lost
        again = PtyPort()
        with served(again, device):
            assert session(again.address) == b"abc" * 20, f"{after} bytes"


class Bridge:
    """What the system tells about a serial port."""

    description = "USB serial"

    def __init__(self, port, serial_number):
        self.device = port.address.removeprefix("pty:")
        self.serial_number = serial_number


def test_a_device_is_found_again_by_its_serial_number(monkeypatch):
    """Unplugged and plugged in again it has another path, and the same number."""
    device, bridges = golden_device(), []
    monkeypatch.setattr(transport.list_ports, "comports", lambda: bridges)
    first = UnpluggedPty(2000)
    bridges[:] = [Bridge(PtyPort(), "OTHER"), Bridge(first, "FT4X2YZ")]
    with served(first, device):
        opened = systolith.open("serial:FT4X2YZ", config=CONFIG)
        opened.machine.write(16, b"before")
        with pytest.raises(LinkError, match="plug the device in and open it again"):
            opened.machine.write(0x100, bytes(5000))
        opened.close()
    bridges[:] = bridges[:1]
    with pytest.raises(LinkError, match=r"no serial port 'FT4X2YZ': .* ports here: /dev.* \(OTHER"):
        systolith.open("serial:FT4X2YZ")
    second = PtyPort()
    bridges.append(Bridge(second, "FT4X2YZ"))
    assert bridges[1].device != first.address
    with served(second, device), systolith.open("serial:FT4X2YZ", config=CONFIG) as opened:
        assert opened.machine.read(16, 6) == b"before"


class OneRatePty(PtyPort):
    """A pty whose device understands one baud rate: at others both sides receive noise."""

    def __init__(self, rate):
        super().__init__()
        self._rate = getattr(termios, f"B{rate}")
        self.rates = []

    def exchange(self, data, timeout):
        if self._right:
            return super().exchange(data, timeout)
        received = super().exchange(bytes(byte ^ 0x5A for byte in data), timeout)
        return bytes(byte & 0xF1 for byte in received)

    @property
    def _right(self):
        rate = termios.tcgetattr(self._slave)[4]
        if not self.rates or self.rates[-1] != rate:
            self.rates.append(rate)
        return rate == self._rate


def test_baud_rates_are_tried_until_one_is_right():
    port = OneRatePty(921_600)
    with served(port):
        path = port.address.removeprefix("pty:")
        begun = time.monotonic()
        with systolith.open(f"serial:{path}", config=CONFIG) as device:
            device.machine.write(16, b"abc")
            assert device.machine.read(16, 3) == b"abc"
        assert time.monotonic() - begun < 6
        assert port.rates[-4:] == [getattr(termios, f"B{rate}") for rate in (
            3_000_000, 2_000_000, 1_000_000, 921_600)]
        with pytest.raises(LinkError, match=r"has not answered for 0\.3 s"):
            systolith.open(f"serial:{path}", baud=115_200, silence=0.3)


def test_no_rate_is_right():
    port = OneRatePty(9600)
    path = port.address.removeprefix("pty:")
    with served(port), pytest.raises(LinkError, match=f"nothing at {path} answers at 3000000, .* "
                                                      "or give its rate with baud="):
        systolith.open(f"serial:{path}")


@pytest.mark.parametrize("allowed", (True, False))
def test_latency_timer_is_set_where_the_system_allows(monkeypatch, allowed):
    asked = []

    def low_latency(port, on):
        asked.append(on)
        if not allowed:
            raise ValueError("not an FTDI bridge")

    monkeypatch.setattr(transport.serial.Serial, "set_low_latency_mode", low_latency)
    port = PtyPort()
    with served(port):
        assert session(port.address) == b"abc" * 20
    assert asked == [True]


class CutTcpPort(TcpPort):
    """A port whose connection is closed by the device once `cut` is set."""

    def __init__(self):
        super().__init__("127.0.0.1", 0)
        self.cut = threading.Event()

    def exchange(self, data, timeout):
        if self.cut.is_set() and self._connection is not None:
            self._connection.close()
            self._connection = None
        return super().exchange(data, timeout)


def test_tcp_connection_that_is_cut():
    port = CutTcpPort()
    with served(port), systolith.open(port.address) as device:
        assert device.machine.read(0, 4) == bytes(4)
        port.cut.set()
        with pytest.raises(LinkError, match=r"lost the connection to 127\.0\.0\.1"):
            device.machine.write(0, bytes(CONFIG.memory_size))


def test_a_taken_port_is_named():
    port = TcpPort("127.0.0.1", 0)
    with pytest.raises(LinkError, match=r"cannot serve on 127\.0\.0\.1"):
        TcpPort("127.0.0.1", int(port.address.rpartition(":")[2]))
    port.close()


def test_serve_needs_one_port():
    with pytest.raises(InputError, match="name exactly one port"):
        serve(CONFIG)
    with pytest.raises(InputError, match="'nowhere' is not HOST:PORT"):
        serve(CONFIG, tcp="nowhere")


def test_sim_transport_counts_cycles():
    class Echo:
        def __init__(self):
            self.data, self.delay, self.steps = b"", 0, []

        def link_write(self, data):
            self.data, self.delay = data, 700

        def link_read(self, limit):
            data = self.data if self.delay == 0 else b""
            self.data = self.data[len(data):]
            return data

        def step(self, cycles, *, until_bytes=0):
            assert until_bytes == 1
            passed = min(cycles, self.delay) if self.data else cycles
            self.delay -= min(passed, self.delay)
            return passed

    transport = SimTransport(Echo())
    transport.write(b"hello")
    assert transport.read(0.0005) == b"" and transport.now() == 0.0005
    assert transport.read(1.0) == b"hello" and transport.now() == 0.0007
    assert transport.read(0.25) == b"" and transport.now() == 0.2507
    transport.close()


def test_tcp_transport_times_out_and_reports_the_end():
    port = TcpPort("127.0.0.1", 0)
    transport = TcpTransport("127.0.0.1", int(port.address.rpartition(":")[2]))
    port.exchange(b"", 1.0)
    assert transport.read(0.01) == b""
    port.exchange(b"abc", 0.0)
    assert transport.read(1.0) == b"abc"
    port.close()
    with pytest.raises(LinkError, match="lost the connection"):
        transport.read(1.0)
    transport.close()
