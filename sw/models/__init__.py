"""Networks written here: the demo's, the benchmarks', and those that users bring.

No data set and no checkpoint is downloaded. All but the digits have seeded random weights of a
realistic distribution, and batch-norm statistics from scikit-learn's two sample photographs: their
numbers say nothing about accuracy, but everything about arithmetic and speed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from systolith.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

__all__ = ["MODELS", "NamedModel", "load", "load_quantized"]


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """Where a network is defined, and its input's shape without the batch axis.

    `macs` are the useful multiply-accumulates for one image.
    """

    module: str
    function: str
    shape: tuple[int, ...]
    macs: int

    def build(self) -> "nn.Module":
        """The network with PyTorch's initial weights."""
        make: Callable[[], nn.Module] = getattr(import_module(self.module), self.function)
        return make()


def _model(module: str, function: str, shape: tuple[int, ...], macs: int) -> NamedModel:
    return NamedModel(module=f"systolith.models.{module}", function=function, shape=shape,
                      macs=macs)


MODELS: dict[str, NamedModel] = {
    "resnet18": _model("resnet", "resnet18", (3, 224, 224), 1_814_073_344),
    "resnet50": _model("resnet", "resnet50", (3, 224, 224), 4_089_184_256),
    "mobilenetv2": _model("mobilenet", "mobilenetv2", (3, 224, 224), 300_774_272),
    "resnet8": _model("tiny", "resnet8", (3, 32, 32), 12_501_632),
    "mobilenetv1-vww": _model("tiny", "mobilenetv1_vww", (3, 96, 96), 7_489_664),
    "dscnn-kws": _model("tiny", "dscnn_kws", (1, 49, 10), 2_656_768),
    "autoencoder-ad": _model("tiny", "autoencoder_ad", (640,), 264_192),
    "resnet20": _model("resnet", "resnet20", (3, 32, 32), 40_813_184),
}
"""The benchmark networks by the names that `systolith bench` takes."""


def load(name: str, *, seed: int = 0) -> "tuple[nn.Module, Tensor]":
    """A benchmark network in evaluation mode and 8 inputs for it, photographs cut to its size.

    Raises
    ------
    ModelError
        When there is no such network.
    MissingExtraError
        When torch or scikit-learn is not installed.
    """
    if name not in MODELS:
        raise ModelError(f"no network is called '{name}': choose one of {', '.join(MODELS)}")
    try:
        from systolith.models.weights import photographs, settle
    except ImportError as error:
        raise MissingExtraError(f"the benchmark networks need {error.name}: "
                                "pip install 'systolith[demo]'") from None
    named = MODELS[name]
    images = photographs(8, named.shape, seed=seed)
    return settle(named.build, images, seed=seed), images


def load_quantized(name: str, *, seed: int = 0, per_channel: bool = True, weight_bits: int = 8
                   ) -> "tuple[fx.GraphModule, Tensor]":
    """A benchmark network converted by `systolith.quantize`, and its 8 calibration inputs."""
    from systolith.quantizer import quantize

    model, images = load(name, seed=seed)
    return quantize(model, [images[:4], images[4:]], per_channel=per_channel,
                    weight_bits=weight_bits), images
