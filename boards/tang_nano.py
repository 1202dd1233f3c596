"""Sipeed Tang Nano 9K and 20K: Gowin chips with a serial port in the USB bridge."""

from systolith.errors import MissingExtraError

from .board import Board

__all__ = ["TANG_NANO_9K", "TANG_NANO_20K"]


def _tang_nano_9k():
    from amaranth_boards.tang_nano_9k import TangNano9kPlatform

    class Platform(TangNano9kPlatform):
        pack_options = ("--sspi_as_gpio", "--mspi_as_gpio")

    return Platform()


def _tang_nano_20k():
    try:
        from amaranth.build import Attrs, Clock, Pins, Resource
        from amaranth.vendor import GowinPlatform
        from amaranth_boards.resources import LEDResources, UARTResource
    except ImportError as error:
        raise MissingExtraError(f"building a bitstream needs {error.name}: install it with "
                                "pip install 'systolith[hw]'") from None

    attributes = Attrs(IO_TYPE="LVCMOS33")

    class Platform(GowinPlatform):
        part = "GW2AR-LV18QN88C8/I7"
        family = "GW2AR-18C"
        default_clk = "clk27"
        resources = (
            Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), attributes),
            *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=attributes),
            UARTResource(0, rx="70", tx="69", attrs=Attrs(PULL_MODE="UP", IO_TYPE="LVCMOS33")),
        )
        connectors = ()
        pack_options = ("--sspi_as_gpio",)

    return Platform()


TANG_NANO_9K = Board(
    name="tang-nano-9k", title="Sipeed Tang Nano 9K", family="gowin", platform=_tang_nano_9k,
    device="GW1NR-9C", multipliers=0, sdram=None, baud=3_000_000,
    programmer=("openFPGALoader", "-b", "tangnano9k"))

TANG_NANO_20K = Board(
    name="tang-nano-20k", title="Sipeed Tang Nano 20K", family="gowin", platform=_tang_nano_20k,
    device="GW2AR-18C", multipliers=0, sdram=None, baud=3_000_000,
    programmer=("openFPGALoader", "-b", "tangnano20k"))
