"""Cells of the sequential core do what plain logic does: multipliers and SPRAM of the iCE40, by
yosys' models, and Gowin's multipliers, by ours.
"""

import re

import pytest
from amaranth import Cat, Const, Fragment, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from netlist_compare import check_copies
from systolith.boards.catalog import BOARDS
from systolith.hw.config import PRESETS
from systolith.hw.multiplier import MultiplierBudget
from systolith.hw.sequential.products import LATENCY, Products
from systolith.hw.sequential.spram import SpramPair
from systolith.sim.build import verilog_of
from systolith.sim.netlist.convert import yosys_models
from systolith.sim.netlist.gowin import MODELS


class _Platform:
    def __init__(self, board):
        self.multipliers = MultiplierBudget(
            BOARDS[board].family, BOARDS[board].multipliers, PRESETS[board])


class _Bits(wiring.Component):
    """A component whose inputs are random bits, with the cells of a board or without."""

    def __init__(self, outputs, *, board):
        self._platform = _Platform(board) if board else None
        super().__init__({"i": In(256), "o": Out(outputs)})

    def add(self, m, part):
        """Its fragment is made for a platform of our own."""
        m.submodules.part = Fragment.get(part, self._platform)
        return part


class _Multipliers(_Bits):
    """The products of a board's own shape; `shape` names the board where there are no cells."""

    def __init__(self, *, shape, board=None):
        self._columns = PRESETS[shape].columns
        super().__init__(self._columns * 18, board=board)

    def elaborate(self, platform):
        m = Module()
        part = self.add(m, Products(self._columns))
        groups = self._columns // 4
        extreme = self.i[100]
        m.d.comb += [
            # Products of -128 and -128 are what the sums of two must survive.
            part.activations.eq(Mux(extreme, 0x80808080, self.i[:32])),
            part.weights.eq(Mux(self.i[101] & self.i[102],
                                Const(0x80808080, 32).replicate(groups),
                                Cat(self.i[32:64], self.i[128:160])[:32 * groups])),
            part.load.eq(Cat(self.i[64:68], self.i[160:164])[:4 * groups]),
        ]
        # Weights are anything before they have been loaded.
        loaded = Signal(4 * groups)
        m.d.sync += loaded.eq(loaded | part.load)
        known = loaded.all()
        for _ in range(LATENCY + 1):
            later = Signal()
            m.d.sync += later.eq(known)
            known = later
        m.d.comb += self.o.eq(Mux(known, Cat(part.sums), 0))
        return m


class _Memory(_Bits):
    def __init__(self, *, shape, board=None):
        super().__init__(3 * 32, board=board)  # the harness wants more than 64

    def elaborate(self, platform):
        m = Module()
        part = self.add(m, SpramPair())
        # Few words, at both ends, that are all written first.
        count = Signal(9)
        with m.If(~count[-1]):
            m.d.sync += count.eq(count + 1)
        filling = ~count[-1]
        low = Mux(filling, count[:6], self.i[:6])
        write = filling | self.i[6]
        m.d.comb += [
            part.enable.eq(filling | self.i[7]),
            part.address.eq(Cat(low[:3], Mux(low[5], Const(0xFF), Const(0)), low[3:5], low[5])),
            part.mask.eq(Mux(filling, 15, Mux(write, self.i[8:12], 0))),
            part.data.eq(self.i[32:64]),
        ]
        # What a read has given stays until the next access.
        shown = Signal()
        with m.If(part.enable):
            m.d.sync += shown.eq(~part.mask.any())
        m.d.comb += self.o.eq(Mux(shown, part.read, 0).replicate(3))
        return m


@pytest.mark.parametrize(("component", "board", "cell", "count"), (
    (_Multipliers, "icebreaker", "SB_MAC16", 8), (_Memory, "icebreaker", "SB_SPRAM256KA", 2),
    (_Multipliers, "tang-nano-9k", "MULT9X9", 32)))
def test_cells_do_what_logic_does(component, board, cell, count):
    plain, primitive = component(shape=board), component(shape=board, board=board)
    outputs = len(plain.o)
    texts = [verilog_of(plain, "rtl"), verilog_of(primitive, "cells")]
    assert [len(re.findall(rf"^  {cell} ", text, re.M)) for text in texts] == [0, count]
    described = MODELS if BOARDS[board].family == "gowin" else yosys_models("ice40", (cell,))
    check_copies("\n".join((described, *texts, f"""
        module compare(input clk, rst, input [255:0] i, output [{outputs - 1}:0] seen, wrong);
        wire [{outputs - 1}:0] other;
        rtl plain(.clk(clk), .rst(rst), .i(i), .o(seen));
        cells primitives(.clk(clk), .rst(rst), .i(i), .o(other));
        assign wrong = seen ^ other;
        endmodule
    """)), outputs, range(1, 4))
