"""Which of the sequential core's small memories are not block RAM."""

from ..multiplier import family_of

__all__ = ["without_block_ram"]


def without_block_ram(platform, kind: str) -> dict[str, str]:
    """Attributes of a memory that is made of look-up tables where block RAM is what a chip lacks:
    on Gowin's, for which main memory is block RAM too.

    `kind` is yosys' name of how: "distributed" for RAM, "logic" for contents that are constant.
    """
    return {"ram_style": kind} if family_of(platform) == "gowin" else {}
