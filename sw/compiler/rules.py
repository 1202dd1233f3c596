"""What the compiler refuses: one function a rule, whose docstring is the rule.

Each message says which layer, what is wrong and what to do.
"""

import numpy as np

from systolith import graph as g
from systolith.errors import ModelError
from systolith.hw.config import Config
from systolith.hw.isa import ADD_MULTIPLIER_BITS

from .ir import Operation

__all__ = [
    "RULES",
    "check_accumulator",
    "check_arithmetic",
    "check_constants",
    "needs_byte_weights",
    "needs_residual",
    "needs_table",
    "reshape_moves_data",
    "too_much_memory",
    "unsupported_operator",
    "window_too_large",
]


def _refuse(node: g.Node, problem: str, remedy: str) -> ModelError:
    return ModelError(f"{node.op} '{node.name}' {problem}: {remedy}")


def unsupported_operator(node: g.Node) -> ModelError:
    """The operator has no implementation on the accelerator."""
    return _refuse(node, "does not run on the accelerator", "replace the operator in the model")


def reshape_moves_data(node: g.Reshape) -> ModelError:
    """A reshape is free when it only drops axes of size 1, or flattens before linear layers."""
    return _refuse(node, f"to {node.shape} would move data",
                   "flatten only before linear layers, or pool to 1x1 first")


def check_accumulator(node: g.Weighted) -> None:
    """Every sum of a layer must fit into int32: 128 * sum|w| + |B| < 2^31 for each channel."""
    weights = np.abs(node.weight.astype(np.int64)).reshape(node.channels, -1).sum(axis=1)
    worst = int((128 * weights + np.abs(node.bias.astype(np.int64))).max(initial=0))
    if worst >= 1 << 31:
        raise _refuse(node, f"can reach an accumulator value of {worst}, beyond int32",
                      "reduce the layer's input channels or its bias")


def check_arithmetic(graph: g.Graph, config: Config) -> None:
    """The graph's multipliers must be as wide as the configuration's."""
    if graph.multiplier_bits != config.multiplier_bits:
        raise ModelError(f"the graph's multipliers have {graph.multiplier_bits} bits and the "
                         f"configuration's {config.multiplier_bits}: import the model with "
                         f"multiplier_bits={config.multiplier_bits}")


def check_constants(node: g.Weighted, config: Config) -> None:
    """A layer's constants must suit the configuration: bias mode, width of the weights."""
    if config.bias == "int32" and node.rounding.any():
        raise _refuse(node, "has rounding constants, which this configuration leaves out",
                      'import the model with bias="int32"')
    if config.weight_bits == 4 and (node.weight.min() < -8 or node.weight.max() > 7):
        raise _refuse(node, "has weights outside of [-8, 7]", "quantize it to 4 bits, or set "
                      "weight_bits = 8")


def needs_table(node: g.Node, config: Config) -> None:
    """Functions of one value other than clamps need the post-processor's table."""
    if not config.table:
        raise _refuse(node, "needs a table, which this configuration leaves out",
                      "set table = true or use ReLU")


def needs_residual(node: g.Add, config: Config) -> None:
    """Adding two tensors needs the post-processor's residual add, and shifts that it does."""
    if not config.residual:
        raise _refuse(node, "needs the residual add, which this configuration leaves out",
                      "set residual = true")
    if node.shift < config.least_add_shift:
        raise _refuse(node, "has an input scale that is more than "
                      f"{1 << ADD_MULTIPLIER_BITS - config.least_add_shift} times its output scale",
                      "use a configuration that is not sequential")


def needs_byte_weights(node: g.Node) -> ModelError:
    """Bilinear upsampling multiplies by 9, which 4-bit weights cannot hold."""
    return _refuse(node, "needs weights of 8 bits, and this configuration's have 4",
                   "set weight_bits = 8 or upsample by nearest neighbours")


def window_too_large(operation: Operation, config: Config) -> ModelError:
    """A quarter of the scratchpad must hold what one output pixel reads of one channel group."""
    return ModelError(f"{operation.op} '{operation.name}' reads more for one output pixel than a "
                      f"quarter of the scratchpad ({config.scratchpad_words // 4} words) holds: "
                      "choose a configuration with a larger scratchpad or a smaller kernel")


def too_much_memory(name: str, needed: int, config: Config) -> ModelError:
    """Program and tensors must fit into main memory."""
    return ModelError(f"model '{name}' needs {needed} bytes of main memory and the configuration "
                      f"has {config.memory_size}: choose a configuration with more memory_size")


RULES = (unsupported_operator, reshape_moves_data, check_accumulator, check_arithmetic,
         check_constants, needs_table, needs_residual, needs_byte_weights, window_too_large,
         too_much_memory)
"""All rules, for the table of supported operators."""
