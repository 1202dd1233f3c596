"""Arty A7: an Artix-7 with an FT2232 as its serial port. Its DDR3 is not used."""

from .board import Board, amaranth_platform

__all__ = ["ARTY_A7_35T", "ARTY_A7_100T"]


def _board(size):
    return Board(
        name=f"arty-a7-{size}t", title=f"Digilent Arty A7-{size}T", family="series7",
        platform=amaranth_platform("arty_a7", f"ArtyA7_{size}Platform"), device=f"XC7A{size}T",
        multipliers=0, sdram=None, baud=3_000_000,
        programmer=("openFPGALoader", "-b", f"arty_a7_{size}t"))


ARTY_A7_35T = _board(35)
ARTY_A7_100T = _board(100)
