"""Damage to program images, as a broken file or a hostile one would have it."""

from dataclasses import replace

from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    INSTRUCTION_BYTES,
    Queue,
    decode_descriptor,
    encode,
    instruction_fields,
)

__all__ = ["damaged"]


def damaged(program, rng):
    """The image of a `RandomProgram` with a little of it changed.

    Fields of instructions become other values, mostly ones at the edge of what is allowed; bits
    flip in instructions and descriptor; instructions are overwritten by noise or by one another.
    """
    image = bytearray(program.image)
    starts = decode_descriptor(program.image)[1]

    def place():
        queue = rng.choice(list(Queue))
        index = rng.randrange(len(program.lists[queue]))
        return starts[queue] + index * INSTRUCTION_BYTES, program.lists[queue][index]

    for _ in range(rng.randint(1, 3)):
        address, instruction = place()
        kind = rng.random()
        if kind < 0.25:
            _flip(image, 8 * address + rng.randrange(8 * INSTRUCTION_BYTES))
        elif kind < 0.28:
            _flip(image, rng.randrange(8 * DESCRIPTOR_BYTES))
        elif kind < 0.33:
            image[address:address + INSTRUCTION_BYTES] = (
                rng.randbytes(INSTRUCTION_BYTES) if rng.random() < 0.5 else encode(place()[1]))
        else:
            image[address:address + INSTRUCTION_BYTES] = encode(_other_field(instruction, rng))
    return bytes(image)


def _flip(image, bit):
    image[bit // 8] ^= 1 << bit % 8


def _other_field(instruction, rng):
    field = rng.choice(instruction_fields(type(instruction)))
    low = -(1 << (field.width - 1)) if field.signed else 0
    high = low + (1 << field.width) - 1
    old = getattr(instruction, field.name)
    value = rng.choice([0, 1, low, high, old - 1, old + 1, rng.randint(low, high)])
    return replace(instruction, **{field.name: min(max(value, low), high)})
