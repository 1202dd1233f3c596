"""What the parts of the SDRAM controller share: widths, timing, and the chip's commands."""

from amaranth.lib import data, enum

from systolith.errors import ConfigError

from .config import Config
from .sdram_chips import SdramChip

__all__ = ["BANK_BITS", "Command", "Geometry"]

BANK_BITS = 2


class Command(enum.Enum, shape=3):
    """What RAS#, CAS# and WE# say, in this order from the highest bit."""

    INACTIVE = 0b111
    ACTIVE = 0b011
    READ = 0b101
    WRITE = 0b100
    PRECHARGE = 0b010
    REFRESH = 0b001
    LOAD_MODE = 0b000


class Geometry:
    """Widths that the parts of the controller share; columns are counted in beats."""

    def __init__(self, config: Config, chip: SdramChip, clock_hz: float):
        beat_bits = 8 * config.memory_bytes_per_beat
        self.chip = chip
        self.words = beat_bits // chip.data_bits  # the chip's burst length
        if self.words not in (1, 2, 4, 8):
            raise ConfigError(f"{chip.name} with its {chip.data_bits} data pins cannot move beats "
                              f"of {config.memory_bytes_per_beat} bytes in one burst: set "
                              f"memory_bytes_per_beat to at most {chip.data_bits}")
        if config.memory_size > chip.size:
            raise ConfigError(f"{chip.name} has {chip.size} bytes: memory_size may not be "
                              f"{config.memory_size}")
        self.cycles = chip.cycles(clock_hz)
        self.beat_bits = beat_bits
        self.lanes = config.memory_bytes_per_beat
        self.byte_bits = self.lanes.bit_length() - 1  # of an address inside of a beat
        self.word_bits = self.words.bit_length() - 1
        self.column_bits = chip.column_bits - self.word_bits
        if self.cycles.tREFI < 100:
            raise ConfigError(f"{chip.name} wants a refresh every {self.cycles.tREFI} cycles of "
                              f"{clock_hz / 1e6:g} MHz, which leaves no time for accesses: "
                              "raise the clock")

    @property
    def burst_layout(self):
        """Beats in one row: from `column` up to `end`, both modulo the row's length. A write is
        one beat, and carries it."""
        return data.StructLayout({
            "write": 1, "bank": BANK_BITS, "row": self.chip.row_bits,
            "column": self.column_bits, "end": self.column_bits,
            "data": self.beat_bits, "mask": self.lanes})
