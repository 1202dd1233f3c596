"""Seeded random programs that the verifier accepts, for comparing executors with each other.

Instructions of every kind are proposed one after the other over a few regions of each memory, so
that they reuse each other's words. Their thresholds come from what they read and write, the fewest
that make the program free of races, so that queues overlap as much as they legally can, and every
threshold matters. At the end all regions are stored, so that main memory shows every difference.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from systolith.accesses import InvalidInstructionError, accesses
from systolith.hazards import Clocks, History, UnwrittenError
from systolith.hw.config import PRESETS, Config
from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    INSTRUCTION_BYTES,
    End,
    Instruction,
    Queue,
    decode,
    encode,
    encode_descriptor,
)

from .program_proposals import Proposer

__all__ = ["CONFIGS", "RandomProgram", "assemble", "random_program"]

CONFIGS: dict[str, Config] = {
    "tiny": PRESETS["tiny"].replace(memory_size=1 << 16),
    "small": PRESETS["small"].replace(memory_size=1 << 17),
    "square": Config(
        rows=16, columns=16, lanes=8, scratchpad_banks=8, scratchpad_bank_words=64,
        weight_words=256, accumulator_words=64, parameter_words=16, vector_accumulator_words=64,
        vector_weight_words=64, memory_bytes_per_beat=16, memory_size=1 << 17),
    "narrow": Config(
        rows=16, columns=8, lanes=4, scratchpad_banks=2, scratchpad_bank_words=128,
        weight_words=128, accumulator_words=32, parameter_words=16, vector_taps=5,
        vector_accumulator_words=32, vector_weight_words=32, memory_bytes_per_beat=8,
        memory_size=1 << 17),
    "wide": Config(
        rows=4, columns=16, lanes=2, scratchpad_banks=4, scratchpad_bank_words=64,
        weight_words=64, accumulator_words=32, parameter_words=32, vector_taps=1,
        vector_accumulator_words=16, vector_weight_words=16, memory_bytes_per_beat=4,
        memory_size=1 << 16, bias="int32", multiplier_bits=18),
    "bare": Config(
        rows=8, columns=4, lanes=1, scratchpad_banks=1, scratchpad_bank_words=256,
        weight_words=64, accumulator_words=16, parameter_words=16, vector_taps=0, table=False,
        residual=False, weight_bits=4, multiplier_bits=16, memory_bytes_per_beat=4,
        memory_size=1 << 16),
    "relaxed": Config(
        rows=8, columns=8, lanes=1, scratchpad_banks=1, scratchpad_bank_words=256,
        weight_words=64, accumulator_words=32, parameter_words=16, vector_taps=0, table=False,
        memory_bytes_per_beat=4, memory_size=1 << 16, clock_mhz=60.0),
    "paired": Config(
        rows=8, columns=16, lanes=2, scratchpad_banks=2, scratchpad_bank_words=128,
        weight_words=128, accumulator_words=32, parameter_words=16, weight_bits=4,
        paired_columns=True, vector_accumulator_words=16, vector_weight_words=16,
        memory_size=1 << 16),
    "shared": Config(
        rows=8, columns=4, lanes=1, scratchpad_banks=1, scratchpad_bank_words=512,
        weight_words=64, accumulator_words=32, parameter_words=16, paired_columns=True,
        vector_accumulator_words=16, vector_weight_words=16, memory_bytes_per_beat=4,
        memory_size=1 << 16),
}
"""Configurations worth trying: presets, and shapes whose sizes and options all differ."""

_POOL_BYTES = 6144


@dataclass(frozen=True)
class RandomProgram:
    """A random program: its image, the bytes of main memory it may use, and its instructions."""

    config: Config
    seed: int
    image: bytes
    memory_bytes: int
    lists: dict[Queue, list[Instruction]]

    def memory(self) -> NDArray[np.uint8]:
        """Main memory before the run: the image, and seeded noise behind it."""
        rng = np.random.default_rng(self.seed)
        memory = rng.integers(0, 256, self.config.memory_size, dtype=np.uint8)
        memory[:len(self.image)] = np.frombuffer(self.image, np.uint8)
        return memory


def assemble(config: Config, lists: dict[Queue, list[Instruction]], data: bytes = b"") -> bytes:
    """An image: descriptor, `data` from byte `DESCRIPTOR_BYTES`, then the queues' lists."""
    start = -(-(DESCRIPTOR_BYTES + len(data)) // INSTRUCTION_BYTES) * INSTRUCTION_BYTES
    parts = [data.ljust(start - DESCRIPTOR_BYTES, b"\0")]
    starts = []
    for queue in Queue:
        starts.append(start)
        parts += map(encode, lists[queue])
        start += INSTRUCTION_BYTES * len(lists[queue])
    return encode_descriptor(config.hash32, tuple(starts)) + b"".join(parts)


def random_program(config: Config, seed: int, *, instructions: int = 60,
                   redundant: bool = False, memory_bytes: int | None = None) -> RandomProgram:
    """A random valid program.

    Parameters
    ----------
    config
        What it is for; `CONFIGS` has worthwhile ones.
    seed
        Same configuration, seed and options: same program.
    instructions
        About how many instructions it has between loading its regions and storing them.
    redundant
        Keep thresholds that others imply, too.
    memory_bytes
        Main memory that it may use; by default all.
    """
    builder = _Builder(config, seed, instructions, redundant,
                       config.memory_size if memory_bytes is None else memory_bytes)
    return builder.build()


class _Builder:
    def __init__(self, config: Config, seed: int, instructions: int, redundant: bool,
                 memory_bytes: int):
        self.config = config
        self.seed = seed
        self.count = instructions
        self.redundant = redundant
        self.clocks = Clocks()
        self.lists: dict[Queue, list[Instruction]] = {queue: [] for queue in Queue}
        self.proposer = Proposer(config, seed, DESCRIPTOR_BYTES, _POOL_BYTES)
        pool_end = DESCRIPTOR_BYTES + _POOL_BYTES
        most = instructions + len(self.proposer.first()) + len(self.proposer.regions) + len(Queue)
        image_bytes = pool_end + most * INSTRUCTION_BYTES
        self.image_bytes = image_bytes
        self.memory_bytes = memory_bytes
        self.proposer.place_output(image_bytes, memory_bytes)
        self.history = History(config, memory_bytes, image_bytes)

    def build(self) -> RandomProgram:
        for instruction in self.proposer.first():
            if not self._add(instruction):
                raise AssertionError(f"seed {self.seed}: {instruction} must be possible")
        added = 0
        for _ in range(20 * self.count):
            added += self._add(self.proposer.propose())
            if added == self.count:
                break
        for instruction in self.proposer.last():
            self._add(instruction)
        for queue in Queue:
            self.lists[queue].append(End())
        image = assemble(self.config, self.lists, self.proposer.pool)
        return RandomProgram(self.config, self.seed, image.ljust(self.image_bytes, b"\0"),
                             self.memory_bytes, self.lists)

    def _add(self, instruction: Instruction) -> bool:
        """Append a proposed instruction with its thresholds, if it is valid."""
        queue = instruction.queues[0]
        instruction = decode(encode(instruction))
        try:
            touched = accesses(self.config, queue, instruction)
            for access in touched:
                if not access.write:
                    self.history.check_written(access)
        except (InvalidInstructionError, UnwrittenError):
            return False
        required = self.history.required(queue, touched)
        if not self.redundant:
            required = self.clocks.thresholds(queue, required)
        names = (f"wait_{other.name.lower()}" for other in Queue)
        instruction = replace(instruction, **dict(zip(names, required, strict=True)))
        self.clocks.add(queue, required)
        self.lists[queue].append(instruction)
        self.history.record(queue, len(self.lists[queue]), touched)
        self.proposer.added(instruction)
        return True
