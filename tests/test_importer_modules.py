"""Modules converted by FX and eager mode, from PyTorch's ordinary calls to equal integers."""

import copy
import warnings

import numpy as np
import pytest

import systolith
from systolith.errors import ModelError

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    quantization = pytest.importorskip("torch.ao.quantization")
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
nn = torch.nn

# The framework's own announcement that this mode will go, and hints on its defaults.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning",
                                        "ignore::FutureWarning")
ENGINES = {"fbgemm": ("x86", "exact"), "qnnpack": ("qnnpack", "int32")}
IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """Two convolutions beside a shortcut, joined by a FloatFunctional."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(channels, channels, 1)
        self.join = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x):
        return self.join.add_relu(self.second(self.relu(self.norm(self.first(x)))), x)


class Network(nn.Module):
    """All that small classifiers have: residual, concatenation, pools, depthwise, linear."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.block = Residual(8)
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.side = nn.Conv2d(8, 4, 1)
        self.join = torch.ao.nn.quantized.FloatFunctional()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout()
        self.classify = nn.Linear(12, 5)

    def forward(self, x):
        x = self.pool(self.block(self.relu(self.stem(x))))
        x = self.join.cat([self.depthwise(x), self.side(x)], 1)
        return self.classify(self.drop(torch.flatten(self.mean(x), 1)))


def with_engine(engine):
    """The engine whose kernels the converted module runs on."""
    torch.backends.quantized.engine = ENGINES[engine][0]


@pytest.fixture(autouse=True)
def keep_engine():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


def network(seed):
    torch.manual_seed(seed)
    return Network()


def by_fx(engine, seed):
    mapping = quantization.get_default_qconfig_mapping(engine)
    prepared = quantize_fx.prepare_fx(network(seed).eval(), mapping, (IMAGES[:1],))
    prepared(IMAGES)
    return quantize_fx.convert_fx(prepared)


def by_fx_qat(engine, seed):
    mapping = quantization.get_default_qat_qconfig_mapping(engine)
    prepared = quantize_fx.prepare_qat_fx(network(seed).train(), mapping, (IMAGES[:1],))
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(IMAGES).square().mean().backward()
        optimizer.step()
    return quantize_fx.convert_fx(prepared.eval())


FUSED = [["stem", "relu"], ["block.first", "block.norm", "block.relu"]]


def by_eager(engine, seed):
    wrapped = quantization.QuantWrapper(network(seed)).eval()
    quantization.fuse_modules(wrapped.module, FUSED, inplace=True)
    wrapped.qconfig = quantization.get_default_qconfig(engine)
    quantization.prepare(wrapped, inplace=True)
    wrapped(IMAGES)
    return quantization.convert(wrapped)


def by_eager_qat(engine, seed):
    wrapped = quantization.QuantWrapper(network(seed)).train()
    quantization.fuse_modules_qat(wrapped.module, FUSED, inplace=True)
    wrapped.qconfig = quantization.get_default_qat_qconfig(engine)
    quantization.prepare_qat(wrapped, inplace=True)
    wrapped(IMAGES).square().mean().backward()
    return quantization.convert(wrapped.eval())


def by_eager_per_channel(engine, seed):
    wrapped = quantization.QuantWrapper(network(seed)).eval()
    quantization.fuse_modules(wrapped.module, FUSED, inplace=True)
    wrapped.qconfig = quantization.QConfig(
        activation=quantization.MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=True),
        weight=quantization.PerChannelMinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric))
    quantization.prepare(wrapped, inplace=True)
    wrapped(IMAGES)
    return quantization.convert(wrapped)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("convert", (by_fx, by_fx_qat, by_eager, by_eager_qat,
                                     by_eager_per_channel))
def test_converted_modules_equal_their_kernels(convert, engine):
    """The integer reference gives what PyTorch's own int8 kernels give."""
    for seed in range(3):
        with_engine(engine)
        converted = convert(engine, seed)
        with torch.no_grad():
            expected = converted(IMAGES).numpy()
        got = systolith.reference(converted, IMAGES.numpy(), bias=ENGINES[engine][1])
        assert np.array_equal(got, expected), f"seed {seed}: {np.abs(got - expected).max()}"


