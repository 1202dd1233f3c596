"""MobileNetV2 with torchvision's module and parameter names.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenetv2"]

# Expansion, output channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
          (6, 160, 3, 2), (6, 320, 1, 1))


def _conv_norm(channels: int, outputs: int, kernel: int, stride: int = 1,
               groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project; a shortcut where the shape stays."""

    def __init__(self, channels: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv_norm(channels, hidden, 1)]
        layers += [_conv_norm(hidden, hidden, 3, stride, groups=hidden),
                   nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Width 1.0: input float [N, 3, 224, 224], output logits [N, classes]."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        layers: list[nn.Module] = [_conv_norm(3, 32, 3, 2)]
        channels = 32
        for expansion, outputs, count, stride in STAGES:
            for block in range(count):
                layers.append(InvertedResidual(channels, outputs, stride if block == 0 else 1,
                                               expansion))
                channels = outputs
        layers.append(_conv_norm(channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def mobilenetv2() -> MobileNetV2:
    """MobileNetV2, width 1.0."""
    return MobileNetV2()
