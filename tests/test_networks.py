"""Networks with every kind of operator, from a float module to equal bytes on the RTL."""

import numpy as np
import pytest

import systolith
from systolith.bench import bench_graph, first_images
from systolith.hw.config import PRESETS
from systolith.importer import import_model

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


class SqueezeExcite(nn.Module):
    """A weight a channel from the mean of each, as MobileNetV3 has it."""

    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x):
        y = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.expand(functional.relu(self.reduce(y))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project, with hardswish."""

    def __init__(self, channels, hidden, kernel):
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.excite = SqueezeExcite(hidden)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        y = functional.hardswish(self.expand(x))
        y = functional.hardswish(self.excite(self.depthwise(y)))
        return x + self.project(y)


class MobileNetV3Blocks(nn.Module):
    """A stem and two blocks of MobileNetV3-small."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(InvertedResidual(16, 24, 3), InvertedResidual(16, 40, 5))
        self.classify = nn.Linear(16, 10)

    def forward(self, x):
        x = self.blocks(functional.hardswish(self.stem(x)))
        return self.classify(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Fire(nn.Module):
    """SqueezeNet's module: squeeze, and two expansions side by side."""

    def __init__(self, channels, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.narrow = nn.Conv2d(squeezed, expanded, 1)
        self.wide = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.narrow(x)), functional.relu(self.wide(x))], 1)


class SqueezeNet(nn.Module):
    """Two fire modules between pools."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.first, self.second = Fire(16, 8, 16), Fire(32, 8, 24)
        self.classify = nn.Conv2d(48, 10, 1)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, ceil_mode=True)
        x = functional.max_pool2d(self.second(self.first(x)), 3, 2)
        return torch.flatten(functional.adaptive_avg_pool2d(self.classify(x), 1), 1)


class UNet(nn.Module):
    """Two levels down and up: by a transposed convolution, and by nearest neighbours."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)])
        self.bottom = nn.Conv2d(16, 24, 3, padding=1)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.merge = nn.ModuleList([nn.Conv2d(32, 16, 3, padding=1),
                                    nn.Conv2d(24, 8, 3, padding=1)])
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        first = functional.relu(self.down[0](x))
        second = functional.relu(self.down[1](functional.max_pool2d(first, 2)))
        x = functional.relu(self.bottom(functional.max_pool2d(second, 2)))
        x = functional.relu(self.merge[0](torch.cat([self.up(x), second], 1)))
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(functional.relu(self.merge[1](torch.cat([x, first], 1))))


class DilatedHead(nn.Module):
    """Parallel dilated convolutions over strided features, as segmentation heads have them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.branches = nn.ModuleList(
            nn.Conv2d(16, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.point = nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        parts = [functional.relu(branch(x)) for branch in (*self.branches, self.point)]
        return self.head(torch.cat(parts, 1))


class Shuffled(nn.Module):
    """Grouped convolutions with channel shuffle, split and joined, and one axis convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, (1, 7), padding=(0, 3))
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.tall = nn.Conv2d(8, 8, (10, 4), stride=2, padding=(4, 1))
        self.classify = nn.Linear(8, 6)

    def forward(self, x):
        x = functional.channel_shuffle(functional.relu(self.grouped(self.stem(x))), 4)
        left, right = torch.chunk(x, 2, 1)
        x = self.tall(functional.leaky_relu(left + right, 0.1))
        return self.classify(torch.mean(x, (2, 3)))


NETWORKS = (MobileNetV3Blocks, SqueezeNet, UNet, DilatedHead, Shuffled)


@pytest.mark.parametrize("network", NETWORKS)
def test_network(network):
    """Integer reference, golden model and RTL agree to the bit; PyTorch within its own rounding."""
    torch.manual_seed(NETWORKS.index(network))
    model, images = network().eval(), torch.randn(6, 3, 24, 24)
    quantized = systolith.quantize(model, [images])
    config = PRESETS["small"]
    program = systolith.compile(quantized, images[:1], config=config)
    expected = systolith.reference(quantized, images.numpy())
    with systolith.open("golden", config=config) as device:
        results = device.run(program, images.numpy())
    assert np.array_equal(results, expected)
    with torch.no_grad():
        framework = quantized(images).numpy()
    step = program.outputs[0].scale
    steps = np.rint(np.abs(framework - expected) / step)
    # One rounding apart from the float graph at ties, and what that becomes behind it.
    assert steps.max() <= 3 and (steps > 0).mean() < 0.05, (steps.max(), (steps > 0).mean())
    graph = import_model(quantized, images[:1])
    assert bench_graph(graph, first_images(graph, images), name=network.__name__,
                       config=config, memory_latency=9)["bit_exact"]
