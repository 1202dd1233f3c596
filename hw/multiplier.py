"""Multipliers with their own registers: one small interface, a plain model, and the primitives.

Tools infer a multiplier from a product, but leave the registers inside of it unused, which costs
most of its speed. On a platform that says how many multipliers its device has, they are
instantiated; when those are used up, and in simulation, a product is ordinary logic between
ordinary registers. The cycles are the same.
"""

from amaranth import Cat, ClockSignal, Const, Instance, Mux, Signal, signed

from .config import Config

__all__ = ["MultiplierBudget", "demand", "family_of", "has_multipliers", "registered_product"]


class MultiplierBudget:
    """The multipliers of a device, and whom they are for.

    What costs most without them comes first: the wide products of the requantizers and of the
    residual adders, then those of bytes in the array and in the vector unit.

    Parameters
    ----------
    family : str
        "ecp5", whose multipliers are all 18x18, or "gowin", where two of 9x9 are one of 18x18.
    available : int
        Multipliers of the smallest size that may be used.
    config : Config
        Says how many each part wants.
    """

    def __init__(self, family: str, available: int, config: Config):
        self.family = family
        self.left = {}
        for kind, (narrow, wide) in demand(config).items():
            wanted = narrow * self.size(9) + wide * self.size(18)
            self.left[kind] = min(wanted, available)
            available -= self.left[kind]

    def size(self, bits: int) -> int:
        """How many of the smallest multipliers a product of operands of `bits` takes."""
        return 2 if self.family == "gowin" and bits > 9 else 1

    def take(self, kind: str, bits: int = 9) -> bool:
        """Whether there is one left for a product of a `kind` whose operands have `bits` with their
        sign; if so, it is used."""
        if self.left[kind] < self.size(bits):
            return False
        self.left[kind] -= self.size(bits)
        return True


def demand(config: Config) -> dict[str, tuple[int, int]]:
    """Products by kind, those of at most 9 bits and wider ones; the kind that needs multipliers
    most is the first."""
    # The sequential core's requantizer multiplies in the array.
    of_requantizer = 0 if config.sequential else {24: 4, 18: 2, 16: 2, 0: 0}[config.multiplier_bits]
    array = (0, config.multipliers) if config.paired_columns else (config.multipliers, 0)
    return {
        "requantizer": (0, of_requantizer * config.lanes),
        "residual": (config.lanes, 4 * config.lanes) if config.residual else (0, 0),
        "array": array,
        "vector": (config.rows * config.vector_taps, 0),
    }


def has_multipliers(platform) -> bool:
    """Whether `platform` says how many multipliers its device has."""
    return getattr(platform, "multipliers", None) is not None


def family_of(platform) -> str | None:
    """The family of a platform whose primitives may be instantiated."""
    return platform.multipliers.family if has_multipliers(platform) else None


def registered_product(m, platform, kind, name, a, b, *, enable, a_enable=None, b_enable=None):
    """The product of `a` and `b` in a register that is renewed when `enable` is 1.

    With `a_enable` or `b_enable` that operand passes a register first, renewed when that is 1;
    `enable` then belongs to the cycle behind it. None of the registers is reset. Only `b`'s
    register keeps its value while its enable is 0; the others may hold anything then, because the
    multipliers of a block share few enables.

    Parameters
    ----------
    m : Module
    platform : object or None
        With a `MultiplierBudget` as `multipliers`, primitives are used as long as it lasts.
    kind : str
        Who asks, of `demand`.
    name : str
        Of the instance and its signals.
    a, b : Value
        Operands, of at most 18 bits with their sign in a primitive.
    """
    product = Signal((a * b).shape(), name=name, reset_less=True)
    bits = max(_operand_bits(a), _operand_bits(b))
    if has_multipliers(platform) and bits <= 18 and platform.multipliers.take(kind, bits):
        primitive = _gowin if platform.multipliers.family == "gowin" else _mult18x18d
        primitive(m, name, a, b, product, a_enable, b_enable)
        return product

    def registered(value, value_enable, letter):
        if value_enable is None:
            return value
        operand = Signal(value.shape(), name=f"{name}_{letter}", reset_less=True)
        with m.If(value_enable):
            m.d.sync += operand.eq(value)
        return operand

    a = registered(a, a_enable, "a")
    if has_multipliers(platform) and b_enable is not None:
        digits = registered(_digits(b), b_enable, "digits")
        with m.If(enable):
            m.d.sync += product.eq(_sum_of_digits(a, digits))
        return product
    b = registered(b, b_enable, "b")
    with m.If(enable):
        m.d.sync += product.eq(a * b)
    return product


def _digits(b):
    """The signed `b` in base 4, lowest digit first, each from -2 to 2 (Booth, 1951, by pairs of
    bits) as three bits: it is 1 or -1; it is 2 or -2; it is negative, or nothing.

    Half as many numbers are then to be added as there are bits, and in front of a register that is
    seldom renewed this takes no time."""
    bits = Cat(b, b[-1])
    below, digits = Const(0, 1), []
    for low in range(0, len(b), 2):
        one, two = bits[low] ^ below, bits[low + 1] ^ bits[low]
        digits += [one, two & ~one, bits[low + 1]]
        below = bits[low + 1]
    return Cat(digits)


