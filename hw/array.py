"""The systolic array: weight-stationary int8 multiply-accumulate cells."""

from amaranth import Const, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .multiplier import has_multipliers, registered_product
from .pairs import KNOWN_BITS, SEPARATING, pair, separate, separate_overlapping

__all__ = ["TAG_LEAD", "SystolicArray", "partial_sum_width"]

TAG_LEAD = 3
"""Cycles by which a pixel's tag leaves the array before its partial sums."""

_SHARERS = 8
"""Rows that have one register for the weights that are loaded."""


def partial_sum_width(rows: int) -> int:
    """Bits of an exact sum of `rows` products of two int8 values (the largest is 2**14)."""
    return 16 + (rows - 1).bit_length()


def _groups(word):
    """A word cut into pieces of eight bytes, and the rest."""
    return [word[low:low + 64] for low in range(0, len(word), 64)]


def _byte(groups, index):
    """Byte `index` of a word cut by `_groups`."""
    return groups[index // 8].word_select(index % 8, 8)


def _register(shape, name):
    """A register of the data path: meaningless until data reach it, so never reset."""
    return Signal(shape, name=name, reset_less=True)


def _tree(values):
    """Their sum, by as few additions in a row as there can be."""
    while len(values) > 1:
        unpaired = values[len(values) // 2 * 2:]
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + unpaired
    return values[0]


class SystolicArray(wiring.Component):
    """`rows` x `columns` cells that hold a weight tile and multiply a stream of pixels by it.

    A pixel (one activation a row) may enter every cycle, and need not. Row r sees it
    `r // stage_rows` cycles later, presents it to all its cells, and adds its products to the
    partial sums that come from the row above; the sums of all columns leave together, `latency`
    cycles after the pixel entered.

    A cell has an active weight, which it multiplies by, and a shadow weight, which is written
    meanwhile. The pixel that carries `first` makes every row activate its shadow weights as it
    passes: a row's shadow weights must have been written before it sees that pixel, and may be
    written again from that cycle on. With `buffered` weights they must have been given a cycle
    earlier: there are registers in front of the rows, a copy for each `_SHARERS` of them, where the
    way from the weight memory is long.

    Parameters
    ----------
    rows, columns : int
        Geometry of the array.
    tag : shape-like
        What travels beside a pixel.
    paired_bits : int
        Where two neighbouring columns share a multiplier, the bits of a weight, 4 or 8: those of 4
        bits must be in [-8, 7], and those of 8 take a cycle more. 0 where none do.
    buffered : bool
        Whether rows of weights are registered on their way.
    stage_rows : int
        Rows whose products are added at once, between two registers; a divisor of `rows`.

    Members
    -------
    i : In
        `valid`, `first` (only with `valid`), `tag` and the pixel's `data`, int8 activations, row 0
        lowest.
    load : In
        `valid`: write the `weights` (int8, column 0 lowest) of row `row` into its shadow.
    o : Out
        `valid` and `tag`, `TAG_LEAD` cycles before the pixel's `sums` (signed, exact).

    Attributes
    ----------
    latency : int
        Cycles from a pixel to its `sums`.
    """

    def __init__(self, rows: int, columns: int, tag, *, paired_bits: int = 0,
                 buffered: bool = False, stage_rows: int = 1):
        self.stage_rows = stage_rows
        self.paired_bits = paired_bits
        self.buffered = buffered
        self.rows = rows
        self.columns = columns
        self.width = partial_sum_width(rows)
        self.latency = rows // stage_rows + 2 + SEPARATING[paired_bits]
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
        loads = self._loads(m)
        # Eight bytes share a signal, since a 64-bit copy simulates as fast as an 8-bit one, and a
        # cell is nothing but a product and a sum that are renewed every cycle: conditions on them
        # would cost the simulator more than they save.
        skewed = _groups(self.i.data)
        above = [None] * self.columns
        sums = [[] for _ in range(self.columns)]  # of a stage, for each column what it adds

        for r in range(self.rows):
            loads_row, loaded = loads[r]
            shadow = [_register(len(group), f"shadows_{r}_{g}") for g, group in enumerate(loaded)]
            with m.If(loads_row):
                m.d.sync += [shadow[g].eq(loaded[g]) for g in range(len(loaded))]
            multiply = self._primitives if has_multipliers(platform) else self._logic
            products = self._separated(m, multiply(
                m, platform, r, _byte(skewed, r).as_signed(), shadow, valid=valid, first=first))
            for parts, product in zip(sums, products, strict=True):
                parts.append(product)
            if (r + 1) % self.stage_rows:
                continue
            above = [_register(signed(self.width), f"sum_{r}_{c}") for c in range(self.columns)]
            m.d.sync += [total.eq(_tree(parts)) for total, parts in zip(above, sums, strict=True)]
            sums = [[total] for total in above]

            # Row r + 1 takes its byte from a copy of the word, one cycle later; the bytes that no
            # later row needs disappear in synthesis.
            if r < self.rows - 1:
                stage = (r + 1) // self.stage_rows
                following = Signal(name=f"valid_{stage}")
                following_first = Signal(name=f"first_{stage}")
                m.d.sync += [following.eq(valid), following_first.eq(first)]
                copies = list(skewed)
                for g in range((r + 1) // 8, len(skewed)):
                    copies[g] = _register(len(skewed[g]), f"skew_{stage}_{g}")
                    with m.If(valid):
                        m.d.sync += copies[g].eq(skewed[g])
                valid, first, skewed = following, following_first, copies

        for stage in range(self.rows // self.stage_rows, self.latency - TAG_LEAD + 1):
            following = Signal(name=f"valid_{stage}")
            m.d.sync += following.eq(valid)
            valid = following
        for stage in range(self.latency - TAG_LEAD):
            next_tag = _register(self.tag_shape, f"tag_{stage + 1}")
            m.d.sync += next_tag.eq(tag)
            tag = next_tag
        m.d.comb += [
            self.o.valid.eq(valid),
            self.o.tag.eq(tag),
            *(self.o.sums[c].eq(above[c]) for c in range(self.columns)),
        ]
        return m

    def _loads(self, m):
        """For each row whether its weights are there, and they, cut by `_groups`."""
        if not self.buffered:
            loaded = _groups(self.load.weights)
            return [(self.load.valid & (self.load.row == r), loaded) for r in range(self.rows)]
        loads = []
        for r in range(self.rows):
            if r % _SHARERS == 0:
                # Tools would make one of registers that are equal, their first values included.
                weights = Signal.like(self.load.weights, name=f"loaded_{r}", reset_less=True,
                                      init=-(r // _SHARERS % 2) % (1 << 8 * self.columns))
                m.d.sync += weights.eq(self.load.weights)
            row = Signal(name=f"loads_{r}")
            m.d.sync += row.eq(self.load.valid & (self.load.row == r))
            loads.append((row, _groups(weights)))
        return loads

    def _separated(self, m, multiplied):
        """The products of each column, of what the row's multipliers made."""
        products = []
        for product, known in multiplied:
            if known is not None:
                both = separate_overlapping(m, product, known)
                registers = [_register(signed(16), f"{product.name}_{part}")
                             for part in ("low", "high")]
                m.d.sync += [register.eq(value)
                             for register, value in zip(registers, both, strict=True)]
                products += registers
            else:
                products += separate(product) if self.paired_bits else [product]
        return products

    def _factors(self, weights):
        """What each multiplier multiplies by: its first column's number, the factor, and the weight
        of whose product some bits have to be known."""
        if not self.paired_bits:
            for c in range(self.columns):
                yield c, _byte(weights, c).as_signed(), None
            return
        for c in range(0, self.columns, 2):
            low, high = (_byte(weights, k)[:self.paired_bits] for k in (c, c + 1))
            yield c, pair(low, high), high[:KNOWN_BITS] if self.paired_bits == 8 else None

    def _logic(self, m, platform, r, activation, shadow, *, valid, first):
        """Products of row `r`, two cycles behind the activation, each with the bits that are known
        of its upper half, or None; its registers serve all columns, and the active weights share
        signals, as simulators like it."""
        held = _register(signed(8), f"activation_{r}")
        active = [_register(len(group), f"weights_{r}_{g}") for g, group in enumerate(shadow)]
        with m.If(valid):
            m.d.sync += held.eq(activation)
        with m.If(first):
            m.d.sync += [active[g].eq(shadow[g]) for g in range(len(shadow))]
        for c, factor, known in self._factors(active):
            product = _register((held * factor).shape(), f"product_{r}_{c}")
            m.d.sync += product.eq(held * factor)
            yield product, None if known is None else self._known(m, product, held, known)

    def _primitives(self, m, platform, r, activation, shadow, *, valid, first):
        """The same from multipliers that have these registers inside."""
        if self.paired_bits == 8:
            held = _register(KNOWN_BITS, f"activation_{r}")
            with m.If(valid):
                m.d.sync += held.eq(activation)
        for c, factor, known in self._factors(shadow):
            product = registered_product(
                m, platform, "array", f"product_{r}_{c}", activation, factor,
                enable=Const(1), a_enable=valid, b_enable=first)
            if known is None:
                yield product, None
                continue
            weight = _register(KNOWN_BITS, f"weight_{r}_{c}")
            with m.If(first):
                m.d.sync += weight.eq(known)
            yield product, self._known(m, product, held, weight)

    def _known(self, m, product, held, weight):
        """The lowest bits of `held * weight`, beside the product that they belong to."""
        known = _register(KNOWN_BITS, f"{product.name}_known")
        m.d.sync += known.eq(held[:KNOWN_BITS] * weight)
        return known
