"""`systolith.compile`: from what PyTorch produced to a program for one configuration."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ConfigError
from .hw.config import Config, load_config

if TYPE_CHECKING:
    from .graph import Graph
    from .program import KnownAnswer, Program

__all__ = ["compile"]


def compile(model: Any, example_input: Any = None, *, config: str | Path | Config = "default",
            bias: str | None = None, name: str | None = None, batch: int = 1) -> "Program":
    """Compile a quantized model into a program.

    Parameters
    ----------
    model
        A converted PT2E module, an `ExportedProgram`, the path of a `.pt2` file, or an integer
        `systolith.graph.Graph`.
    example_input
        A float tensor of the network's input shape, batch first (not needed for an
        `ExportedProgram`, a `.pt2` file or a graph, which know it).
    config
        A preset's name, the path of a TOML file, or a `Config`.
    bias
        "exact" keeps what integer bias rounds away in a per-channel rounding constant, "int32"
        drops it (arithmetic contract, bias modes). By default the configuration's.
    name
        The model's name in reports; by default its class.
    batch
        Images that one run computes side by side, for networks of linear layers, whose weights
        are then fetched once for all of them. Any number of images can be run in either case.

    Raises
    ------
    systolith.Error
        Naming the layer and the reason when the model cannot be imported or does not fit.
    """
    from .batching import side_by_side
    from .bias_table import BiasTable
    from .compiler import compile_graph
    from .graph import Graph
    from .integer import bias_report

    chosen = load_config(config)
    bias = bias or chosen.bias
    if bias == "exact" and chosen.bias != "exact":
        raise ConfigError('bias="exact" needs rounding constants, which this configuration leaves '
                          'out: compile with bias="int32" or set bias = "exact" in the '
                          "configuration")
    if isinstance(model, Graph):
        graph = model
    else:
        from .importer import import_model

        graph = import_model(model, example_input, bias=bias,
                             multiplier_bits=chosen.multiplier_bits)
    if name is None:
        name = Path(model).stem if isinstance(model, str | Path) else type(model).__name__
    if batch != 1:
        graph = side_by_side(graph, batch)
    program = compile_graph(graph, chosen, name=name)
    return replace(program, batch=batch, known_answer=known_answer(graph),
                   biases=BiasTable.of(bias_report(graph)))


def known_answer(graph: "Graph") -> "KnownAnswer":
    """Seeded random levels for every input, and what the integer reference makes of them."""
    from .integer_reference import execute
    from .program import KnownAnswer

    generator = np.random.default_rng(0)
    inputs = {name: generator.integers(-128, 128, graph.tensors[name].shape, np.int8)
              for name in graph.inputs}
    tensors = execute(graph, {name: values[None] for name, values in inputs.items()})
    return KnownAnswer(tuple(inputs.values()), tuple(tensors[name][0] for name in graph.outputs))
