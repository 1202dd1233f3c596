"""The instruction set once more, a word at a time in plain Python, beside the golden model.

Written from the docstrings of `hw/isa.py` and nothing else: addresses step with counters and one
adder, as the hardware's do, sums are Python integers, every byte is touched by itself. Only the
arithmetic of single values comes from `systolith.sim.numerics`, which has its own tests.
"""

from collections.abc import Iterator

import numpy as np

from systolith.hw.config import Config
from systolith.hw.isa import (
    INSTRUCTION_BYTES,
    Array,
    End,
    Fill,
    Instruction,
    Load,
    LoadTarget,
    Post,
    PostSource,
    Queue,
    Store,
    Vector,
    VectorMode,
    decode,
    decode_descriptor,
)
from systolith.sim import numerics


def walk(base: int, counts: tuple[int, ...], steps: tuple[int, ...],
         bits: int = 20) -> Iterator[int]:
    """Addresses of a loop nest, innermost loop first, by counters and one adder."""
    left = list(counts)
    address = base
    while True:
        yield address
        level = 0
        while level < len(counts):
            left[level] -= 1
            if left[level]:
                break
            left[level] = counts[level]
            level += 1
        if level == len(counts):
            return
        address = (address + steps[level]) % (1 << bits)


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class ScalarMachine:
    """Executes a program, its queues one after the other as far as thresholds allow."""

    def __init__(self, config: Config, memory: bytearray):
        self.config = config
        self.main = memory
        rows = config.rows
        self.scratchpad = [bytearray(rows) for _ in range(config.scratchpad_words)]
        self.small = {
            LoadTarget.SCRATCHPAD: self.scratchpad,
            LoadTarget.WEIGHT: [bytearray(config.weight_word_bytes)
                                for _ in range(config.weight_words)],
            LoadTarget.VECTOR_WEIGHT: [bytearray(rows) for _ in range(config.vector_weight_words)],
            LoadTarget.PARAMETER: [bytearray(config.parameter_word_bytes)
                                   for _ in range(config.parameter_words)],
            LoadTarget.TABLE: [bytearray(rows) for _ in range(256 // rows)],
        }
        self.sums = [[0] * config.columns for _ in range(2 * config.accumulator_words)]
        self.vector_sums = [[0] * rows for _ in range(2 * config.vector_accumulator_words)]

    def run(self, base: int = 0) -> None:
        _, starts = decode_descriptor(bytes(self.main[base:base + 64]))
        retired = [0] * len(Queue)
        done = [False] * len(Queue)
        while not all(done):
            for queue in Queue:
                while not done[queue]:
                    address = starts[queue] + retired[queue] * INSTRUCTION_BYTES
                    i = decode(bytes(self.main[address:address + INSTRUCTION_BYTES]))
                    if any(have < wait for have, wait in zip(retired, i.waits, strict=True)):
                        break
                    self.execute(i)
                    retired[queue] += 1
                    done[queue] = isinstance(i, End)

    def execute(self, i: Instruction) -> None:
        {Load: self.load, Fill: self.fill, Array: self.array, Vector: self.vector,
         Post: self.post, Store: self.store, End: lambda i: None}[type(i)](i)

    def load(self, i: Load) -> None:
        memory = self.small[LoadTarget(i.target)]
        width = len(memory[0])
        sources = walk(i.source, (i.chunks, i.rows, i.planes),
                       (i.chunk_step, i.row_step, i.plane_step), 32)
        words = -(-i.chunks * i.chunk_bytes // width)
        targets = walk(i.destination, (words, i.rows, i.planes),
                       (1, i.destination_row_step, i.destination_plane_step))
        for _ in range(i.rows * i.planes):
            row = bytearray()
            for _ in range(i.chunks):
                source = next(sources)
                row += self.main[source:source + i.chunk_bytes]
            row += bytes([i.fill & 255]) * (words * width - len(row))
            for word in range(words):
                memory[next(targets)][:] = row[word * width:(word + 1) * width]

    def fill(self, i: Fill) -> None:
        for word in walk(i.destination, (i.words, i.rows, i.planes), (1, i.row_step, i.plane_step)):
            self.scratchpad[word][:] = bytes([i.value & 255]) * self.config.rows

    def weight(self, word: int, column: int) -> int:
        data = self.small[LoadTarget.WEIGHT][word]
        if self.config.weight_bits == 8:
            return signed(data[column], 8)
        return signed(data[column // 2] >> (4 * (column % 2)), 4)

    def array(self, i: Array) -> None:
        words = walk(i.activation, (i.count_0, i.count_1, i.count_2, i.count_3, i.count_4),
                     (i.step_0, i.step_1, i.step_2, i.step_3, i.step_4))
        for step in range(i.count_2 * i.count_3 * i.count_4):
            tile = [[self.weight(i.weight + step * self.config.rows + row, column)
                     for column in range(self.config.columns)] for row in range(self.config.rows)]
            for pixel in range(i.count_0 * i.count_1):
                inputs = [signed(byte, 8) for byte in self.scratchpad[next(words)]]
                target = self.sums[i.accumulator + pixel]
                for column in range(self.config.columns):
                    value = sum(x * tile[row][column] for row, x in enumerate(inputs))
                    if step or i.accumulate:
                        value += target[column]
                    target[column] = signed(value, 32)

    def vector(self, i: Vector) -> None:
        mac = i.mode == VectorMode.MAC
        words = walk(i.activation, (i.count_0, i.count_1, i.count_2, i.count_3),
                     (i.step_0, i.step_1, i.step_2, i.step_3))
        weights = iter(self.small[LoadTarget.VECTOR_WEIGHT][i.weight:])
        for step in range(i.count_2 * i.count_3):
            taps = [next(weights) for _ in range(1 if i.reduce else i.taps)] if mac else []
            value_index = 0
            for _ in range(i.count_1):
                row = [bytes(self.scratchpad[next(words)]) for _ in range(i.count_0)]
                if i.reduce:
                    windows = [row]
                else:
                    windows = [row[last - i.taps + 1:last + 1]
                               for last in range(i.taps - 1, i.count_0, i.stride)]
                for window in windows:
                    target = self.vector_sums[i.accumulator + value_index]
                    for lane in range(self.config.rows):
                        values = [signed(word[lane], 8) for word in window]
                        keep = step or i.accumulate
                        if not mac:
                            target[lane] = max([*values, *([target[lane]] if keep else [])])
                            continue
                        factors = [signed(word[lane], 8) for word in taps]
                        if i.reduce:
                            factors = factors * len(values)
                        total = sum(x * w for x, w in zip(values, factors, strict=True))
                        target[lane] = signed(total + (target[lane] if keep else 0), 32)
                    value_index += 1

    def post(self, i: Post) -> None:
        config = self.config
        channels = config.columns if i.source == PostSource.ARRAY else config.rows
        wide = max(1, channels // config.rows)
        first = i.byte_offset if channels < config.rows else 0
        counts = (i.count_0, i.count_1)
        records = b"".join(self.small[LoadTarget.PARAMETER][i.parameter + k]
                           for k in range(channels // config.lanes))
        bias, rounding, multiplier, shift = numerics.unpack_records(
            np.frombuffer(records, np.uint8), multiplier_bits=config.multiplier_bits,
            mode=config.bias)
        table = b"".join(self.small[LoadTarget.TABLE]) if config.table else b""
        walks = {name: walk(getattr(i, name), counts, (getattr(i, f"{name}_step_0"),
                                                       getattr(i, f"{name}_step_1")))
                 for name in ("destination", "operand_a", "operand_b")}
        results = []
        for pixel in range(i.count_0 * i.count_1):
            at = {name: [(base + k * i.word_step) % (1 << 20) for k in range(wide)]
                  for name, base in ((name, next(walk)) for name, walk in walks.items())}

            def operand(name: str, at: dict[str, list[int]] = at) -> list[int]:
                return [signed(byte, 8) for word in at[name]
                        for byte in self.scratchpad[word][first:first + channels]]

            if i.source == PostSource.ARRAY:
                values = self.sums[i.accumulator + pixel]
            elif i.source == PostSource.VECTOR:
                values = self.vector_sums[i.accumulator + pixel]
            else:
                values = operand("operand_a")
                if i.source == PostSource.PRODUCT:
                    values = [(a - i.zero_a) * (b - i.zero_b)
                              for a, b in zip(values, operand("operand_b"), strict=True)]
            outputs = numerics.requantize(
                np.array(values), bias, rounding, multiplier, shift, i.zero, i.low, i.high,
                multiplier_bits=config.multiplier_bits).tolist()
            if i.use_table:
                outputs = [signed(table[value + 128], 8) for value in outputs]
            if i.use_add:
                outputs = [int(numerics.add(
                    value, b, i.zero_a, i.zero_b, i.multiplier_a, i.multiplier_b, i.add_shift,
                    i.add_zero, i.add_low, i.add_high))
                    for value, b in zip(outputs, operand("operand_b"), strict=True)]
            results.append((at["destination"], outputs))
        for words, outputs in results:
            for channel, value in enumerate(outputs):
                word, byte = divmod(first + channel, config.rows)
                self.scratchpad[words[word]][byte] = value & 255

    def store(self, i: Store) -> None:
        words = -(-i.row_bytes // self.config.rows)
        sources = walk(i.source, (words, i.rows, i.planes),
                       (1, i.source_row_step, i.source_plane_step))
        targets = walk(i.destination, (i.rows, i.planes),
                       (i.destination_row_step, i.destination_plane_step), 32)
        for target in targets:
            row = b"".join(bytes(self.scratchpad[next(sources)]) for _ in range(words))
            self.main[target:target + i.row_bytes] = row[:i.row_bytes]
