"""Trained networks for the handwritten digits, compiled for boards' presets."""

import torch

import systolith
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from systolith.models import digits
from systolith.quantizer import quantize

__all__ = ["trained_digits"]


def trained_digits(preset, network=digits.Digits):
    """The program for a preset, the data, and what PyTorch's quantized model says of the test
    images."""
    config = PRESETS[preset]
    model, data = digits.train(network)
    quantized = quantize(model, [torch.from_numpy(data.train_images[:256])])
    images = torch.from_numpy(data.test_images)
    program = systolith.compile(import_model(
        quantized, images[:1], bias=config.bias, multiplier_bits=config.multiplier_bits),
        config=config, name="digits")
    with torch.no_grad():
        return program, data, quantized(images).numpy()
