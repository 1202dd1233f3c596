"""A trained network for the handwritten digits that the smallest chips run."""

import torch

import systolith
from systolith.hw.config import PRESETS
from systolith.importer import import_model
from systolith.models import digits
from systolith.quantizer import quantize

__all__ = ["strided_digits"]


def strided_digits(preset):
    """The program for a preset, the data, and what PyTorch's quantized model says of the test
    images."""
    config = PRESETS[preset]
    model, data = digits.train(digits.StridedDigits)
    quantized = quantize(model, [torch.from_numpy(data.train_images[:256])])
    images = torch.from_numpy(data.test_images)
    program = systolith.compile(import_model(
        quantized, images[:1], bias=config.bias, multiplier_bits=config.multiplier_bits),
        config=config, name="digits")
    with torch.no_grad():
        return program, data, quantized(images).numpy()
