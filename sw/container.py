"""The safetensors container of program files, read with suspicion.

A container is 8 bytes of header length, a JSON header, and tensors. Metadata are three texts:
`format`, `checksum` (SHA-256 over everything else) and `program` (JSON). It is read by the few
lines below and not by the safetensors package, so that hostile headers are bounded before anything
is allocated.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["DTYPES", "FORMAT", "HEADER_LIMIT", "Malformed", "Parts", "Reader", "read", "write"]

FORMAT = "systolith-program-1"
HEADER_LIMIT = 1 << 20
"""Most bytes that a program file's header may have."""

DTYPES = ("U8", "I8")
"""Element types of the container's tensors, by their names in safetensors: a byte each."""

Parts = Mapping[str, tuple[str, tuple[int, ...], bytes | memoryview]]
"""Tensors of a container: element type, shape, contents."""

_MAX_DIMENSIONS = 4


class Malformed(Exception):
    """What is wrong with a file, as the end of a sentence."""


def write(text: str, parts: Parts) -> bytes:
    """A container's bytes, from its `program` text and its tensors.

    Raises `Malformed` when the header would be longer than `HEADER_LIMIT`.
    """
    header: dict[str, Any] = {"__metadata__": {
        "format": FORMAT, "checksum": _checksum(text, parts), "program": text}}
    offset = 0
    for name, (dtype, shape, data) in parts.items():
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > HEADER_LIMIT:
        raise Malformed(f"its header would have {len(encoded)} bytes and may have {HEADER_LIMIT}; "
                        "keep less in metadata and regions")
    return b"".join((struct.pack("<Q", len(encoded)), encoded,
                     *(data for _, _, data in parts.values())))


def _checksum(text: str, parts: Parts) -> str:
    """Digest over the metadata and every tensor's name, type, shape and contents."""
    digest = hashlib.sha256()
    for piece in (FORMAT, text):
        digest.update(struct.pack("<Q", len(piece.encode())) + piece.encode())
    for name in sorted(parts):
        dtype, shape, data = parts[name]
        label = json.dumps([name, dtype, list(shape)]).encode()
        digest.update(struct.pack("<Q", len(label)) + label)
        digest.update(data)
    return digest.hexdigest()


def _parse(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated names and without numbers that are none."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise Malformed(f"its {what} names something twice; it is damaged")
        return result

    def refuse(name: str) -> None:
        raise Malformed(f"its {what} contains {name}; it is damaged")

    def finite(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            refuse(digits[:40])
        return value

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse,
                           parse_float=finite)
    except (ValueError, RecursionError):
        raise Malformed(f"its {what} is not JSON; it is damaged or not a program") from None
    if type(value) is not dict:
        raise Malformed(f"its {what} is not a JSON object; it is damaged or not a program")
    return value


def read(data: memoryview) -> tuple[dict[str, Any], Parts]:
    """The program's plain values and its tensors, after every check of the container."""
    if len(data) < 8:
        raise Malformed(f"it has {len(data)} bytes; it is not a program file")
    (length,) = struct.unpack("<Q", data[:8])
    if length > HEADER_LIMIT:
        raise Malformed(f"its header would have {length} bytes and may have {HEADER_LIMIT}; it "
                         "is damaged or not a program file")
    if length > len(data) - 8:
        raise Malformed("it ends inside its header; copy it again")
    header = _parse(bytes(data[8:8 + length]), "header")
    metadata = header.pop("__metadata__", None)
    if type(metadata) is not dict or set(metadata) != {"format", "checksum", "program"} or any(
            type(text) is not str for text in metadata.values()):
        raise Malformed("it has no program metadata; it is another kind of safetensors file")
    if metadata["format"] != FORMAT:
        raise Malformed(f"its format is '{metadata['format'][:40]}' and this version reads "
                         f"'{FORMAT}'; compile the model again")
    parts = _read_tensors(header, data[8 + length:])
    try:
        checksum = _checksum(metadata["program"], parts)
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which is no character
        raise Malformed("its texts are not valid Unicode; it is damaged") from None
    if checksum != metadata["checksum"]:
        raise Malformed("its checksum does not match its contents; it is damaged, so copy it "
                         "again")
    return _parse(metadata["program"], "program metadata"), parts


def _read_tensors(header: dict[str, Any], body: memoryview) -> Parts:
    """Tensors that cover `body` without gaps or overlaps."""
    parts: dict[str, tuple[str, tuple[int, ...], memoryview]] = {}
    spans = []
    for name, entry in header.items():
        if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise Malformed("a tensor's entry in its header is incomplete; it is damaged")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(dtype) is not str or dtype not in DTYPES:
            raise Malformed("a tensor has a data type other than U8 and I8; it is not a program")
        if not _naturals(shape) or not _naturals(offsets) or len(shape) > _MAX_DIMENSIONS or len(
                offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape):
            raise Malformed("a tensor's shape and offsets in its header disagree; it is damaged")
        spans.append(tuple(offsets))
        parts[name] = (dtype, tuple(shape), body[offsets[0]:offsets[1]])
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise Malformed("its tensors overlap or leave gaps; it is damaged")
        end = stop
    if end != len(body):
        raise Malformed(f"its tensors need {end} bytes and it has {len(body)}; copy it again")
    return parts


def _naturals(value: Any) -> bool:
    return type(value) is list and all(type(item) is int and 0 <= item < 1 << 40 for item in value)


class Reader:
    """Takes typed values out of a dictionary, and complains about what is left."""

    def __init__(self, values: dict[str, Any]):
        self._values = dict(values)

    def take(self, name: str, kind: type) -> Any:
        value = self._values.pop(name, None)
        if type(value) is not kind:
            raise Malformed(f"its '{name}' is not of type {kind.__name__}; compile again")
        return value

    def finish(self) -> None:
        if self._values:
            raise Malformed("it has entries that this version does not know; compile again")
