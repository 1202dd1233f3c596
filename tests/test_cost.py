"""The cost model by itself; `test_bench` compares it with the RTL."""

import pytest

from systolith.cost import estimate
from systolith.cost.accumulating import Additions, read_end
from systolith.cost.fetching import slots
from systolith.cost.loading import LOAD_BURST_BEATS, LOAD_WINDOW_BEATS
from systolith.cost.port import MemoryPort
from systolith.cost.slowing import slowed
from systolith.hw import fetch, load_request
from systolith.hw.config import PRESETS
from systolith.hw.isa import (
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
)

DEFAULT = PRESETS["default"]


def lists(**queues: list[Instruction]) -> dict[Queue, list[Instruction]]:
    return {queue: [*queues.get(queue.name.lower(), []), End()] for queue in Queue}


def spent(queue: Queue, **queues: list[Instruction]) -> int:
    """Cycles between the first and the last retirement of a queue, END left out."""
    retired = estimate(DEFAULT, lists(**queues)).retired[queue]
    return retired[-2] - retired[0]


def test_what_the_gateware_says_too() -> None:
    assert LOAD_BURST_BEATS == load_request.LOAD_BURST_BEATS
    assert LOAD_WINDOW_BEATS == load_request.LOAD_WINDOW_BEATS
    assert all(slots(config) == fetch.prefetch_slots(config) for config in PRESETS.values())


def test_array_passes_cost_their_pixels() -> None:
    def work(*instructions: Array) -> list[int]:
        return list(estimate(DEFAULT, lists(array=[*instructions])).work[Queue.ARRAY][:-1])

    rows = DEFAULT.rows
    many, few = Array(count_0=10, count_1=10, count_2=9), Array(count_0=2, count_2=9)
    lead = 1  # nothing hides the first tile's way into the array
    assert work(*[many] * 4) == [900 + lead] + [900] * 3
    assert work(*[few] * 4) == [8 * rows + lead + 2] + [9 * rows] * 3
    # Behind a longer pass the first of the next tiles is there in advance, and the second is read
    # from then on.
    assert work(many, Array(count_0=14, count_2=4))[1] == 4 * 14
    assert work(many, Array(count_0=14, count_2=24))[1] == 24 * rows - 13 - 2


def test_transfers_share_the_port() -> None:
    loads: list[Instruction] = [Load(chunk_bytes=4096) for _ in range(8)]
    result = estimate(DEFAULT, lists(load=loads), latency=50)
    fetched = result.fetch_beats
    assert result.beats - fetched == 8 * 512
    # Every instruction once, and some of what lies behind an END, asked for before it came.
    assert 8 * (8 + 5) < fetched <= 8 * (8 + 5 + 5 * 8)
    assert 8 * 512 < result.cycles < 8 * 512 + 4 * 50 + fetched


def test_thresholds_order_the_estimate() -> None:
    waiting = lists(array=[Array(count_0=1000)], post=[Post(count_0=16, wait_array=1, mark=1)])
    result = estimate(DEFAULT, waiting)
    assert result.marks[0] > 1000
    assert sum(result.stages()) == result.cycles
    with pytest.raises(ValueError, match="cannot all be met"):
        estimate(DEFAULT, lists(array=[Array(wait_post=1)], post=[Post(wait_array=1)]))


def test_work_that_others_slow_down() -> None:
    assert slowed(100, 50, []) == 150
    assert slowed(100, 50, [(0, 90, 0.0), (160, 170, 0.0)]) == 150
    assert slowed(100, 50, [(0, 110, 0.0), (120, 140, 0.5)]) == 170
    assert slowed(100, 50, [(100, 500, 0.5)]) == 200
    assert slowed(100, 50, [(149, 10_000, 0.0)]) == 10_001


def test_accumulators_of_a_half_that_is_added_to_are_not_read() -> None:
    assert read_end(0, 100, 1, [Additions(1, 50, 80, 1.0), Additions(0, 90, 200, 1.0)]) == 130

    def results(half: int) -> int:
        return estimate(DEFAULT, lists(
            array=[Array(count_0=64, count_2=9, accumulator=0)],
            post=[Post(source=PostSource.ARRAY, count_0=64, count_1=4,
                       accumulator=half * DEFAULT.accumulator_words)])).work[Queue.POST][0]

    # The first pass adds to nothing.
    assert results(1) == 256 < 64 * 8 <= results(0) - 256 + 64


def test_in_a_single_bank_the_vector_unit_waits_for_the_array() -> None:
    def cycles(banks: int) -> int:
        config = DEFAULT.replace(
            scratchpad_banks=banks, scratchpad_bank_words=DEFAULT.scratchpad_words // banks)
        return estimate(config, lists(
            array=[Array(count_0=1000, step_0=1)],
            vector=[Vector(count_0=500, step_0=1)])).work[Queue.VECTOR][0]

    assert cycles(1) > 1400
    assert 500 <= cycles(8) < 510


def test_short_instructions_wait_for_their_turn_behind_a_large_load() -> None:
    windows: list[Instruction] = [Vector(count_0=16)] * 200
    weights = Load(chunk_bytes=32 << 10, target=LoadTarget.WEIGHT)
    alone = spent(Queue.VECTOR, vector=windows)
    assert 199 * 16 <= alone < 199 * 18
    assert spent(Queue.VECTOR, vector=windows, load=[weights, weights]) > 1.5 * alone


def test_words_that_the_post_processor_writes_hold_up_a_fill() -> None:
    def cycles(step: int) -> int:
        stays = Post(source=PostSource.SCRATCHPAD, count_0=4000, destination_step_0=step)
        return estimate(DEFAULT, lists(load=[Fill(words=1000)], post=[stays])).work[Queue.LOAD][0]

    # One that stays in a bank stops the fill when it comes there, until all is written.
    assert cycles(0) > 4000
    # Behind one another through the banks they are in nobody's way.
    assert 1000 <= cycles(1) < 1010


def test_writes_get_in_between_the_bursts_of_a_load() -> None:
    port = MemoryPort(DEFAULT, 50)
    time, writes = 0, 0
    while time < 3300:
        if port.open <= time:
            port.read(port.open, LOAD_BURST_BEATS)
        count, time = port.write(time, 1)
        writes += count
    bursts = port.moved // (LOAD_BURST_BEATS + 2)
    assert bursts <= writes <= 2 * bursts + 8
    # Alone a write moves a cycle.
    begin = port.moved + 100
    assert port.write(begin, 40) == (40, begin + 40)
    store = estimate(DEFAULT, lists(store=[Store(row_bytes=8000)]))
    assert store.beats - store.fetch_beats == 1000
    assert 1000 < store.cycles < 1300
