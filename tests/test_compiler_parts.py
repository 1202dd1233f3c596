"""The compiler's parts by themselves: hazards, rings, placement, order, refusals."""

import re

import numpy as np
import pytest

from compiler_graphs import CONFIGS, Builder, check, run_golden
from systolith import graph as g
from systolith.compiler import compile_graph
from systolith.compiler.emitter import Emitter, Memory, Region
from systolith.compiler.memory import Lifetime, place_all
from systolith.compiler.units import Unit, order
from systolith.compiler.views import RingCache, View
from systolith.errors import ModelError, MultipleRefusals, ProgramError
from systolith.hw.config import PRESETS
from systolith.hw.isa import (
    INSTRUCTION_BYTES,
    Array,
    Load,
    Post,
    Queue,
    decode,
    encode,
)
from systolith.verifier import read_instructions, verify

DEFAULT = PRESETS["default"]


def _scratch(base: int, *counts: int) -> Region:
    strides = {1: (1,), 2: (1, 100)}[len(counts)]
    return Region(Memory.SCRATCHPAD, base, counts, strides)


# Emitter ----------------------------------------------------------------------------------------

def test_thresholds_follow_reads_and_writes() -> None:
    emitter = Emitter(DEFAULT)
    emitter.emit(Load, writes=[_scratch(0, 10)])
    emitter.emit(Load, writes=[_scratch(10, 10)])
    emitter.emit(Array, reads=[_scratch(5, 3)])                       # after the first load
    emitter.emit(Array, reads=[_scratch(8, 4)])                       # after both
    emitter.emit(Load, writes=[_scratch(0, 6)])                       # after the first array
    emitter.emit(Post, reads=[_scratch(12, 1)], writes=[_scratch(20, 1)])
    emitter.emit(Post, reads=[_scratch(20, 1)], writes=[_scratch(11, 1)])
    load, array, post = (emitter.lists[queue] for queue in (Queue.LOAD, Queue.ARRAY, Queue.POST))
    assert [i.waits for i in load] == [(0,) * 5, (0,) * 5, (0, 1, 0, 0, 0)]
    assert [i.waits for i in array] == [(1, 0, 0, 0, 0), (2, 0, 0, 0, 0)]
    # The second POST waits for its own queue's write, the load it overwrites and its reader.
    assert [i.waits for i in post] == [(2, 0, 0, 0, 0), (2, 2, 0, 1, 0)]


def test_strided_regions_do_not_touch_what_lies_between() -> None:
    emitter = Emitter(DEFAULT)
    emitter.emit(Load, writes=[_scratch(0, 10, 3)])
    emitter.emit(Array, reads=[_scratch(50, 20)])
    emitter.emit(Array, reads=[_scratch(195, 20)])
    assert [i.wait_load for i in emitter.lists[Queue.ARRAY]] == [0, 1]


def test_marks_are_the_last_posts_of_layers() -> None:
    emitter = Emitter(DEFAULT)
    for layer in (0, 1, 0, 1, 2, 1):
        emitter.layer = layer
        emitter.emit(Post)
    assert emitter.mark([0, 1, 2]) == [0, 2, 1]
    assert [i.mark for i in emitter.lists[Queue.POST]] == [0, 0, 1, 0, 1, 1]


def test_every_threshold_is_needed() -> None:
    """Lowering a threshold of a compiled program is a race, except where another implies it."""
    b = Builder(1, CONFIGS["tiny"], (8, 8, 8))
    b.conv(b.conv("x", 12), 8, stride=(2, 2))
    program = compile_graph(b.graph(), CONFIGS["tiny"])
    lists = read_instructions(program.config, program.image)
    refused = tried = 0
    rng = np.random.default_rng(2)
    starts = np.frombuffer(program.image[8:28], "<u4")
    for queue in Queue:
        chosen = [n for n, i in enumerate(lists[queue]) if any(i.waits)]
        for number in rng.permutation(chosen)[:8]:
            offset = int(starts[queue]) + int(number) * INSTRUCTION_BYTES
            instruction = decode(program.image[offset:offset + INSTRUCTION_BYTES])
            names = ("load", "array", "vector", "post", "store")
            cleared = {f"wait_{name}": 0 for name in names}
            changed = encode(type(instruction)(**{**vars(instruction), **cleared}))
            image = (program.image[:offset] + changed
                     + program.image[offset + INSTRUCTION_BYTES:])
            tried += 1
            try:
                verify(type(program)(**{**vars(program), "image": image}))
            except ProgramError:
                refused += 1
    assert tried > 15
    assert refused >= 0.8 * tried


