"""What became of each bias: a row a channel, kept in the program."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import container

__all__ = ["BiasRow", "BiasTable"]


@dataclass(frozen=True)
class BiasRow:
    """One channel's bias.

    Parameters
    ----------
    layer, channel
        Where.
    float_bias
        The model's bias, in real numbers.
    integer_bias
        The int32 that the hardware adds, zero-point term included.
    kept
        What rounding discarded and the rounding constant restores, in accumulator units.
    error
        What is still missing, in output steps; 0.5 would change a rounding.
    enlargement
        Factor by which the channel's weight scale was enlarged, 1 as a rule.
    enlargement_error
        Largest error of an output that the enlargement can cause, in output steps.
    """

    layer: str
    channel: int
    float_bias: float
    integer_bias: int
    kept: float
    error: float
    enlargement: int
    enlargement_error: float


_RECORD = np.dtype([
    ("layer", "<u4"), ("channel", "<u4"), ("float_bias", "<f8"), ("integer_bias", "<i8"),
    ("kept", "<f8"), ("error", "<f8"), ("enlargement", "<i8"), ("enlargement_error", "<f8")])


@dataclass(frozen=True, eq=False)
class BiasTable:
    """Rows as a structured array, whose `layer` counts in `layers`."""

    layers: tuple[str, ...]
    records: NDArray[np.void]

    @classmethod
    def of(cls, rows: Sequence[BiasRow]) -> "BiasTable":
        """The table of some rows."""
        layers = list(dict.fromkeys(row.layer for row in rows))
        index = {layer: number for number, layer in enumerate(layers)}
        records = [(index[row.layer], *list(vars(row).values())[1:]) for row in rows]
        return cls(tuple(layers), np.array(records, _RECORD))

    def rows(self) -> list[BiasRow]:
        """The rows again."""
        return [BiasRow(self.layers[layer], *values)
                for layer, *values in self.records.tolist()]

    def to_bytes(self) -> tuple[tuple[int, int], bytes]:
        """Shape and contents of the table as a tensor of bytes."""
        return (len(self.records), _RECORD.itemsize), self.records.tobytes()

    @classmethod
    def from_bytes(cls, layers: Sequence[str], shape: tuple[int, ...],
                   data: bytes | memoryview) -> "BiasTable":
        """The table of a container's tensor. Raises `container.Malformed`."""
        if len(shape) != 2 or shape[1] != _RECORD.itemsize:
            raise container.Malformed("its table of biases has another shape; compile again")
        records = np.frombuffer(bytes(data), _RECORD)
        if any(type(layer) is not str for layer in layers) or (
                len(records) and int(records["layer"].max()) >= len(layers)):
            raise container.Malformed("its table of biases names no layer; compile again")
        return cls(tuple(layers), records)
