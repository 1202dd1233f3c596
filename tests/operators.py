"""A small model for every operator that the importer takes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Around(nn.Module):
    """A function behind a convolution, or between the two of them."""

    def __init__(self, function: Callable[..., Tensor], channels: int = 8, behind: int = 0,
                 **modules: nn.Module):
        super().__init__()
        self.first = nn.Conv2d(4, channels, 3, padding=1)
        self.second = nn.Conv2d(4, channels, 1)
        self.function = function
        self.behind = nn.Conv2d(behind, 4, 1) if behind else None
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self, self.first(x), self.second(x))
        return x if self.behind is None else self.behind(x)


class Alone(nn.Module):
    """One layer on the input."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class SeparateBias(nn.Module):
    """A convolution without bias and a parameter added behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, bias=False)
        self.offset = nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.offset)


class SqueezeExcite(nn.Module):
    """MobileNetV3's gate: global average, two layers, hardsigmoid, product."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(4, 16, 1)
        self.reduce = nn.Conv2d(16, 4, 1)
        self.widen = nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.expand(x))
        gate = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.widen(gate))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle as ShuffleNet writes it."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


IMAGE = (4, 12, 10)
Case = tuple[Callable[[], nn.Module], tuple[int, ...]]


def _around(function: Callable[..., Any], **options: Any) -> Case:
    return lambda: Around(function, **options), IMAGE


def _alone(make: Callable[[], nn.Module], shape: tuple[int, ...] = IMAGE) -> Case:
    return lambda: Alone(make()), shape


