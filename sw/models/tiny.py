"""The four networks of MLPerf Tiny's closed division, as its int8 files have them.

Padding is TensorFlow's SAME, written as a pad before the convolution where it is asymmetric.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

__all__ = ["Autoencoder", "DepthwiseSeparableCnn", "MobileNetV1", "ResNet8", "autoencoder_ad",
           "dscnn_kws", "mobilenetv1_vww", "resnet8"]


class _SameConv(nn.Module):
    """A 3x3 convolution with batch norm, padded as TensorFlow does."""

    def __init__(self, channels: int, outputs: int, stride: int = 1, *, depthwise: bool = False,
                 activation: bool = True):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, outputs, 3, stride, 1 if stride == 1 else 0, bias=False,
                              groups=channels if depthwise else 1)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            # An even size needs one element, an odd one two.
            below, right = (1 - size % 2 for size in x.shape[2:])
            x = functional.pad(x, (1 - right, 1, 1 - below, 1))
        x = self.norm(self.conv(x))
        return functional.relu(x) if self.activation else x


class ResNet8(nn.Module):
    """Image classification: input [N, 3, 32, 32], output [N, 10] probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, 16)
        self.first = nn.ModuleList([_SameConv(16, 16), _SameConv(16, 16),
                                    _SameConv(16, 32, 2), _SameConv(32, 64, 2)])
        self.second = nn.ModuleList([_SameConv(16, 16, activation=False),
                                     _SameConv(32, 32, activation=False),
                                     _SameConv(64, 64, activation=False)])
        self.shortcut = nn.ModuleList([nn.Conv2d(16, 32, 1, 2), nn.Conv2d(32, 64, 1, 2)])
        self.classify = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.second[0](self.first[0](x)))
        x = functional.relu(self.shortcut[0](x) + self.second[1](self.first[2](x)))
        x = functional.relu(self.shortcut[1](x) + self.second[2](self.first[3](x)))
        x = functional.avg_pool2d(x, 8)
        return functional.softmax(self.classify(torch.flatten(x, 1)), 1)


class DepthwiseSeparableCnn(nn.Module):
    """Keyword spotting: input [N, 1, 49, 10] (time, coefficients), output [N, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 64, (10, 4), 2, bias=False), nn.BatchNorm2d(64),
                                  nn.ReLU())
        self.blocks = nn.Sequential(*(
            nn.Sequential(_SameConv(64, 64, depthwise=True), _pointwise(64, 64))
            for _ in range(4)))
        self.classify = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(functional.pad(x, (1, 1, 4, 5))))
        x = functional.avg_pool2d(x, (25, 5))
        return functional.softmax(self.classify(torch.flatten(x, 1)), 1)


class MobileNetV1(nn.Module):
    """Visual wake words, width 0.25: input [N, 3, 96, 96], output [N, 2]."""

    LAYERS = ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2),
              (128, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 1),
              (128, 256, 2), (256, 256, 1))

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, 8, 2)
        self.blocks = nn.Sequential(*(
            nn.Sequential(_SameConv(channels, channels, stride, depthwise=True),
                          _pointwise(channels, outputs))
            for channels, outputs, stride in self.LAYERS))
        self.classify = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.blocks(self.stem(x)), 3)
        return functional.softmax(self.classify(torch.flatten(x, 1)), 1)


class Autoencoder(nn.Module):
    """Anomaly detection: input and output [N, 640]."""

    WIDTHS = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip(self.WIDTHS, self.WIDTHS[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _pointwise(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU())


def resnet8() -> ResNet8:
    """IC: 12,501,632 multiply-accumulates."""
    return ResNet8()


def dscnn_kws() -> DepthwiseSeparableCnn:
    """KWS: 2,656,768 multiply-accumulates."""
    return DepthwiseSeparableCnn()


def mobilenetv1_vww() -> MobileNetV1:
    """VWW: 7,489,664 multiply-accumulates."""
    return MobileNetV1()


def autoencoder_ad() -> Autoencoder:
    """AD: 264,192 multiply-accumulates."""
    return Autoencoder()
