"""The command line on devices: what it prints, and one sentence for everything that goes wrong."""

import json
import sys

import numpy as np
import pytest

from link_stand_ins import CONFIG, copy_program
from systolith import cli
from systolith.driver.simulate import PtyPort
from systolith.hw.config import PRESETS
from test_driver_device import expected, images
from test_driver_transports import served


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command; returns its exit code, what it printed, and its errors."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["systolith", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err
    return run


@pytest.fixture
def refused(command):
    """Runs a command that must fail with one sentence; returns the sentence."""
    def run(*arguments):
        code, _, errors = command(*arguments)
        assert code == 1 and errors.startswith("systolith: "), errors
        assert errors.count("\n") == 1 and len(errors) < 500 and errors.count(": ") >= 2, errors
        return errors
    return run


@pytest.fixture
def files(tmp_path):
    """A program and images, in files."""
    copy_program(tail=(), metadata={}).save(tmp_path / "copy.systolith")
    np.save(tmp_path / "x.npy", images(3))
    return tmp_path


def run_arguments(folder, *, program="copy.systolith", images="x.npy", device="golden"):
    return ("run", folder / program, "--input", folder / images, "--output", folder / "y.npy",
            "--device", device)


@pytest.mark.parametrize("name", ("golden", "rtl"))
def test_info_selftest_and_bench(command, tmp_path, name):
    for action in ("info", "selftest", "bench"):
        code, out, _ = command("device", name, action, "--config", "tiny", "--json",
                               tmp_path / f"{action}.json")
        assert code == 0 and json.loads(out) == json.loads(
            (tmp_path / f"{action}.json").read_text())
    about = json.loads((tmp_path / "info.json").read_text())
    assert about["config_hash"] == PRESETS["tiny"].hash and about["rows"] == 4
    assert json.loads((tmp_path / "selftest.json").read_text())["programs"] == 4
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert set(figures) == {"device", "write_bytes_per_second", "read_bytes_per_second",
                            "round_trips_per_second", "repetitions"}
    assert min(value for value in figures.values() if type(value) is float) > 0


def test_a_program_runs_behind_a_pty(command, files):
    port = PtyPort()
    with served(port):
        code, out, _ = command(*run_arguments(files, device=port.address))
        assert code == 0 and "image" in out
        code, out, _ = command("device", port.address, "selftest")
        assert code == 0 and json.loads(out)["programs"] == 0
    assert np.array_equal(np.load(files / "y.npy"), expected(copy_program(), images(3)))


def test_shares_of_time_in_link_and_core(command, files):
    """Printed by `run`, and on the page that `report` makes of its result."""
    copy_program(PRESETS["tiny"]).save(files / "copy.systolith")
    code, out, _ = command(*run_arguments(files, device="rtl"), "--json", files / "run.json")
    seconds = json.loads((files / "run.json").read_text())["seconds"]
    assert code == 0 and 0 < seconds["core"] < seconds["link"]
    assert seconds["core"] + seconds["link"] == pytest.approx(seconds["total"])
    text = (f"{seconds['core'] / seconds['total']:.1%} of the time in the core and "
            f"{seconds['link'] / seconds['total']:.1%} in the link").replace("%", " %")
    assert f"3 images, {text}" in out
    assert command("report", files / "run.json", "-o", files / "run.html")[0] == 0
    assert text in (files / "run.html").read_text()


def test_progress_is_shown(command, files, monkeypatch):
    seen = []
    monkeypatch.setattr("rich.status.Status.update", lambda status, text: seen.append(text))
    port = PtyPort()
    with served(port):
        assert command(*run_arguments(files, device=port.address))[0] == 0
    name, size = files / "copy.systolith", len(copy_program().image)
    assert f"sending {name}: {size} of {size} bytes" in seen
    assert seen[-3:] == [f"running {name}: {done} of 3 images" for done in (1, 2, 3)]


