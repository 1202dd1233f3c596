"""CRC-32, a byte a cycle."""

from functools import reduce
from operator import xor
from zlib import crc32

from amaranth import Cat, Value

__all__ = ["CRC_RESIDUE", "crc32_step"]

CRC_RESIDUE = crc32(bytes(4))
"""The CRC of a message with its own CRC behind it, whatever the start value."""

_POLYNOMIAL = 0xEDB88320  # reflected, as in IEEE 802.3


def crc32_step(crc: Value, byte: Value) -> Value:
    """The CRC after one more byte: `zlib.crc32(byte, crc)`.

    `crc` holds 32 bits, `byte` 8.
    """
    # The step is linear but for a constant: column i says what input bit i contributes.
    constant = crc32(b"\0")
    columns = [_shift(1 << i) for i in range(32)]
    inputs = [*(crc[i] ^ byte[i] for i in range(8)), *(crc[i] for i in range(8, 32))]
    return Cat(reduce(xor, [bit for bit, column in zip(inputs, columns, strict=True)
                            if column >> i & 1]) for i in range(32)) ^ constant


def _shift(value: int) -> int:
    """Eight steps of the bit-serial register."""
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value
