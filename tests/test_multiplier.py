"""Products that are made of logic where a device has no multiplier left."""

from types import SimpleNamespace

import pytest
from amaranth import Const, Module, Signal, signed
from amaranth.sim import Simulator

from systolith.hw.config import PRESETS
from systolith.hw.multiplier import MultiplierBudget, registered_product


@pytest.mark.parametrize(("a_bits", "b_bits"), ((8, 8), (8, 4), (9, 7), (8, 18)))
def test_products_of_logic(a_bits, b_bits):
    """Every `b`, of many bits each 997th, with the ends and some of the middle of `a`."""
    platform = SimpleNamespace(multipliers=MultiplierBudget("ecp5", 0, PRESETS["tiny"]))
    m = Module()
    a, b = Signal(signed(a_bits)), Signal(signed(b_bits))
    product = registered_product(m, platform, "vector", "product", a, b, enable=Const(1),
                                 a_enable=Const(1), b_enable=Const(1))
    half, ends = 1 << a_bits - 1, 1 << b_bits - 1
    pairs = [(x, y) for y in (*range(-ends, ends, 1 if b_bits <= 9 else 997), ends - 1)
             for x in (-half, -half + 1, -2, -1, 0, 1, 2, half - 1, *range(-half, half, 23))]

    async def bench(ctx):
        expected = [None, None]
        for x, y in [*pairs, (0, 0), (0, 0)]:
            ctx.set(a, x)
            ctx.set(b, y)
            await ctx.tick()
            expected.append(x * y)
            if expected[-2] is not None:
                assert ctx.get(product) == expected[-2]

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
