"""What a board is: its chip and pins, the clock it brings, its memory, and the preset it runs."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from systolith.errors import ConfigError
from systolith.hw.config import PRESETS, Config
from systolith.hw.sdram_chips import SdramChip

from . import pll

__all__ = ["FAMILIES", "Board", "Family", "Placement", "amaranth_platform", "bare_pins"]


@dataclass(frozen=True)
class Family:
    """A family of FPGAs and how to make a core clock in it.

    `pll(m, source, source_mhz, wanted_mhz, board)` returns clock and lock; where boards have SDRAM,
    it takes `turned` as well (`pll.ecp5_pll`). `resources` gives the names that nextpnr's report
    uses, by the names of ours. `pll_has_pad`: the PLL's source is a pad, which nothing else can
    have.
    """

    name: str
    pll: Callable[..., Any]
    resources: dict[str, str]
    pll_has_pad: bool = False


def _ecp5_pll(m, source, source_mhz, wanted_mhz, board, turned=None):
    return pll.ecp5_pll(m, source, pll.ecp5_dividers(source_mhz, wanted_mhz), turned=turned)


def _ice40_pll(m, source, source_mhz, wanted_mhz, board):
    return pll.ice40_pll(m, source, pll.ice40_dividers(source_mhz, wanted_mhz))


def _gowin_pll(m, source, source_mhz, wanted_mhz, board, turned=None):
    limits = {"lowest": 500, "highest": 1250} if board.device.startswith("GW2A") else {}
    return pll.gowin_pll(m, source, pll.gowin_dividers(source_mhz, wanted_mhz, **limits),
                         device=board.device, turned=turned)


def _series7_pll(m, source, source_mhz, wanted_mhz, board):
    return pll.series7_pll(m, source, pll.series7_dividers(source_mhz, wanted_mhz))


FAMILIES = {
    "ecp5": Family("ecp5", _ecp5_pll, {
        "LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "multipliers": "MULT18X18D",
        "block RAM": "DP16KD"}),
    "ice40": Family("ice40", _ice40_pll, {
        "LUT": "ICESTORM_LC", "multipliers": "ICESTORM_DSP", "block RAM": "ICESTORM_RAM",
        "SPRAM": "ICESTORM_SPRAM"}, pll_has_pad=True),
    "gowin": Family("gowin", _gowin_pll, {
        "LUT": "LUT4", "FF": "DFF", "9x9 multipliers": "MULT9X9",
        "18x18 multipliers": "MULT18X18", "block RAM": "BSRAM"}),
    "series7": Family("series7", _series7_pll, {}),
}
"""By name: Lattice ECP5, Lattice iCE40, Gowin GW1N and GW2A, and AMD 7 series, which no open tool
builds."""


@dataclass(frozen=True)
class Placement:
    """How a configuration is synthesized and placed.

    Attributes
    ----------
    seed : int
        The first of those that are tried. Estimates of one netlist with different seeds are a third
        apart.
    corner : str or None
        Of an ECP5: where the snake begins along which multipliers get their sites
        (`boards/floorplan.py`); None leaves them to nextpnr.
    alpha : float or None
        Of a Gowin chip: how much stronger cells are pulled to places that are free, from round to
        round of the placement; None for nextpnr's own tenth. The fuller a chip, the longer a round
        takes; with 0.4 there are a third as many.
    sums : int
        Additions with sums of at most so many bits get an adder each; 0 leaves them to yosys, which
        merges those of many numbers (`flow.SUMS`).
    """

    seed: int = 1
    corner: str | None = None
    alpha: float | None = None
    sums: int = 0


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes
    ----------
    name : str
        What `systolith build` calls it, and the preset it runs.
    title : str
        Its maker's name for it.
    family : str
        Key of `FAMILIES`.
    platform : callable
        Makes the Amaranth platform: pins, and the tools' options.
    device : str
        The chip.
    multipliers : int
        Of the chip that may be instantiated, in the smallest size; 0 leaves them to the tool.
    sdram : SdramChip or None
        What it has for main memory; where it has none, or a configuration names none, that is
        block RAM.
    baud : int or None
        Of the link's UART; None makes the board's own USB connector the link (`boards/usb.py`).
    programmer : tuple of str
        Command that loads a bitstream, whose path is put at its end.
    prepare : callable or None
        Statements the board needs besides clock, memory and link: `prepare(m, platform)`.
    one_clock : bool
        The link runs at the core's clock, too: small chips have no room for what crosses clocks.
    spram : bool
        Main memory and scratchpad share the SPRAM of an iCE40.
    logic_adders : int
        Adders of at most so many bits are made of look-up tables: in a Gowin chip those for carries
        are those that have flip-flops.
    placements : dict of str to Placement
        What builds of presets have shown to be good; other presets than the board's own are among
        `systolith build all` if they are in here.
    """

    name: str
    title: str
    family: str
    platform: Callable[[], Any]
    device: str
    multipliers: int
    sdram: SdramChip | None
    baud: int | None
    programmer: tuple[str, ...]
    prepare: Callable[[Any, Any], None] | None = None
    one_clock: bool = False
    spram: bool = False
    logic_adders: int = 0
    placements: dict[str, Placement] = field(default_factory=dict, hash=False)

    @property
    def config(self) -> Config:
        """The preset of this board."""
        return PRESETS[self.name]

    def memory_chip(self, config: Config) -> SdramChip | None:
        """The SDRAM that is main memory of `config` on this board; None for memory on the chip.
        Raises `ConfigError` where the configuration names one that the board does not have."""
        if not config.sdram:
            return None
        if self.sdram is None or self.sdram.name != config.sdram:
            has = f'"{self.sdram.name}", or "" for block RAM' if self.sdram else '""'
            raise ConfigError(f'{self.name} has no {config.sdram}: set sdram = {has} in the '
                              "configuration")
        return self.sdram

    def placement(self, config: Config) -> Placement:
        """How to place a configuration: a preset as is known of it, others as the board's own."""
        name = next((name for name in self.placements if PRESETS[name] == config), self.name)
        return self.placements.get(name, Placement())


def amaranth_platform(module: str, name: str, *before: type) -> Callable[[], Any]:
    """Makes the platform `name` of amaranth-boards' `module`, which is imported only then. What
    the classes `before` define goes before its own.

    What it returns raises `ImportError` where amaranth-boards is not installed.
    """
    def make() -> Any:
        platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)
        return type(name, (*before, platform), {})()

    return make


def bare_pins(platform: Any, resource: str) -> Any:
    """All pins of a platform's resource, without the buffers that Amaranth would put there."""
    return platform.request(
        resource, 0, dir={pin.name: "-" for pin in platform.lookup(resource, 0).ios})
