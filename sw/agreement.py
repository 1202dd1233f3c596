"""`systolith verify`: where framework, integer reference, golden model and RTL part ways.

The same images go through all four, and every tensor that two of them have is compared. The
program is compiled so that each layer's result stays in main memory to be read.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from .graph import Graph
from .hw.config import Config, load_config
from .program import Program
from .summary import layer_table

__all__ = ["print_agreement", "verify_model"]

PAIRS = ("framework_vs_reference", "reference_vs_golden", "golden_vs_rtl")
Tensors = dict[str, NDArray[np.int8]]


def verify_model(model: Any, example_input: Any, images: Any, *, config: str | Config = "default",
                 rtl: bool = True, program: Program | None = None) -> dict[str, Any]:
    """Run images through every executor and compare layer by layer.

    Parameters
    ----------
    model, example_input
        As for `systolith.compile`; the framework takes part when the model is a torch one.
    images
        Real numbers, batch first.
    config
        Of the program and the hardware.
    rtl
        Whether to simulate the RTL too.
    program
        Check this program in the place of a freshly compiled one; only layers whose results it
        leaves in main memory can be told apart.

    Returns what `systolith verify --json` holds. `first_difference` counts differences between
    reference, golden model and RTL, which must be none; the framework's own roundings are reported
    a layer and do not count.
    """
    from .compiler import compile_graph
    from .importer import import_model
    from .importer.framework import framework_tensors
    from .integer_reference import execute, quantized_inputs

    chosen = program.config if program is not None else load_config(config)
    if isinstance(model, Graph):
        graph = model
    else:
        graph = import_model(model, example_input, bias=chosen.bias,
                             multiplier_bits=chosen.multiplier_bits)
    arrays = images if isinstance(images, tuple | list) else (images,)
    levels = quantized_inputs(graph, arrays)
    if program is None:
        program = compile_graph(graph, chosen, name="verify", observe=True)
    executors: dict[str, Tensors] = {}
    if not isinstance(model, Graph):
        executors["framework"] = framework_tensors(model, graph, images)
    executors["reference"] = execute(graph, levels)
    executors["golden"] = _on_golden(program, levels)
    if rtl:
        executors["rtl"] = _on_rtl(program, levels)
    return _compare(graph, executors, arrays)


def _observed(program: Program) -> list[Any]:
    """Descriptors of the tensors that can be read after a run."""
    found = {layer.output.name: layer.output for layer in program.layers
             if layer.output is not None}
    return list((found | {tensor.name: tensor for tensor in program.outputs}).values())


def _on_golden(program: Program, levels: Tensors) -> Tensors:
    from .driver.golden import GoldenMachine

    return _run(GoldenMachine(program.config), program, levels)


def _on_rtl(program: Program, levels: Tensors) -> Tensors:
    from .driver.rtl import RtlMachine

    return _run(RtlMachine(program.config, backdoor=True), program, levels)


def _run(machine: Any, program: Program, levels: Tensors) -> Tensors:
    from .driver.device import Device

    results: dict[str, list[NDArray[np.int8]]] = {}
    with Device(machine) as device:
        device.load(program)
        for index in range(len(next(iter(levels.values())))):
            for tensor in program.inputs:
                machine.write(tensor.address, tensor.pack(levels[tensor.name][index]))
            machine.begin(0)
            machine.finish().check(machine.name)
            for tensor in _observed(program):
                results.setdefault(tensor.name, []).append(
                    tensor.unpack(machine.read(tensor.address, tensor.nbytes)))
    return {name: np.stack(arrays) for name, arrays in results.items()}


def _compare(graph: Graph, executors: dict[str, Tensors], arrays: Any) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    first: dict[str, Any] | None = None
    for node in graph.nodes:
        reference = executors["reference"][node.output]
        row: dict[str, Any] = {"name": node.name, "elements": int(reference.size)}
        for pair in PAIRS:
            left, right = pair.split("_vs_")
            one = executors.get(left, {}).get(node.output)
            other = executors.get(right, {}).get(node.output)
            row[pair] = None
            if one is None or other is None:
                continue
            different = one.reshape(reference.shape) != other.reshape(reference.shape)
            row[pair] = int(np.count_nonzero(different))
            if row[pair] and first is None and pair != "framework_vs_reference":
                index = tuple(int(i) for i in np.argwhere(different)[0])
                first = {"layer": node.name, "index": list(index), "between": [left, right],
                         "values": [int(one.reshape(reference.shape)[index]),
                                    int(other.reshape(reference.shape)[index])]}
        layers.append(row)
    return {"images": len(np.asarray(arrays[0])), "layers": layers, "first_difference": first}


def print_agreement(console: Console, result: dict[str, Any]) -> None:
    """Print how many elements differ a layer, and the first difference."""
    def cell(value: int | None) -> Any:
        return "–" if value is None else value

    console.print(layer_table(
        f"elements that differ, {result['images']} images",
        ("layer", "", "elements", "framework/reference", "reference/golden", "golden/RTL"),
        [(row["name"], "", row["elements"], *(cell(row[pair]) for pair in PAIRS))
         for row in result["layers"]]))
    first = result["first_difference"]
    if first is None:
        console.print("reference, golden model and RTL agree in every value that was compared")
    else:
        left, right = first["between"]
        console.print(f"first difference: layer '{first['layer']}', element {first['index']}: "
                      f"{left} has {first['values'][0]}, {right} has {first['values'][1]}",
                      soft_wrap=True)
        before = itertools.takewhile(lambda row: row["name"] != first["layer"], result["layers"])
        unseen = [row["name"] for row in before if row["reference_vs_golden"] is None]
        if unseen:
            console.print("it may come from a layer before it whose result the program does not "
                          f"leave in main memory: {', '.join(unseen)}", soft_wrap=True)
