"""The verilated device's harness, tried on a stand-in for the SoC that copies memory."""

import multiprocessing

import numpy as np
import pytest

from stand_ins import CopySoC
from systolith.errors import DeviceError, InputError, LinkError
from systolith.hw.config import PRESETS
from systolith.hw.isa import ErrorCode
from systolith.sim import build as tools
from systolith.sim.verilated import VerilatedDevice

CONFIG = PRESETS["tiny"]
BEAT = CONFIG.memory_bytes_per_beat
SOURCE, DESTINATION, BEATS = 0x1000, 0x8000, 100


def device(*, outside=False, **options):
    return VerilatedDevice(CONFIG, component=CopySoC(CONFIG, outside=outside), **options)


def copy(soc, seed=1, beats=BEATS, source=SOURCE, destination=DESTINATION):
    """Have the stand-in copy; returns the run's result and checks what it wrote."""
    original = np.random.default_rng(seed).bytes(max(beats, 1) * BEAT)
    soc.memory_write(source, original)
    soc.memory_write(destination - 16, bytes(16))
    soc.memory_write(destination + len(original), bytes(16))
    soc.memory_write(0, np.array([source, destination, beats, 0], "<u4").tobytes())
    result = soc.run(0, 1_000_000)
    if beats and result.finished and not result.error:
        expected = bytes(16) + bytes(255 - b for b in original) + bytes(16)
        assert soc.memory_read(destination - 16, len(expected)) == expected, f"seed {seed}"
    return result


def test_copy_and_counters_at_every_mark():
    with device() as soc:
        result = copy(soc)
        assert result.finished and result.error == ErrorCode.NONE
        assert soc.counters[1:].tolist() == [BEATS, BEATS]
        marks = soc.marks
        assert marks["counters"][:, 1].tolist() == [64, 100]
        assert marks["counters"][:, 2].tolist() == [64, 100], "those of its own cycle"
        assert (np.diff(marks["cycle"]) == np.diff(marks["counters"][:, 0])).all()
        soc.clear_marks()
        assert len(soc.marks) == 0


def test_latency_is_paid_once_a_dependent_burst():
    """With more latency than a burst has beats, so that nothing else is in the way."""
    cycles = []
    for latency in (100, 150, 300):
        with device(memory_latency=latency) as soc:
            cycles.append(copy(soc).cycles)
    assert cycles[1] - cycles[0] == 3 * 50, "descriptor and two bursts wait for memory"
    assert cycles[2] - cycles[1] == 3 * 150


@pytest.mark.parametrize("rate", (1, 2, 3, 4))
def test_bandwidth_is_shared_by_reads_and_writes(rate):
    with device(memory_bytes_per_cycle=rate, memory_latency=5) as soc:
        result = copy(soc, beats=6400)
    moved = 2 * 6400 * BEAT
    assert moved / rate < result.cycles < 1.12 * moved / rate + 1000


def test_random_stalls_change_time_and_nothing_else():
    cycles = set()
    for seed in (1, 2, 3):
        with device(stall_per_mille=300, seed=seed) as soc:
            result = copy(soc, seed)
            assert not result.error
            cycles.add(result.cycles)
    assert len(cycles) == 3
    with device() as soc:
        assert copy(soc).cycles < min(cycles)


def test_same_calls_give_the_same_cycles():
    results = []
    for _ in range(2):
        with device(stall_per_mille=200, seed=7) as soc:
            copy(soc, beats=70)
            results.append((soc.cycle, soc.marks["cycle"].tolist(),
                            soc.marks["counters"].tolist()))
    assert results[0] == results[1]


def test_cycle_limit_error_and_cancel():
    with device() as soc:
        assert copy(soc, beats=0).error == ErrorCode.LENGTH
        assert not copy(soc, beats=64).error, "a run follows a failed one"
        result = soc.run(0, 20)
        assert not result.finished and result.cycles == 20
        soc.cancel()
        assert soc.status.error == ErrorCode.CANCELLED
        soc.step(10_000, until_idle=True)
        assert not soc.status.busy


