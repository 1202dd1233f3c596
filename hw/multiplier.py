"""Multipliers with their own registers: one small interface, a plain model, and the primitives.

Tools infer a multiplier from a product, but leave the registers inside of it unused, which costs
most of its speed. On a platform that says how many multipliers its device has, they are
instantiated; when those are used up, and in simulation, a product is ordinary logic between
ordinary registers. The cycles are the same.
"""

from amaranth import ClockSignal, Const, Instance, Signal, signed

from .config import Config

__all__ = ["MultiplierBudget", "demand", "has_multipliers", "registered_product"]


class MultiplierBudget:
    """The multipliers of a device, and whom they are for.

    What costs most without them comes first: the wide products of the requantizers and of the
    residual adders, then those of bytes in the array and in the vector unit.

    Parameters
    ----------
    family : str
        "ecp5".
    available : int
        Multipliers that may be used.
    config : Config
        Says how many each part wants.
    """

    def __init__(self, family: str, available: int, config: Config):
        self.family = family
        self.left = {}
        for kind, wanted in demand(config).items():
            self.left[kind] = min(wanted, available)
            available -= self.left[kind]

    def take(self, kind: str) -> bool:
        """Whether one more is left for parts of a `kind`; if so, it is used."""
        if not self.left[kind]:
            return False
        self.left[kind] -= 1
        return True


def demand(config: Config) -> dict[str, int]:
    """Products by kind, the one that needs multipliers most first."""
    of_requantizer = {24: 4, 18: 2, 16: 2, 0: 0}[config.multiplier_bits]
    return {
        "requantizer": of_requantizer * config.lanes,
        "residual": 5 * config.lanes if config.residual else 0,
        "array": config.multipliers,
        "vector": config.rows * config.vector_taps,
    }


def has_multipliers(platform) -> bool:
    """Whether `platform` says how many multipliers its device has."""
    return getattr(platform, "multipliers", None) is not None


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
    if (has_multipliers(platform) and max(_operand_bits(a), _operand_bits(b)) <= 18
            and platform.multipliers.take(kind)):
        _mult18x18d(m, name, a, b, product, a_enable, b_enable)
        return product

    def registered(value, value_enable, letter):
        if value_enable is None:
            return value
        operand = Signal(value.shape(), name=f"{name}_{letter}", reset_less=True)
        with m.If(value_enable):
            m.d.sync += operand.eq(value)
        return operand

    a, b = registered(a, a_enable, "a"), registered(b, b_enable, "b")
    with m.If(enable):
        m.d.sync += product.eq(a * b)
    return product


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
