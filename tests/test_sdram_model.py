"""The model of an SDRAM chip: correct commands do what the chip does, all others are refused."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from stand_ins import CopySoC
from systolith.errors import ConfigError, DeviceError
from systolith.hw.config import PRESETS
from systolith.hw.sdram import SdramController
from systolith.hw.sdram_chips import GW2AR_18_SDRAM, IS42S16160G_7, MT48LC16M16A2_7E
from systolith.hw.sdram_soc import SdramSoC
from systolith.sim.sdram import SdramModel
from systolith.sim.verilated import VerilatedDevice

CHIP = replace(IS42S16160G_7, row_bits=11, column_bits=8, power_up=200.0, initial_refreshes=2)
CLOCK = 100e6  # 10 ns: tRCD, tRP, tWR 2, tRAS 4, tRC and tRFC 6 cycles
COMMANDS = {"active": 3, "read": 5, "write": 4, "precharge": 2, "refresh": 1, "mode": 0, "stop": 6}
ALL = 1 << 10
MODE = CHIP.CL << 4 | 1  # bursts of two words


class Host:
    """Gives commands, a cycle each, and keeps what arrives."""

    def __init__(self, *, delay=0, initialized=True):
        self.model = SdramModel(CHIP, CLOCK, delay=delay)
        self.words = []
        if initialized:
            self.wait(25)
            self.give("precharge", a=ALL, wait=2)
            for _ in range(2):
                self.give("refresh", wait=6)
            self.give("mode", a=MODE, wait=2)

    def wait(self, cycles=1, **pins):
        for _ in range(cycles):
            self._tick(7, **pins)

    def give(self, command, *, wait=1, **pins):
        self._tick(COMMANDS[command], **pins)
        self.wait(wait - 1)

    def write(self, *words, ba=0, a=0, masks=(0, 0)):
        self.give("write", ba=ba, a=a, oe=1, dq=words[0], dqm=masks[0])
        for word, mask in zip(words[1:], masks[1:], strict=True):
            self.wait(oe=1, dq=word, dqm=mask)

    def _tick(self, code, *, ba=0, a=0, dqm=0, oe=0, dq=0, cke=1):
        self.words.append(self.model.tick(cke, int(code == 7), code >> 2, code >> 1 & 1, code & 1,
                                          ba, a, dqm, oe, dq))


@pytest.mark.parametrize("delay", (0, 2))
def test_written_words_come_back_after_the_latency(delay):
    host = Host(delay=delay)
    host.give("active", ba=2, a=5, wait=2)
    host.write(0x1234, 0xABCD, ba=2, a=6)
    host.write(0x5678, 0xEF01, ba=2, a=9, masks=(1, 2))
    begun = len(host.words)
    host.give("read", ba=2, a=6, wait=2)
    host.give("read", ba=2, a=9, wait=8)
    assert not host.model.fault
    # A burst that begins at an odd column wraps; masked bytes were 0 before.
    expected = [None] * (CHIP.CL - 1 + delay) + [0x1234, 0xABCD, 0x5600, 0x0001]
    assert host.words[begun:begun + len(expected)] == expected
    assert host.words[begun + len(expected):] == [None] * (10 - len(expected))
    place = 2 * ((5 * 4 + 2 << CHIP.column_bits) + 6)
    assert host.model.memory[place:place + 4].tobytes() == bytes.fromhex("3412cdab")
    assert host.model.memory[place + 4:place + 8].tobytes() == bytes.fromhex("01000056")


def test_a_mask_hides_what_is_read_two_cycles_later():
    host = Host()
    host.give("active", wait=2)
    host.write(0x1111, 0x2222)
    begun = len(host.words)
    host.give("read", wait=2)
    host.wait(1, dqm=2)  # the first word leaves in the next cycle
    host.wait(4)
    assert host.words[begun + 2] == 0x1111
    assert host.words[begun + 3] & 0xFF == 0x22 and host.words[begun + 3] >> 8 != 0x22


def opened(host, **pins):
    host.give("active", wait=2, **pins)


def read(host, wait=1):
    opened(host)
    host.give("read", wait=wait)


RULES = {
    "power-up": (False, lambda host: (host.wait(5), host.give("precharge", a=ALL))),
    "ACTIVE before the mode register": (False, lambda host: (host.wait(25), host.give("active"))),
    "before any PRECHARGE": (False, lambda host: (host.wait(25), host.give("refresh"))),
    "before enough AUTO REFRESH": (False, lambda host: (
        host.wait(25), host.give("precharge", a=ALL, wait=2), host.give("refresh", wait=6),
        host.give("mode", a=MODE))),
    "CKE fell": (True, lambda host: host.wait(cke=0)),
    "against tMRD": (True, lambda host: (host.give("mode", a=MODE), host.give("active"))),
    "CAS latency 2 instead of 3": (True, lambda host: host.give("mode", a=2 << 4 | 1)),
    "reserved bits": (True, lambda host: host.give("mode", a=MODE | 1 << 9)),
    "interleaved": (True, lambda host: host.give("mode", a=MODE | 8)),
    "burst length": (True, lambda host: host.give("mode", a=CHIP.CL << 4 | 7)),
    "has an open row": (True, lambda host: (opened(host), host.give("active"))),
    "row that does not exist": (True, lambda host: host.give("active", a=1 << 11)),
    "has no open row": (True, lambda host: (opened(host), host.give("read", ba=1))),
    "WRITE in bank 1, which has no open row": (True, lambda host: (
        opened(host), host.give("write", ba=1, oe=1))),
    "column does not exist": (True, lambda host: (opened(host), host.give("read", a=1 << 8))),
    "auto precharge": (True, lambda host: (opened(host), host.give("read", a=ALL))),
    "BURST TERMINATE": (True, lambda host: host.give("stop")),
    "ACTIVE, tRCD wants 15": (True, lambda host: (host.give("active"), host.give("read"))),
    "tRRD wants 14": (True, lambda host: (host.give("active"), host.give("active", ba=1))),
    "tRAS wants 37": (True, lambda host: (opened(host), host.give("precharge"))),
    "tRP wants 15": (True, lambda host: (
        host.give("active", wait=6), host.give("precharge"), host.give("active"))),
    "AUTO REFRESH 10 ns after PRECHARGE, tRP": (True, lambda host: (
        host.give("active", wait=6), host.give("precharge"), host.give("refresh"))),
    "ACTIVE of the same bank, tRC wants 90": (True, lambda host: (
        host.give("active", wait=5), host.give("precharge", wait=2), host.give("active"))),
    "tRFC wants 60": (True, lambda host: (host.give("refresh", wait=5), host.give("active"))),
    "AUTO REFRESH while a row is open": (True, lambda host: (
        host.give("active", wait=9), host.give("refresh"))),
    "MODE REGISTER while a row is open": (True, lambda host: (
        host.give("active", wait=9), host.give("mode", a=MODE))),
    "tWR wants 14": (True, lambda host: (
        host.give("active", wait=5), host.write(1, 2), host.give("precharge"))),
    "READ cuts the burst": (True, lambda host: (read(host), host.give("read"))),
    "PRECHARGE cuts a burst that is being read": (True, lambda host: (
        host.give("active", wait=5), host.give("read"), host.give("precharge"))),
    "PRECHARGE cuts a burst that is being written": (True, lambda host: (
        host.give("active", wait=5), host.give("write", oe=1), host.give("precharge", oe=1))),
    "nobody drives": (True, lambda host: (opened(host), host.give("write"))),
    "nobody drives the data": (True, lambda host: (
        opened(host), host.give("write", oe=1), host.wait())),
    "bus contention": (True, lambda host: (read(host, wait=3), host.wait(oe=1))),
    "or has just done": (True, lambda host: (read(host, wait=5), host.write(1, 2))),
    "nine times tREFI": (True, lambda host: host.wait(9 * 782)),
}


@pytest.mark.parametrize("rule", RULES)
def test_what_the_chip_would_not_do_is_refused(rule, monkeypatch):
    if "tRC wants" in rule:  # with real chips tRAS and tRP together are no less
        monkeypatch.setitem(globals(), "CHIP", replace(CHIP, tRC=90.0))
    initialized, act = RULES[rule]
    host = Host(initialized=initialized)
    assert not host.model.fault
    act(host)
    assert rule in host.model.fault


LEGAL = {
    "each least time": lambda host: (
        host.give("active", wait=2), host.give("active", ba=1, wait=2), host.write(1, 2, ba=0),
        host.wait(1), host.give("precharge", wait=2), host.give("active", wait=2),
        host.give("read", ba=1, wait=2), host.give("precharge", ba=1, wait=2),
        host.wait(2), host.give("precharge", a=ALL, wait=2), host.give("refresh", wait=6),
        host.give("active")),
    "a write after the bus has changed hands": lambda host: (
        read(host, wait=6), host.write(1, 2)),
    "a read right behind a write": lambda host: (
        opened(host), host.write(1, 2), host.give("read", wait=6)),
    "refreshes eight late": lambda host: (
        host.wait(8 * 781), host.give("refresh", wait=6), host.wait(8 * 781)),
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_the_chip_allows_is_allowed(name):
    host = Host()
    LEGAL[name](host)
    assert not host.model.fault


@pytest.mark.parametrize("late", (False, True))
def test_every_row_is_refreshed_in_time(late):
    """With 64 ms for 4 refreshes, the fifth may follow the first after 64 ms and no later."""
    model = SdramModel(replace(CHIP, tREFI=16e6), 1e5)
    end = 50 + 6400 + late
    codes = {10: "precharge", 20: "refresh", 30: "refresh", 40: "mode", 50: "refresh",
             60: "refresh", 70: "refresh", 80: "refresh", end: "refresh"}
    for cycle in range(end + 1):
        assert not model.fault
        code = COMMANDS.get(codes.get(cycle), 7)
        model.tick(1, int(code == 7), code >> 2, code >> 1 & 1, code & 1, 0,
                   {2: ALL, 0: MODE}.get(code, 0), 0, 0, 0)
    assert model.fault.endswith("than the data sheet's refresh time allows" if late else "")
    assert bool(model.fault) == late


def test_cycles_are_rounded_to_the_safe_side():
    cycles = IS42S16160G_7.cycles(100e6)
    assert (cycles.tRCD, cycles.tRAS, cycles.tRC, cycles.tWR, cycles.tREFI) == (2, 4, 6, 2, 781)
    assert replace(CHIP, tRCD=20.0).cycles(100e6).tRCD == 2
    assert replace(CHIP, tRCD=20.1).cycles(100e6).tRCD == 3
    assert MT48LC16M16A2_7E.cycles(133e6).tRFC == 9
    assert (IS42S16160G_7.size, GW2AR_18_SDRAM.size) == (32 << 20, 8 << 20)


@pytest.mark.parametrize(("make", "message"), (
    (lambda config: IS42S16160G_7.cycles(150e6), "at most 142.9 MHz .*, not 150 MHz"),
    (lambda config: replace(CHIP, data_bits=12), "data_bits must be 8, 16 or 32, not 12"),
    (lambda config: replace(CHIP, CL=4), "CL must be 2 or 3, not 4"),
    (lambda config: SdramController(config.replace(memory_bytes_per_beat=32), IS42S16160G_7, 1e8),
     "memory_bytes_per_beat to at most 16"),
    (lambda config: SdramController(config.replace(memory_size=64 << 20), IS42S16160G_7, 1e8),
     "has 33554432 bytes: memory_size may not be 67108864"),
    (lambda config: SdramController(config, IS42S16160G_7, 5e6), "a refresh every 39 cycles"),
    (lambda config: SdramController(config, IS42S16160G_7, 1e8, read_delay=9),
     "between 0 and 8 cycles, not 9"),
    (lambda config: config.replace(sdram="DDR4"), "sdram must be one of IS42S16160G-7, .*'DDR4'"),
    (lambda config: config.replace(sdram="GW2AR-18"), "memory_size must be at most 8388608"),
    (lambda config: config.replace(sdram="IS42S16160G-7", clock_mhz=166), "at most 142.9 MHz"),
))
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make(PRESETS["small"])
    gc.collect()  # so that the discarded component's warning falls inside this test


def test_the_kind_of_memory_changes_the_rate_and_not_the_programs():
    config = PRESETS["small"]
    chip = config.replace(sdram="IS42S16160G-7")
    assert (config.memory_beat_cycles, chip.memory_beat_cycles) == (1, 4)
    assert config.hash == chip.hash


SDRAM = PRESETS["tiny"].replace(sdram="MT48LC16M16A2-7E", clock_mhz=100.0)


def copied(soc, beats=200):
    """What a run of the stand-in made of random beats, and what it should have made."""
    original = np.random.default_rng(beats).bytes(4 * beats)
    soc.memory_write(0, np.array([0x1000, 0x8000, beats, 0], "<u4").tobytes())
    soc.memory_write(0x1000, original)
    result = soc.run(0, 100_000)
    assert result.finished and not result.error
    return soc.memory_read(0x8000, 4 * beats), bytes(255 - byte for byte in original)


def test_a_device_has_the_chip_as_main_memory():
    with VerilatedDevice(SDRAM, component=SdramSoC(SDRAM, CopySoC(SDRAM, burst=16))) as soc:
        begun = soc.cycle
        assert begun > 20_000, "power-up takes 200 µs"
        for _ in range(2):
            result, expected = copied(soc)
            assert result == expected
        assert soc.step(10_000, until_idle=True) == 0 and soc.cycle < begun + 10_000
        soc.reset()
        assert soc.memory_read(0x8000, 800) == expected, "a reset keeps the memory"
        result, expected = copied(soc, 77)
        assert result == expected
    with VerilatedDevice(SDRAM, component=CopySoC(SDRAM), memory_latency=3) as soc:
        result, expected = copied(soc)
        assert soc.cycle < 20_000 and result == expected


def test_a_controller_for_another_clock_breaks_the_chips_rules():
    fast = SDRAM.replace(clock_mhz=130.0)
    with (VerilatedDevice(fast, component=SdramSoC(SDRAM, CopySoC(SDRAM, burst=16))) as soc,
          pytest.raises(DeviceError, match=r"broke a rule of its SDRAM \(cycle \d+: PRECHARGE")):
        soc.step(100_000)
