"""ULX3S: an ECP5 with 32 MiB of SDRAM and an FT231X as its serial port."""

from systolith.hw.sdram_chips import MT48LC16M16A2_7E

from .board import Board, Placement, amaranth_platform

__all__ = ["ULX3S_12F", "ULX3S_85F"]


def _board(size, multipliers, placements=None):
    return Board(
        name=f"ulx3s-{size.lower()}", title=f"Radiona ULX3S {size}", family="ecp5",
        platform=amaranth_platform("ulx3s", f"ULX3S_{size}_Platform"), device=f"LFE5U-{size}",
        multipliers=multipliers, sdram=MT48LC16M16A2_7E, baud=3_000_000,
        programmer=("openFPGALoader", "-b", "ulx3s"), placements=placements or {})


ULX3S_12F = _board("12F", 28, {
    "ulx3s-12f": Placement(), "ulx3s-12f-8x4": Placement(seed=2)})
ULX3S_85F = _board("85F", 144, {
    "ulx3s-85f": Placement(corner="top left")})
