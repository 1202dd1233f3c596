"""Sipeed's Tang Nano boards, with Gowin's chips and a serial port on the USB connector.

Tang Nano 20K: a GW2AR-18, which has SDRAM beside its die, and a BL616 for the port. Tang Nano 9K: a
GW1NR-9, and a BL702; the PSRAM beside its die is not used.
"""

from amaranth.build import Attrs, Clock, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import GowinPlatform

from systolith.hw.sdram_chips import GW2AR_18_SDRAM

from .board import Board, Placement, amaranth_platform

__all__ = ["TANG_NANO_9K", "TANG_NANO_20K"]

_CLOCKS = """
{% for signal, frequency in platform.iter_signal_clock_constraints() -%}
create_clock -period {{1e9 / frequency}} [get_nets {{signal|hierarchy(".")}}]
{% endfor %}
"""

_LUTS = "".join(f"""module LUT{size}(output F, input {', '.join(inputs)});
  parameter [{(1 << size) - 1}:0] INIT = 0;
  LUT4 #(.INIT({{{16 >> size}{{INIT}}}})) _TECHMAP_REPLACE_ (.F(F){''.join(
      f', .{pin}({pin})' for pin in inputs)});
endmodule
""" for size, inputs in ((size, [f"I{k}" for k in range(size)]) for size in (1, 2, 3)))
"""Smaller look-up tables as LUT4 whose other inputs do not matter. nextpnr knows the delays of LUT4
alone, and leaves paths through others out of the clock that it reports."""

_IO = Attrs(IO_TYPE="LVCMOS33")


_SDRAM = Resource(
    "sdram", 0,
    Subsignal("clk", Pins("IOR11B", dir="o")), Subsignal("clk_en", Pins("IOL13A", dir="o")),
    Subsignal("cs", PinsN("IOL14B", dir="o")), Subsignal("ras", PinsN("IOL13B", dir="o")),
    Subsignal("cas", PinsN("IOL14A", dir="o")), Subsignal("we", PinsN("IOL12B", dir="o")),
    Subsignal("dqm", Pins("IOL12A IOR11A IOL18A IOR15B", dir="o")),
    Subsignal("a", Pins("IOR14A IOR13B IOR14B IOR15A IOL16B IOL17B IOL16A IOL17A IOL15B IOL15A "
                        "IOR12B", dir="o")),
    Subsignal("ba", Pins("IOR13A IOR12A", dir="o")),
    Subsignal("dq", Pins("IOL3A IOL3B IOL8A IOL8B IOL9A IOL9B IOL11A IOL11B "
                         "IOR9B IOR9A IOR5B IOR6A IOR5A IOR4B IOR3B IOR3A "
                         "IOL39B IOL39A IOL35B IOL35A IOL30B IOL30A IOL20A IOL18B "
                         "IOR17A IOR16A IOR16B IOR17B IOR18A IOR18B IOR44A IOR44B", dir="io")),
    _IO)
"""Where the GW2AR-18's die is wired to its SDRAM, as apycula knows it: pads without pins."""


class _Constrained(GowinPlatform):
    """A platform with clocks and look-up tables in the form that nextpnr reads."""

    @property
    def file_templates(self):
        """Amaranth's, constraints of clocks, and a map of cells."""
        return {**super().file_templates, "{{name}}.sdc": _CLOCKS, "{{name}}_luts.v": _LUTS}


class _TangNano20K(_Constrained):
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
        _SDRAM,
    ]
    connectors = []  # noqa: RUF012


TANG_NANO_20K = Board(
    name="tang-nano-20k", title="Sipeed Tang Nano 20K", family="gowin", platform=_TangNano20K,
    device="GW2AR-18C", multipliers=96, sdram=GW2AR_18_SDRAM, baud=3_000_000,
    programmer=("openFPGALoader", "-b", "tangnano20k"), logic_adders=16,
    placements={"tang-nano-20k": Placement(alpha=0.4),
                "tang-nano-20k-8x8": Placement(alpha=0.4, sums=17)})

TANG_NANO_9K = Board(
    name="tang-nano-9k", title="Sipeed Tang Nano 9K", family="gowin",
    platform=amaranth_platform("tang_nano_9k", "TangNano9kPlatform", _Constrained),
    device="GW1NR-9C", multipliers=40, sdram=None, baud=3_000_000,
    programmer=("openFPGALoader", "-b", "tangnano9k"), one_clock=True)
