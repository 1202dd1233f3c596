"""On-chip memories of the golden model, and the range check of every access to them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import PARAMETER_BYTES, ErrorCode, LoadTarget

__all__ = ["Memories", "StopError"]


class StopError(Exception):
    """An instruction that the hardware would stop at, with its error code."""

    def __init__(self, code: ErrorCode):
        super().__init__(code.name)
        self.code = code


class Memories:
    """All memories that instructions reach, main memory included.

    Activations and weights are kept as float32, in which products of int8 and their sums up to
    2^24 are exact, so that the array is a matrix product of the fast kind. Accumulators are int32
    and wrap. Parameters are the bytes of the records.

    `seed` fills the on-chip memories with noise, for tests of what a program may not depend on;
    without it they are zero.
    """

    def __init__(self, config: Config, seed: int | None = None):
        self.config = config
        self.main: NDArray[np.uint8] = np.zeros(0, np.uint8)
        shapes: dict[str, tuple[int, ...]] = {
            "scratchpad": (config.scratchpad_words, config.rows),
            "weights": (config.weight_words, config.columns),
            "vector_weights": (config.vector_weight_words, config.rows),
            "parameters": (config.parameter_words, config.lanes, PARAMETER_BYTES),
            "table": (256 // config.rows, config.rows),
            "accumulators": (2 * config.accumulator_words, config.columns),
            "vector_accumulators": (2 * config.vector_accumulator_words, config.rows),
        }
        rng = None if seed is None else np.random.default_rng(seed)
        self.words: dict[str, NDArray[Any]] = {}
        for name, shape in shapes.items():
            kind: type = np.float32
            if name == "parameters":
                kind = np.uint8
            elif "accumulators" in name:
                kind = np.int32
            noise = np.zeros(shape, np.int64) if rng is None else rng.integers(
                0 if kind is np.uint8 else -8, 8, shape)
            self.words[name] = noise.astype(kind)

    def check(self, name: str, addresses: NDArray[np.int64]) -> None:
        """Stop with ADDRESS unless all word addresses lie in the memory."""
        if addresses.size and addresses.max() >= len(self.words[name]):
            raise StopError(ErrorCode.ADDRESS)

    def check_main(self, starts: NDArray[np.int64], length: int) -> None:
        """Stop with ADDRESS unless `length` bytes from each start lie in main memory."""
        if starts.size and starts.max() + length > len(self.main):
            raise StopError(ErrorCode.ADDRESS)

    def linear(self, name: str, start: int, count: int) -> NDArray[np.int64]:
        """Checked addresses of `count` consecutive words."""
        if start + count > len(self.words[name]):
            raise StopError(ErrorCode.ADDRESS)
        return np.arange(start, start + count, dtype=np.int64)

    def read(self, name: str, addresses: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of the words at checked addresses."""
        return self.words[name].take(addresses, axis=0)

    def write(self, name: str, addresses: NDArray[np.int64],
              values: NDArray[Any] | np.float32) -> None:
        """Write words at checked addresses, later ones over earlier ones."""
        self.words[name][addresses] = values

    def write_bytes(self, addresses: NDArray[np.int64], span: slice,
                    values: NDArray[Any]) -> None:
        """Write some bytes of scratchpad words at checked addresses; the others keep theirs."""
        self.words["scratchpad"][addresses, span] = values

    def read_main(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """A copy of `length` bytes from each checked start, along a new last axis."""
        windows = np.lib.stride_tricks.sliding_window_view(self.main, length)
        return windows[starts]

    def write_main(self, starts: NDArray[np.int64], values: NDArray[np.uint8]) -> None:
        """Write a row of bytes at each checked start, later ones over earlier ones."""
        length = values.shape[-1]
        for start, row in zip(starts.ravel().tolist(), values.reshape(-1, length), strict=True):
            self.main[start:start + length] = row

    def loader(self, target: LoadTarget) -> tuple[str, int, Callable[..., NDArray[Any]]]:
        """For a target of LOAD: its memory, the bytes of its words, and bytes to words."""
        rows = self.config.rows
        weight_bytes, parameter_bytes = (
            self.config.weight_word_bytes, self.config.parameter_word_bytes)
        weights = _signed if self.config.weight_bits == 8 else _nibbles
        targets: dict[LoadTarget, tuple[str, int, Callable[..., NDArray[Any]]]] = {
            LoadTarget.SCRATCHPAD: ("scratchpad", rows, _signed),
            LoadTarget.WEIGHT: ("weights", weight_bytes, weights),
            LoadTarget.VECTOR_WEIGHT: ("vector_weights", rows, _signed),
            LoadTarget.PARAMETER: ("parameters", parameter_bytes, self._records),
            LoadTarget.TABLE: ("table", rows, _signed),
        }
        return targets[target]

    def _records(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return data.reshape(*data.shape[:-1], self.config.lanes, PARAMETER_BYTES)


def _signed(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return data.view(np.int8).astype(np.float32)


def _nibbles(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Two signed weights a byte, the first in the low half."""
    pairs = np.stack([data & 15, data >> 4], axis=-1).astype(np.int8)
    pairs[pairs >= 8] -= 16
    return pairs.reshape(*data.shape[:-1], -1).astype(np.float32)
