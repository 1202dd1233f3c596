"""The accelerator's configuration: one frozen dataclass that everything else derives from.

Gateware is generated from it, the golden model and the compiler are parameterized by it, and a
program carries its hash, so that a device refuses what was compiled for another one.
"""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from systolith.errors import ConfigError

from .sdram_chips import SDRAM_CHIPS

__all__ = ["PRESETS", "SEQUENTIAL_LEAST_SHIFT", "Config", "load_config"]

MULTIPLIER_BITS = (24, 18, 16, 0)

SEQUENTIAL_LEAST_SHIFT = 16
"""Of what the circuits of the sequential core shift."""

_RELAXED_MHZ = 65.0
"""Up to here a core's paths may be twice as long as those that the fast boards need."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Geometry and options of one accelerator.

    Parameters
    ----------
    rows, columns
        Size of the array. A scratchpad word holds `rows` int8 activations, one a row.
    lanes
        Channels the post-processor (bias, requantize, clamp) finishes a cycle.
    scratchpad_banks, scratchpad_bank_words
        The activation memory. A bank serves one read and one write a cycle; consecutive addresses
        lie in consecutive banks.
    weight_words
        Weight memory, in words of `columns` weights (one row of a tile).
    accumulator_words
        Pixels a half of the array's accumulator memory holds; there are two halves.
    parameter_words
        Parameter memory, in words of `lanes` records.
    vector_taps
        Multipliers a lane of the vector unit (depthwise convolution, pooling); 0 leaves it out.
    vector_accumulator_words
        Pixels a half of the vector unit's accumulator memory holds; there are two halves.
    vector_weight_words
        Weight memory of the vector unit, in words of `rows` weights (one tap).
    table, residual
        Whether the post-processor has 256-entry tables, and a residual add.
    multiplier_bits
        Significant bits of the requantize multiplier: 24 (float32's own, exact against the
        frameworks), 18, 16, or 0 for a pure shift.
    bias
        "exact" keeps the fraction of the bias in a per-channel rounding constant; "int32" leaves
        the constant and its memory out.
    weight_bits
        8, or 4 to store weights two to a byte.
    paired_columns
        Two neighbouring columns share a multiplier (`hw/pairs.py`), which has to be one of 18x18
        bits: not iCE40's, and Gowin's are as well two of 9x9.
    memory_bytes_per_beat
        Width of the main memory port.
    memory_size
        Bytes of main memory.
    sdram
        Chip that is main memory, a name of `SDRAM_CHIPS`; "" for a memory that moves a beat a
        cycle. Programs run with either; the compiler reckons with its rate.
    timestamps
        Entries of the timestamp log that marked instructions write when they retire.
    sequential
        The implementation (`hw/sequential`) that does one instruction at a time, for the smallest
        chips. It leaves most options out.
    clock_mhz
        Clock of the core, for figures in seconds; simulated presets state a plausible one. Up to
        65 MHz the core is a `relaxed` one.
    """

    rows: int = 16
    columns: int = 16
    lanes: int = 16
    scratchpad_banks: int = 8
    scratchpad_bank_words: int = 2048
    weight_words: int = 8192
    accumulator_words: int = 512
    parameter_words: int = 128
    vector_taps: int = 3
    vector_accumulator_words: int = 512
    vector_weight_words: int = 512
    table: bool = True
    residual: bool = True
    multiplier_bits: int = 24
    bias: str = "exact"
    weight_bits: int = 8
    paired_columns: bool = False
    memory_bytes_per_beat: int = 8
    memory_size: int = 64 << 20
    sdram: str = ""
    timestamps: int = 512
    sequential: bool = False
    clock_mhz: float = 100.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kind = type(item.default)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ConfigError(f"{item.name} must be {kind.__name__}, not {value!r}: "
                                  "correct it in the configuration")
        self._range("rows", 4, 64)
        self._range("columns", 4, 64)
        self._range("lanes", 1, 64)
        self._range("scratchpad_banks", 1, 16)
        self._range("scratchpad_bank_words", 64, 1 << 16)
        self._range("weight_words", 2 * self.rows, 1 << 20)
        self._range("accumulator_words", 16, 1 << 14)
        self._range("parameter_words", 4, 1 << 12)
        self._range("memory_bytes_per_beat", 4, 64)
        self._range("timestamps", 16, 4096)
        if self.vector_taps not in (0, 1, 3, 5, 7):
            raise ConfigError(f"vector_taps must be 0, 1, 3, 5 or 7, not {self.vector_taps}")
        if self.vector_taps:
            self._range("vector_accumulator_words", 16, 1 << 14)
            self._range("vector_weight_words", 16, 1 << 16)
        for low, high in (("lanes", "rows"), ("lanes", "columns")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{low} must be at most {high} ({getattr(self, high)}), "
                                  f"not {getattr(self, low)}")
        if 16 * self.lanes < self.rows:
            raise ConfigError(f"lanes must be at least rows / 16 ({self.rows // 16}), not "
                              f"{self.lanes}: a parameter word may not be narrower than an "
                              "activation word")
        if self.multiplier_bits not in MULTIPLIER_BITS:
            raise ConfigError(f"multiplier_bits must be one of {MULTIPLIER_BITS}, "
                              f"not {self.multiplier_bits}")
        if self.bias not in ("exact", "int32"):
            raise ConfigError(f'bias must be "exact" or "int32", not "{self.bias}"')
        if self.weight_bits not in (4, 8):
            raise ConfigError(f"weight_bits must be 4 or 8, not {self.weight_bits}")
        if not 1 << 12 <= self.memory_size <= 1 << 31:
            raise ConfigError("memory_size must be between 4 KiB and 2 GiB, not "
                              f"{self.memory_size}")
        if self.memory_size % self.memory_bytes_per_beat:
            raise ConfigError("memory_size must be a multiple of memory_bytes_per_beat "
                              f"({self.memory_bytes_per_beat}), not {self.memory_size}")
        if not 0 < self.clock_mhz < 2000:
            raise ConfigError(f"clock_mhz must be between 0 and 2000, not {self.clock_mhz}")
        if self.sdram:
            self._check_sdram()
        if self.sequential:
            self._check_sequential()

    def _check_sequential(self) -> None:
        """The sequential core has two shapes and few options."""
        if self.columns not in (4, 8):
            raise ConfigError(f"sequential needs columns of 4 or 8, not {self.columns}")
        needed = {"rows": 4, "lanes": 1, "vector_taps": 0, "table": False, "multiplier_bits": 16,
                  "bias": "int32", "weight_bits": 8,
                  "paired_columns": False, "memory_bytes_per_beat": 4, "sdram": ""}
        for name, value in needed.items():
            if getattr(self, name) != value:
                raise ConfigError(f"sequential needs {name} = {value!r}, not "
                                  f"{getattr(self, name)!r}")
        if self.residual and self.columns != 4:
            raise ConfigError("sequential needs residual = False, or columns of 4")
        for name, most in (("accumulator_words", 128), ("parameter_words", 64),
                           ("timestamps", 128), ("weight_words", 1 << 14),
                           ("memory_size", 1 << 24)):
            if getattr(self, name) > most:
                raise ConfigError(f"sequential needs {name} of at most {most}, not "
                                  f"{getattr(self, name)}")
        if self.scratchpad_words > 1 << 16:
            raise ConfigError("sequential needs a scratchpad of at most 65536 words, not "
                              f"{self.scratchpad_words}")

    def _check_sdram(self) -> None:
        if self.sdram not in SDRAM_CHIPS:
            raise ConfigError(f"sdram must be one of {', '.join(SDRAM_CHIPS)}, or empty, not "
                              f"'{self.sdram}'")
        chip = SDRAM_CHIPS[self.sdram]
        chip.cycles(self.clock_mhz * 1e6)
        if self.memory_size > chip.size:
            raise ConfigError(f"memory_size must be at most {chip.size}, what {self.sdram} has, "
                              f"not {self.memory_size}")

    def _range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not (low <= value <= high and _power_of_two(value)):
            raise ConfigError(f"{name} must be a power of two between {low} and {high}, "
                              f"not {value}")

    # Derived sizes ------------------------------------------------------------------------------

    @property
    def scratchpad_words(self) -> int:
        """Words of the scratchpad over all banks."""
        return self.scratchpad_banks * self.scratchpad_bank_words

    @property
    def tile_words(self) -> int:
        """Weight memory words of one array tile."""
        return self.rows

    @property
    def weight_word_bytes(self) -> int:
        """Bytes of one weight memory word, in main memory as on the chip."""
        return self.columns * self.weight_bits // 8

    @property
    def column_words(self) -> int:
        """Scratchpad words of a pixel that the array's columns are results for."""
        return max(1, self.columns // self.rows)

    @property
    def parameter_word_bytes(self) -> int:
        """Bytes of one parameter memory word as it lies in main memory."""
        return 16 * self.lanes

    @property
    def outstanding_reads(self) -> int:
        """Read requests of main memory that may wait for their data: enough for the latency of
        large memories. Small configurations have memory on the chip, and no room for deep queues.
        """
        return {4: 4, 8: 16}.get(self.rows, 32)

    @property
    def memory_beat_cycles(self) -> int:
        """Cycles of main memory for a beat."""
        if not self.sdram:
            return 1
        return max(1, 8 * self.memory_bytes_per_beat // SDRAM_CHIPS[self.sdram].data_bits)

    @property
    def least_add_shift(self) -> int:
        """Least shift of a residual add that POST takes."""
        return SEQUENTIAL_LEAST_SHIFT if self.sequential else 0

    @property
    def relaxed(self) -> bool:
        """Whether the clock leaves time for longer paths, which need fewer registers: sums of all
        rows at once instead of row by row, and half of what a stream's registers take.

        Programs do not depend on it.
        """
        return self.clock_mhz <= _RELAXED_MHZ

    @property
    def stage_rows(self) -> int:
        """Rows of the array whose products are added between two registers."""
        return self.rows if self.relaxed else 1

    @property
    def multipliers(self) -> int:
        """Multipliers of the array, which utilization is measured against.

        Paired columns do two products in one, so that their utilization can reach 2.
        """
        return self.rows * self.columns // (2 if self.paired_columns else 1)

    @property
    def paired_bits(self) -> int:
        """Bits of the weights that share a multiplier of the array; 0 where none do."""
        return self.weight_bits if self.paired_columns else 0

    @property
    def onchip_bytes(self) -> dict[str, int]:
        """Bytes of each on-chip memory."""
        record_bits = 32 + 6 + self.multiplier_bits + (25 if self.bias == "exact" else 0)
        sizes = {
            "scratchpad": self.scratchpad_words * self.rows,
            "weights": self.weight_words * self.weight_word_bytes,
            "accumulators": 2 * self.accumulator_words * self.columns * 4,
            "parameters": -(-self.parameter_words * self.lanes * record_bits // 8),
            "timestamps": self.timestamps * 8,
        }
        if self.vector_taps:
            sizes["vector accumulators"] = 2 * self.vector_accumulator_words * self.rows * 4
            sizes["vector weights"] = self.vector_weight_words * self.rows
        if self.table:
            sizes["tables"] = 256 * self.lanes
        return sizes

    # Identity and files -------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Build from plain values. Raises `ConfigError` for a name that does not exist."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"configuration has no field {', '.join(unknown)}: the fields are "
                              f"{', '.join(sorted(known))}")
        return cls(**values)

    @property
    def hash(self) -> str:
        """Hex digest over everything a program depends on (not clock and kind of memory)."""
        values = self.to_dict()
        del values["clock_mhz"], values["sdram"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def hash32(self) -> int:
        """The hash's first 32 bits, which hardware compares with the program descriptor's."""
        return int(self.hash[:8], 16)

    def replace(self, **changes: Any) -> "Config":
        """A copy with some fields changed, validated again."""
        return replace(self, **changes)


PRESETS: dict[str, Config] = {
    "tiny": Config(
        rows=4, columns=4, lanes=1, scratchpad_banks=4, scratchpad_bank_words=256,
        weight_words=256, accumulator_words=64, parameter_words=64, vector_accumulator_words=64,
        vector_weight_words=64, memory_bytes_per_beat=4, memory_size=1 << 20, clock_mhz=25.0),
    "small": Config(
        rows=8, columns=8, lanes=4, scratchpad_banks=4, scratchpad_bank_words=2048,
        weight_words=2048, accumulator_words=256, parameter_words=128,
        vector_accumulator_words=256, vector_weight_words=256, memory_size=16 << 20,
        clock_mhz=80.0),
    "default": Config(),
    "int4": Config(columns=32, weight_bits=4, paired_columns=True),
    "ulx3s-12f": Config(
        rows=4, columns=8, paired_columns=True, lanes=1, scratchpad_banks=1,
        scratchpad_bank_words=8192, weight_words=1024, accumulator_words=512, parameter_words=256,
        vector_taps=1, vector_accumulator_words=512, vector_weight_words=512,
        memory_bytes_per_beat=4, memory_size=32 << 20, sdram="MT48LC16M16A2-7E", timestamps=64,
        clock_mhz=100.0),
    "ulx3s-12f-8x4": Config(
        rows=8, columns=4, paired_columns=True, lanes=1, scratchpad_banks=1,
        scratchpad_bank_words=4096, weight_words=2048, accumulator_words=512, parameter_words=256,
        vector_taps=1, vector_accumulator_words=512, vector_weight_words=512,
        memory_bytes_per_beat=4, memory_size=32 << 20, sdram="MT48LC16M16A2-7E", timestamps=64,
        clock_mhz=90.0),
    "ulx3s-85f": Config(
        rows=16, columns=8, lanes=2, scratchpad_banks=1, scratchpad_bank_words=8192,
        weight_words=4096, accumulator_words=256, parameter_words=256,
        vector_taps=1, vector_accumulator_words=256, vector_weight_words=256,
        memory_bytes_per_beat=4, memory_size=32 << 20, sdram="MT48LC16M16A2-7E", clock_mhz=100.0),
    "ulx3s-85f-16x16": Config(
        rows=16, columns=16, paired_columns=True, lanes=2, scratchpad_banks=1,
        scratchpad_bank_words=8192, weight_words=4096, accumulator_words=256, parameter_words=256,
        vector_taps=1, vector_accumulator_words=256, vector_weight_words=256,
        memory_bytes_per_beat=4, memory_size=32 << 20, sdram="MT48LC16M16A2-7E", clock_mhz=75.0),
    "ulx3s-85f-int4": Config(
        rows=16, columns=16, weight_bits=4, paired_columns=True, lanes=2, scratchpad_banks=1,
        scratchpad_bank_words=8192, weight_words=4096, accumulator_words=256, parameter_words=256,
        vector_taps=1, vector_accumulator_words=256, vector_weight_words=256,
        memory_bytes_per_beat=4, memory_size=32 << 20, sdram="MT48LC16M16A2-7E", clock_mhz=70.0),
    "orangecrab-25f": Config(
        rows=4, columns=8, paired_columns=True, lanes=1, scratchpad_banks=1,
        scratchpad_bank_words=2048, weight_words=512, accumulator_words=512, parameter_words=256,
        # Few enough words for look-up tables: block RAM is what the chip lacks.
        vector_taps=1, vector_accumulator_words=32, vector_weight_words=512,
        memory_bytes_per_beat=4, memory_size=40 << 10, timestamps=64, clock_mhz=96.0),
    "orangecrab-85f": Config(
        rows=16, columns=8, lanes=2, scratchpad_banks=1, scratchpad_bank_words=4096,
        weight_words=2048, accumulator_words=256, parameter_words=128,
        vector_taps=1, vector_accumulator_words=128, vector_weight_words=128,
        memory_bytes_per_beat=4, memory_size=1 << 17, timestamps=64, clock_mhz=96.0),
    "icebreaker": Config(
        rows=4, columns=4, lanes=1, scratchpad_banks=1, scratchpad_bank_words=8192,
        weight_words=512, accumulator_words=128, parameter_words=64, vector_taps=0,
        vector_accumulator_words=16, vector_weight_words=16, table=False, multiplier_bits=16,
        bias="int32", memory_bytes_per_beat=4, memory_size=96 << 10, timestamps=64,
        sequential=True, clock_mhz=21.0),
    "tang-nano-9k": Config(
        rows=4, columns=8, lanes=1, scratchpad_banks=1, scratchpad_bank_words=1024,
        weight_words=512, accumulator_words=128, parameter_words=64, vector_taps=0,
        vector_accumulator_words=16, vector_weight_words=16, table=False, residual=False,
        multiplier_bits=16, bias="int32", memory_bytes_per_beat=4, memory_size=18 << 10,
        timestamps=64, sequential=True, clock_mhz=54.0),
    "tang-nano-20k": Config(
        rows=4, columns=8, lanes=1, scratchpad_banks=1, scratchpad_bank_words=8192,
        weight_words=1024, accumulator_words=256, parameter_words=256, vector_taps=0,
        vector_accumulator_words=64, vector_weight_words=64, table=False,
        memory_bytes_per_beat=4, memory_size=8 << 20, sdram="GW2AR-18", timestamps=64,
        clock_mhz=60.75),
    "tang-nano-20k-8x8": Config(
        rows=8, columns=8, lanes=1, scratchpad_banks=1, scratchpad_bank_words=4096,
        weight_words=1024, accumulator_words=256, parameter_words=256, vector_taps=0,
        vector_accumulator_words=64, vector_weight_words=64, table=False, residual=False,
        memory_bytes_per_beat=4, memory_size=1 << 20, sdram="GW2AR-18", timestamps=64,
        clock_mhz=60.75),
    "arty-a7-35t": Config(
        rows=8, columns=8, lanes=4, scratchpad_banks=4, scratchpad_bank_words=512,
        weight_words=1024, accumulator_words=256, parameter_words=128, vector_taps=1,
        vector_accumulator_words=128, vector_weight_words=128, memory_bytes_per_beat=4,
        memory_size=1 << 16, timestamps=64, clock_mhz=60.0),
    "arty-a7-100t": Config(
        scratchpad_bank_words=512, weight_words=2048, accumulator_words=256, lanes=8,
        vector_accumulator_words=256, vector_weight_words=256, vector_taps=1,
        memory_size=1 << 18, timestamps=64, clock_mhz=60.0),
}
"""Named configurations: `tiny` 4x4, `small` 8x8, `default` 16x16, and `int4` with as many
multipliers as `default`, each of which does two products with 4-bit weights."""


def load_config(config: "str | Path | Config") -> Config:
    """A `Config` from itself, a preset's name, or the path of a TOML file.

    Raises `ConfigError` when there is no such preset or file, or its contents are not valid.
    """
    if isinstance(config, Config):
        return config
    if str(config) in PRESETS:
        return PRESETS[str(config)]
    path = Path(config)
    if path.suffix != ".toml":
        raise ConfigError(f"no configuration '{config}': give a path ending in .toml or one of "
                          f"{', '.join(PRESETS)}")
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return Config.from_dict(values)