# Views and rings --------------------------------------------------------------------------------

def test_ring_rows_wrap() -> None:
    view = View(base=100, capacity=4, groups=2, width=5, first_row=-1, first_column=-1)
    assert view.address(0, -1, -1) == 100
    assert view.address(1, 0, 0) == 100 + 10 + 5 + 1
    assert view.address(0, 3, -1) == 100
    assert list(view.runs(1, 6)) == [(0, 2), (2, 4)]
    assert list(view.runs(0, 4, 2)) == [(0, 2), (2, 2)]
    assert not view.wraps(-1, 3)
    assert view.wraps(2, 4)


def test_ring_cache_evicts_what_it_overwrites() -> None:
    ring = RingCache(10)
    assert [ring.place(name, 4) for name in "abc"] == [0, 4, 0]
    assert ring.find("a") is None
    assert ring.find("b") == 4
    assert ring.find("c") == 0
    assert ring.place("d", 6) == 4
    assert ring.find("b") is None
    assert ring.find("c") == 0


@pytest.mark.parametrize("seed", range(5))
def test_placement_never_overlaps_living_things(seed: int) -> None:
    rng = np.random.default_rng(seed)
    things = []
    for number in range(40):
        first = int(rng.integers(0, 20))
        things.append(Lifetime(str(number), int(rng.integers(1, 500)), first,
                               first + int(rng.integers(0, 6))))
    addresses, size = place_all(things, 64)
    for number, one in enumerate(things):
        assert addresses[one.name] % 64 == 0
        assert addresses[one.name] + one.size <= size
        for other in things[number + 1:]:
            if one.first <= other.last and other.first <= one.last:
                low, high = sorted((one, other), key=lambda item: addresses[item.name])
                assert addresses[low.name] + low.size <= addresses[high.name]
    assert size < sum(thing.size for thing in things)


# Order ------------------------------------------------------------------------------------------

def _unit(engine: Queue, work: int, *after: int, drains: int | None = None) -> Unit:
    unit = Unit(engine, print, 0, drains=drains)
    unit.work, unit.after = work, set(after)
    return unit


def test_engines_overlap() -> None:
    # The array's second job depends on nothing and fills the time of the vector unit's.
    units = [_unit(Queue.VECTOR, 500), _unit(Queue.POST, 10, drains=0),
             _unit(Queue.ARRAY, 100, 1), _unit(Queue.POST, 10, drains=2),
             _unit(Queue.ARRAY, 100), _unit(Queue.POST, 10, drains=4)]
    assert order(units) == [0, 4, 5, 1, 2, 3]


def test_tiles_never_wait_for_each_others_accumulators() -> None:
    # Two tiles fill both halves; their POSTs overwrite what a third one reads.
    units = [_unit(Queue.ARRAY, 10), _unit(Queue.POST, 10, 4, drains=0),
             _unit(Queue.ARRAY, 10), _unit(Queue.POST, 10, 4, drains=2),
             _unit(Queue.ARRAY, 10), _unit(Queue.POST, 10, drains=4)]
    result = order(units)
    assert sorted(result) == list(range(6))
    assert result.index(4) < min(result.index(0), result.index(2))


# Rules ------------------------------------------------------------------------------------------

def _refused(graph: g.Graph, config: str, message: str, **changes: object) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        compile_graph(graph, CONFIGS[config].replace(**changes))


def test_units_that_are_left_out_refuse_their_layers() -> None:
    for build, change, message in (
            (lambda b: b.table("x"), {"table": False}, "Table 'layer0' needs a table"),
            (lambda b: b.add("x", "x"), {"residual": False},
             "Add 'layer0' needs the residual add")):
        b = Builder(1, CONFIGS["default"], (4, 6, 6))
        build(b)
        _refused(b.graph(), "default", message, **change)


def test_arithmetic_must_suit_the_configuration() -> None:
    b = Builder(1, CONFIGS["default"], (4, 6, 6))
    b.conv("x", 4)
    graph = b.graph()
    _refused(graph, "default", "multipliers have 24 bits and the configuration's 16",
             multiplier_bits=16)
    _refused(graph, "default", "Conv2d 'layer0' has rounding constants", bias="int32")
    _refused(graph, "default", "Conv2d 'layer0' has weights outside of [-8, 7]", weight_bits=4)


