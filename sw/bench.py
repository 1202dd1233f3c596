"""`systolith bench`: a network on the verilated RTL, layer by layer, checked against the golden
model.

Cycles run from the start of the program to the last output byte in main memory. Main memory is the
simulator's: one beat a cycle, read or write, after a fixed latency, or the SDRAM that the
configuration names, behind its controller. Utilization is useful
multiply-accumulates over cycles times the array's multipliers. Which cycles a layer has, and what
its stalls are, `attribution` says.
"""

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from rich.console import Console

from .attribution import Measured
from .batching import side_by_side
from .errors import DeviceError, InputError
from .graph import Graph
from .hw.config import Config, load_config
from .hw.protocol import Counter
from .layout import as_images
from .program import Program
from .summary import layer_table, percent

__all__ = ["bench_graph", "bench_model", "print_bench"]

Progress = Callable[[str], None]


def bench_model(name: str, *, config: str | Config = "default",
                memory_bytes_per_cycle: int | None = None, memory_latency: int | None = None,
                layers: str | None = None, batch: int = 1,
                load: Callable[[str], tuple[Any, Any]] | None = None,
                progress: Progress = lambda text: None) -> dict[str, Any]:
    """Measure a named model (`systolith.models.MODELS`) or any MODEL of the command line.

    `memory_bytes_per_cycle` widens the memory port where it exceeds the configuration's. `layers`
    is "A:B", indices of the integer graph's operations; `batch` images are computed side by side,
    where the network allows it. Raises `systolith.Error` for what cannot be
    found, imported or compiled.
    """
    from . import models
    from .importer import import_model

    chosen = load_config(config)
    if memory_bytes_per_cycle is not None and (
            memory_bytes_per_cycle > chosen.memory_bytes_per_beat):
        chosen = chosen.replace(memory_bytes_per_beat=memory_bytes_per_cycle)
    progress("quantizing")
    if name in models.MODELS:
        model, example = models.load_quantized(name, weight_bits=chosen.weight_bits)
    elif load is None:
        raise InputError(f"no model '{name}': the named ones are {', '.join(models.MODELS)}")
    else:
        model, example = load(name)
    graph = import_model(model, example, bias=chosen.bias,
                         multiplier_bits=chosen.multiplier_bits)
    images = first_images(graph, example)
    if layers is not None:
        graph, images = cut(graph, images, layers)
    if batch != 1:
        graph = side_by_side(graph, batch)
        images = {tensor: np.stack([np.roll(image, shift) for shift in range(batch)], -1)[:, None]
                  for tensor, image in images.items()}
    return bench_graph(graph, images, name=name, config=chosen,
                       memory_bytes_per_cycle=memory_bytes_per_cycle,
                       memory_latency=memory_latency, progress=progress)


def first_images(graph: Graph, example: Any) -> dict[str, np.ndarray]:
    """The first image of an example input, quantized; seeded random levels without an example."""
    if example is None:
        generator = np.random.default_rng(0)
        return {name: generator.integers(-128, 128, graph.tensors[name].shape, np.int8)
                for name in graph.inputs}
    given = example if isinstance(example, tuple | list) else (example,)
    return {name: graph.tensors[name].quantize(as_images(np.asarray(array),
                                                         graph.tensors[name].shape)[0])
            for name, array in zip(graph.inputs, given, strict=True)}


