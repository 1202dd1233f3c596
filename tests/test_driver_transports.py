"""Real pipes: pseudo-terminals and TCP, with a peer behind them."""

import os
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

import systolith
from link_stand_ins import CONFIG, PeerDevice, copy_program
from systolith.driver.simulate import PtyPort, TcpPort, serve, serve_device
from systolith.driver.transport import SimTransport, TcpTransport
from systolith.errors import DeviceError, InputError, LinkError
from systolith.hw.config import PRESETS
from systolith.sim.peer import GoldenCore, Peer


@contextmanager
def served(port):
    """A golden device behind a port, in a thread; its peer."""
    memory = bytearray(CONFIG.memory_size)
    device = PeerDevice(Peer(CONFIG, memory, GoldenCore(CONFIG, memory)))
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
    """A typed error within a second, and the next connection works."""
    whole = UnpluggedPty(1 << 20)
    with served(whole):
        assert session(whole.address) == b"abc" * 20
    total = (1 << 20) - whole._left
    for after in range(1, total):
        port = UnpluggedPty(after)
        with served(port):
            begun = time.monotonic()
            with pytest.raises(LinkError):
                session(port.address)
            assert time.monotonic() - begun < 1.5, f"{after} bytes"
        again = PtyPort()
        if after % 10 == 1:
            with served(again):
                assert session(again.address) == b"abc" * 20
        else:
            again.close()


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
