"""From an integer graph to a program: all passes in order."""

from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from typing import Any

from systolith.attribution import Schedule, layer_bytes, predicted_cycles
from systolith.cost import estimate
from systolith.graph import Graph
from systolith.hw.config import Config
from systolith.hw.isa import DESCRIPTOR_BYTES, INSTRUCTION_BYTES, Queue, encode, encode_descriptor
from systolith.layout import TensorDescriptor
from systolith.program import LayerInfo, Program, Region, Stage

from . import memory, rules
from .blocked import Blocked, Pixels
from .emitter import Emitter
from .expand import expand
from .finish import MainTensor
from .ir import Lowered, Matrix, Operation, Window
from .lower import lower
from .pack import Image
from .packing import pack_inputs
from .padding import separate_paddings
from .plan import STAGES, Plan, Planned, plan_network
from .segments import SegmentUnits
from .tiles import Tiler
from .units import Recorder, Unit, in_turn, order
from .views import View

__all__ = ["STEPS", "compile_graph", "compile_schedule"]

STEPS = ("packing", "fusion", "scheduling")
"""What can be left out, to measure what it brings: packing the first layer's taps into the array's
rows, working stripe by stripe through several layers, and reordering work between the engines."""


def compile_graph(graph: Graph, config: Config, *, name: str = "model",
                  observe: bool = False) -> Program:
    """Compile an integer graph for a configuration.

    Parameters
    ----------
    graph
        A valid graph whose constants were derived for the configuration's arithmetic.
    config
        The accelerator.
    name
        The model's name in the program.
    observe
        Leave every layer's output in main memory, each in a place of its own, so that it can be
        compared after a run.

    Raises
    ------
    ModelError
        Naming the layer and the rule that it breaks, or the memory that is too small.
    """
    return compile_schedule(graph, config, name=name, observe=observe)[0]


def compile_schedule(graph: Graph, config: Config, *, name: str = "model",
                     observe: bool = False, leave_out: Collection[str] = ()
                     ) -> tuple[Program, Schedule]:
    """The same, with the instructions and the layers that they belong to.

    `leave_out` names some of `STEPS`.
    """
    rules.check_arithmetic(graph, config)
    graph = expand(graph, config)
    lowered = lower(graph, config)
    separate_paddings(lowered, config)
    if "packing" not in leave_out:
        pack_inputs(lowered, config)
    # Where one engine works at a time, reordering brings nothing, and stripes cost instructions.
    if config.sequential:
        leave_out = {*leave_out, "fusion", "scheduling"}
    separate = observe or "fusion" in leave_out
    kept = {operation.output for operation in lowered.operations
            if operation.output in graph.tensors and observe}
    stored = set(lowered.outputs) | kept
    plans = [plan_network(lowered, config, stored, separate=separate, rounds=0)]
    improved = plan_network(lowered, config, stored, separate=separate)
    if improved.shape != plans[0].shape:
        plans.append(improved)
    # The planner's costs are rough: the cost model of whole programs has the last word.
    sorts = (in_turn,) if "scheduling" in leave_out else (order, in_turn)
    return min((_Build(graph, lowered, config, name, observe, plan).program(sort)
                for plan in plans for sort in sorts),
               key=lambda result: result[0].predicted_cycles)


def _run_blocked(lowered: Lowered, tensors: dict[str, MainTensor | Pixels],
                 operation: Operation, tiler: Tiler) -> None:
    Blocked(tiler, lowered, tensors).run(operation)


def _engine(operation: Operation) -> Queue:
    if isinstance(operation, Matrix):
        return Queue.ARRAY
    return Queue.VECTOR if isinstance(operation, Window) else Queue.POST


