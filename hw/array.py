"""The systolic array: weight-stationary int8 multiply-accumulate cells."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["TAG_LEAD", "SystolicArray", "partial_sum_width"]

TAG_LEAD = 2
"""Cycles by which a pixel's tag leaves the array before its partial sums."""


def partial_sum_width(rows: int) -> int:
    """Bits of an exact sum of `rows` products of two int8 values (the largest is 2**14)."""
    return 16 + (rows - 1).bit_length()


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

    def __init__(self, rows: int, columns: int, tag):
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
        # Skew: stage r holds the word that row r takes its activation from. Eight rows share a
        # signal, because a 64-bit copy simulates as fast as an 8-bit one; bytes that no later row
        # needs disappear in synthesis.
        valid, first, tag = self.i.valid, self.i.first, self.i.tag
        chunks = [self.i.data[low:low + 64] for low in range(0, 8 * self.rows, 64)]
        above = [None] * self.columns

        def register(shape, name):
            """A register of the data path: meaningless until data reach it, so never reset."""
            return Signal(shape, name=name, reset_less=True)

        for r in range(self.rows):
            activation = register(signed(8), f"activation_{r}")
            entered = Signal(name=f"entered_{r}")
            multiplied = Signal(name=f"multiplied_{r}")
            m.d.sync += [entered.eq(valid), multiplied.eq(entered)]
            with m.If(valid):
                m.d.sync += activation.eq(chunks[r // 8].word_select(r % 8, 8))

            active = [register(signed(8), f"weight_{r}_{c}") for c in range(self.columns)]
            shadow = [register(signed(8), f"shadow_{r}_{c}") for c in range(self.columns)]
            product = [register(signed(16), f"product_{r}_{c}") for c in range(self.columns)]
            total = [register(signed(self.width), f"sum_{r}_{c}") for c in range(self.columns)]
            with m.If(valid & first):
                for c in range(self.columns):
                    m.d.sync += active[c].eq(shadow[c])
            with m.If(self.load.valid & (self.load.row == r)):
                for c in range(self.columns):
                    m.d.sync += shadow[c].eq(self.load.weights.word_select(c, 8))
            with m.If(entered):
                for c in range(self.columns):
                    m.d.sync += product[c].eq(activation * active[c])
            with m.If(multiplied):
                for c in range(self.columns):
                    m.d.sync += total[c].eq(product[c] + above[c] if r else product[c])
            above = total

            if r < self.rows - 1:
                next_valid = Signal(name=f"valid_{r + 1}")
                next_first = Signal(name=f"first_{r + 1}")
                next_chunks = list(chunks)
                m.d.sync += [next_valid.eq(valid), next_first.eq(first)]
                with m.If(valid):
                    for k in range((r + 1) // 8, len(chunks)):
                        next_chunks[k] = register(len(chunks[k]), f"skew_{r + 1}_{k}")
                        m.d.sync += next_chunks[k].eq(chunks[k])
                valid, first, chunks = next_valid, next_first, next_chunks

        for r in range(self.rows):
            next_tag = register(self.tag_shape, f"tag_{r + 1}")
            m.d.sync += next_tag.eq(tag)
            tag = next_tag
        m.d.comb += [
            self.o.valid.eq(entered),
            self.o.tag.eq(tag),
            *(self.o.sums[c].eq(above[c]) for c in range(self.columns)),
        ]
        return m
