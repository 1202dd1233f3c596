"""The benchmark networks: sizes as published, and the small ones imported and compared."""

import math

import pytest
import torch

from frontend import layer_differences
from systolith.errors import ModelError
from systolith.importer import import_model
from systolith.models import MODELS, load, load_quantized
from systolith.models.weights import photographs

# Parameters as published; those of MLPerf Tiny with batch norm folded.
PARAMETERS = {"resnet18": 11_689_512, "resnet50": 25_557_032, "mobilenetv2": 3_504_872}
FOLDED = {"resnet8": 77_706, "dscnn-kws": 22_604, "mobilenetv1-vww": 210_850,
          "autoencoder-ad": 265_864}
SMALL = ("autoencoder-ad", "dscnn-kws", "mobilenetv1-vww", "resnet20", "resnet8")
LARGE = ("resnet18", "mobilenetv2", "resnet50")


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameters_and_names(name: str) -> None:
    with torch.device("meta"):
        state = MODELS[name].build().state_dict()
    learned = {key: value for key, value in state.items()
               if "running" not in key and "num_batches" not in key}
    assert sum(value.numel() for value in learned.values()) == PARAMETERS[name]
    expected = {"resnet18": ("layer2.0.downsample.0.weight", "layer4.1.bn2.bias", "fc.weight"),
                "resnet50": ("layer1.0.conv3.weight", "layer3.5.bn3.bias", "bn1.running_mean"),
                "mobilenetv2": ("features.0.0.weight", "features.2.conv.1.0.weight",
                                "features.17.conv.3.bias", "classifier.1.weight")}[name]
    assert set(expected) <= set(state)


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_agree_with_pytorch(name: str) -> None:
    quantized, images = load_quantized(name)
    graph = import_model(quantized, images[:1])
    assert graph.macs == MODELS[name].macs
    if name in FOLDED:
        assert sum(node.weight.size + node.channels for node in graph.weighted()) == FOLDED[name]
    found = layer_differences(quantized, graph, images)
    different = sum(part[0] for part in found.values())
    elements = sum(part[1] for part in found.values())
    assert len(found) >= 10
    assert different <= max(2, 1e-5 * elements) and max(part[2] for part in found.values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_agree_with_pytorch(name: str) -> None:
    quantized, images = load_quantized(name)
    graph = import_model(quantized, images[:1])
    assert graph.macs == MODELS[name].macs
    found = layer_differences(quantized, graph, images[:2])
    different = sum(part[0] for part in found.values())
    elements = sum(part[1] for part in found.values())
    assert different <= 1e-5 * elements and max(part[2] for part in found.values()) <= 1


def test_weights_and_inputs_are_realistic_and_repeatable() -> None:
    model, images = load("resnet8")
    again, same = load("resnet8")
    assert torch.equal(images, same)
    for value, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other)
    assert not torch.equal(images, load("resnet8", seed=1)[1])
    assert images.shape == (8, 3, 32, 32) and 0.3 < float(images.std()) < 3
    with torch.no_grad():
        # Batch norm has seen these images: nothing explodes or dies on the way.
        assert math.isfinite(float(model(images).std())) and float(model(images).std()) > 1e-3


@pytest.mark.parametrize("shape", [(3, 20, 30), (1, 49, 10), (640,)])
def test_photographs_of_any_shape(shape: tuple[int, ...]) -> None:
    images = photographs(3, shape, seed=2)
    assert images.shape == (3, *shape) and images.dtype == torch.float32
    assert len({image.numpy().tobytes() for image in images}) == 3


def test_unknown_network() -> None:
    with pytest.raises(ModelError, match="no network is called 'resnet19': choose one of resnet18"):
        load("resnet19")