def test_converted_modules_run_on_the_accelerator():
    with_engine("fbgemm")
    converted = by_fx("fbgemm", 7)
    program = systolith.compile(converted, IMAGES[:1], config="small")
    with torch.no_grad():
        expected = converted(IMAGES).numpy()
    with systolith.open("golden", config=program.config) as device:
        assert np.array_equal(device.run(program, IMAGES.numpy()), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_bilinear_upsampling_equals_the_kernel(engine):
    """Its ties do not follow the zero point, in any engine."""
    with_engine(engine)
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"))
        wrapped = quantization.QuantWrapper(model).eval()
        wrapped.qconfig = quantization.get_default_qconfig(engine)
        quantization.prepare(wrapped, inplace=True)
        wrapped(IMAGES)
        converted = quantization.convert(wrapped)
        with torch.no_grad():
            expected = converted(IMAGES).numpy()
        got = systolith.reference(converted, IMAGES.numpy(), bias=ENGINES[engine][1])
        assert np.array_equal(got, expected), f"seed {seed}"


@pytest.mark.parametrize("fused", (False, True))
@pytest.mark.parametrize("engine", ENGINES)
def test_batch_norm_by_itself_equals_the_kernel(engine, fused):
    """Before the convolution, as in pre-activation networks, nothing can fold it."""
    with_engine(engine)
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
        with torch.no_grad():
            for value in (model[0].weight, model[0].bias, model[0].running_mean):
                value.normal_()
            model[0].running_var.uniform_(0.5, 2)
        wrapped = quantization.QuantWrapper(model).eval()
        if fused:
            quantization.fuse_modules(wrapped.module, ["0", "1"], inplace=True)
        wrapped.qconfig = quantization.get_default_qconfig(engine)
        quantization.prepare(wrapped, inplace=True)
        wrapped(IMAGES)
        converted = quantization.convert(wrapped)
        with torch.no_grad():
            expected = converted(IMAGES).numpy()
        step = float(converted.module[0].scale)
        for bias, limit in (("exact", 1e-4), ("int32", 1e-2)):
            got = systolith.reference(converted, IMAGES.numpy(), bias=bias)
            steps = np.rint(np.abs(got - expected) / step)
            # The kernel keeps its bias in float, whatever the engine does in convolutions.
            assert steps.max() <= 1 and (steps > 0).mean() <= limit, f"seed {seed}, {bias}"


def test_reference_modules_are_taken_as_well():
    mapping = quantization.get_default_qconfig_mapping("qnnpack")
    model = network(3).eval()
    model.drop = nn.Identity()  # a reference graph rescales behind a dropout, kernels do not
    prepared = quantize_fx.prepare_fx(model, mapping, (IMAGES[:1],))
    prepared(IMAGES)
    with_engine("qnnpack")
    reference = quantize_fx.convert_to_reference_fx(copy.deepcopy(prepared))
    kernels = quantize_fx.convert_fx(prepared)
    assert np.array_equal(systolith.reference(reference, IMAGES.numpy()),
                          systolith.reference(kernels, IMAGES.numpy()))


class FourBits(nn.Module):
    """A reference convolution and linear layer with `torch.quint4x2` weights."""

    def __init__(self, zero_point=8.0):
        super().__init__()
        reference = torch.ao.nn.quantized.reference
        torch.manual_seed(11)
        conv, linear = nn.Conv2d(3, 5, 3), nn.Linear(5, 7)
        self.conv = reference.Conv2d.from_float(conv, self.parameters_of(conv, zero_point))
        self.linear = reference.Linear.from_float(linear, self.parameters_of(linear, zero_point))

    @staticmethod
    def parameters_of(layer, zero_point):
        scale = layer.weight.detach().flatten(1).abs().amax(1) / 7
        return {"qscheme": torch.per_channel_affine_float_qparams, "dtype": torch.quint4x2,
                "scale": scale, "zero_point": torch.full_like(scale, zero_point), "axis": 0}

    def forward(self, x):
        def rounded(value, scale, zero):
            return torch.quantize_per_tensor(value, scale, zero, torch.quint8).dequantize()

        x = rounded(self.conv(rounded(x, 0.03, 120)), 0.02, 128)
        x = rounded(nn.functional.adaptive_max_pool2d(x, 1), 0.02, 128)
        return rounded(self.linear(torch.flatten(x, 1)), 0.01, 130)


@pytest.mark.parametrize("config", ("small", "int4"))
def test_packed_four_bit_weights(config):
    """Two levels to a byte are the same levels, whether the hardware has int4 or not."""
    from systolith.importer import import_model

    model = FourBits().eval()
    graph = import_model(model, IMAGES[:1])
    levels = [node.weight for node in graph.weighted()]
    assert [weight.shape for weight in levels] == [(5, 3, 3, 3), (7, 5)]
    assert all(weight.min() < -5 and weight.max() == 7 for weight in levels)
    with torch.no_grad():
        expected = model(IMAGES).numpy()
        for node, layer in zip(graph.weighted(), (model.conv, model.linear), strict=True):
            scale = node.weight_scale.reshape(-1, *(1,) * (node.weight.ndim - 1))
            np.testing.assert_allclose(node.weight * scale, layer.get_weight().numpy(), rtol=1e-5)
    program = systolith.compile(model, IMAGES[:1], config=config)
    with systolith.open("golden", config=program.config) as device:
        assert np.array_equal(device.run(program, IMAGES.numpy()), expected)


def test_four_bit_weights_with_a_zero_point_are_refused():
    with pytest.raises(ModelError, match=r"weight of 'conv' has the zero point -0\.5: use an obs"):
        systolith.compile(FourBits(7.5).eval(), IMAGES[:1])


def test_layers_keep_their_names():
    from systolith.importer import import_model

    graph = import_model(by_eager("fbgemm", 0), IMAGES[:1])
    names = {node.name for node in graph.nodes}
    assert {"module.stem", "module.block.first", "module.classify"} <= names, names


def test_silent_float_convolutions_are_found():
    """A bias type in the BackendConfig that no qconfig has leaves the convolution in float."""
    from torch.ao.quantization.backend_config import (
        BackendConfig,
        BackendPatternConfig,
        DTypeConfig,
        ObservationType,
    )

    types = DTypeConfig(input_dtype=torch.quint8, output_dtype=torch.quint8,
                        weight_dtype=torch.qint8, bias_dtype=torch.qint32)
    conv = (BackendPatternConfig(nn.Conv2d)
            .set_observation_type(ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT)
            .set_dtype_configs([types]).set_root_module(nn.Conv2d)
            .set_reference_quantized_module(torch.ao.nn.quantized.reference.Conv2d))
    linear = (BackendPatternConfig(nn.Linear)
              .set_observation_type(ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT)
              .set_dtype_configs([DTypeConfig(
                  input_dtype=torch.quint8, output_dtype=torch.quint8, weight_dtype=torch.qint8,
                  bias_dtype=torch.float)])
              .set_root_module(nn.Linear)
              .set_reference_quantized_module(torch.ao.nn.quantized.reference.Linear))
    config = BackendConfig("fully quantized").set_backend_pattern_configs([conv, linear])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    prepared = quantize_fx.prepare_fx(model, quantization.get_default_qconfig_mapping("fbgemm"),
                                      (IMAGES[:1],), backend_config=config)
    prepared(IMAGES)
    converted = quantize_fx.convert_fx(prepared, backend_config=config)
    with pytest.raises(ModelError, match="'0' was left in float by the conversion"):
        systolith.reference(converted, IMAGES.numpy())


def test_refusals():
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.conv(x)
            return y if y.dequantize().sum() > 0 else x

    wrapped = quantization.QuantWrapper(Choosing()).eval()
    wrapped.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(wrapped, inplace=True)
    with pytest.raises(ModelError, match="does not know its input's shape: pass an example"):
        systolith.compile(by_fx("fbgemm", 0))
    converted = quantization.convert(wrapped)
    with pytest.raises(ModelError, match="chooses by the data what to compute"):
        systolith.reference(converted, IMAGES.numpy())
    with pytest.raises(ModelError, match="cannot be traced"):
        systolith.compile(by_fx("fbgemm", 0), IMAGES[:1, :2])