def test_link_moves_bytes_both_ways_at_its_own_pace():
    with device(link_cycles_per_byte=10) as soc:
        soc.link_write(bytes(range(100)))
        assert soc.step(10_000, until_bytes=50) in range(490, 510)
        assert soc.link_unsent == 50
        assert soc.link_read(20) == bytes(range(1, 21))
        assert soc.link_read() == bytes(range(21, 51))
        soc.step(600)
        assert soc.link_read() == bytes(range(51, 101))
        assert soc.link_read() == b""


def test_backdoor_sees_every_accepted_write():
    """Writes that wait for their turn in a slow memory are there when the run is over."""
    with device(memory_bytes_per_cycle=1, memory_latency=1) as soc:
        for beats in range(1, 9):
            copy(soc, seed=beats, beats=beats)


def test_an_access_outside_of_memory_is_reported():
    with device(outside=True) as soc, pytest.raises(
            DeviceError, match="wrote outside of main memory"):
        copy(soc)
    with device() as soc:
        last = CONFIG.memory_size - BEAT
        copy(soc, source=last, beats=1)
        soc.memory_write(0, np.array([last, DESTINATION, 2, 0], "<u4").tobytes())
        with pytest.raises(DeviceError, match="read outside of main memory"):
            soc.run(0)


def test_bad_arguments_are_refused():
    for options, words in (
            ({"memory_bytes_per_cycle": 5}, "between 1 and 4"), ({"memory_latency": 0}, "latency"),
            ({"link_cycles_per_byte": 0}, "1 or more"), ({"stall_per_mille": 1000}, "999")):
        with pytest.raises(InputError, match=words):
            VerilatedDevice(CONFIG, **options)
    with device() as soc:
        with pytest.raises(InputError, match="not inside the main memory"):
            soc.memory_read(CONFIG.memory_size - 3, 4)
        with pytest.raises(InputError, match="not inside the main memory"):
            soc.memory_write(-1, b"x")
        soc.memory_write(CONFIG.memory_size - 4, b"last")
        assert soc.memory_read(CONFIG.memory_size - 4, 4) == b"last"
    with pytest.raises(LinkError, match="closed"):
        soc.step(1)
    soc.close()


def test_waveform(tmp_path):
    path = tmp_path / f"run.{tools.waveform_format()}"
    with device(waveform=path) as soc:
        copy(soc, beats=10)
    assert path.stat().st_size > 5000
    if path.suffix == ".vcd":
        assert "memory_read" in path.read_text()
    with pytest.raises(InputError, match="cannot be written"):
        device(waveform=tmp_path / "nowhere" / "run.vcd")


def _build_in_process(folder, start):
    tools.build_folder = lambda: folder
    start.wait()
    source = folder / "main.cpp"
    product = tools.build(tools.Model(
        verilog="module top(input clk, output reg q); always @(posedge clk) q <= ~q; endmodule\n",
        top="top", sources=(source,), shared=True))
    assert product.stat().st_size > 1000


def test_concurrent_builds_share_one_result(tmp_path):
    (tmp_path / "main.cpp").write_text('#include "Vtop.h"\nint answer() { return 42; }\n')
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    processes = [context.Process(target=_build_in_process, args=(tmp_path, start))
                 for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert not list(tmp_path.glob("tmp-*")), "temporary files are removed"


def test_a_change_of_any_input_builds_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "build_folder", lambda: tmp_path)
    built = []
    monkeypatch.setattr(tools, "_build", lambda model, product: (
        built.append(model), product.parent.mkdir(parents=True), product.write_text("")))
    source = tmp_path / "main.cpp"
    header = tmp_path / "part.h"
    source.write_text("int answer();")
    header.write_text("// one")
    base = {"verilog": "module top; endmodule", "top": "top", "sources": (source,), "shared": True}

    def builds(**changes):
        before = len(built)
        tools.build(tools.Model(**{**base, **changes}))
        return len(built) - before

    assert builds() == 1 and builds() == 0
    assert builds(verilog="module top; wire x; endmodule") == 1
    assert builds(fast_flags=("-O3",)) == 1 and builds(defines=("-DX",)) == 1
    assert builds(trace=True) == 1 and builds(shared=False) == 1
    header.write_text("// two")
    assert builds() == 1
    source.write_text("int answer(int);")
    assert builds() == 1 and builds() == 0
    monkeypatch.setattr(tools, "_tool_versions", lambda: ("another compiler",))
    assert builds() == 1
