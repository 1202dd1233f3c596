"""iCEBreaker: an iCE40UP5K with an FT2232H as its serial port."""

from .board import Board, amaranth_platform

__all__ = ["ICEBREAKER"]

ICEBREAKER = Board(
    name="icebreaker", title="1BitSquared iCEBreaker", family="ice40",
    platform=amaranth_platform("icebreaker", "ICEBreakerPlatform"), device="iCE40UP5K",
    multipliers=8, sdram=None, baud=1_000_000, programmer=("openFPGALoader", "-b", "ice40_generic"),
    one_clock=True, spram=True)