OPERATORS: dict[str, Case] = {
    "conv": _alone(lambda: nn.Conv2d(4, 8, 3)),
    "conv stride": _alone(lambda: nn.Conv2d(4, 8, 3, stride=(2, 3), padding=(2, 1))),
    "conv dilation": _alone(lambda: nn.Conv2d(4, 8, 3, dilation=(2, 1), padding=2)),
    "conv groups": _alone(lambda: nn.Conv2d(4, 8, 3, groups=2)),
    "conv depthwise": _alone(lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1)),
    "conv depthwise multiplier": _alone(lambda: nn.Conv2d(4, 8, 5, groups=4, padding=2)),
    "conv asymmetric kernel": _alone(lambda: nn.Conv2d(4, 8, (1, 7), padding="same")),
    "conv even same": _alone(lambda: nn.Conv2d(4, 8, (4, 2), padding="same")),
    "conv without bias": _alone(lambda: nn.Conv2d(4, 8, 3, bias=False)),
    "conv 1d": _alone(lambda: nn.Conv1d(4, 8, 5, stride=2, padding=2), (4, 31)),
    "conv batch norm": _alone(lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8),
                                                    nn.ReLU())),
    "batch norm": _alone(lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1))),
    "batch norm behind an add": _around(lambda m, a, b: F.relu(m.norm(a + b)),
                                        norm=nn.BatchNorm2d(8)),
    "batch norm of a vector": _around(lambda m, a, b: m.norm(a.mean((2, 3))),
                                      norm=nn.BatchNorm1d(8, affine=False)),
    "conv transposed": _alone(lambda: nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1,
                                                         output_padding=1)),
    "conv transposed groups": _alone(lambda: nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2)),
    "linear": _alone(lambda: nn.Linear(40, 10), (40,)),
    "linear without bias": _alone(lambda: nn.Linear(40, 10, bias=False), (40,)),
    "separate bias": (SeparateBias, IMAGE),
    "add": _around(lambda m, a, b: a + b),
    "add relu": _around(lambda m, a, b: F.relu(a + b)),
    "add in place": _around(lambda m, a, b: a.relu_().add_(b)),
    "add alpha": _around(lambda m, a, b: torch.add(a, b, alpha=0.25)),
    "add number": _around(lambda m, a, b: a + 0.3),
    "sub": _around(lambda m, a, b: a - b),
    "mul": _around(lambda m, a, b: a * b),
    "mul number": _around(lambda m, a, b: a * -0.7),
    "div number": _around(lambda m, a, b: a / 3),
    "relu": _around(lambda m, a, b: F.relu(a)),
    "relu6": _around(lambda m, a, b: F.relu6(a)),
    "hardtanh": _around(lambda m, a, b: F.hardtanh(a, -0.4, 0.9)),
    "clamp": _around(lambda m, a, b: torch.clamp(a, max=0.5)),
    "leaky relu": _around(lambda m, a, b: F.leaky_relu(a, 0.1)),
    "prelu": _around(lambda m, a, b: m.act(a), act=nn.PReLU()),
    "prelu by channel": _around(lambda m, a, b: m.act(a), act=nn.PReLU(8)),
    "prelu of a vector": _around(lambda m, a, b: m.act(a.mean((2, 3))), act=nn.PReLU(8)),
    "sigmoid": _around(lambda m, a, b: torch.sigmoid(a)),
    "tanh": _around(lambda m, a, b: torch.tanh(a)),
    "hardsigmoid": _around(lambda m, a, b: F.hardsigmoid(a)),
    "hardswish": _around(lambda m, a, b: F.hardswish(a)),
    "silu": _around(lambda m, a, b: F.silu(a)),
    "gelu": _around(lambda m, a, b: F.gelu(a)),
    "elu": _around(lambda m, a, b: F.elu(a)),
    "mish": _around(lambda m, a, b: F.mish(a)),
    "max pool": _around(lambda m, a, b: F.max_pool2d(a, 3, 2, 1)),
    "max pool ceil": _around(lambda m, a, b: F.max_pool2d(a, 3, 2, ceil_mode=True)),
    "max pool ceil past the end": _around(lambda m, a, b: F.max_pool2d(a, 2, 3, ceil_mode=True)),
    "max pool dilation": _around(lambda m, a, b: F.max_pool2d(a, 2, 1, dilation=2)),
    "max pool adaptive": _around(lambda m, a, b: F.adaptive_max_pool2d(a, (4, 5))),
    "average pool": _around(lambda m, a, b: F.avg_pool2d(a, 3, 2, 1)),
    "average pool adaptive": _around(lambda m, a, b: F.adaptive_avg_pool2d(a, (3, 2))),
    "global average": _around(lambda m, a, b: F.adaptive_avg_pool2d(a, 1)),
    "mean": _around(lambda m, a, b: a.mean((2, 3))),
    "mean one axis": _around(lambda m, a, b: a.mean(3, keepdim=True)),
    "amax": _around(lambda m, a, b: a.amax((2, 3))),
    "cat": _around(lambda m, a, b: torch.cat([a, b, a], 1)),
    "cat height": _around(lambda m, a, b: torch.cat([a, b], 2)),
    "split": _around(lambda m, a, b: torch.cat(a.split([2, 6], 1)[::-1], 1)),
    "chunk": _around(lambda m, a, b: a.chunk(2, 1)[0] + a.chunk(2, 1)[1]),
    "slice": _around(lambda m, a, b: a[:, 2:7, ::2, 1:-1]),
    "select": _around(lambda m, a, b: torch.flatten(a[:, :, 3], 1)),
    "flatten": _around(lambda m, a, b: torch.flatten(F.relu(a), 1)),
    "view": _around(lambda m, a, b: a.view(a.shape[0], 16, 10, 6), behind=16),
    "permute ones": _around(lambda m, a, b: F.adaptive_avg_pool2d(a, 1).permute(0, 2, 3, 1)
                            .flatten(1)),
    "pad": _around(lambda m, a, b: F.pad(a, (0, 1, 2, 3)), behind=8),
    "pad value": _around(lambda m, a, b: F.pad(a, (1, 1), value=0.5), behind=8),
    "upsample": _around(lambda m, a, b: F.interpolate(a, scale_factor=(2, 3))),
    "upsample bilinear": _around(lambda m, a, b: F.interpolate(a, scale_factor=2,
                                                               mode="bilinear")),
    "channel shuffle": _around(lambda m, a, b: shuffle(a, 4)),
    "channel shuffle layer": _around(lambda m, a, b: m.mix(a), mix=nn.ChannelShuffle(2)),
    "dropout": _around(lambda m, a, b: m.drop(a), drop=nn.Dropout()),
    "squeeze and excite": (SqueezeExcite, IMAGE),
}
"""Maker of the model and its input's shape without the batch axis, by operator."""