@pytest.mark.parametrize(("device", "message"), [
    ("gold", "no device 'gold': use golden, rtl, pty:PATH, serial:PATH, tcp:HOST:PORT or dask://"),
    ("", "no device ''"),
    ("tcp:127.0.0.1:1", "cannot connect to 127.0.0.1:1: Connection refused: check the address"),
    ("tcp:127.0.0.1", "'127.0.0.1' is not HOST:PORT"),
    ("pty:/dev/nothing", "cannot open /dev/nothing: No such file or directory: check that the"),
    ("serial:/dev/nothing", "cannot open /dev/nothing"),
    ("serial:NOSUCHNUMBER", "no serial port 'NOSUCHNUMBER': give a path or a USB serial number"),
    ("dask:host", "names no scheduler: use dask://HOST:PORT"),
])
def test_a_device_that_is_not_there(refused, files, device, message):
    if not device.startswith("dask"):
        assert message in refused("device", device, "info")
    assert message in refused(*run_arguments(files, device=device))


def test_wrong_words_on_the_command_line(refused, files):
    assert "no action 'dance': use info, selftest or bench" in refused("device", "golden", "dance")
    assert "no configuration 'huge'" in refused("device", "golden", "info", "--config", "huge")
    assert "name exactly one port" in refused("simulate")
    assert "'here' is not HOST:PORT" in refused("simulate", "--tcp", "here", "--config", "tiny")
    assert "cannot write" in refused("device", "golden", "info", "--json", files / "no" / "x")


def test_a_program_for_another_configuration(refused, files):
    other = PRESETS["small"]
    copy_program(other).save(files / "other.systolith")
    port = PtyPort()
    with served(port):
        text = refused(*run_arguments(files, program="other.systolith", device=port.address))
    assert CONFIG.hash in text and other.hash in text and "compile for the device's conf" in text


def test_damaged_programs(refused, files):
    data = (files / "copy.systolith").read_bytes()
    (files / "short").write_bytes(data[:-5])
    (files / "flipped").write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    (files / "text").write_text("hello, this is no program")
    copy_program(error=True).save(files / "wrong")
    for name, message in (("nothing", "cannot read program"), ("short", "copy it again"),
                          ("flipped", "checksum"), ("text", "not a program"),
                          ("wrong", "LOAD instruction 0"), (".", "Is a directory")):
        text = refused(*run_arguments(files, program=name))
        assert message in text, text


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((3, 2, 2)), "lacks the batch axis"),
    (np.zeros((2, 3, 4, 4)), "must have shape (N, 3, 2, 2), not (2, 3, 4, 4)"),
    (np.zeros((0, 3, 2, 2)), "has no images"),
    (np.full((1, 3, 2, 2), np.nan), "NaN"),
    (np.zeros((1, 3, 2, 2), "U3"), "must hold real numbers"),
    (np.zeros((1, 3, 2, 2), bool), "must hold real numbers, not bool"),
    (np.zeros((1, 3, 2, 2), "M8[s]"), "must hold real numbers"),
])
def test_wrong_images(refused, files, array, message):
    np.save(files / "wrong.npy", array)
    assert message in refused(*run_arguments(files, images="wrong.npy"))


def test_files_that_hold_no_images(refused, files):
    np.save(files / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    (files / "text.npy").write_text("1 2 3")
    (files / "empty.npy").write_bytes(b"")
    np.savez(files / "several.npz", a=np.zeros(3))
    for name, message in (("nothing.npy", "No such file"), ("objects.npy", "is not a .npy file"),
                          ("text.npy", "is not a .npy file"), ("empty.npy", "is not a .npy file"),
                          ("several.npz", "is not a .npy file"), (".", "Is a directory")):
        assert message in refused(*run_arguments(files, images=name)), name
    arguments = list(run_arguments(files))
    arguments[5] = files / "no" / "y.npy"
    assert "cannot write" in refused(*arguments)