def test_every_refusal_is_reported_at_once() -> None:
    """Also behind a layer that is refused, and of layers that would be fused with it."""
    b = Builder(1, CONFIGS["default"], (4, 8, 8))
    x = b.table(b.conv("x", 4))
    b.flatten(b.add(b.max_pool(x, (2, 2), (2, 2)), b.conv(x, 4, stride=(2, 2))))
    graph = b.graph()
    config = CONFIGS["default"].replace(vector_taps=0, table=False, residual=False, weight_bits=4)
    with pytest.raises(MultipleRefusals) as caught:
        compile_graph(graph, config)
    message = str(caught.value)
    assert message.startswith("5 reasons to refuse the model: (1) Conv2d 'layer0' has weights")
    for words in ("Table 'layer1' needs a table", "Conv2d 'layer3' has weights",
                  "Add 'layer4' needs the residual add",
                  "Reshape 'layer5' to (64,) would move data"):
        assert words in message, message
    assert "\n" not in message


def test_bilinear_upsampling_needs_weights_of_eight_bits() -> None:
    b = Builder(1, CONFIGS["default"], (4, 6, 6))
    b.upsample_bilinear("x")
    _refused(b.graph(), "default", "UpsampleBilinear 'layer0' needs weights of 8 bits",
             weight_bits=4)


def test_main_memory_must_hold_the_program() -> None:
    b = Builder(1, CONFIGS["default"], (64, 16, 16))
    b.conv("x", 64)
    _refused(b.graph(), "default", "bytes of main memory and the configuration has 16384",
             memory_size=1 << 14)


def test_windows_and_shapes_that_cannot_be() -> None:
    b = Builder(1, CONFIGS["tiny"], (4, 40, 40))
    b.average_pool("x", (30, 30))
    _refused(b.graph(), "tiny", "AveragePool 'layer0' reads more for one output pixel")
    b = Builder(1, CONFIGS["tiny"], (4, 4, 4))
    x = b.flatten("x")
    _refused(b.graph(x), "tiny", "Reshape 'layer0' to (64,) would move data")


def test_accumulators_that_could_overflow_are_refused() -> None:
    b = Builder(1, CONFIGS["default"], (4, 6, 6))
    b.conv("x", 4)
    graph = b.graph()
    b.nodes[0].bias[2] = (1 << 31) - 100
    _refused(graph, "default", "Conv2d 'layer0' can reach an accumulator value of 21")


# Configurations without units -------------------------------------------------------------------

def test_depthwise_and_average_without_vector_unit() -> None:
    config = CONFIGS["small"].replace(vector_taps=0)
    b = Builder(4, config, (20, 9, 10))
    x = b.conv(b.conv("x", 20, groups=20), 20, groups=20, stride=(2, 2))
    b.average_pool(x)
    graph = b.graph()
    program = compile_graph(graph, config)
    verify(program)
    check(graph, program, 5)


@pytest.mark.parametrize("bits", [18, 16])
def test_narrow_multipliers_and_int32_bias(bits: int) -> None:
    config = CONFIGS["default"].replace(multiplier_bits=bits, bias="int32")
    b = Builder(6, config, (20, 9, 10))
    b.max_pool(b.table(b.conv("x", 33)), (2, 2), (2, 2))
    graph = b.graph()
    check(graph, compile_graph(graph, config), 7)


def test_four_bit_weights() -> None:
    config = CONFIGS["default"].replace(weight_bits=4)
    b = Builder(8, config, (20, 9, 10))
    b.weights = lambda *shape: b.rng.integers(-8, 8, shape).astype(np.int8)
    b.conv(b.conv("x", 33), 24, (1, 1))
    graph = b.graph()
    check(graph, compile_graph(graph, config), 9)


def test_orders_of_execution_do_not_matter() -> None:
    b = Builder(9, CONFIGS["tiny"], (6, 8, 8))
    x = b.conv("x", 12)
    b.average_pool(b.add(b.conv(x, 12, relu=False), x))
    graph = b.graph()
    program = compile_graph(graph, CONFIGS["tiny"])
    image = {"x": np.arange(384, dtype=np.int64).reshape(6, 8, 8).astype(np.int8)}
    results = [run_golden(program, image, order=order, noise=order)[0] for order in (1, 2, 3)]
    plain, _ = run_golden(program, image)
    for result in results:
        for name, values in plain.items():
            np.testing.assert_array_equal(result[name], values)
