"""Tensors as they lie in main memory: the boundary between images of numbers and device bytes."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.sim import numerics

from .errors import InputError, ProgramError

__all__ = ["LAYOUTS", "TensorDescriptor", "as_images"]

LAYOUTS = ("grouped", "pixels")
"""`grouped` holds `[group][y][x][word]` bytes, a word of `word_bytes` channels a pixel, as the
scratchpad does. `pixels` holds `[y][x][channel]` bytes, for first layers of few channels."""

_LIMIT = 1 << 32
_MAX_EXTENT = 1 << 20
_SCALES = (2.0**-126, 2.0**118)
"""Scales with which float32 holds the real value of every integer."""


@dataclass(frozen=True, kw_only=True)
class TensorDescriptor:
    """Where a quantized tensor lies in main memory, how, and what its integers mean.

    Parameters
    ----------
    name
        The tensor's name in the model.
    address
        Byte address of its first byte, padding included.
    shape
        `(C, H, W)`, or `(C,)` for a vector, which lies in memory as `(C, 1, 1)`; no batch axis.
    scale, zero_point
        Real value of integer q is `scale * (q - zero_point)`.
    layout
        One of `LAYOUTS`.
    word_bytes
        Channels a word of layout `grouped`; the last group is filled up with `zero_point`.
    padding
        Pixels (top, bottom, left, right) around the tensor that hold `zero_point`.
    row_pitch
        Bytes from one row of layout `pixels` to the next; 0 for no gap.
    tail_bytes
        Bytes behind the tensor that are part of it and hold `zero_point`, so that a packing load
        may read past the last pixel.

    Raises
    ------
    ProgramError
        For values that describe no tensor.
    """

    name: str
    address: int
    shape: tuple[int, ...]
    scale: float = 1.0
    zero_point: int = 0
    layout: str = "grouped"
    word_bytes: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    row_pitch: int = 0
    tail_bytes: int = 0

    def __post_init__(self) -> None:
        if type(self.name) is not str or not self.name:
            raise ProgramError(f"a tensor's name must be a text, not {self.name!r}: compile the "
                               "model again")
        self._integer("address", self.address, 0, _LIMIT)
        if type(self.shape) is not tuple or len(self.shape) not in (1, 3):
            self._refuse("shape", self.shape, "(C, H, W) or (C,)")
        for extent in self.shape:
            self._integer("shape", extent, 1, _MAX_EXTENT)
        if type(self.scale) is not float or not _SCALES[0] <= self.scale <= _SCALES[1]:
            self._refuse("scale", self.scale, "a number between 2^-126 and 2^118")
        self._integer("zero_point", self.zero_point, -128, 128)
        if self.layout not in LAYOUTS:
            self._refuse("layout", self.layout, " or ".join(LAYOUTS))
        self._integer("word_bytes", self.word_bytes, 1, 65)
        if type(self.padding) is not tuple or len(self.padding) != 4:
            self._refuse("padding", self.padding, "(top, bottom, left, right)")
        for extent in self.padding:
            self._integer("padding", extent, 0, _MAX_EXTENT)
        self._integer("row_pitch", self.row_pitch, 0, _LIMIT)
        self._integer("tail_bytes", self.tail_bytes, 0, _LIMIT)
        if self.layout == "pixels" and 0 < self.row_pitch < self._row_bytes:
            self._refuse("row_pitch", self.row_pitch, f"0 or at least {self._row_bytes}")
        if self.layout == "grouped" and self.row_pitch:
            self._refuse("row_pitch", self.row_pitch, "0 in layout grouped")

    def _refuse(self, field: str, value: Any, wanted: str) -> None:
        raise ProgramError(f"{field} of tensor '{self.name}' must be {wanted}, not {value!r}: "
                           "compile the model again")

    def _integer(self, field: str, value: Any, low: int, high: int) -> None:
        if type(value) is not int or not low <= value < high:
            self._refuse(field, value, f"an integer in [{low}, {high})")

    # Geometry -----------------------------------------------------------------------------------

    @property
    def _extents(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        if len(self.shape) == 1:
            return self.shape[0], 1, 1
        return self.shape[0], self.shape[1], self.shape[2]

    @property
    def _row_bytes(self) -> int:
        """Bytes of one padded row of layout `pixels`, without the gap behind it."""
        channels, _, width = self._extents
        return (width + self.padding[2] + self.padding[3]) * channels

    @property
    def groups(self) -> int:
        """Channel groups of layout `grouped`."""
        return -(-self.shape[0] // self.word_bytes)

    @property
    def nbytes(self) -> int:
        """Bytes in main memory, padding and tail included."""
        _, height, width = self._extents
        top, bottom, left, right = self.padding
        if self.layout == "pixels":
            return (height + top + bottom) * (self.row_pitch or self._row_bytes) + self.tail_bytes
        pixels = (height + top + bottom) * (width + left + right)
        return self.groups * pixels * self.word_bytes + self.tail_bytes

    @property
    def end(self) -> int:
        """Byte address behind the tensor."""
        return self.address + self.nbytes

    # Conversion ---------------------------------------------------------------------------------

    def pack(self, values: NDArray[np.int8]) -> bytes:
        """Bytes of one image, ready to be written at `address`.

        `values` is int8 of `shape`, with or without a leading batch axis of 1. Raises `InputError`
        for another shape or dtype.
        """
        values = np.asarray(values)
        if values.dtype != np.int8:
            raise InputError(f"tensor '{self.name}' takes int8 values, not {values.dtype}: "
                             "quantize them first")
        if values.shape not in (self.shape, (1, *self.shape)):
            raise InputError(f"tensor '{self.name}' has shape {self.shape}, not {values.shape}: "
                             "pass one image in the model's input shape")
        _, height, width = self._extents
        top, _, left, _ = self.padding
        memory, view = self._frame(np.full(self.nbytes, self.zero_point, np.int8))
        pixels = values.reshape(self._extents).transpose(1, 2, 0)
        if self.layout == "pixels":
            view[top:top + height, left:left + width] = pixels
        else:
            for group in range(self.groups):
                part = pixels[:, :, group * self.word_bytes:(group + 1) * self.word_bytes]
                view[group, top:top + height, left:left + width, :part.shape[2]] = part
        return memory.tobytes()

    def unpack(self, data: bytes | bytearray | memoryview) -> NDArray[np.int8]:
        """The int8 values of `shape` that `nbytes` bytes of main memory hold.

        Raises `InputError` when the number of bytes is another.
        """
        if len(data) != self.nbytes:
            raise InputError(f"tensor '{self.name}' has {self.nbytes} bytes, not {len(data)}: "
                             "read it whole")
        _, height, width = self._extents
        top, _, left, _ = self.padding
        _, view = self._frame(np.frombuffer(data, np.int8))
        if self.layout == "pixels":
            pixels = view[top:top + height, left:left + width]
        else:
            inside = view[:, top:top + height, left:left + width]
            pixels = inside.transpose(1, 2, 0, 3).reshape(height, width, -1)[..., :self.shape[0]]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).reshape(self.shape)

    def _frame(self, memory: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """The flat memory of the tensor, and its view by coordinates with the padding."""
        channels, height, width = self._extents
        top, bottom, left, right = self.padding
        height, width = height + top + bottom, width + left + right
        body = memory[:self.nbytes - self.tail_bytes]
        if self.layout == "grouped":
            return memory, body.reshape(self.groups, height, width, self.word_bytes)
        rows = body.reshape(height, self.row_pitch or self._row_bytes)
        # Splitting the last axis stays a view, so that writes to it reach `memory`.
        return memory, rows[:, :self._row_bytes].reshape(height, width, channels)

    def quantize(self, values: NDArray[Any]) -> NDArray[np.int8]:
        """Integers of real values of any shape; raises `InputError` for NaN."""
        real = np.asarray(values, np.float32)
        if np.isnan(real).any():
            raise InputError(f"input '{self.name}' contains NaN: clean the data")
        with np.errstate(over="ignore"):  # what overflows is clipped as anything else
            return numerics.quantize(real, self.scale, self.zero_point)

    def dequantize(self, values: NDArray[np.int8]) -> NDArray[np.float32]:
        """Real values of integers of any shape, float32."""
        return numerics.dequantize(values, self.scale, self.zero_point)

    # Plain values for files ---------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "TensorDescriptor":
        """Build from the plain values of `to_dict`. Raises `ProgramError` for anything else."""
        known = {item.name for item in fields(cls)}
        if type(values) is not dict or not set(values) <= known or not {
                "name", "address", "shape"} <= set(values):
            raise ProgramError("a tensor descriptor of the program lacks fields or has unknown "
                               "ones: compile the model again with this version")
        values = {name: tuple(value) if type(value) is list else value
                  for name, value in values.items()}
        if type(values.get("scale")) is int:
            values["scale"] = float(min(values["scale"], _LIMIT))
        return cls(**values)


def as_images(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Sequences [N, C, L] as the [N, C, 1, L] that a network of shape (C, 1, L) computes with.

    Anything else comes back as it is.
    """
    if array.ndim == 3 and shape[1:2] == (1,) and array.shape[1:] == (shape[0], *shape[2:]):
        return array[:, :, None]
    return array
