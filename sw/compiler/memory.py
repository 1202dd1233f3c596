"""Main memory: where tensors lie, with dead tensors' space used again."""

from dataclasses import dataclass

__all__ = ["Lifetime", "plan"]

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A tensor of `nbytes`, needed from step `first` to step `last`, both included."""

    name: str
    nbytes: int
    first: int
    last: int


def plan(lifetimes: list[Lifetime]) -> tuple[dict[str, int], int]:
    """Addresses of tensors, those of disjoint lifetimes sharing bytes, and the size of the whole.

    Largest first, each at the lowest place that is free for its whole life.
    """
    placed: list[tuple[int, Lifetime]] = []
    addresses: dict[str, int] = {}
    for item in sorted(lifetimes, key=lambda item: (-item.nbytes, item.first, item.name)):
        size = -(-item.nbytes // ALIGNMENT) * ALIGNMENT
        address = 0
        for start, other in placed:  # ascending addresses
            if other.last < item.first or item.last < other.first:
                continue
            if start - address >= size:
                break
            address = max(address, start + -(-other.nbytes // ALIGNMENT) * ALIGNMENT)
        addresses[item.name] = address
        placed.append((address, item))
        placed.sort(key=lambda pair: pair[0])
    end = max((address + item.nbytes for address, item in placed), default=0)
    return addresses, -(-end // ALIGNMENT) * ALIGNMENT
