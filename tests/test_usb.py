"""The link over USB: the serial device, its way into the core, and the boards that have it."""

import dataclasses
import random
import re
from types import SimpleNamespace

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from systolith.boards import build as board_build
from systolith.boards import line, pll, top
from systolith.boards.catalog import BOARDS
from systolith.boards.usb import PACKET, UsbSerial, descriptors
from systolith.errors import ConfigError
from systolith.hw.config import PRESETS
from systolith.hw.export import rtlil_text
from systolith.sim.bench import run_bench

BYTES = stream.Signature(8)


def test_serial_device_at_its_wires():
    run_bench(UsbSerial("a board"), "benches.usb_bench", parameters={"product": "a board"},
              timeout=240)


def test_the_device_is_made_the_same_every_time():
    """luna names some modules by where they lie in memory."""
    assert rtlil_text(UsbSerial("a board")) == rtlil_text(UsbSerial("a board"))


def test_descriptors_have_their_lengths():
    for kind, index, raw in descriptors("a board"):
        raw = bytes(raw)
        assert raw[1] == kind, f"{kind} {index}"
        assert len(raw) == (raw[0] if kind != 2 else int.from_bytes(raw[2:4], "little"))
    device = next(bytes(raw) for kind, _, raw in descriptors("a board") if kind == 1)
    assert device[7] == PACKET


class _End(wiring.Component):
    """What is at either end of the crossing: the two streams, and their other sides."""

    def __init__(self, line_side):
        outward, inward = (Out, In) if line_side else (In, Out)
        super().__init__({"rx": outward(BYTES), "tx": inward(BYTES),
                          "i": In(BYTES), "o": Out(BYTES)})
        self._line_side = line_side

    def elaborate(self, platform):
        m = Module()
        gives, takes = (self.rx, self.tx) if self._line_side else (self.tx, self.rx)
        wiring.connect(m, wiring.flipped(self.i), wiring.flipped(gives))
        wiring.connect(m, wiring.flipped(takes), wiring.flipped(self.o))
        return m


@pytest.mark.parametrize("core_mhz", (7.3, 40, 48, 110))
def test_bytes_cross_into_the_core_and_back(core_mhz, monkeypatch):
    ends = {"link": _End(line_side=True), "sync": _End(line_side=False)}
    monkeypatch.setattr(top, "line_of", lambda board, hertz: ends["link"])
    m = Module()
    for name in ends:
        m.domains += ClockDomain(name)
    m.submodules.core = ends["sync"]
    board = BOARDS["orangecrab-25f"]
    core = SimpleNamespace(rx=ends["sync"].rx, tx=ends["sync"].tx)
    top.BoardTop._link(SimpleNamespace(board=board), m, core, 48e6)
    source = random.Random(1)
    data = {name: source.randbytes(300) for name in ends}
    come = {name: [] for name in ends}

    def sender(name):
        async def send(ctx):
            for byte in data[name]:
                await ctx.tick(name).repeat(source.choice((1, 1, 1, 9)))
                ctx.set(ends[name].i.payload, byte)
                ctx.set(ends[name].i.valid, 1)
                await ctx.tick(name).until(ends[name].i.ready)
                ctx.set(ends[name].i.valid, 0)
        return send

    def receiver(name):
        async def receive(ctx):
            while len(come[name]) < 300:
                ctx.set(ends[name].o.ready, 0)
                await ctx.tick(name).repeat(source.choice((1, 1, 1, 30)))
                ctx.set(ends[name].o.ready, 1)
                byte, = await ctx.tick(name).sample(ends[name].o.payload).until(ends[name].o.valid)
                come[name].append(byte)
        return receive

    async def watchdog(ctx):
        for _ in range(200):
            await ctx.tick("link").repeat(1000)
            if all(len(bytes_) == 300 for bytes_ in come.values()):
                return
        raise AssertionError(f"only {[len(bytes_) for bytes_ in come.values()]} bytes have come")

    simulator = Simulator(m)
    simulator.add_clock(1 / 48e6, domain="link")
    simulator.add_clock(1e-6 / core_mhz, domain="sync")
    for name in ends:
        simulator.add_testbench(sender(name))
        simulator.add_testbench(receiver(name))
    simulator.add_testbench(watchdog)
    simulator.run()
    assert bytes(come["sync"]) == data["link"]
    assert bytes(come["link"]) == data["sync"]


def test_usb_needs_its_oscillator():
    board = dataclasses.replace(BOARDS["ulx3s-85f"], baud=None)
    with pytest.raises(ConfigError, match="needs an oscillator of 48 MHz, not 25; give"):
        line.line_of(board, 25e6)


@pytest.mark.parametrize("size", ("25f", "85f"))
def test_orangecrab_elaborates_with_its_pins_and_clocks(size, tmp_path):
    board = BOARDS[f"orangecrab-{size}"]
    config = PRESETS["tiny"].replace(memory_size=1 << 14, clock_mhz=board.config.clock_mhz)
    platform = board_build.write_design(board, config, 1, tmp_path)
    constraints = (tmp_path / "top.lpf").read_text()
    for pin, port in (("N1", "usb_0__d_p__io"), ("M2", "usb_0__d_n__io"),
                      ("N2", "usb_0__pullup__io"), ("A9", "clk_0__io")):
        assert f'LOCATE COMP "{port}" SITE "{pin}"' in constraints
    frequencies = [words[3] for words in map(str.split, constraints.splitlines())
                   if words[:1] == ["FREQUENCY"]]
    assert sorted(map(float, frequencies)) == [48e6, config.clock_mhz * 1e6]
    dividers = pll.ecp5_dividers(48, config.clock_mhz)
    assert dividers.mhz == config.clock_mhz
    netlist = (tmp_path / "top.il").read_text()
    assert re.search(rf"\\CLKFB_DIV {dividers.feedback}\b", netlist)
    assert platform.device == f"LFE5U-{size.upper()}"
