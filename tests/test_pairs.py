"""Two products of one multiplier against two multiplications, for every operand."""

import itertools

import numpy as np
import pytest
from amaranth import Module, Signal, signed
from amaranth.sim import Simulator

from systolith.hw.pairs import DISTANCE, KNOWN_BITS, pair, separate, separate_overlapping

CORNERS = (-128, -127, -65, -64, -63, -2, -1, 0, 1, 2, 63, 64, 127)


def test_overlapping_products_of_all_operands():
    """The equations of `separate_overlapping`, with numpy's integers, for all 2**24 operands."""
    byte = np.arange(-128, 128)
    low, high = np.meshgrid(byte, byte)
    factor = (high << DISTANCE[8]) + low
    assert factor.min() >= -1 << 17 and factor.max() < 1 << 17
    ones = (1 << KNOWN_BITS) - 1
    for activation in byte:
        product = activation * factor
        known = (activation & ones) * (high & ones) & ones
        difference = (product >> DISTANCE[8] & ones) - known
        overlap = difference & ones
        above = product >> DISTANCE[8] + KNOWN_BITS
        upper = above + (overlap >> KNOWN_BITS - 1) - (difference < 0)
        assert np.array_equal(known + (upper << KNOWN_BITS), activation * high)
        signed_overlap = overlap - (overlap >> KNOWN_BITS - 1 << KNOWN_BITS)
        assert np.array_equal((product & (1 << DISTANCE[8]) - 1)
                              + (signed_overlap << DISTANCE[8]), activation * low)


@pytest.mark.parametrize("bits", (4, 8))
def test_circuit(bits):
    """The circuit itself: the ends of each operand's range with each other, and random operands."""
    m = Module()
    activation, low, high = Signal(signed(8)), Signal(signed(bits)), Signal(signed(bits))
    product = Signal(signed(26))
    m.d.comb += product.eq(activation * pair(low, high))
    if bits == 8:
        known = Signal(KNOWN_BITS)
        m.d.comb += known.eq(activation[:KNOWN_BITS] * high[:KNOWN_BITS])
        found = separate_overlapping(m, product, known)
    else:
        found = separate(product)
    results = [Signal(signed(16)) for _ in found]
    m.d.comb += [result.eq(value) for result, value in zip(results, found, strict=True)]
    weights = CORNERS if bits == 8 else range(-8, 8)
    seed = 31
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    end = 1 << bits - 1
    operands = [*itertools.product(CORNERS, weights, weights),
                *zip(rng.integers(-128, 128, 3000).tolist(),
                     *rng.integers(-end, end, (2, 3000)).tolist(), strict=True)]

    async def bench(ctx):
        for operand in operands:
            for signal, value in zip((activation, low, high), operand, strict=True):
                ctx.set(signal, value)
            a, x, y = operand
            assert [ctx.get(result) for result in results] == [a * x, a * y], operand

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
