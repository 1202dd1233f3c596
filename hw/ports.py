"""Signatures of the streams between the accelerator's components.

Every boundary is a ready/valid stream. Signatures are given as the *initiator* sees them; the
responding side uses the flipped one.
"""

from amaranth import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .isa import ErrorCode, Instruction, LoadTarget, Queue, instruction_fields
from .protocol import Counter

__all__ = [
    "ACCUMULATOR_LATENCY",
    "MAX_BURST_BEATS",
    "AccumulatorReadSignature",
    "ControlSignature",
    "EngineSignature",
    "MemoryReadSignature",
    "ScratchpadReadSignature",
    "buffers_weights",
    "core_members",
    "instruction_layout",
    "load_write_signature",
    "memory_write_signature",
    "scratchpad_latency",
    "scratchpad_write_signature",
    "tile_wait",
]

MAX_BURST_BEATS = 64
"""Longest burst a master may ask of main memory."""

ACCUMULATOR_LATENCY = 2
"""Cycles from an accepted accumulator read to its data."""


def scratchpad_latency(config: Config) -> int:
    """Cycles from an accepted scratchpad read to its data."""
    # A single bank spreads over a large part of a chip, and has registers on both sides of it. Wide
    # words come from so far that they have another one half way.
    if config.scratchpad_banks > 1:
        return 2
    return 4 if config.rows >= 16 else 3


def buffers_weights(config: Config) -> bool:
    """Whether the array's weights are registered on their way, because it is long, and may be,
    because pixels take long enough."""
    return scratchpad_latency(config) > 2 and not config.relaxed


def tile_wait(config: Config) -> int:
    """Cycles for which a tile whose reading has begun has to wait for its last row, beyond those
    that the pixel's way to the array takes."""
    behind = config.rows - config.rows // config.stage_rows
    return max(0, behind - (scratchpad_latency(config) - 2 - buffers_weights(config)))


def instruction_layout(cls: type[Instruction]) -> data.StructLayout:
    """The fields of an instruction behind the common header (waits and mark), as a struct."""
    header = {field.name for field in instruction_fields(Instruction)}
    return data.StructLayout({
        field.name: (signed if field.signed else unsigned)(field.width)
        for field in instruction_fields(cls) if field.name not in header})


class MemoryReadSignature(wiring.Signature):
    """Burst reads of main memory.

    `request`: byte address, a multiple of the beat size, and 1 to `MAX_BURST_BEATS` beats. `data`:
    the beats, in the order of the requests; several requests may be outstanding. A read accepted
    after a write sees it. The initiator keeps addresses inside `config.memory_size`.
    """

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(data.StructLayout({
                "address": 32, "beats": range(MAX_BURST_BEATS + 1)}))),
            "data": In(stream.Signature(8 * config.memory_bytes_per_beat)),
        })


def memory_write_signature(config: Config) -> stream.Signature:
    """Single-beat writes of main memory: byte address (a multiple of the beat), data, byte mask.

    A write has taken effect when it is accepted.
    """
    beat = config.memory_bytes_per_beat
    return stream.Signature(data.StructLayout({"address": 32, "data": 8 * beat, "mask": beat}))


class ScratchpadReadSignature(wiring.Signature):
    """Reads of scratchpad words: `data` belongs to the request accepted `scratchpad_latency`
    cycles ago and cannot be held back. The initiator looks at no data of an address that it has not
    checked; it may ask before it knows, as reading changes nothing."""

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(range(config.scratchpad_words))),
            "data": In(8 * config.rows),
        })


def scratchpad_write_signature(config: Config) -> stream.Signature:
    """Writes of scratchpad words with a byte mask; effective when accepted."""
    return stream.Signature(data.StructLayout({
        "address": range(config.scratchpad_words), "data": 8 * config.rows,
        "mask": config.rows}))


class AccumulatorReadSignature(wiring.Signature):
    """Reads of parts of accumulator words, `lanes` int32 values of a word's `values`: data
    `ACCUMULATOR_LATENCY` cycles after acceptance. A read is refused while the accumulating side
    uses the same half. As for the scratchpad, one may ask before it is known whether the address is
    right. Addresses count parts, the parts of a word behind each other."""

    def __init__(self, lanes: int, words: int, values: int):
        super().__init__({
            "request": Out(stream.Signature(range(words * (values // lanes)))),
            "data": In(32 * lanes),
        })


def load_write_signature(config: Config) -> stream.Signature:
    """Parts of words from the load engine to the small on-chip memories.

    `address` is the target memory's own word address (`LoadTarget` says how wide its words are),
    `part` counts the pieces of `rows` bytes inside a word that is wider than that; a memory whose
    words are narrower takes only the low bytes, one word a transfer. Effective a cycle after it is
    accepted, or two.
    """
    return stream.Signature(data.StructLayout({
        "target": LoadTarget, "address": 20, "part": 8, "data": 8 * config.rows}))


class EngineSignature(wiring.Signature):
    """What the sequencer gives to an engine, and what it hears from it.

    `instruction`: fields of the next instruction, whose thresholds are met. An engine may accept
    the next one while earlier ones are still in its pipeline. `retire`: one pulse an instruction,
    in order, when its last write has taken effect. `error` is other than NONE in the cycle in which
    the oldest instruction not yet retired turns out to be wrong; the sequencer then clears the
    engine. `active` and `stall` feed the counters.
    """

    def __init__(self, layout: data.StructLayout):
        super().__init__({
            "instruction": Out(stream.Signature(layout)),
            "retire": In(1),
            "error": In(ErrorCode),
            "active": In(1),
            "stall": In(1),
        })


class ControlSignature(wiring.Signature):
    """How the link endpoint (the initiator) controls the core.

    `start`: begin the run whose descriptor lies at this byte address; accepted only when not
    `busy`. `cancel`: pulse; a run in progress stops with `ErrorCode.CANCELLED`. `watchdog`: cycles
    without a retired instruction after which a run is stopped. `error`, `error_address` (byte
    address of the instruction) keep the last run's outcome.
    `counter_value` is that of the counter `counter_index`, one of at most `COUNTERS`, in each cycle
    with `counter_ready`, when the index is the same as in the cycle before; timestamps appear one
    cycle after their index.
    """

    def __init__(self, config: Config):
        super().__init__({
            "start": Out(stream.Signature(32)),
            "cancel": Out(1),
            "watchdog": Out(32),
            "busy": In(1),
            "error": In(ErrorCode),
            "error_queue": In(Queue),
            "error_address": In(32),
            "counter_index": Out(range(len(Counter))),
            "counter_value": In(32),
            "counter_ready": In(1),
            "timestamp_index": Out(range(config.timestamps)),
            "timestamp_cycles": In(32),
            "timestamp_active": In(32),
            "timestamp_count": In(range(config.timestamps + 1)),
        })


def core_members(config: Config) -> dict[str, wiring.Member]:
    """What every core has, whichever implementation it is: control, main memory, and the way by
    which the link endpoint reaches main memory."""
    read, write = MemoryReadSignature(config), memory_write_signature(config)
    return {"control": In(ControlSignature(config)), "read": Out(read), "write": Out(write),
            "host_read": In(read), "host_write": In(write)}
