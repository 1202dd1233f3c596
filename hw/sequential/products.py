"""The products of the sequential core and their sums, two in an SB_MAC16 of an iCE40, each in
a multiplier of another chip, or in plain logic.

Both the array and the post-processor multiply here (`engine.py`): there are no other multipliers
in an iCE40UP5K.
"""

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..multiplier import registered_product
from .ports import COLUMN_GROUP, ROWS

__all__ = ["LATENCY", "Products", "has_mac16"]

LATENCY = 4
"""Cycles from activations to sums."""


def has_mac16(platform) -> bool:
    """Whether products of a platform go to SB_MAC16 cells."""
    return getattr(getattr(platform, "multipliers", None), "family", None) == "ice40"


class Products(wiring.Component):
    """Four rows of weights, each column multiplied with the same activations, and summed.

    Parameters
    ----------
    columns : int
        A multiple of `COLUMN_GROUP`.

    Members
    -------
    activations : In(32)
        Four int8, one a row.
    weights : In(8 * columns), load : In(columns)
        Rows that take new weights, one a column: four bits for the rows of the first
        `COLUMN_GROUP` columns, four for those of the next. They meet the activations of the same
        cycle.
    sums : Out(array of `columns` signed(18))
        Of the activations `LATENCY` cycles ago.
    """

    def __init__(self, columns: int):
        self._columns = columns
        super().__init__({
            "activations": In(32),
            "weights": In(8 * columns),
            "load": In(ROWS * columns // COLUMN_GROUP),
            "sums": Out(data.ArrayLayout(signed(18), columns)),
        })

    def elaborate(self, platform):
        m = Module()
        pairs = {}
        for upper in (0, 2):
            for left in range(0, self._columns, 2):
                if has_mac16(platform):
                    found = self._mac16(m, upper, left)
                else:
                    found = self._separate(m, platform, upper, left)
                for k, pair in enumerate(found):
                    # Two products are at least -2 * 127 * 128: what looks less is 2^15.
                    wide = Signal(signed(17), name=f"pair_{upper}_{left + k}")
                    m.d.comb += wide.eq(Cat(pair, pair[15] & pair[8:15].any()).as_signed())
                    pairs[upper, left + k] = wide
        for column in range(self._columns):
            m.d.sync += self.sums[column].eq(pairs[0, column] + pairs[2, column])
        return m

    def _load(self, row, column):
        return self.load[column // COLUMN_GROUP * ROWS + row]

    def _separate(self, m, platform, upper, left):
        """Sums of two rows' products, of two columns, modulo 2^16."""
        found = []
        for column in (left, left + 1):
            products = [
                registered_product(
                    m, platform, "array", f"product_{row}_{column}",
                    self.activations.word_select(row, 8).as_signed(),
                    self.weights.word_select(column, 8).as_signed(),
                    enable=Const(1), a_enable=Const(1), b_enable=self._load(row, column))
                for row in (upper, upper + 1)]
            pair = Signal(16, name=f"sum_{upper}_{column}", reset_less=True)
            m.d.sync += pair.eq(products[0] + products[1])
            found.append(pair)
        return found

    def _mac16(self, m, upper, left):
        """The same in two cells: the lower row's adds what the upper row's has multiplied."""
        before = Const(0, 32)
        for row in (upper, upper + 1):
            adds = row != upper
            outputs = Signal(32, name=f"mac_{row}_{left}")
            activation = self.activations.word_select(row, 8)
            select, source = Const(1 if adds else 2, 2), Const(1, 2)
            m.submodules[f"mac_{row}_{left}"] = Instance(
                "SB_MAC16",
                p_NEG_TRIGGER=Const(0, 1), p_MODE_8x8=Const(1, 1),
                p_A_SIGNED=Const(1, 1), p_B_SIGNED=Const(1, 1),
                p_A_REG=Const(1, 1), p_B_REG=Const(1, 1),
                p_C_REG=Const(0, 1), p_D_REG=Const(0, 1),
                p_TOP_8x8_MULT_REG=Const(1, 1), p_BOT_8x8_MULT_REG=Const(1, 1),
                p_PIPELINE_16x16_MULT_REG1=Const(0, 1), p_PIPELINE_16x16_MULT_REG2=Const(0, 1),
                p_TOPOUTPUT_SELECT=select, p_BOTOUTPUT_SELECT=select,
                p_TOPADDSUB_LOWERINPUT=source, p_BOTADDSUB_LOWERINPUT=source,
                p_TOPADDSUB_UPPERINPUT=Const(1, 1), p_BOTADDSUB_UPPERINPUT=Const(1, 1),
                p_TOPADDSUB_CARRYSELECT=Const(0, 2), p_BOTADDSUB_CARRYSELECT=Const(0, 2),
                i_CLK=ClockSignal(), i_CE=Const(1, 1),
                i_A=Cat(activation, activation), i_B=self.weights.word_select(left // 2, 16),
                i_C=before[16:], i_D=before[:16],
                i_AHOLD=Const(0, 1), i_BHOLD=~self._load(row, left),
                i_CHOLD=Const(0, 1), i_DHOLD=Const(0, 1),
                i_IRSTTOP=Const(0, 1), i_IRSTBOT=Const(0, 1),
                i_ORSTTOP=Const(0, 1), i_ORSTBOT=Const(0, 1),
                i_OLOADTOP=Const(0, 1), i_OLOADBOT=Const(0, 1),
                i_ADDSUBTOP=Const(0, 1), i_ADDSUBBOT=Const(0, 1),
                i_OHOLDTOP=Const(0, 1), i_OHOLDBOT=Const(0, 1),
                i_CI=Const(0, 1), i_ACCUMCI=Const(0, 1), i_SIGNEXTIN=Const(0, 1),
                o_O=outputs)
            before = outputs
        return [before[:16], before[16:]]
