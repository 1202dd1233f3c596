"""The networks of the performance goals as random integer graphs, without torch."""

from compiler_graphs import Builder
from systolith.graph import Graph
from systolith.hw.config import Config

__all__ = ["NETWORKS"]


def _basic(b: Builder, x: str, outputs: int, stride: int) -> str:
    a = b.conv(x, outputs, stride=(stride, stride), padding=_pads(b, x, 3, stride))
    a = b.conv(a, outputs, relu=False)
    if stride > 1 or b.tensors[x].shape[0] != outputs:
        x = b.conv(x, outputs, (1, 1), stride=(stride, stride), relu=False)
    return b.add(a, x, relu=True)


def _pads(b: Builder, x: str, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's SAME for even sizes: nothing before and one behind with stride 2."""
    return (0, 1, 0, 1) if stride == 2 and b.tensors[x].shape[1] % 2 == 0 else (1, 1, 1, 1)


def _head(b: Builder, x: str, outputs: int) -> str:
    return b.linear(b.flatten(b.average_pool(x)), outputs)


def resnet8(config: Config, seed: int = 0) -> Graph:
    """MLPerf Tiny's image classifier."""
    b = Builder(seed, config, (3, 32, 32))
    x = b.conv("x", 16)
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        x = _basic(b, x, outputs, stride)
    _head(b, x, 10)
    return b.graph()


def dscnn(config: Config, seed: int = 0) -> Graph:
    """MLPerf Tiny's keyword spotter."""
    b = Builder(seed, config, (1, 49, 10))
    x = b.conv("x", 64, (10, 4), stride=(2, 2), padding=(4, 5, 1, 1))
    for _ in range(4):
        x = b.conv(x, 64, groups=64)
        x = b.conv(x, 64, (1, 1))
    _head(b, x, 12)
    return b.graph()


def mobilenetv1(config: Config, seed: int = 0) -> Graph:
    """MLPerf Tiny's visual wake words network, width 0.25."""
    b = Builder(seed, config, (3, 96, 96))
    x = b.conv("x", 8, stride=(2, 2), padding=(0, 1, 0, 1))
    for outputs, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5,
                            (256, 2), (256, 1)):
        channels = b.tensors[x].shape[0]
        x = b.conv(x, channels, stride=(stride, stride), groups=channels,
                   padding=_pads(b, x, 3, stride))
        x = b.conv(x, outputs, (1, 1))
    _head(b, x, 2)
    return b.graph()


def autoencoder(config: Config, seed: int = 0) -> Graph:
    """MLPerf Tiny's anomaly detector."""
    b = Builder(seed, config, (640,))
    x = "x"
    for outputs in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = b.linear(x, outputs, relu=True)
    b.linear(x, 640)
    return b.graph()


def resnet20(config: Config, seed: int = 0) -> Graph:
    """ResNet-20 for CIFAR-10."""
    b = Builder(seed, config, (3, 32, 32))
    x = b.conv("x", 16)
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            x = _basic(b, x, outputs, stride if block == 0 else 1)
    _head(b, x, 10)
    return b.graph()


def resnet18(config: Config, seed: int = 0, size: int = 224) -> Graph:
    """ResNet-18 with a 1000-class head."""
    b = Builder(seed, config, (3, size, size))
    x = b.conv("x", 64, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3))
    x = b.max_pool(x, (3, 3), (2, 2), (1, 1, 1, 1))
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for block in range(2):
            step = stride if block == 0 else 1
            a = b.conv(x, outputs, stride=(step, step), padding=(1, 1, 1, 1))
            a = b.conv(a, outputs, relu=False)
            if step > 1:
                x = b.conv(x, outputs, (1, 1), stride=(step, step), relu=False)
            x = b.add(a, x, relu=True)
    _head(b, x, 1000)
    return b.graph()


def resnet50(config: Config, seed: int = 0, size: int = 224) -> Graph:
    """ResNet-50 with a 1000-class head."""
    b = Builder(seed, config, (3, size, size))
    x = b.conv("x", 64, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3))
    x = b.max_pool(x, (3, 3), (2, 2), (1, 1, 1, 1))
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            a = b.conv(x, width, (1, 1))
            a = b.conv(a, width, stride=(step, step), padding=(1, 1, 1, 1))
            a = b.conv(a, 4 * width, (1, 1), relu=False)
            if block == 0:
                x = b.conv(x, 4 * width, (1, 1), stride=(step, step), relu=False)
            x = b.add(a, x, relu=True)
    _head(b, x, 1000)
    return b.graph()


def mobilenetv2(config: Config, seed: int = 0, size: int = 224) -> Graph:
    """MobileNetV2 with a 1000-class head."""
    b = Builder(seed, config, (3, size, size))
    x = b.conv("x", 32, stride=(2, 2), padding=(1, 1, 1, 1))
    for expand, outputs, blocks, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2),
                                            (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                                            (6, 320, 1, 1)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            channels = b.tensors[x].shape[0]
            a = b.conv(x, expand * channels, (1, 1)) if expand > 1 else x
            a = b.conv(a, expand * channels, stride=(step, step), padding=(1, 1, 1, 1),
                       groups=expand * channels)
            a = b.conv(a, outputs, (1, 1), relu=False)
            x = b.add(a, x) if block else a
    x = b.conv(x, 1280, (1, 1))
    _head(b, x, 1000)
    return b.graph()


NETWORKS = {"resnet8": resnet8, "dscnn": dscnn, "mobilenetv1": mobilenetv1,
            "autoencoder": autoencoder, "resnet20": resnet20, "resnet18": resnet18,
            "resnet50": resnet50, "mobilenetv2": mobilenetv2}
