"""Bad input through the API and the command line: one clear sentence, no traceback, no answer."""

import copy
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import systolith
from frontend import inputs, seeded
from operators import IMAGE
from systolith import cli
from systolith.agreement import verify_model
from systolith.errors import Error, InputError, ModelError
from systolith.importer import import_model, rules
from systolith.quantizer import quantize

# Copying a graph module warns about torch's own code.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

BATCH = inputs((4, *IMAGE), 1)


def layers() -> nn.Module:
    return seeded(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), 1)


@pytest.fixture(scope="module")
def converted() -> Any:
    return quantize(layers(), [BATCH])


def sentence(error: Error) -> str:
    text = str(error)
    assert "\n" not in text and len(text) > 30, text
    return text


# Numbers ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_parameters_that_are_not_finite(value: float, name: str) -> None:
    model = layers()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    with pytest.raises(rules.NotFinite) as caught:
        quantize(model, [BATCH])
    layer, what = name.split(".")
    assert sentence(caught.value).startswith(f"'{layer}' has a {what} that is not finite")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite(value: float) -> None:
    batch = BATCH.clone()
    batch[1, 2, 3, 4] = value
    with pytest.raises(InputError, match="calibration batch 1 contains NaN or infinite values"):
        quantize(layers(), [BATCH, batch])


def test_images_that_are_not_numbers(converted: Any) -> None:
    batch = BATCH.clone()
    batch[1, 2, 3, 4] = float("nan")
    program = systolith.compile(converted, BATCH[:1], config="tiny")
    with systolith.open("golden", config=program.config) as device:
        for images in (batch.numpy(), batch):
            with pytest.raises(InputError, match="input 'input' contains NaN"):
                device.run(program, images)
        with pytest.raises(InputError, match="must hold real numbers, not object"):
            device.run(program, np.array([None]))
        with pytest.raises(InputError, match="has no images: pass a batch of at least one"):
            device.run(program, BATCH[:0])
        with pytest.raises(InputError, match=r"must have shape \(N, 4, 12, 10\), not \(2, 3, 12"):
            device.run(program, inputs((2, 3, 12, 10), 1))
    for run in (systolith.reference, lambda model, images: verify_model(
            model, BATCH, images, config="tiny", rtl=False)):
        with pytest.raises(InputError, match="input 'input' contains NaN"):
            run(converted, batch)
    with pytest.raises(InputError, match=r"must have the shape \('N', 4, 12, 10\), not \(2, 3, 12"):
        verify_model(converted, BATCH, inputs((2, 3, 12, 10), 1), config="tiny", rtl=False)


def with_constant(model: Any, operator: str, index: int, change: Callable[[Any], Any]) -> Any:
    """A copy in which a constant argument of an operator is another."""
    module = copy.deepcopy(model)
    for node in module.graph.nodes:
        if node.op != "call_function" or operator not in str(node.target):
            continue
        old = node.args[index]
        if isinstance(old, torch.fx.Node):
            value = getattr(module, old.target).clone()
            delattr(module, old.target)
            module.register_buffer(old.target, change(value))
        else:
            node.args = (*node.args[:index], change(old), *node.args[index + 1:])
    module.recompile()
    return module


@pytest.mark.parametrize("scale", [0.0, 1e-40, -0.1, float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("operator", ["quantize_per_tensor", "dequantize_per_channel"])
def test_scales_that_are_none(converted: Any, scale: float, operator: str) -> None:
    def change(old: Any) -> Any:
        return torch.full_like(old, scale) if isinstance(old, torch.Tensor) else scale

    with pytest.raises(ModelError) as caught:
        systolith.compile(with_constant(converted, operator, 1, change), BATCH[:1])
    refusals = getattr(caught.value, "refusals", [caught.value])
    assert any(isinstance(refusal, rules.Scale) for refusal in refusals)
    assert "must be a positive, finite, normal float32" in sentence(caught.value)


@pytest.mark.parametrize("zero_point", [-129, 128, 1 << 40])
def test_zero_points_out_of_range(converted: Any, zero_point: int) -> None:
    model = with_constant(converted, "quantize_per_tensor", 2, lambda old: zero_point)
    with pytest.raises(ModelError, match=f"zero point {zero_point}, outside its range -128 to 127"):
        systolith.compile(model, BATCH[:1])


# Shapes and kinds ---------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(1, 3, 12, 10), (1, 4, 12, 11), (4, 12, 10), (0, *IMAGE)])
def test_example_of_another_shape(converted: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(rules.ExampleShape) as caught:
        systolith.compile(converted, inputs(shape, 1))
    assert f"has the shape {shape}" in sentence(caught.value)


@pytest.mark.parametrize("example", ["text", 3, [[1.0]]])
def test_example_that_is_no_tensor(converted: Any, example: Any) -> None:
    with pytest.raises(rules.ExampleKind, match="give a tensor or an array"):
        systolith.compile(converted, example)


def test_three_dimensional_convolution_is_named() -> None:
    images = inputs((2, 2, 5, 6, 7), 1)
    model = nn.Sequential(nn.Conv3d(2, 4, 3)).eval()
    with pytest.raises(rules.UnsupportedOperator, match="operator conv3d at '0' is not supported"):
        systolith.compile(quantize(model, [images]), images)
    mixed = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Unflatten(1, (2, 4)), nn.Conv3d(2, 4, 1)).eval()
    with pytest.raises(ModelError, match="operator conv3d at '2'"):
        systolith.compile(quantize(mixed, [BATCH]), BATCH)


def test_dynamic_height(converted: Any) -> None:
    height = torch.export.Dim("height", min=6, max=64)
    program = torch.export.export(converted, (BATCH,), dynamic_shapes=({2: height},))
    with pytest.raises(rules.DynamicShape) as caught:
        systolith.compile(program)
    assert "fixed sizes behind the batch axis" in sentence(caught.value)


def test_what_is_no_model() -> None:
    with pytest.raises(rules.ModelKind, match="type NoneType"):
        systolith.compile(None)
    with pytest.raises(ModelError, match=r"takes a float torch\.nn\.Module, not int"):
        quantize(3, [BATCH])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch of type str does not hold real numbers"):
        quantize(layers(), ["images"])
    with pytest.raises(ModelError, match=r"expected input.* to have 4 channels, but got 3"):
        quantize(layers(), [inputs((4, 3, 12, 10), 1)])


def test_options_that_do_not_exist(converted: Any) -> None:
    with pytest.raises(ModelError, match="bias must be \"exact\" or \"int32\", not 'float'"):
        systolith.compile(converted, BATCH, bias="float")
    with pytest.raises(ModelError, match="multiplier_bits must be 24, 18, 16 or 0, not 12"):
        import_model(converted, BATCH, multiplier_bits=12)


# Files, through the API and the command line ------------------------------------------------------

class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "executed"))