def cut(graph: Graph, images: dict[str, np.ndarray],
        layers: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """The part of a graph between two operations, and the tensors that feed it.

    `layers` is "A:B" as in a Python slice. The tensors come from the integer reference. Raises
    `InputError` when that is no part of the graph.
    """
    from .integer_reference import execute

    first, colon, last = layers.partition(":")
    try:
        bounds = slice(int(first or 0), int(last or len(graph.nodes)))
    except ValueError:
        colon = ""
    if not colon:
        raise InputError(f"layers must be A:B, not '{layers}'")
    nodes = graph.nodes[bounds]
    if not nodes:
        raise InputError(f"layers {layers} is empty: the graph has {len(graph.nodes)} operations")
    made = {node.output for node in nodes}
    fed = list(dict.fromkeys(name for node in nodes for name in node.inputs if name not in made))
    wanted = set(graph.outputs) | {
        name for node in graph.nodes if node not in nodes for name in node.inputs}
    outputs = [node.output for node in nodes if node.output in wanted]
    values = execute(graph, {name: image[None] for name, image in images.items()})
    part = Graph(inputs=fed, outputs=outputs, nodes=nodes,
                 tensors={name: graph.tensors[name] for name in (*fed, *made)},
                 bias=graph.bias, multiplier_bits=graph.multiplier_bits)
    return part, {name: values[name][0] for name in fed}


def bench_graph(graph: Graph, images: dict[str, np.ndarray], *, name: str, config: Config,
                memory_bytes_per_cycle: int | None = None, memory_latency: int | None = None,
                leave_out: Collection[str] = (),
                progress: Progress = lambda text: None) -> dict[str, Any]:
    """Compile an integer graph, run it on golden model and RTL, and compare main memory.

    `images` holds one int8 image an input; `leave_out` names steps of the compiler
    (`compiler.build.STEPS`) to do without. The memory's options are `VerilatedDevice`'s. Returns
    what `systolith bench --json` holds.
    """
    from .compiler.build import compile_schedule
    from .sim.golden import Golden
    from .sim.verilated import VerilatedDevice, default_latency, has_sdram

    if has_sdram(config, memory_latency, memory_bytes_per_cycle):
        memory_kind = {"sdram": config.sdram, "latency": None, "bytes_per_cycle":
                       config.memory_bytes_per_beat / config.memory_beat_cycles}
    else:
        # What the compiler reckons with is what is simulated.
        config = config.replace(sdram="")
        memory_kind = {
            "bytes_per_cycle": memory_bytes_per_cycle or config.memory_bytes_per_beat,
            "latency": default_latency(config) if memory_latency is None else memory_latency}
    seconds: dict[str, float] = {}
    progress("compiling")
    begun = time.perf_counter()
    program, schedule = compile_schedule(graph, config, name=name, leave_out=leave_out)
    seconds["compile"] = time.perf_counter() - begun

    memory = np.zeros(config.memory_size, np.uint8)
    memory[:len(program.image)] = np.frombuffer(program.image, np.uint8)
    for tensor in program.inputs:
        image = images[tensor.name]
        memory[tensor.address:tensor.end] = np.frombuffer(
            tensor.pack(image.reshape(tensor.shape)), np.uint8)
    start = memory[:program.memory_bytes].tobytes()
    progress("golden model")
    begun = time.perf_counter()
    outcome = Golden(config).run(memory)
    seconds["golden"] = time.perf_counter() - begun
    if outcome.error:
        raise DeviceError(f"the golden model stopped '{name}' with {outcome.error.name} in queue "
                          f"{outcome.queue.name} at {outcome.address:#x}: report this as a bug")

    progress("building the simulator")
    with VerilatedDevice(config, memory_latency=memory_latency,
                         memory_bytes_per_cycle=memory_bytes_per_cycle) as device:
        device.memory_write(0, start)
        device.log_retirements()
        progress("RTL")
        begun = time.perf_counter()
        run = device.run(0)
        seconds["rtl"] = time.perf_counter() - begun
        if run.error:
            raise DeviceError(f"the RTL stopped '{name}' with {run.error.name} in queue "
                              f"{run.error_queue} at {run.error_address:#x}: report this as a bug")
        left = device.memory_read(0, program.memory_bytes)
        bit_exact = left == memory[:program.memory_bytes].tobytes()
        log, counters = device.retirements, device.counters
    measured = Measured(config, schedule, log["counters"].astype(np.int64), run.cycles)
    return {
        "model": name, "config": config.to_dict(), "memory": memory_kind,
        "bit_exact": bit_exact, "layers": _rows(program, measured),
        "total": {"macs": program.macs, "cycles": run.cycles,
                  "predicted_cycles": program.predicted_cycles,
                  "utilization": program.macs / (run.cycles * config.multipliers),
                  "bytes": int(counters[Counter.BYTES_READ] + counters[Counter.BYTES_WRITTEN])},
        "onchip_bytes": sum(config.onchip_bytes.values()),
        "simulated_cycles_per_second": run.cycles / seconds["rtl"], "seconds": seconds,
    }


def _rows(program: Program, measured: Measured) -> list[dict[str, Any]]:
    multipliers = program.config.multipliers
    cycles, stalls = measured.cycles(), measured.stalls()
    return [{
        "name": layer.name, "op": layer.op, "engine": layer.engine, "macs": layer.macs,
        "cycles": spent, "predicted_cycles": layer.predicted_cycles,
        "utilization": layer.macs / (spent * multipliers) if spent else 0.0,
        "bytes": layer.bytes, "stalls": causes,
    } for layer, spent, causes in zip(program.layers, cycles, stalls, strict=True)]


def _memory_words(memory: dict[str, Any]) -> str:
    rate = f"{memory['bytes_per_cycle']:g} bytes a cycle"
    return (f"SDRAM {memory['sdram']}, {rate}" if "sdram" in memory
            else f"memory {rate} after {memory['latency']} cycles")


def print_bench(console: Console, result: dict[str, Any]) -> None:
    """Print a bench result: a line a layer, and the total with the memory model."""
    config, total = result["config"], result["total"]
    causes = list(result["layers"][0]["stalls"])
    console.print(layer_table(
        f"{result['model']} on {config['rows']}x{config['columns']} RTL, "
        + _memory_words(result["memory"]),
        ("layer", "engine", "MACs", "cycles", "predicted", "off", "utilization", "bytes", *causes),
        [(row["name"], row["engine"], row["macs"], row["cycles"], row["predicted_cycles"],
          percent(row["predicted_cycles"] / row["cycles"] - 1) if row["cycles"] else "",
          percent(row["utilization"]) if row["macs"] else "", row["bytes"],
          *(row["stalls"][cause] for cause in causes)) for row in result["layers"]]))
    if config["paired_columns"]:
        console.print("two columns share a multiplier: every multiplier does two products a cycle, "
                      "and utilization can reach 200 %")
    console.print(
        f"total {total['macs']:,} MACs in {total['cycles']:,} cycles (predicted "
        f"{total['predicted_cycles']:,}): {percent(total['utilization'])} of the array; "
        f"{result['onchip_bytes'] / 1024:.0f} KiB on chip; main memory "
        + ("equal to" if result["bit_exact"] else "DIFFERS from") + " the golden model's")
    seconds = result["seconds"]
    console.print(f"compile {seconds['compile']:.1f} s, golden model {seconds['golden']:.2f} s, "
                  f"RTL {seconds['rtl']:.1f} s at "
                  f"{result['simulated_cycles_per_second']:,.0f} cycles a second")
