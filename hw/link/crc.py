"""CRC-32, a byte a cycle."""

from functools import reduce
from operator import xor

from amaranth import Cat, Value

__all__ = ["CRC_ONES", "CRC_RESIDUE", "crc32_step"]

CRC_ONES = 0xFFFFFFFF
"""What the register is inverted with at the start and at the end."""

CRC_RESIDUE = 0xDEBB20E3
"""The register after a message and its own CRC, whatever the start value."""

_POLYNOMIAL = 0xEDB88320  # reflected, as in IEEE 802.3


def crc32_step(register: Value, byte: Value) -> Value:
    """The register after one more byte.

    `register` holds 32 bits, `byte` 8. `zlib.crc32(data, start)` is the register inverted, that
    began as `start` inverted.
    """
    # The step is linear: column i says what input bit i contributes.
    columns = [_shift(1 << i) for i in range(32)]
    inputs = [*(register[i] ^ byte[i] for i in range(8)), *(register[i] for i in range(8, 32))]
    return Cat(reduce(xor, [bit for bit, column in zip(inputs, columns, strict=True)
                            if column >> i & 1]) for i in range(32))


def _shift(value: int) -> int:
    """Eight steps of the bit-serial register."""
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value
