"""Where things lie in a memory, with the space of dead ones used again."""

from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Lifetime", "place_all"]

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A thing of `size` bytes or words, needed from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int


def place_all(lifetimes: list[Lifetime], alignment: int) -> tuple[dict[str, int], int]:
    """Addresses of things, those of disjoint lifetimes sharing space, and the size of the whole.

    Largest first, each at the lowest aligned place that is free for its whole life.
    """
    placed: list[tuple[int, Lifetime]] = []
    addresses: dict[str, int] = {}

    def aligned(size: int) -> int:
        return -(-size // alignment) * alignment

    for item in sorted(lifetimes, key=lambda item: (-item.size, item.first, item.name)):
        address = 0
        for start, other in placed:  # ascending addresses
            if other.last < item.first or item.last < other.first:
                continue
            if start - address >= item.size:
                break
            address = max(address, start + aligned(other.size))
        addresses[item.name] = address
        placed.append((address, item))
        placed.sort(key=lambda pair: pair[0])
    return addresses, aligned(max((start + item.size for start, item in placed), default=0))
