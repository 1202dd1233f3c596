"""Networks of sequences [N, C, L], from PyTorch's 1-D layers through compiler and driver."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import systolith
from systolith.agreement import verify_model
from systolith.bench import bench_graph, first_images
from systolith.errors import InputError
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from systolith.layout import as_images

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

from frontend import inputs, seeded  # noqa: E402  needs torch
from systolith.quantizer import quantize  # noqa: E402

CONFIG = PRESETS["small"]


class Keyword(nn.Module):
    """A small keyword spotter on 1-D layers: residual, depthwise, pools, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 12, 9, stride=2, padding=4)
        self.norm = nn.BatchNorm1d(12)
        self.branch = nn.Conv1d(12, 12, 3, dilation=2)
        self.depthwise = nn.Conv1d(12, 12, 5, padding=2, groups=12)
        self.classify = nn.Linear(12, 7)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.branch(functional.pad(x, (2, 2))))
        x = functional.avg_pool1d(functional.max_pool1d(self.depthwise(x), 2), 2)
        return self.classify(x.mean(2))


class Enhance(nn.Module):
    """Sequence to sequence: down, up by nearest neighbours and by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 8, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1)
        self.mix = nn.Conv1d(14, 2, 1)

    def forward(self, x: Any) -> Any:
        y = torch.tanh(self.down(x))
        wide = functional.interpolate(y, scale_factor=2.0)
        return self.mix(torch.cat([self.up(y), wide], 1))


NETWORKS = {"keyword": (Keyword, (3, 60)), "enhance": (Enhance, (2, 40))}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    make, shape = NETWORKS[request.param]
    images = inputs((5, *shape), 3)
    return quantize(seeded(make(), 3), [images]), images


def test_through_compiler_and_driver(network: tuple[Any, Any], tmp_path: Path) -> None:
    quantized, images = network
    expected = systolith.reference(quantized, images)
    with torch.no_grad():
        framework = quantized(images).numpy()
    assert expected.shape == framework.shape
    program = systolith.compile(quantized, images[:1], config=CONFIG)
    assert np.abs(expected - framework).max() <= 1.01 * program.outputs[0].scale
    program.save(tmp_path / "p.systolith")
    with systolith.open("golden", config=CONFIG) as device:
        for each in (program, systolith.load(tmp_path / "p.systolith")):
            np.testing.assert_array_equal(device.run(each, images.numpy()), expected)
        with pytest.raises(InputError, match="must have shape"):
            device.run(program, images.numpy()[:, :, 1:])


def test_on_rtl(network: tuple[Any, Any]) -> None:
    quantized, images = network
    graph = import_model(quantized, images)
    assert bench_graph(graph, first_images(graph, images), name="sequence", config=CONFIG,
                       memory_latency=9)["bit_exact"]


def test_verified(network: tuple[Any, Any]) -> None:
    quantized, images = network
    result = verify_model(quantized, images, images.numpy(), config=CONFIG, rtl=False)
    assert result["first_difference"] is None and result["images"] == 5
    # Layers that are fused into others leave nothing to compare.
    compared = [row["reference_vs_golden"] for row in result["layers"]]
    assert compared.count(0) >= 3 and set(compared) <= {0, None}


def test_only_sequences_get_an_axis() -> None:
    assert as_images(np.zeros((5, 3, 60)), (3, 1, 60)).shape == (5, 3, 1, 60)
    for shape in ((5, 3, 1, 60), (3, 1, 60), (5, 60), (5, 3, 61)):
        assert as_images(np.zeros(shape), (3, 1, 60)).shape == shape
    assert as_images(np.zeros((5, 3, 60)), (3,)).shape == (5, 3, 60)
    assert as_images(np.zeros((5, 3, 60)), (3, 2, 60)).shape == (5, 3, 60)
