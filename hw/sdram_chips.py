"""SDR SDRAM chips: geometry and timing under the names of the data sheets."""

from dataclasses import dataclass, fields
from math import ceil

from systolith.errors import ConfigError

__all__ = ["GW2AR_18_SDRAM", "IS42S16160G_7", "MT48LC16M16A2_7E", "SDRAM_CHIPS",
           "SDRAM_READ_DELAY", "SdramChip", "SdramCycles"]

SDRAM_READ_DELAY = 2
"""Cycles by which words arrive late where pads have registers: one on the way out, one back."""


@dataclass(frozen=True)
class SdramCycles:
    """A chip's timing in cycles of a certain clock; the meaning is `SdramChip`'s."""

    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tRFC: int
    tRRD: int
    tWR: int
    tMRD: int
    tREFI: int
    power_up: int


@dataclass(frozen=True, kw_only=True)
class SdramChip:
    """One chip, or one die inside of an FPGA's package.

    Attributes
    ----------
    name : str
        The maker's.
    data_bits, row_bits, column_bits : int
        Width of the bus, and of addresses in each of the four banks.
    CL : int
        CAS latency: cycles from a READ to its first word.
    tCK : float
        Least clock period at this CAS latency, ns.
    tRCD : float
        ACTIVE to READ or WRITE, ns.
    tRP : float
        PRECHARGE to the bank's next command, ns.
    tRAS : float
        ACTIVE to PRECHARGE, ns.
    tRC : float
        ACTIVE to ACTIVE of the same bank, ns.
    tRFC : float
        AUTO REFRESH to the next command, ns.
    tRRD : float
        ACTIVE to ACTIVE of another bank, ns.
    tWR : float
        Last word written to PRECHARGE, ns; also called tDPL or tRDL.
    tMRD : int
        LOAD MODE REGISTER to the next command, cycles.
    tREFI : float
        Mean time between two AUTO REFRESH, ns.
    power_up : float
        Time with a stable clock before the first command, ns.
    tAC, tOH : float
        Clock to a word's arrival on the bus, and how long it stays behind the next clock, ns.
    tIS, tIH : float
        How long commands, addresses and written words stand before the clock, and behind it, ns.
    initial_refreshes : int
        AUTO REFRESH commands before the mode register is loaded.
    """

    name: str
    data_bits: int
    row_bits: int
    column_bits: int
    CL: int = 3
    tCK: float
    tRCD: float
    tRP: float
    tRAS: float
    tRC: float
    tRFC: float
    tRRD: float
    tWR: float
    tMRD: int = 2
    tREFI: float
    power_up: float = 200_000.0
    tAC: float = 5.4
    tOH: float = 2.7
    tIS: float = 1.5
    tIH: float = 0.8
    initial_refreshes: int = 8

    def __post_init__(self) -> None:
        if self.data_bits not in (8, 16, 32):
            raise ConfigError(f"{self.name}: data_bits must be 8, 16 or 32, not {self.data_bits}")
        if self.CL not in (2, 3):
            raise ConfigError(f"{self.name}: CL must be 2 or 3, not {self.CL}")

    @property
    def banks(self) -> int:
        """Number of banks."""
        return 4

    @property
    def size(self) -> int:
        """Bytes."""
        return self.banks * self.data_bits // 8 << self.row_bits + self.column_bits

    @property
    def address_bits(self) -> int:
        """Address pins; A10 has a meaning of its own in every chip."""
        return max(self.row_bits, 11)

    def cycles(self, clock_hz: float) -> SdramCycles:
        """The timing at a clock, rounded to the safe side.

        Raises `ConfigError` for a clock that the chip does not allow.
        """
        if clock_hz * self.tCK > 1e9 * (1 + 1e-9):
            raise ConfigError(f"{self.name} allows at most {1e3 / self.tCK:.1f} MHz with CAS "
                              f"latency {self.CL}, not {clock_hz / 1e6:g} MHz: lower the clock")
        values = {}
        for item in fields(SdramCycles):
            value = getattr(self, item.name)
            # The tolerance keeps 20 ns at 100 MHz from becoming 3 cycles by binary rounding.
            values[item.name] = (value if item.name == "tMRD"
                                 else int(value * clock_hz / 1e9) if item.name == "tREFI"
                                 else max(1, ceil(value * clock_hz / 1e9 - 1e-6)))
        return SdramCycles(**values)


IS42S16160G_7 = SdramChip(
    name="IS42S16160G-7", data_bits=16, row_bits=13, column_bits=9, tCK=7.0, tRCD=15.0, tRP=15.0,
    tRAS=37.0, tRC=60.0, tRFC=60.0, tRRD=14.0, tWR=14.0, tREFI=64e6 / 8192)
"""ISSI, 32 MiB: on most ULX3S."""

MT48LC16M16A2_7E = SdramChip(
    name="MT48LC16M16A2-7E", data_bits=16, row_bits=13, column_bits=9, tCK=7.0, tRCD=15.0,
    tRP=15.0, tRAS=37.0, tRC=60.0, tRFC=66.0, tRRD=14.0, tWR=15.0, tREFI=64e6 / 8192)
"""Micron, 32 MiB: on other ULX3S. Slower than ISSI's where they differ: timing made for this one
is good for both."""

GW2AR_18_SDRAM = SdramChip(
    name="GW2AR-18", data_bits=32, row_bits=11, column_bits=8, tCK=6.0, tRCD=18.0,
    tRP=18.0, tRAS=42.0, tRC=60.0, tRFC=60.0, tRRD=12.0, tWR=12.0, tREFI=64e6 / 4096)
"""Gowin, 8 MiB inside of the GW2AR-18's package: on Tang Nano 20K."""

SDRAM_CHIPS = {chip.name: chip for chip in (IS42S16160G_7, MT48LC16M16A2_7E, GW2AR_18_SDRAM)}
"""The chips by name."""
