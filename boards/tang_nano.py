"""Tang Nano 20K: a GW2AR-18 with a BL616 as its serial port. Its SDRAM is not used."""

from amaranth.build import Attrs, Clock, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import GowinPlatform

from .board import Board

__all__ = ["TANG_NANO_20K"]

_CLOCKS = """
{% for signal, frequency in platform.iter_signal_clock_constraints() -%}
create_clock -period {{1e9 / frequency}} [get_nets {{signal|hierarchy(".")}}]
{% endfor %}
"""

_IO = Attrs(IO_TYPE="LVCMOS33")


class _TangNano20K(GowinPlatform):
    """Pins of the board, of which the accelerator uses clock and UART."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [  # noqa: RUF012 (Amaranth's platforms have them so)
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), _IO),
        Resource("uart", 0, Subsignal("rx", Pins("70", dir="i"), Attrs(PULL_MODE="UP")),
                 Subsignal("tx", Pins("69", dir="o")), _IO),
        *(Resource("led", k, PinsN(str(15 + k), dir="o"), _IO) for k in range(6)),
        Resource("button", 0, Pins("88", dir="i"), _IO),
        Resource("button", 1, Pins("87", dir="i"), _IO),
    ]
    connectors = []  # noqa: RUF012

    @property
    def file_templates(self):
        """Amaranth's, and the constraints of clocks in the form that nextpnr reads."""
        return {**super().file_templates, "{{name}}.sdc": _CLOCKS}


TANG_NANO_20K = Board(
    name="tang-nano-20k", title="Sipeed Tang Nano 20K", family="gowin", platform=_TangNano20K,
    device="GW2AR-18C", multipliers=96, sdram=None, baud=3_000_000,
    programmer=("openFPGALoader", "-b", "tangnano20k"))
