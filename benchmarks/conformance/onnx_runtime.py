"""ONNX Runtime's integer operators."""

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .samples import Levels, Sample

__all__ = ["OPERATORS", "by_onnx_runtime"]

_MICROSOFT = {"add": "QLinearAdd", "mul": "QLinearMul", "cat": "QLinearConcat",
              "avg_pool2d": "QLinearAveragePool", "sigmoid": "QLinearSigmoid"}
OPERATORS = ("conv2d", "linear", "max_pool2d", *_MICROSOFT)
"""Operators of samples that it has in integers."""


def by_onnx_runtime(sample: Sample) -> Levels:
    """An oracle: a model of one node, its bias in int32 where it has one."""
    constants: dict[str, Any] = {"ys": np.float32(sample.target.scale),
                                 "yz": np.int8(sample.target.zero)}
    for index, kind in enumerate(sample.sources):
        constants |= {f"s{index}": np.float32(kind.scale), f"z{index}": np.int8(kind.zero)}
    options: dict[str, Any] = {}
    if sample.weight is not None:
        zeros = np.zeros(sample.weight_scale.size, np.int8)
        step = np.float64(np.float32(sample.sources[0].scale)) * sample.weight_scale
        constants |= {
            "w": sample.weight, "wz": zeros if sample.per_channel else zeros[0],
            "ws": sample.weight_scale if sample.per_channel else sample.weight_scale[0],
            "b": np.rint(sample.bias / step).astype(np.int32)}
    domain = ""
    if sample.operator == "conv2d":
        name, inputs = "QLinearConv", ["x0", "s0", "z0", "w", "ws", "wz", "ys", "yz", "b"]
        options = {"pads": [sample.options.get("padding", 0)] * 4,
                   "group": sample.options.get("groups", 1)}
    elif sample.operator == "linear":
        name, inputs = "QGemm", ["x0", "s0", "z0", "w", "ws", "wz", "b", "ys", "yz"]
        options, domain = {"transB": 1}, "com.microsoft"
    elif sample.operator == "max_pool2d":
        name, inputs = "MaxPool", ["x0"]
    else:
        name, domain = _MICROSOFT[sample.operator], "com.microsoft"
        inputs = [f"{letter}{index}" for index in range(len(sample.sources)) for letter in "xsz"]
        inputs = ["ys", "yz", *inputs] if sample.operator == "cat" else [*inputs, "ys", "yz"]
        options = {"axis": 1} if sample.operator == "cat" else {}
    if "pool" in sample.operator:
        options = {"kernel_shape": [sample.options["kernel_size"]] * 2,
                   "strides": [sample.options["stride"]] * 2}
    node = helper.make_node(name, inputs, ["y"], domain=domain, **options)
    return _run(node, constants, dict(enumerate(sample.levels)), relu=sample)


def _run(node: Any, constants: dict[str, Any], levels: dict[int, Levels], *,
         relu: Sample) -> Levels:
    graph = helper.make_graph(
        [node], "layer",
        [helper.make_tensor_value_info(f"x{index}", TensorProto.INT8, array.shape)
         for index, array in levels.items()],
        [helper.make_tensor_value_info("y", TensorProto.INT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
         if name in node.input])
    model = helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings,
                                           providers=["CPUExecutionProvider"])
    result = session.run(None, {f"x{index}": array for index, array in levels.items()})[0]
    # A ReLU behind an integer node is the maximum with the zero point.
    return np.maximum(result, np.int8(relu.target.zero)) if relu.relu else result