def _truncated(path: Path, good: bytes, mark: Path) -> None:
    path.write_bytes(good[:len(good) // 2])


def _changed(path: Path, good: bytes, mark: Path) -> None:
    third = len(good) // 3
    path.write_bytes(good[:third] + bytes(4096) + good[third + 4096:])


def _text(path: Path, good: bytes, mark: Path) -> None:
    path.write_text("not a model")


def _pickle(path: Path, good: bytes, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(mark)))


def _saved(path: Path, good: bytes, mark: Path) -> None:
    torch.save({"model": Evil(mark)}, path)


def _empty_archive(path: Path, good: bytes, mark: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/version", "0")


def _missing(path: Path, good: bytes, mark: Path) -> None:
    path.unlink(missing_ok=True)


FILES = {"truncated": (_truncated, "cannot be read as a .pt2 file"),
         "changed": (_changed, "cannot be read as a .pt2 file"),
         "text": (_text, "not a zip file"),
         "pickle": (_pickle, "not a zip file"),
         "saved by torch.save": (_saved, "pickled objects"),
         "empty archive": (_empty_archive, "cannot be read as a .pt2 file"),
         "missing": (_missing, "No such file")}


@pytest.fixture(scope="module")
def good_file(converted: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.pt2"
    torch.export.save(torch.export.export(converted, (BATCH,)), path)
    return path.read_bytes()


def run_cli(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["systolith", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, good_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
               capfd: pytest.CaptureFixture[str]) -> None:
    make, words = FILES[kind]
    path, mark = tmp_path / "model.pt2", tmp_path / "mark"
    make(path, good_file, mark)
    with pytest.raises(ModelError) as caught:
        systolith.compile(path)
    assert words in sentence(caught.value)
    capfd.readouterr()
    output = tmp_path / "out.systolith"
    assert run_cli(monkeypatch, "compile", str(path), "-o", str(output)) == 1
    shown = capfd.readouterr().err
    assert shown.startswith("systolith: ") and shown.count("\n") == 1 and words in shown
    assert not output.exists() and not mark.exists()


def test_a_good_file_is_compiled(good_file: bytes, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = tmp_path / "model.pt2", tmp_path / "out.systolith"
    path.write_bytes(good_file)
    words = ("compile", str(path), "-o", str(output), "--config", "tiny")
    assert run_cli(monkeypatch, *words) == 0
    assert systolith.load(output).inputs[0].shape == IMAGE


def test_a_process_of_its_own_prints_one_line(tmp_path: Path) -> None:
    """PyTorch's loader logs the traceback of what it raises, from outside of Python's streams."""
    path = tmp_path / "model.pt2"
    _empty_archive(path, b"", path)
    done = subprocess.run(
        [sys.executable, "-m", "systolith.cli", "compile", str(path), "-o", str(tmp_path / "o")],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ})
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Failed to load")]
    assert len(lines) == 1 and lines[0].startswith("systolith: "), done.stderr


MODELS = """
import numpy as np
import torch
from torch import nn

import systolith

IMAGES = torch.zeros(2, 4, 8, 8) + torch.arange(8)


def wrong_example():
    return systolith.quantize(nn.Conv2d(4, 8, 3), [IMAGES]), IMAGES[:, :3]


def not_finite():
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    nn.init.constant_(model[0].weight, float("nan"))
    return systolith.quantize(model, [IMAGES]), IMAGES


def broken():
    raise KeyError("weights")


def nothing():
    return None
"""


@pytest.mark.parametrize("name, words", [
    ("wrong_example", "the example input has the shape (2, 3, 8, 8)"),
    ("not_finite", "'0' has a weight that is not finite"),
    ("broken", "KeyError ('weights') at"),
    ("nothing", "must return (model, example input), not NoneType"),
    ("absent", "has no attribute 'absent'"),
])
def test_functions_named_on_the_command_line(
        name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "named_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "named_models", raising=False)
    assert run_cli(monkeypatch, "compile", f"named_models:{name}", "-o", "out.systolith") == 1
    shown = capfd.readouterr().err
    assert shown.count("\n") == 1 and words in shown, shown
