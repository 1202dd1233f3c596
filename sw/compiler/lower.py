"""Lowering: the integer graph becomes operations on the engines.

Fused on the way: a table behind a layer, a residual add behind the later of its two operands,
zero-point padding, flattening before a linear layer (a convolution with the input's size as its
kernel). Everything refused is a named rule (`rules`).
"""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith import graph as g
from systolith.errors import ModelError, refuse_all
from systolith.hw.config import Config

from . import movement, rules
from .ir import (
    Feature,
    Finish,
    Lowered,
    Matrix,
    Operation,
    Point,
    Residual,
    Source,
    Window,
    identity_finish,
    uniform_finish,
)
from .maximum import has_empty_windows, maximum

__all__ = ["lower"]


def lower(graph: g.Graph, config: Config) -> Lowered:
    """Lower a valid graph for one configuration.

    Raises
    ------
    ModelError
        Naming every layer that cannot run on this configuration, and the rule.
    """
    lowering = _Lowering(graph, config)
    refusals: list[ModelError] = []
    for node in graph.nodes:
        try:
            lowering.node(node)
        except ModelError as refusal:
            refusals.append(refusal)
            lowering.pretend(node)
    refuse_all(refusals)
    return lowering.result()


class _Lowering:
    def __init__(self, graph: g.Graph, config: Config):
        self.graph = graph
        self.config = config
        self.features: dict[str, Feature] = {}
        self.aliases: dict[str, str] = {}
        self.joined: dict[str, list[Feature]] = {}  # concatenations that only convolutions read
        self.operations: dict[str, Operation] = {}  # by output feature
        self.inputs = list(graph.inputs)
        self.uses: dict[str, int] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.uses[name] = self.uses.get(name, 0) + 1
        for name in graph.outputs:
            self.uses[name] = self.uses.get(name, 0) + 1
        for name in graph.inputs:
            self._feature(name)

    def _feature(self, tensor: str) -> Feature:
        kind = self.graph.tensors[tensor]
        channels, height, width = (*kind.shape, 1, 1)[:3]
        self.features[tensor] = Feature(
            name=tensor, tensor=tensor, channels=channels, height=height, width=width,
            zero_point=kind.zero_point)
        self.aliases[tensor] = tensor
        return self.features[tensor]

    def _input(self, name: str) -> Feature:
        return self.features[self.aliases[name]]

    def _append(self, operation: Operation, node: g.Node) -> None:
        operation.names = operation.names or (node.name,)
        operation.macs = node.macs(self.graph.shapes(node))
        self._feature(node.output)
        self.operations[node.output] = operation

    def result(self) -> Lowered:
        used = {name for operation in self.operations.values() for name in operation.inputs}
        used |= set(self.operations) | set(self.inputs)
        return Lowered(
            operations=list(self.operations.values()),
            features={name: feature for name, feature in self.features.items() if name in used},
            inputs=self.inputs,
            outputs=[self.aliases[name] for name in self.graph.outputs],
            aliases=self.aliases)

    def node(self, node: g.Node) -> None:
        handler = getattr(self, "_" + type(node).__name__.lower(), None)
        if handler is None:
            raise rules.unsupported_operator(node)
        if isinstance(node, g.Weighted):
            rules.check_constants(node, self.config)
        handler(node)

    def pretend(self, node: g.Node) -> None:
        """Declare the output of a refused node, so that those behind it are judged too."""
        self._feature(node.output)

    # Layers with weights ------------------------------------------------------------------------

    def _finish(self, node: g.Weighted) -> Finish:
        rules.check_accumulator(node)
        return Finish(bias=node.bias.astype(np.int64), rounding=node.rounding,
                      multiplier=node.multiplier, shift=node.shift, zero=node.zero, low=node.low,
                      high=node.high)

    def _source(self, node: Any, feature: Feature, pad_value: int | None = None) -> Source:
        return Source(feature=feature.name, kernel=node.kernel, stride=node.stride,
                      dilation=node.dilation, offset=(-node.padding[0], -node.padding[2]),
                      pad_value=feature.zero_point if pad_value is None else pad_value)

    def _conv2d(self, node: g.Conv2d) -> None:
        if node.inputs[0] in self.joined:
            return self._conv2d_of_several(node, self.joined[node.inputs[0]])
        feature = self._input(node.inputs[0])
        source = self._source(node, feature)
        common: dict[str, Any] = {"name": node.name, "op": node.op, "output": node.output,
                                  "sources": (source,), "finish": self._finish(node)}
        depthwise = node.groups == feature.channels == node.channels
        if depthwise and node.groups > 1 and self.config.vector_taps:
            self._append(Window(weight=node.weight[:, 0], **common), node)
        else:
            self._append(Matrix(weights=(node.weight,), channel_groups=node.groups, **common), node)

    def _conv2d_of_several(self, node: g.Conv2d, features: list[Feature]) -> None:
        """A dense convolution of a concatenation: the sum of its parts' convolutions."""
        zero = self.graph.tensors[node.inputs[0]].zero_point
        edges = np.cumsum([feature.channels for feature in features])[:-1]
        self._append(Matrix(
            name=node.name, op=node.op, output=node.output, finish=self._finish(node),
            sources=tuple(self._source(node, feature, zero) for feature in features),
            weights=tuple(map(np.ascontiguousarray, np.split(node.weight, edges, axis=1)))), node)

    def _linear(self, node: g.Linear) -> None:
        feature = self._input(node.inputs[0])
        shape = (feature.channels, feature.height, feature.width)
        assert prod(shape) == node.weight.shape[1]
        source = Source(feature=feature.name, kernel=shape[1:], pad_value=feature.zero_point)
        self._append(Matrix(
            name=node.name, op=node.op, output=node.output, sources=(source,),
            finish=self._finish(node), weights=(node.weight.reshape(-1, *shape),)), node)

    # Pools --------------------------------------------------------------------------------------

    def _maxpool(self, node: g.MaxPool) -> None:
        feature = self._input(node.inputs[0])
        # Values never lie below the producer's lower bound, so that padding with it is as good
        # as the least integer, and a buffer can be shared with consumers that pad the zero point.
        producer = self.operations.get(feature.name)
        low = -128
        if producer is not None and producer.finish.table is None:
            after = producer.finish.residual or producer.finish
            low = after.low
        _, height, width = self.graph.tensors[node.output].shape
        empty = has_empty_windows(node, feature, (height, width))
        pad = feature.zero_point if feature.zero_point <= low and not empty else -128
        if not self.config.vector_taps:
            steps, last = maximum(node, feature, (height, width), pad, self.config)
            for made, operation in steps:
                self.features[made.name], self.operations[made.name] = made, operation
            return self._append(last, node)
        self._append(Window(
            name=node.name, op=node.op, output=node.output, weight=None,
            sources=(self._source(node, feature, pad),), finish=identity_finish(self.config)), node)

    def _averagepool(self, node: g.AveragePool) -> None:
        feature = self._input(node.inputs[0])
        source = self._source(node, feature)
        finish = uniform_finish(node.bias, node.multiplier, node.shift, node.zero, node.low,
                                node.high)
        common: dict[str, Any] = {"name": node.name, "op": node.op, "output": node.output,
                                  "sources": (source,), "finish": finish}
        if self.config.vector_taps:
            whole = node.kernel == (feature.height, feature.width) and not any(node.padding)
            weight = np.ones((feature.channels, *node.kernel), np.int8)
            self._append(Window(weight=weight, total=whole, **common), node)
        else:
            weight = np.ones((feature.channels, 1, *node.kernel), np.int8)
            self._append(Matrix(weights=(weight,), channel_groups=feature.channels, **common), node)

    # Elementwise --------------------------------------------------------------------------------

    def _add(self, node: g.Add) -> None:
        rules.needs_residual(node, self.config)
        names = [self.aliases[name] for name in node.inputs]
        order = list(self.operations)
        # The later operand's POST takes the other one from the scratchpad.
        later = sorted((0, 1), key=lambda side: order.index(names[side])
                       if names[side] in self.operations else -1)[1]
        if self._fusable(node, 1 - later) and (
                not self._fusable(node, later) or self._is_shrinking_shortcut(names[later])):
            later = 1 - later
            self._move_forward(names[1 - later])
        first, second = later, 1 - later
        zeros, multipliers = (node.zero_a, node.zero_b), (node.multiplier_a, node.multiplier_b)
        residual = Residual(
            feature=names[second], zero_a=zeros[first], zero_b=zeros[second],
            multiplier_a=multipliers[first], multiplier_b=multipliers[second], shift=node.shift,
            zero=node.zero, low=node.low, high=node.high)
        if self._fusable(node, first):
            producer = self.operations[names[first]]
            self._fuse(producer, replace(producer.finish, residual=residual), node)
            return
        source = Source(feature=names[first])
        self._append(Point(name=node.name, op=node.op, output=node.output, sources=(source,),
                           finish=identity_finish(self.config, residual=residual)), node)

    def _fusable(self, node: g.Add, side: int) -> bool:
        """Whether the add can be the end of the operation that makes one of its operands."""
        names = [self.aliases[name] for name in node.inputs]
        producer = self.operations.get(names[side])
        return (self._only_use(node.inputs[side]) and names[0] != names[1]
                and isinstance(producer, Matrix | Window) and producer.finish.residual is None
                and not (isinstance(producer, Window) and producer.total))

    def _is_shrinking_shortcut(self, name: str) -> bool:
        """Whether an operation's only input is larger than its output and read earlier, too.

        Such a shortcut is better done early, so that the large input can go.
        """
        operation = self.operations[name]
        source = self.features[operation.sources[0].feature]
        output = self.features[name]
        size, result = (feature.channels * feature.height * feature.width
                        for feature in (source, output))
        readers = [other for other in self.operations.values() if source.name in other.inputs]
        return (len(operation.inputs) == 1 and result < size and readers[0] is not operation)

    def _move_forward(self, name: str) -> None:
        """Put an operation of one input behind the first that reads the same."""
        operation = self.operations.get(name)
        if operation is None or len(operation.inputs) != 1:
            return
        order = [other for other in self.operations.values() if other is not operation]
        place = next((index for index, other in enumerate(order)
                      if operation.inputs[0] in other.inputs), None)
        if place is not None and place < list(self.operations.values()).index(operation):
            order.insert(place + 1, operation)
            self.operations = {other.output: other for other in order}

    def _only_use(self, tensor: str) -> bool:
        return self.aliases[tensor] == tensor and self.uses[tensor] == 1

    def _fuse(self, producer: Operation, finish: Finish, node: g.Node) -> None:
        """Let `producer` make the output of `node`; it moves to the end of the order."""
        del self.operations[producer.output], self.features[producer.output]
        producer.finish = finish
        producer.output = node.output
        producer.names = (*(producer.names or (producer.name,)), node.name)
        self._feature(node.output)
        self.operations[node.output] = producer

    def _table(self, node: g.Table) -> None:
        rules.needs_table(node, self.config)
        feature = self._input(node.inputs[0])
        producer = self.operations.get(feature.name)
        if (producer is not None and self._only_use(node.inputs[0])
                and producer.finish.table is None and producer.finish.residual is None):
            self._fuse(producer, replace(producer.finish, table=node.table), node)
            return
        finish = identity_finish(self.config, table=node.table)
        self._append(Point(name=node.name, op=node.op, output=node.output,
                           sources=(Source(feature=feature.name),), finish=finish), node)

    def _requantize(self, node: g.Requantize) -> None:
        feature = self._input(node.inputs[0])
        finish = uniform_finish(node.bias, node.multiplier, node.shift, node.zero, node.low,
                                node.high)
        self._append(Point(name=node.name, op=node.op, output=node.output,
                           sources=(Source(feature=feature.name),), finish=finish), node)

    def _multiply(self, node: g.Multiply) -> None:
        first, second = (self._input(name) for name in node.inputs)
        broadcast = (second.height, second.width) != (first.height, first.width)
        finish = uniform_finish(0, node.multiplier, node.shift, node.zero, node.low, node.high)
        self._append(Point(
            name=node.name, op=node.op, output=node.output, product=True,
            sources=(Source(feature=first.name), Source(feature=second.name)),
            zeros=(node.zero_a, node.zero_b), broadcast=broadcast, finish=finish), node)

    # Shapes -------------------------------------------------------------------------------------

    def _reshape(self, node: g.Reshape) -> None:
        feature = self._input(node.inputs[0])
        shape = (*node.shape, 1, 1)[:3]
        same = shape == (feature.channels, feature.height, feature.width)
        readers = self.graph.consumers(node.output)
        flat = len(node.shape) == 1 and all(isinstance(r, g.Linear) for r in readers)
        if not same and not (flat and node.output not in self.graph.outputs):
            raise rules.reshape_moves_data(node)
        self.uses[node.inputs[0]] += self.uses.get(node.output, 0) - 1
        self.aliases[node.output] = feature.name

    def _copy(self, node: g.Node, source: Source, weight: NDArray[np.int8]) -> None:
        """A copy of channels on the array."""
        self._append(Matrix(
            name=node.name, op=node.op, output=node.output, sources=(source,), weights=(weight,),
            finish=identity_finish(self.config)), node)

    def _slice(self, node: g.Slice) -> None:
        self._copy(node, *movement.cut(node, self._input(node.inputs[0])))

    def _pad(self, node: g.Pad) -> None:
        self._copy(node, *movement.padded(node, self._input(node.inputs[0])))

    def _channelshuffle(self, node: g.ChannelShuffle) -> None:
        self._copy(node, *movement.shuffled(node, self._input(node.inputs[0])))

    def _concat(self, node: g.Concat) -> None:
        features = [self._input(name) for name in node.inputs]
        dense = all(isinstance(reader, g.Conv2d) and reader.groups == 1
                    for reader in self.graph.consumers(node.output))
        if (dense and node.axis == 0 and node.output not in self.graph.outputs
                and len({feature.name for feature in features}) == len(features)):
            self.joined[node.output] = features
            return
        sources, weights = movement.joined(node, features, node.axis)
        self._append(Matrix(
            name=node.name, op=node.op, output=node.output, sources=sources, weights=weights,
            finish=identity_finish(self.config)), node)

    def _upsample(self, node: g.Upsample) -> None:
        feature = self._input(node.inputs[0])
        self._append(Point(
            name=node.name, op=node.op, output=node.output, finish=identity_finish(self.config),
            sources=(Source(feature=feature.name, spread=node.factor),)), node)

    def _convtranspose2d(self, node: g.ConvTranspose2d) -> None:
        feature = self._input(node.inputs[0])
        if node.stride != (1, 1):
            feature = self._set_apart(node, feature)
        top, left = movement.zero_insertion_padding(node)
        source = Source(feature=feature.name, kernel=node.kernel, dilation=node.dilation,
                        offset=(-top, -left), pad_value=feature.zero_point)
        weight = np.ascontiguousarray(node.weight[:, :, ::-1, ::-1])
        # Between the pixels and beyond the edges lies the zero point: every tap has its product.
        sums = weight.astype(np.int64).reshape(node.channels, -1).sum(axis=1)
        bias = node.bias.astype(np.int64) - feature.zero_point * sums
        rules.check_accumulator(replace(node, bias=bias))
        finish = replace(self._finish(node), bias=bias)
        common: dict[str, Any] = {"name": node.name, "op": node.op, "output": node.output,
                                  "sources": (source,), "finish": finish}
        if node.groups == feature.channels == node.channels > 1 and self.config.vector_taps:
            self._append(Window(weight=weight[:, 0], **common), node)
        else:
            self._append(Matrix(weights=(weight,), channel_groups=node.groups, **common), node)

    def _set_apart(self, node: g.ConvTranspose2d, feature: Feature) -> Feature:
        """The input with its zero point between the pixels."""
        name = f"{node.output}@apart"
        height, width = ((size - 1) * step + 1 for size, step in
                         zip((feature.height, feature.width), node.stride, strict=True))
        self.features[name] = replace(feature, name=name, height=height, width=width)
        self.operations[name] = Point(
            name=f"{node.name}.input", op="Spread", output=name, names=(f"{node.name}.input",),
            sources=(Source(feature=feature.name, spread=node.stride),),
            finish=identity_finish(self.config), gap=feature.zero_point)
        return self.features[name]
