"""Realistic weights and inputs without a download."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

__all__ = ["photographs", "settle"]

# Mean and deviation of natural images, as usual for networks that expect normalized inputs.
MEAN, DEVIATION = 0.45, 0.23


@cache
def _photographs() -> list[NDArray[np.float32]]:
    return [image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            for image in load_sample_images().images]


def photographs(count: int, shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """Random cuts of scikit-learn's two photographs, normalized: float [count, *shape].

    A vector is a row of pixels; one channel is the mean of the three.
    """
    rng = np.random.default_rng(seed)
    channels, height, width = shape if len(shape) == 3 else (1, 1, shape[0])
    cuts = []
    for index in range(count):
        image = _photographs()[index % 2]
        # Between the size that is needed and the whole picture, at the network's aspect ratio.
        largest = min(image.shape[1] / height, image.shape[2] / width)
        factor = largest * rng.uniform(0.4, 1.0)
        high, wide = max(1, round(height * factor)), max(1, round(width * factor))
        top = rng.integers(image.shape[1] - high + 1)
        left = rng.integers(image.shape[2] - wide + 1)
        cut = torch.from_numpy(image[:, top:top + high, left:left + wide].copy())[None]
        cut = functional.interpolate(cut, (height, width), mode="area")
        cuts.append(cut if channels == 3 else cut.mean(1, keepdim=True))
    return ((torch.cat(cuts) - MEAN) / DEVIATION).reshape(count, *shape)


def settle(build: Callable[[], nn.Module], images: Tensor, *, seed: int = 0) -> nn.Module:
    """A network with seeded weights whose batch norms have seen the images.

    Weights are He-normal times a spread a channel, as training leaves them; batch norms get
    scales around 1 and small shifts.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                spread = torch.exp(0.4 * torch.randn(len(module.weight)))
                module.weight.data *= spread.reshape(-1, *(1,) * (module.weight.ndim - 1))
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.6, 1.4)
                nn.init.normal_(module.bias, std=0.2)
                module.momentum = None  # the plain average over all batches
                module.reset_running_stats()
        model.train()
        with torch.no_grad():
            for batch in images.split(4):
                model(batch)
    return model.eval()
