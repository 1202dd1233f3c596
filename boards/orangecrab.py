"""OrangeCrab r0.2: an ECP5 whose USB connector is wired to its pins. Its DDR3 is not used."""

from .board import Board, Placement, amaranth_platform

__all__ = ["ORANGECRAB_25F", "ORANGECRAB_85F"]


def _board(size, multipliers, placements=None):
    return Board(
        name=f"orangecrab-{size.lower()}", title=f"OrangeCrab r0.2 {size}", family="ecp5",
        platform=amaranth_platform("orangecrab_r0_2", f"OrangeCrabR0_2_{size}Platform"),
        device=f"LFE5U-{size}", multipliers=multipliers, sdram=None, baud=None,
        # The bootloader, which the button keeps running, is a device for firmware upgrades.
        programmer=("dfu-util", "-d", "1209:5af0", "-a", "0", "-D"),
        placements=placements or {})


ORANGECRAB_25F = _board("25F", 28)
ORANGECRAB_85F = _board("85F", 144, {"orangecrab-85f": Placement(corner="top left")})
