"""Every refusal by name: one sentence that says what, where and what to do, never a traceback."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend import inputs, seeded, xnnpack
from operators import IMAGE, Around
from systolith.errors import ModelError, MultipleRefusals
from systolith.importer import import_model, rules
from systolith.importer.lowering import HANDLERS
from systolith.integer_reference import reference
from systolith.quantizer import quantize

# Copying a graph module warns about torch's own code.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.fixture(scope="module")
def converted() -> Any:
    """A small converted model, damaged anew by each test on a copy."""
    return quantize(seeded(Around(lambda m, a, b: F.relu(a + b)), 1), [inputs((8, *IMAGE), 1)])


def damaged(converted: Any, change: Callable[[Any, Any], None], operator: str) -> Any:
    """A copy whose nodes of one operator were changed."""
    import copy

    module = copy.deepcopy(converted)
    for node in list(module.graph.nodes):
        if node.op == "call_function" and operator in str(node.target):
            change(module, node)
    module.recompile()
    return module


def argument(index: int, value: Any) -> Callable[[Any, Any], None]:
    def change(module: Any, node: Any) -> None:
        node.args = (*node.args[:index], value, *node.args[index + 1:])
    return change


def attribute(index: int, change_tensor: Callable[[torch.Tensor], torch.Tensor]
              ) -> Callable[[Any, Any], None]:
    def change(module: Any, node: Any) -> None:
        name = node.args[index].target
        value = change_tensor(getattr(module, name).clone())
        delattr(module, name)
        module.register_buffer(name, value)
    return change


DAMAGES = {
    "scale of zero": (argument(1, 0.0), "quantize_per_tensor", rules.Scale, "scale 0.0"),
    "tiny scale": (argument(1, 1e-40), "quantize_per_tensor", rules.Scale, "1e-40"),
    "nan scale": (argument(1, float("nan")), "quantize_per_tensor", rules.Scale, "nan"),
    "zero point": (argument(2, 200), "quantize_per_tensor", rules.ZeroPoint, "200"),
    "int16": (argument(5, torch.int16), "quantize_per_tensor", rules.TensorKind, "int16"),
    "levels": (argument(3, 300), "quantize_per_tensor", rules.Corrupt, "300"),
    "weight zero point": (attribute(2, lambda t: t + 3), "dequantize_per_channel",
                          rules.WeightZeroPoint, "zero point 3"),
    "weight axis": (argument(3, 1), "dequantize_per_channel", rules.ChannelAxis, "axis 1"),
    "weight scale": (attribute(1, lambda t: t * 0), "dequantize_per_channel", rules.Scale, "0.0"),
    "weight type": (attribute(0, lambda t: t.to(torch.int16)), "dequantize_per_channel",
                    rules.TensorKind, "int16"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_quantization(converted: Any, name: str) -> None:
    change, operator, rule, words = DAMAGES[name]
    model = damaged(converted, change, operator)
    with pytest.raises(ModelError) as caught:
        import_model(model)
    assert words in str(caught.value)
    broken = getattr(caught.value, "refusals", [caught.value])
    assert any(isinstance(refusal, rule) for refusal in broken)


def test_dequantize_with_another_scale(converted: Any) -> None:
    model = damaged(converted, argument(1, 0.5), "quantized_decomposed.dequantize_per_tensor")
    with pytest.raises(ModelError, match="not that of the quantized tensor"):
        import_model(model)


def test_not_finite_bias() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(4, 8, 1)), 1)
    quantized = xnnpack(model, inputs((4, *IMAGE), 1))
    for name, parameter in quantized.named_parameters():
        if name.endswith("bias"):
            parameter.data[2] = float("inf")
    with pytest.raises(rules.NotFinite, match="'0' has a bias that is not finite"):
        import_model(quantized)


def refusal(model: nn.Module, *, stock: bool = False) -> ModelError:
    images = inputs((4, *IMAGE), 2)
    seeded(model, 2)
    quantized = xnnpack(model, images) if stock else quantize(model, [images])
    with pytest.raises(ModelError) as caught:
        import_model(quantized, images)
    assert "\n" not in str(caught.value)
    return caught.value


def around(function: Any, behind: int = 8) -> nn.Module:
    return Around(function, behind=behind)


UNSUPPORTED = {
    "sort": (lambda m, a, b: a.sort(1)[0], rules.UnsupportedOperator, "operator sort at 'sort'"),
    "matmul": (lambda m, a, b: a @ b.transpose(2, 3) @ b, rules.UnsupportedOperator, "matmul"),
    "broadcast": (lambda m, a, b: a + b[:, :, :1], rules.Broadcast, "(8, 12, 10) and (8, 1, 10)"),
    "permute": (lambda m, a, b: a.permute(0, 1, 3, 2), rules.Permute, "(0, 1, 3, 2)"),
    "adaptive": (lambda m, a, b: F.adaptive_avg_pool2d(a, (5, 3)), rules.AdaptivePool, "(5, 3)"),
    "padded average": (lambda m, a, b: F.avg_pool2d(a, 3, 2, 1, count_include_pad=False),
                       rules.PaddedAverage, "count_include_pad=True"),
    "short average": (lambda m, a, b: F.avg_pool2d(a, 3, 2, ceil_mode=True), rules.PaddedAverage,
                      "ceil_mode=False"),
    "reflect": (lambda m, a, b: F.pad(a, (1, 1, 1, 1), "reflect"), rules.PaddingMode, "reflect"),
    "resize": (lambda m, a, b: F.interpolate(a, (18, 15)), rules.UpsampleFactor, "(18, 15)"),
    "bilinear by 3": (lambda m, a, b: F.interpolate(a, scale_factor=3.0, mode="bilinear"),
                      rules.BilinearFactor, "(12, 10) to (36, 30)"),
    "aligned corners": (lambda m, a, b: F.interpolate(a, scale_factor=2.0, mode="bilinear",
                                                      align_corners=True),
                        rules.BilinearFactor, "align_corners=False"),
    "batch": (lambda m, a, b: torch.cat([a, b], 0), rules.BatchAxis, "cat"),
    "constant": (lambda m, a, b: F.relu(a) * torch.arange(8.0)[:, None, None],
                 rules.ChannelConstant, "(8, 1, 1)"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operator(name: str) -> None:
    function, rule, words = UNSUPPORTED[name]
    error = refusal(around(function))
    broken = getattr(error, "refusals", [error])
    assert any(isinstance(item, rule) for item in broken), error
    assert words in str(error)


def test_stock_quantizer_leaves_hardswish_in_float() -> None:
    error = refusal(Around(lambda m, a, b: F.adaptive_avg_pool2d(F.hardswish(a), 1), behind=8),
                    stock=True)
    assert isinstance(error, rules.NeedsScale)
    assert "'hardswish' (hardswish)" in str(error) and "SystolithQuantizer" in str(error)


def test_every_refusal_is_reported_at_once() -> None:
    def two(m: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.permute(0, 1, 3, 2).reshape(a.shape) + F.pad(b, (1, 1, 1, 1), "reflect")[
            :, :, 1:-1, 1:-1]
    error = refusal(around(two))
    assert isinstance(error, MultipleRefusals)
    assert {rules.Permute, rules.PaddingMode} <= {type(item) for item in error.refusals}
    assert str(error).startswith(f"{len(error.refusals)} reasons to refuse the model: (1) ")


def test_float_models_are_not_quantized() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 1))
    exported = torch.export.export(model, (inputs((2, *IMAGE), 1),))
    for source in (model, exported, exported.module(check_guards=False)):
        with pytest.raises(rules.NotQuantized, match=r"systolith\.quantize"):
            import_model(source)
    with pytest.raises(rules.ModelKind, match="type dict"):
        import_model({})


def test_example_input_of_another_shape(converted: Any) -> None:
    with pytest.raises(rules.ExampleShape, match=r"\(1, 3, 12, 10\), but input 'x' of the model is "
                                                 r"\('N', 4, 12, 10\)"):
        import_model(converted, inputs((1, 3, 12, 10), 1))
    with pytest.raises(rules.ExampleShape, match="2 tensors"):
        import_model(converted, (inputs((1, *IMAGE), 1),) * 2)
    with pytest.raises(rules.ExampleShape):
        import_model(converted, inputs((0, *IMAGE), 1))
    import_model(converted, inputs((3, *IMAGE), 1))


def test_control_flow() -> None:
    class Choose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.conv(torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,)))

    class Branch(Choose):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) if x.sum() > 0 else x

    images = inputs((4, *IMAGE), 3)
    with pytest.raises(ModelError, match="Branch cannot be exported"):
        quantize(Branch(), [images])
    with pytest.raises(ModelError, match="cond"):
        import_model(quantize(Choose(), [images]))


def test_dynamic_height() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), 1)
    quantized = quantize(model, [inputs((2, *IMAGE), 1)])
    program = torch.export.export(quantized, (inputs((2, *IMAGE), 1),), dynamic_shapes=(
        {2: torch.export.Dim("height", min=4, max=64)},))
    with pytest.raises(rules.DynamicShape, match="fixed sizes"):
        import_model(program)


# Files --------------------------------------------------------------------------------------------

class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "executed"))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(rules.UnreadableFile, match="No such file"):
        import_model(tmp_path / "none.pt2")
    text = tmp_path / "text.pt2"
    text.write_text("not a model")
    with pytest.raises(rules.UnreadableFile, match=r"torch\.export\.save"):
        import_model(text)
    empty = tmp_path / "empty.pt2"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("archive/version", "0")
    with pytest.raises(rules.UnreadableFile):
        import_model(empty)


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    plain = tmp_path / "model.pt2"
    plain.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(rules.UnreadableFile):
        import_model(plain)
    saved = tmp_path / "saved.pt2"
    torch.save({"x": Evil(mark)}, saved)
    with pytest.raises(ModelError):
        import_model(saved)
    assert not mark.exists()


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> None:
    """A copy of an archive with members changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))


