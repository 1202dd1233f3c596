"""Float operations behind the last quantized tensor, in numpy: the driver runs them on the host.

They follow PyTorch's float32 semantics; axes count the batch axis. Arguments are plain JSON values,
because they travel in the program file; arrays of int8 are base64 text.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.graph import TailOperation

__all__ = ["TAIL_OPERATIONS", "linear_arguments", "run_tail"]

Array = NDArray[Any]


def run_tail(tail: Sequence[TailOperation], values: Mapping[str, Array],
             results: Sequence[str]) -> list[Array]:
    """Run the operations in order on float32 arrays by name, and return the named results."""
    known = dict(values)
    with np.errstate(all="ignore"):  # what overflows is infinite, as in PyTorch
        for operation in tail:
            inputs = [known[name] for name in operation.inputs]
            known[operation.output] = TAIL_OPERATIONS[operation.op](*inputs, **operation.arguments)
    return [known[name] for name in results]


def linear_arguments(weight: NDArray[np.int8], scale: Array, bias: Array) -> dict[str, Any]:
    """Arguments of the operation "linear": levels [O, I], scales and real biases [O]."""
    return {"weight": b64encode(np.ascontiguousarray(weight).tobytes()).decode(),
            "scale": [float(value) for value in scale], "bias": [float(value) for value in bias]}


def _linear(x: Array, *, weight: str, scale: Sequence[float], bias: Sequence[float]) -> Array:
    levels = np.frombuffer(b64decode(weight), np.int8).reshape(len(scale), -1)
    total = x.astype(np.float64) @ levels.T.astype(np.float64)
    return (total * np.asarray(scale) + np.asarray(bias)).astype(np.float32)


def _softmax(x: Array, *, axis: int) -> Array:
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def _log_softmax(x: Array, *, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _argmax(x: Array, *, axis: int, keepdims: bool) -> Array:
    return np.asarray(x.argmax(axis=axis, keepdims=keepdims), np.int64)


def _sigmoid(x: Array) -> Array:
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def _reshape(x: Array, *, shape: Sequence[int]) -> Array:
    return x.reshape(len(x), *shape)


def _permute(x: Array, *, axes: Sequence[int]) -> Array:
    return x.transpose(axes)


def _scale(x: Array, *, factor: float, offset: float) -> Array:
    return x * np.float32(factor) + np.float32(offset)


def _clamp(x: Array, *, low: float | None, high: float | None) -> Array:
    return np.clip(x, low, high)


TAIL_OPERATIONS: dict[str, Callable[..., Array]] = {
    "argmax": _argmax,
    "clamp": _clamp,
    "linear": _linear,
    "log_softmax": _log_softmax,
    "permute": _permute,
    "relu": lambda x: np.maximum(x, 0),
    "reshape": _reshape,
    "scale": _scale,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "tanh": np.tanh,
}
"""Every operation that may stand behind the network, by the name in `TailOperation.op`."""