def _sum_of_digits(a, digits):
    """The product of `a` and a number made of `_digits`; a negative part is a complement and 1."""
    # All in one sum, so that but the last addition is one without carries.
    ones = Cat(Cat(digits[3 * place + 2], Const(0, 1)) for place in range(len(digits) // 3))
    total = ones
    for place in range(len(digits) // 3):
        one, two, negative = digits[3 * place:3 * place + 3]
        part = Mux(one, a, Mux(two, a << 1, 0))
        total += (part ^ negative.replicate(len(part)).as_signed()) << 2 * place
    return total


def _operand_bits(value):
    """Bits of a signed operand that holds `value`."""
    return len(value) + (not value.shape().signed)


def _mult18x18d(m, name, a, b, product, a_enable, b_enable):
    """ECP5's 18x18 multiplier (FPGA-TN-02205), signed, with an output register and the input
    registers that are asked for.

    Inputs for chains of multipliers stay unconnected: zeros on them would be thousands of wires.
    The operands lie in the upper bits, because zeros below them cost no wires either, and copies of
    a sign above them would.
    """
    operands = [Signal(signed(18), name=f"{name}_{letter}") for letter in "ab"]
    shifts = [18 - _operand_bits(value) for value in (a, b)]
    m.d.comb += [operand.eq(value << shift)
                 for operand, value, shift in zip(operands, (a, b), shifts, strict=True)]
    bits = {f"{direction}_{letter}{i}": value[i]
            for letter, direction, value in (("A", "i", operands[0]), ("B", "i", operands[1]))
            for i in range(18)}
    wide = Signal(36, name=f"{name}_wide")
    m.submodules[name] = Instance(
        "MULT18X18D",
        p_REG_INPUTA_CLK="NONE" if a_enable is None else "CLK0", p_REG_INPUTA_CE="CE0",
        p_REG_INPUTB_CLK="NONE" if b_enable is None else "CLK0", p_REG_INPUTB_CE="CE1",
        p_REG_INPUTC_CLK="NONE", p_REG_PIPELINE_CLK="NONE",
        p_REG_OUTPUT_CLK="CLK0", p_REG_OUTPUT_CE="CE0",
        p_MULT_BYPASS="DISABLED", p_GSR="DISABLED", p_RESETMODE="SYNC",
        i_CLK0=ClockSignal(), i_CE0=Const(1), i_CE1=Const(1) if b_enable is None else b_enable,
        i_CE2=Const(1), i_CE3=Const(1),
        **{f"i_CLK{k}": Const(0) for k in (1, 2, 3)}, **{f"i_RST{k}": Const(0) for k in range(4)},
        i_SIGNEDA=Const(1), i_SIGNEDB=Const(1), i_SOURCEA=Const(0), i_SOURCEB=Const(0),
        **bits, **{f"o_P{i}": wide[i] for i in range(36)})
    m.d.comb += product.eq(wide[sum(shifts):])


def _gowin(m, name, a, b, product, a_enable, b_enable):
    """Gowin's MULT9X9 or MULT18X18 (UG287), signed, with an output register and, for `a`, an input
    register when it is asked for.

    One enable serves all registers of a multiplier, and it has to be 1 for the others: `b`, whose
    register keeps its value, has one of logic in front.
    """
    width = 9 if max(_operand_bits(a), _operand_bits(b)) <= 9 else 18
    operands = [Signal(signed(width), name=f"{name}_{letter}", reset_less=True)
                for letter in "ab"]
    m.d.comb += operands[0].eq(a)
    if b_enable is None:
        m.d.comb += operands[1].eq(b)
    else:
        kept = Signal(b.shape(), name=f"{name}_kept", reset_less=True)
        with m.If(b_enable):
            m.d.sync += kept.eq(b)
        m.d.comb += operands[1].eq(kept)
    wide = Signal(2 * width, name=f"{name}_wide")
    m.submodules[name] = Instance(
        f"MULT{width}X{width}",
        p_AREG=Const(a_enable is not None, 1), p_BREG=Const(0, 1), p_OUT_REG=Const(1, 1),
        p_PIPE_REG=Const(0, 1), p_ASIGN_REG=Const(0, 1), p_BSIGN_REG=Const(0, 1),
        p_SOA_REG=Const(0, 1), p_MULT_RESET_MODE="SYNC",
        i_CLK=ClockSignal(), i_CE=Const(1), i_RESET=Const(0),
        i_ASIGN=Const(1), i_BSIGN=Const(1), i_ASEL=Const(0), i_BSEL=Const(0),
        i_A=operands[0], i_B=operands[1], i_SIA=Const(0, width), i_SIB=Const(0, width),
        o_DOUT=wide)
    m.d.comb += product.eq(wide)
