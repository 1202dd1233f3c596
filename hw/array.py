"""The systolic array: weight-stationary int8 multiply-accumulate cells."""

from amaranth import Cat, Const, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .multiplier import has_multipliers, registered_product

__all__ = ["TAG_LEAD", "SystolicArray", "partial_sum_width"]

TAG_LEAD = 2
"""Cycles by which a pixel's tag leaves the array before its partial sums."""


def partial_sum_width(rows: int) -> int:
    """Bits of an exact sum of `rows` products of two int8 values (the largest is 2**14)."""
    return 16 + (rows - 1).bit_length()


def _groups(word):
    """A word cut into pieces of eight bytes, and the rest."""
    return [word[low:low + 64] for low in range(0, len(word), 64)]


def _byte(groups, index):
    """Byte `index` of a word cut by `_groups`."""
    return groups[index // 8].word_select(index % 8, 8)


_PAIR_BITS = 12
"""Distance of two products in a shared multiplier: -128 * -8 needs 12 bits with its sign."""


def _pair(low, high):
    """Two int4 weights as one factor: high * 2**12 + low."""
    return Cat(low, low[3].replicate(_PAIR_BITS - 4), high.as_signed() - low[3]).as_signed()


def _separate(product):
    """The two products of an activation and a pair; a negative lower one has borrowed."""
    low = product[:_PAIR_BITS].as_signed()
    return low, product[_PAIR_BITS:].as_signed() + product[_PAIR_BITS - 1]


def _register(shape, name):
    """A register of the data path: meaningless until data reach it, so never reset."""
    return Signal(shape, name=name, reset_less=True)


class SystolicArray(wiring.Component):
    """`rows` x `columns` cells that hold a weight tile and multiply a stream of pixels by it.

    A pixel (one activation a row) may enter every cycle, and need not. Row r sees it r cycles
    later, presents it to all its cells, and adds its products to the partial sums that come from
    the row above; the sums of all columns leave together, `latency` cycles after the pixel entered.

    A cell has an active weight, which it multiplies by, and a shadow weight, which is written
    meanwhile. The pixel that carries `first` makes every row activate its shadow weights as it
    passes: row r's shadow weights must have been written before `r` cycles after that pixel
    entered, and may be written again from that cycle on.

    Parameters
    ----------
    rows, columns : int
        Geometry of the array.
    tag : shape-like
        What travels beside a pixel.
    paired : bool
        Two neighbouring columns share a multiplier; their weights must be in [-8, 7].

    Members
    -------
    i : In
        `valid`, `first`, `tag` and the pixel's `data`, int8 activations, row 0 lowest.
    load : In
        `valid`: write the `weights` (int8, column 0 lowest) of row `row` into its shadow.
    o : Out
        `valid` and `tag`, `TAG_LEAD` cycles before the pixel's `sums` (signed, exact).

    Attributes
    ----------
    latency : int
        Cycles from a pixel to its `sums`.
    """

    def __init__(self, rows: int, columns: int, tag, *, paired: bool = False):
        self.paired = paired
        self.rows = rows
        self.columns = columns
        self.width = partial_sum_width(rows)
        self.latency = rows + 2
        self.tag_shape = tag
        super().__init__({
            "i": In(wiring.Signature({
                "valid": Out(1), "first": Out(1), "tag": Out(tag), "data": Out(8 * rows)})),
            "load": In(wiring.Signature({
                "valid": Out(1), "row": Out(range(rows)), "weights": Out(8 * columns)})),
            "o": Out(wiring.Signature({
                "valid": Out(1), "tag": Out(tag),
                "sums": Out(data.ArrayLayout(signed(self.width), columns))})),
        })

    def elaborate(self, platform):
        m = Module()
        valid, first, tag = self.i.valid, self.i.first, self.i.tag
        # Eight bytes share a signal, since a 64-bit copy simulates as fast as an 8-bit one, and a
        # cell is nothing but a product and a sum that are renewed every cycle: conditions on them
        # would cost the simulator more than they save.
        skewed = _groups(self.i.data)
        loaded = _groups(self.load.weights)
        above = [None] * self.columns

        for r in range(self.rows):
            shadow = [_register(len(group), f"shadows_{r}_{g}") for g, group in enumerate(loaded)]
            with m.If(self.load.valid & (self.load.row == r)):
                m.d.sync += [shadow[g].eq(loaded[g]) for g in range(len(loaded))]
            multiply = self._primitives if has_multipliers(platform) else self._logic
            products = []
            for product in multiply(m, platform, r, _byte(skewed, r).as_signed(), shadow,
                                    valid=valid, first=first):
                products += _separate(product) if self.paired else [product]
            sums = [_register(signed(self.width), f"sum_{r}_{c}") for c in range(self.columns)]
            m.d.sync += [sums[c].eq(above[c] + product if r else product)
                         for c, product in enumerate(products)]
            above = sums

            # Row r + 1 takes its byte from a copy of the word, one cycle later; the bytes that no
            # later row needs disappear in synthesis.
            following = Signal(name=f"valid_{r + 1}")
            m.d.sync += following.eq(valid)
            if r < self.rows - 1:
                following_first = _register(1, f"first_{r + 1}")
                m.d.sync += following_first.eq(first)
                copies = list(skewed)
                for g in range((r + 1) // 8, len(skewed)):
                    copies[g] = _register(len(skewed[g]), f"skew_{r + 1}_{g}")
                    with m.If(valid):
                        m.d.sync += copies[g].eq(skewed[g])
                first, skewed = following_first, copies
            valid = following

        for r in range(self.rows):
            next_tag = _register(self.tag_shape, f"tag_{r + 1}")
            m.d.sync += next_tag.eq(tag)
            tag = next_tag
        m.d.comb += [
            self.o.valid.eq(valid),
            self.o.tag.eq(tag),
            *(self.o.sums[c].eq(above[c]) for c in range(self.columns)),
        ]
        return m

    def _factor(self, weights, c):
        """What the multiplier of column `c`, or of it and its neighbour, multiplies by."""
        if self.paired:
            return _pair(_byte(weights, c)[:4], _byte(weights, c + 1)[:4])
        return _byte(weights, c).as_signed()

    def _logic(self, m, platform, r, activation, shadow, *, valid, first):
        """Products of row `r`, two cycles behind the activation; its registers serve all columns,
        and the active weights share signals, as simulators like it."""
        held = _register(signed(8), f"activation_{r}")
        active = [_register(len(group), f"weights_{r}_{g}") for g, group in enumerate(shadow)]
        with m.If(valid):
            m.d.sync += held.eq(activation)
        with m.If(valid & first):
            m.d.sync += [active[g].eq(shadow[g]) for g in range(len(shadow))]
        for c in range(0, self.columns, 2 if self.paired else 1):
            product = _register(signed(24 if self.paired else 16), f"product_{r}_{c}")
            m.d.sync += product.eq(held * self._factor(active, c))
            yield product

    def _primitives(self, m, platform, r, activation, shadow, *, valid, first):
        """The same from multipliers that have these registers inside."""
        for c in range(0, self.columns, 2 if self.paired else 1):
            yield registered_product(
                m, platform, "array", f"product_{r}_{c}", activation, self._factor(shadow, c),
                enable=Const(1), a_enable=valid, b_enable=valid & first)
