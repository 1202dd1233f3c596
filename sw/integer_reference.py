"""The integer reference: executes an integer graph in numpy, layer by layer.

No tiling, no hardware, no rounding of its own: every layer is one exact integer sum followed by
the contract's requantization (`systolith.sim.numerics`). All that the compiler, the golden model
and the hardware produce is compared with this.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from systolith import graph as ir
from systolith.errors import InputError
from systolith.layout import as_images
from systolith.sim import numerics
from systolith.tail import run_tail

__all__ = ["execute", "quantized_inputs", "reference"]

Array = NDArray[Any]

# Bytes of unfolded windows held at a time; more images than fit are done in turns.
_UNFOLD_BYTES = 64 << 20


def reference(model: Any, images: Any, *, example_input: Any = None, bias: str = "exact",
              dequantize: bool = True) -> Any:
    """Run the integer reference of a quantized model.

    Parameters
    ----------
    model
        An integer `Graph`, or anything that `systolith.importer.import_model` takes.
    images
        Float array or tensor [N, ...], or a tuple of them for several inputs.
    example_input
        Needed only where the importer needs it; by default the first image.
    bias
        "exact" or "int32": how a model that is not yet a graph is imported.
    dequantize
        False returns the int8 outputs and leaves the float operations behind them out.

    Returns
    -------
    One float32 (or int8) array [N, ...], or a tuple of them for several results.

    Raises
    ------
    systolith.Error
        When the model cannot be imported or the images do not fit it.
    """
    arrays = images if isinstance(images, tuple | list) else (images,)
    if isinstance(model, ir.Graph):
        graph = model
    else:
        from systolith.importer import import_model  # imports torch

        if example_input is None:
            example_input = tuple(array[:1] for array in arrays)
        graph = import_model(model, example_input, bias=bias)
    levels = quantized_inputs(graph, arrays)
    tensors = execute(graph, levels)
    if not dequantize:
        results = [tensors[name] for name in graph.outputs]
    else:
        floats = {name: graph.tensors[name].dequantize(tensors[name]) for name in graph.outputs}
        results = run_tail(graph.tail, floats, graph.results)
    return results[0] if len(results) == 1 else tuple(results)


def quantized_inputs(graph: ir.Graph, arrays: Sequence[Any]) -> dict[str, Array]:
    """Levels of real images, one array an input, by the inputs' names.

    Raises InputError when there are too many arrays or too few, or one has no numbers or another
    shape than the network takes.
    """
    if len(arrays) != len(graph.inputs):
        raise InputError(f"the network has {len(graph.inputs)} inputs "
                         f"({', '.join(graph.inputs)}), not {len(arrays)}: pass one array for each")
    levels = {}
    for name, values in zip(graph.inputs, arrays, strict=True):
        kind = graph.tensors[name]
        array = as_images(np.asarray(values, np.float32), kind.shape)
        if array.shape[1:] != kind.shape or not len(array):
            raise InputError(f"input '{name}' must have the shape {('N', *kind.shape)}, not "
                             f"{tuple(np.shape(values))}: pass images as the model takes them")
        if np.isnan(array).any():
            raise InputError(f"input '{name}' contains NaN: clean the data")
        levels[name] = kind.quantize(array)
    return levels


def execute(graph: ir.Graph, inputs: Mapping[str, Array] | Array) -> dict[str, Array]:
    """Execute the graph on int8 inputs and return every tensor.

    Parameters
    ----------
    inputs
        int8 array [N, *shape] by input name, or one array for a network with one input.

    Returns
    -------
    int8 arrays [N, *shape] by tensor name; [N, C, H, W] in memory order of your numpy.

    Raises
    ------
    InputError
        When an input is missing, or has another shape or type.
    """
    given = inputs if isinstance(inputs, Mapping) else {graph.inputs[0]: inputs}
    tensors: dict[str, Array] = {}
    for name in graph.inputs:
        if name not in given:
            raise InputError(f"input '{name}' is missing: give an int8 array of "
                             f"{graph.tensors[name].shape} behind a batch axis")
        array = np.asarray(given[name])
        if array.dtype != np.int8 or array.shape[1:] != graph.tensors[name].shape:
            raise InputError(f"input '{name}' must be int8 of shape "
                             f"{('N', *graph.tensors[name].shape)}, not {array.dtype} of "
                             f"{array.shape}")
        tensors[name] = array
    if len({len(tensors[name]) for name in graph.inputs}) > 1:
        raise InputError("the inputs have different batch sizes")
    for node in graph.nodes:
        tensors[node.output] = _EXECUTE[type(node)](graph, node,
                                                    *(tensors[name] for name in node.inputs))
    return tensors


def _finish(graph: ir.Graph, node: Any, total: Array, *, bias: Any, rounding: Any = 0) -> Array:
    """Bias, requantize, clamp; channels on the last axis."""
    return numerics.requantize(
        total, np.asarray(bias), np.asarray(rounding), np.asarray(node.multiplier),
        np.asarray(node.shift), node.zero, node.low, node.high,
        multiplier_bits=graph.multiplier_bits)


def _pad(x: Array, padding: tuple[int, int, int, int], value: int) -> Array:
    top, bottom, left, right = padding
    if not any(padding):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _windows(x: Array, node: Any) -> Array:
    """Windows of a padded [N, C, H, W] as a view [N, C, y, x, kh, kw]."""
    kernel = node.kernel
    extent = [node.dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    view = sliding_window_view(x, extent, axis=(2, 3))
    return view[:, :, ::node.stride[0], ::node.stride[1], ::node.dilation[0], ::node.dilation[1]]


def exact_type(weight: Array) -> type:
    """The float type in which all sums of int8 products with `weight` [O, K] are exact."""
    magnitude = np.abs(weight.astype(np.int64)).sum(axis=-1).max(initial=0)
    return np.float32 if 128 * magnitude <= 1 << 24 else np.float64


def _convolution(graph: ir.Graph, node: ir.Conv2d, x: Array) -> Array:
    padded = _pad(x, node.padding, graph.tensors[node.inputs[0]].zero_point)
    depthwise = node.weight.shape[1] == 1 and node.groups == node.channels
    height, width = graph.tensors[node.output].shape[1:]
    per_image = 8 * height * width * (node.weight.size // node.channels * node.groups)
    turn = max(1, _UNFOLD_BYTES // per_image)
    parts = []
    for first in range(0, len(x), turn):
        windows = _windows(padded[first:first + turn], node)
        total = (_sum_depthwise if depthwise else _sum_dense)(windows, node)
        parts.append(_finish(graph, node, total, bias=node.bias, rounding=node.rounding))
    return np.concatenate(parts).transpose(0, 3, 1, 2)


def _sum_dense(windows: Array, node: ir.Conv2d) -> Array:
    images, _, height, width = windows.shape[:4]
    group_in, group_out = node.weight.shape[1], node.channels // node.groups
    total = np.empty((images, height, width, node.channels), np.int64)
    for group in range(node.groups):
        weight = node.weight[group * group_out:(group + 1) * group_out].reshape(group_out, -1)
        exact = exact_type(weight)
        columns = windows[:, group * group_in:(group + 1) * group_in].transpose(0, 2, 3, 1, 4, 5)
        columns = columns.astype(exact).reshape(-1, weight.shape[1])
        product: Array = columns @ weight.T.astype(exact)
        total[..., group * group_out:(group + 1) * group_out] = product.reshape(
            images, height, width, group_out)
    return total


def _sum_depthwise(windows: Array, node: ir.Conv2d) -> Array:
    taps = windows.transpose(0, 2, 3, 1, 4, 5)
    total = np.zeros(taps.shape[:4], np.int32)
    for ky in range(node.kernel[0]):
        for kx in range(node.kernel[1]):
            total += taps[..., ky, kx].astype(np.int32) * node.weight[:, 0, ky, kx].astype(np.int32)
    return total.astype(np.int64)


def _transposed(graph: ir.Graph, node: ir.ConvTranspose2d, x: Array) -> Array:
    images, _, height, width = x.shape
    channels, out_height, out_width = graph.tensors[node.output].shape
    (stride_y, stride_x), (dilate_y, dilate_x) = node.stride, node.dilation
    top, bottom, left, right = node.padding
    total = np.zeros((images, out_height + top + bottom, out_width + left + right, channels),
                     np.int64)
    group_in, group_out = node.weight.shape[1], channels // node.groups
    values = x.astype(np.int64) - graph.tensors[node.inputs[0]].zero_point
    for group in range(node.groups):
        outputs = slice(group * group_out, (group + 1) * group_out)
        part = values[:, group * group_in:(group + 1) * group_in].transpose(0, 2, 3, 1)
        for ky in range(node.kernel[0]):
            for kx in range(node.kernel[1]):
                product: Array = part.astype(np.float64) @ node.weight[outputs, :, ky, kx].T.astype(
                    np.float64)
                rows = slice(ky * dilate_y, ky * dilate_y + (height - 1) * stride_y + 1, stride_y)
                columns = slice(kx * dilate_x, kx * dilate_x + (width - 1) * stride_x + 1, stride_x)
                total[:, rows, columns, outputs] += product.astype(np.int64)
    cut = total[:, top:top + out_height, left:left + out_width]
    return _finish(graph, node, cut, bias=node.bias,
                   rounding=node.rounding).transpose(0, 3, 1, 2)


def _linear(graph: ir.Graph, node: ir.Linear, x: Array) -> Array:
    exact = exact_type(node.weight)
    total: Array = x.astype(exact) @ node.weight.T.astype(exact)
    return _finish(graph, node, total.astype(np.int64), bias=node.bias, rounding=node.rounding)


def _add(graph: ir.Graph, node: ir.Add, a: Array, b: Array) -> Array:
    return numerics.add(a, b, node.zero_a, node.zero_b, node.multiplier_a, node.multiplier_b,
                        node.shift, node.zero, node.low, node.high)


def _multiply(graph: ir.Graph, node: ir.Multiply, a: Array, b: Array) -> Array:
    b = b.reshape(*b.shape, *(1,) * (a.ndim - b.ndim))
    return _finish(graph, node, numerics.product(a, b, node.zero_a, node.zero_b), bias=0)


def _max_pool(graph: ir.Graph, node: ir.MaxPool, x: Array) -> Array:
    return _windows(_pad(x, node.padding, -128), node).max(axis=(4, 5))


def _average_pool(graph: ir.Graph, node: ir.AveragePool, x: Array) -> Array:
    padded = _pad(x, node.padding, graph.tensors[node.inputs[0]].zero_point)
    total: Array = _windows(padded, node).sum(axis=(4, 5), dtype=np.int64)
    return _finish(graph, node, total, bias=node.bias)


def _requantize(graph: ir.Graph, node: ir.Requantize, x: Array) -> Array:
    return _finish(graph, node, x.astype(np.int64), bias=node.bias)


def _table(graph: ir.Graph, node: ir.Table, x: Array) -> Array:
    return numerics.look_up(node.table, x)


def _concat(graph: ir.Graph, node: ir.Concat, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=1 + node.axis)


def _slice(graph: ir.Graph, node: ir.Slice, x: Array) -> Array:
    return x[(slice(None), *node.slices)]


def _reshape(graph: ir.Graph, node: ir.Reshape, x: Array) -> Array:
    return x.reshape(len(x), *node.shape)


def _pad_node(graph: ir.Graph, node: ir.Pad, x: Array) -> Array:
    return _pad(x, node.padding, node.value)


def _upsample(graph: ir.Graph, node: ir.Upsample, x: Array) -> Array:
    return x.repeat(node.factor[0], axis=2).repeat(node.factor[1], axis=3)


def _upsample_bilinear(graph: ir.Graph, node: ir.UpsampleBilinear, x: Array) -> Array:
    total = x.astype(np.int64)
    for axis in (2, 3):
        total = _twice(total, axis)
    return _finish(graph, node, total, bias=node.bias)


def _twice(x: Array, axis: int) -> Array:
    """Three parts of each pixel and one of its neighbour on either side in turn."""
    size = x.shape[axis]
    before = x.take(np.maximum(np.arange(size) - 1, 0), axis)
    after = x.take(np.minimum(np.arange(size) + 1, size - 1), axis)
    pairs = np.stack([3 * x + before, 3 * x + after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1:])


def _shuffle(graph: ir.Graph, node: ir.ChannelShuffle, x: Array) -> Array:
    images, channels, *rest = x.shape
    split = x.reshape(images, node.groups, channels // node.groups, *rest)
    return split.swapaxes(1, 2).reshape(x.shape)


_EXECUTE: dict[type[ir.Node], Callable[..., Array]] = {
    ir.Add: _add,
    ir.AveragePool: _average_pool,
    ir.ChannelShuffle: _shuffle,
    ir.Concat: _concat,
    ir.Conv2d: _convolution,
    ir.ConvTranspose2d: _transposed,
    ir.Linear: _linear,
    ir.MaxPool: _max_pool,
    ir.Multiply: _multiply,
    ir.Pad: _pad_node,
    ir.Requantize: _requantize,
    ir.Reshape: _reshape,
    ir.Slice: _slice,
    ir.Table: _table,
    ir.Upsample: _upsample,
    ir.UpsampleBilinear: _upsample_bilinear,
}
