"""Small CNNs on scikit-learn's 1,797 real handwritten digits: the demo and the end-to-end test."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn

from systolith.errors import MissingExtraError

__all__ = ["Digits", "DigitsData", "StridedDigits", "accuracy", "load_data", "train"]


@dataclass(frozen=True, kw_only=True)
class DigitsData:
    """Images float32 [N, 1, 8, 8] in [0, 1] and labels int64 [N]; the test part is a fifth."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


class Digits(nn.Module):
    """3x3 convolutions (one of stride 2), a residual add, max pool, global average, linear.

    Input float [N, 1, 8, 8], output logits [N, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(1, 16)
        self.residual = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False),
                                      nn.BatchNorm2d(16))
        self.reduce = _block(16, 32, stride=2)
        self.widen = _block(32, 32)
        self.classify = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = functional.relu(x + self.residual(x))
        x = self.widen(self.reduce(x))
        x = functional.max_pool2d(x, 2)
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.classify(torch.flatten(x, 1))


class StridedDigits(nn.Module):
    """3x3 convolutions (two of stride 2), global average, linear: what the smallest chips run.

    Input and output are those of `Digits`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, 16), _block(16, 24, stride=2), _block(24, 32, stride=2))
        self.classify = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(images), 1)
        return self.classify(torch.flatten(x, 1))


def _block(channels: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU())


def load_data(seed: int = 0) -> DigitsData:
    """Load and split the digits; the split depends on the seed only."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("the digits need scikit-learn: pip install 'systolith[demo]'"
                                ) from None
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    images = (digits.images[order] / 16).astype(np.float32)[:, None]
    labels = digits.target[order].astype(np.int64)
    held_out = len(images) // 5
    return DigitsData(train_images=images[held_out:], train_labels=labels[held_out:],
                      test_images=images[:held_out], test_labels=labels[:held_out])


def train(network: Callable[[], nn.Module] = Digits, *, epochs: int = 15, seed: int = 0
          ) -> tuple[nn.Module, DigitsData]:
    """Train a model with a fixed seed; returns it in evaluation mode, and the data."""
    data = load_data(seed)
    images = torch.from_numpy(data.train_images)
    labels = torch.from_numpy(data.train_labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
        batch = 64
        steps = epochs * -(-len(images) // batch)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(batch):
                optimizer.zero_grad()
                functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
                optimizer.step()
                schedule.step()
    return model.eval(), data


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Fraction of images whose largest logit is the label's."""
    return float((np.asarray(logits).argmax(axis=1) == labels).mean())