class _Build:
    def __init__(self, graph: Graph, lowered: Lowered, config: Config, name: str, observe: bool,
                 plan: Plan):
        self.graph = graph
        self.lowered = lowered
        self.config = config
        self.name = name
        self.observe = observe
        self.plan = plan
        self.image = Image()
        self.addresses: dict[str, int] = {}
        self.tensor_bytes = 0
        self.lives: list[memory.Lifetime] = []
        self._number_layers()

    def _number_layers(self) -> None:
        """Say which operations are one layer, and which layers run into each other.

        A layer of several steps is counted as one, and its segments are one stage.
        """
        self.layers: list[list[Operation]] = []
        self.layer: dict[str, int] = {}  # by output feature
        self.stages: list[int] = []      # by layer
        stage = -1
        for planned in self.plan.segments:
            for index, operation in enumerate(planned.segment.operations):
                if not self.layers or self.layers[-1][0].names[0] != operation.names[0]:
                    stage += index == 0
                    self.layers.append([])
                    self.stages.append(stage)
                self.layers[-1].append(operation)
                self.layer[operation.output] = len(self.layers) - 1

    def program(self, sort: Callable[[list[Unit]], list[int]]) -> tuple[Program, Schedule]:
        """Emit all units in the order that `sort` gives."""
        tensors = self._tensors()
        units = self._units(tensors)
        main_words = self.tensor_bytes // self.config.rows
        recorder = Recorder(self.config, main_words, units)
        tiler = Tiler(self.config, recorder, self.image, self.lowered.features)
        for index, unit in enumerate(units):
            recorder.begin(index)
            unit.run(tiler)
        emitter = Emitter(self.config, main_words)
        tiler = tiler.restart(emitter)
        for index in sort(units):
            emitter.layer = units[index].layer
            units[index].run(tiler)
        return self._assemble(emitter)

    def _units(self, tensors: dict[str, MainTensor | Pixels]) -> list[Unit]:
        """All work in its natural order."""
        units: list[Unit] = []
        for planned in self.plan.segments:
            operation = planned.segment.operations[0]
            if planned.blocked:
                # Everything at once: its blocks come and go through the whole scratchpad.
                units.append(Unit(Queue.ARRAY, partial(
                    _run_blocked, self.lowered, tensors, operation),
                    self.layer[operation.output], alone=True))
            else:
                SegmentUnits(self.config, self.lowered, tensors, planned.segment, self.layer,
                             self._views(planned), planned.stored, units).run()
        return units

    def _views(self, planned: Planned) -> dict[str, View]:
        """Buffers of a segment's features."""
        views = {}
        for name, base in planned.bases.items():
            extent = planned.segment.extents[name]
            groups = self.lowered.features[name].buffer_groups(self.config)
            if name in planned.staged:
                groups = min(groups, STAGES * self.config.column_words)
            views[name] = View(base=base, capacity=planned.capacities[name], groups=groups,
                               width=extent.width, first_row=extent.top, first_column=extent.left,
                               circular=name in planned.staged)
        return views

    # Tensors in main memory ---------------------------------------------------------------------

    def _tensors(self) -> dict[str, MainTensor | Pixels]:
        """Place every feature, and say where it lies relative to the tensors' base."""
        last = len(self.plan.segments)
        boundary = set(self.lowered.inputs) | set(self.lowered.outputs)
        first_use = dict.fromkeys(self.lowered.inputs, -1)
        last_use: dict[str, int] = {}
        for index, planned in enumerate(self.plan.segments):
            for operation in planned.segment.operations:
                if operation.output in self.plan.spilled:
                    first_use[operation.output] = index
                last_use |= dict.fromkeys(operation.inputs, index)
        for name, first in first_use.items():
            whole = self.observe or name in boundary
            pixels = name in self.lowered.pixels
            size = self._descriptor(name, 0).nbytes if pixels else self._main_tensor(name, 0).nbytes
            self.lives.append(memory.Lifetime(
                name, size, -1 if whole else first, last if whole else last_use.get(name, first)))
        self.addresses, self.tensor_bytes = memory.place_all(self.lives, memory.ALIGNMENT)
        tensors: dict[str, MainTensor | Pixels] = {
            name: self._main_tensor(name, address) for name, address in self.addresses.items()}
        for name, packing in self.lowered.packings.items():
            descriptor = self._descriptor(packing.tensor, 0)
            channels, _, width = descriptor.shape
            pitch = (width + descriptor.padding[2] + descriptor.padding[3]) * channels
            tensors[name] = Pixels(self.addresses[packing.tensor], pitch, packing)
        return tensors

    def _main_tensor(self, name: str, address: int) -> MainTensor:
        feature = self.lowered.features[name]
        return MainTensor(address, feature.groups(self.config), feature.height, feature.width,
                          self.config.rows)

    def _descriptor(self, name: str, base: int, tensor: str = "") -> TensorDescriptor:
        """Descriptor of a feature under the name of graph tensor `tensor`."""
        kind = self.graph.tensors[tensor or self.lowered.features[name].tensor]
        address = base + self.addresses.get(name, 0)
        common: dict[str, Any] = {
            "name": tensor or name, "address": address, "shape": tuple(kind.shape),
            "scale": float(kind.scale), "zero_point": int(kind.zero_point)}
        if name in self.lowered.pixels:
            padding, tail = self.lowered.pixels[name]
            return TensorDescriptor(layout="pixels", padding=padding, tail_bytes=tail, **common)
        return TensorDescriptor(layout="grouped", word_bytes=self.config.rows, **common)

    # The image ----------------------------------------------------------------------------------

    def _assemble(self, emitter: Emitter) -> tuple[Program, Schedule]:
        marked = emitter.mark(self.stages)
        lists = [len(emitter.lists[queue]) + 1 for queue in Queue]
        starts, address = [], self.image.size
        for count in lists:
            starts.append(address)
            address += count * INSTRUCTION_BYTES
        base = -(-address // memory.ALIGNMENT) * memory.ALIGNMENT
        total = -(-(base + self.tensor_bytes) // 64) * 64
        if total > self.config.memory_size:
            raise rules.too_much_memory(self.name, total, self.config)
        emitter.finish(base)
        schedule = Schedule(emitter.lists, emitter.layers,
                            [_engine(steps[-1]) for steps in self.layers])
        predicted = estimate(self.config, emitter.lists)
        code = b"".join(encode(instruction) for queue in Queue
                        for instruction in emitter.lists[queue])
        constants = self.image.tobytes()[DESCRIPTOR_BYTES:]
        image = encode_descriptor(self.config.hash32, tuple(starts)) + constants + code
        program = Program(
            config=self.config, image=image, memory_bytes=total,
            inputs=tuple(self._descriptor(name, base) for name in self.lowered.inputs),
            outputs=tuple(self._descriptor(self.lowered.aliases[name], base, name)
                          for name in self.graph.outputs),
            layers=tuple(map(partial(self._layer, base), self.layers,
                             predicted_cycles(schedule, predicted),
                             layer_bytes(schedule, self.config))),
            stages=tuple(Stage(first=self.stages.index(index),
                               last=self.stages.index(index) + self.stages.count(index),
                               predicted_cycles=cycles)
                         for index, cycles in zip(marked, predicted.stages(), strict=True)),
            tail=tuple(asdict(operation) for operation in self.graph.tail),
            regions=(Region(name="descriptor and constants", memory="main", address=0,
                            nbytes=self.image.size),
                     Region(name="instructions", memory="main", address=self.image.size,
                            nbytes=len(code)),
                     *(self._region(base, life) for life in self.lives)),
            model=self.name,
            metadata={"instructions": {queue.name.lower(): count
                                       for queue, count in zip(Queue, lists, strict=True)},
                      "results": list(self.graph.results)})
        return program, schedule

    def _region(self, base: int, life: memory.Lifetime) -> Region:
        alive = [operation for planned in self.plan.segments[max(life.first, 0):life.last + 1]
                 for operation in planned.segment.operations]
        return Region(name=life.name, memory="main", address=base + self.addresses[life.name],
                      nbytes=life.size, first_layer=self.layer[alive[0].output],
                      last_layer=self.layer[alive[-1].output])

    def _layer(self, base: int, steps: list[Operation], cycles: int, moved: int) -> LayerInfo:
        operation, output = steps[-1], None
        if operation.output in self.lowered.outputs or (
                self.observe and operation.output in self.graph.tensors):
            output = self._descriptor(operation.output, base)
        return LayerInfo(name="+".join(operation.names), op=operation.op,
                         engine=_engine(operation).name.lower(),
                         macs=sum(step.macs for step in steps),
                         predicted_cycles=cycles, bytes=moved, output=output)