def test_pickles_inside_an_archive_are_never_executed(converted: Any, tmp_path: Path) -> None:
    good, bad, mark = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "mark"
    torch.export.save(torch.export.export(converted, (inputs((2, *IMAGE), 1),)), good)
    names = zipfile.ZipFile(good).namelist()
    pickled = [name for name in names if name.endswith(".pt")]
    assert pickled, "the format has changed: look where it keeps example inputs"
    for name in pickled:
        rewritten(good, bad, lambda member, data, name=name: (
            pickle.dumps(Evil(mark)) if member == name else data))
        with pytest.raises(rules.PickledFile, match="pickled objects"):
            import_model(bad)
    rewritten(good, bad, lambda member, data: (
        data.replace(b'"use_pickle": false', b'"use_pickle": true')
        if member.endswith("config.json") else data))
    with pytest.raises(rules.PickledFile):
        import_model(bad)
    assert not mark.exists()
    import_model(good)


def test_damaged_archives(converted: Any, tmp_path: Path) -> None:
    """Bytes lost or changed: refused in one sentence, or read as the very same model."""
    import random

    good, bad = tmp_path / "good.pt2", tmp_path / "bad.pt2"
    torch.export.save(torch.export.export(converted, (inputs((2, *IMAGE), 1),)), good)
    data = good.read_bytes()
    images = inputs((2, *IMAGE), 1)
    expected = reference(import_model(good), images)
    choose, messages = random.Random(5), []
    for trial in range(24):
        broken = bytearray(data)
        if trial % 3 == 0:
            del broken[choose.randrange(len(broken)):]
        else:
            broken[choose.randrange(len(broken))] ^= 1 << choose.randrange(8)
        bad.write_bytes(broken)
        try:
            graph = import_model(bad)
        except ModelError as error:
            messages.append(str(error))
        else:
            np.testing.assert_array_equal(reference(graph, images), expected, f"trial {trial}")
    assert len(messages) > 12 and not any("\n" in message for message in messages)


# The rules themselves -----------------------------------------------------------------------------

def test_rules_are_sentences_with_advice() -> None:
    assert len(rules.RULES) >= 25
    for rule in rules.RULES:
        text = rule.template()
        assert ": " in text and not text.endswith("."), rule.__name__
        assert rule.__name__ in rules.__all__
    with pytest.raises(rules.Permute, match=r"'here' permutes the axes of \(1, 2\)"):
        raise rules.Permute(layer="here", shape=(1, 2), axes=(1, 0))


def test_every_operator_says_how_it_runs() -> None:
    import systolith.importer.pt2e  # noqa: F401  registers the handlers

    for name, handler in HANDLERS.items():
        assert (handler.__doc__ or "").strip(), name
