"""LiteRT with its XNNPACK delegate: models of one operator, written as its flatbuffers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.integer import Quantization

from .samples import Levels, Sample

__all__ = ["by_litert"]


def by_litert(sample: Sample) -> Levels:
    """An oracle.

    Raises ImportError where LiteRT is not installed, and RuntimeError where XNNPACK did not take
    the operator, so that LiteRT's own kernels would have been measured.
    """
    from ai_edge_litert.interpreter import Interpreter

    model = _Model(sample)
    interpreter = Interpreter(model_content=model.content(), num_threads=1)
    interpreter.allocate_tensors()
    if not any(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details()):
        raise RuntimeError(f"XNNPACK does not take {sample.operator}")
    for detail, levels in zip(interpreter.get_input_details(), sample.levels, strict=True):
        interpreter.set_tensor(detail["index"], _channels_last(levels))
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return _channels_first(result)


def _channels_last(levels: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1)) if levels.ndim == 4 else levels


def _channels_first(levels: NDArray[Any]) -> NDArray[Any]:
    return levels.transpose(0, 3, 1, 2) if levels.ndim == 4 else levels


class _Model:
    """Builds the flatbuffer of one operator."""

    def __init__(self, sample: Sample):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.sample = sample
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]

    def content(self) -> bytes:
        """The file."""
        import flatbuffers

        sample, schema = self.sample, self.schema
        inputs = [self._tensor(f"x{index}", _channels_last(levels).shape, kind)
                  for index, (levels, kind) in enumerate(zip(sample.levels, sample.sources,
                                                             strict=True))]
        constants = [] if sample.weight is None else self._constants()
        shape = _channels_last(np.empty(self._output_shape(), np.int8)).shape
        output = self._tensor("y", shape, sample.target)
        code, options_type, options = self._operator()
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs = self.tensors, inputs, [output]
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs + constants, [output]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        graph.operators = [operator]
        opcode = schema.OperatorCodeT()
        opcode.builtinCode = opcode.deprecatedBuiltinCode = code
        opcode.version = 1
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs = 3, [opcode], [graph]
        model.buffers = self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: Any, kind: Quantization | None, *,
                data: NDArray[Any] | None = None, scales: Any = None, axis: int = 0) -> int:
        schema = self.schema
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, [int(size) for size in shape]
        types = {np.dtype(np.int8): schema.TensorType.INT8,
                 np.dtype(np.int32): schema.TensorType.INT32}
        tensor.type = types[np.dtype(np.int8) if data is None else data.dtype]
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        quantization = schema.QuantizationParametersT()
        quantization.scale = [float(kind.scale)] if kind is not None else list(map(float, scales))
        quantization.zeroPoint = ([kind.zero] if kind is not None else
                                  [0] * len(quantization.scale))
        quantization.quantizedDimension = axis
        tensor.quantization = quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _constants(self) -> list[int]:
        sample = self.sample
        weight, axis = sample.weight, 0
        assert weight is not None and sample.weight_scale is not None
        if self._depthwise:
            weight, axis = weight.transpose(1, 2, 3, 0), 3
        elif weight.ndim == 4:
            weight = weight.transpose(0, 2, 3, 1)
        # The file's float32 product is the bias's scale; its integers come from float64.
        step = np.float64(np.float32(sample.sources[0].scale)) * sample.weight_scale
        bias = np.rint(sample.bias / step).astype(np.int32)
        return [self._tensor("w", weight.shape, None, data=np.ascontiguousarray(weight),
                             scales=sample.weight_scale, axis=axis),
                self._tensor("b", bias.shape, None, data=bias,
                             scales=np.float32(sample.sources[0].scale) * sample.weight_scale)]

    @property
    def _depthwise(self) -> bool:
        groups = self.sample.options.get("groups", 1)
        return groups > 1 and groups == self.sample.levels[0].shape[1]

    def _output_shape(self) -> tuple[int, ...]:
        sample = self.sample
        shape = sample.levels[0].shape
        if sample.operator == "linear":
            return (shape[0], len(sample.weight))
        if sample.operator == "cat":
            return (shape[0], sum(levels.shape[1] for levels in sample.levels), *shape[2:])
        if "pool" in sample.operator:
            kernel, stride = sample.options["kernel_size"], sample.options["stride"]
            return (*shape[:2], *((size - kernel) // stride + 1 for size in shape[2:]))
        if sample.operator == "conv2d":
            padding = 2 * sample.options.get("padding", 0)
            return (shape[0], len(sample.weight), *(
                size + padding - sample.weight.shape[2] + 1 for size in shape[2:]))
        return shape

    def _operator(self) -> tuple[int, int, Any]:
        schema, sample = self.schema, self.sample
        operators, kinds = schema.BuiltinOperator, schema.BuiltinOptions
        relu = (schema.ActivationFunctionType.RELU if sample.relu else
                schema.ActivationFunctionType.NONE)
        padding = schema.Padding.SAME if sample.options.get("padding") else schema.Padding.VALID
        if sample.operator == "conv2d":
            options = (schema.DepthwiseConv2DOptionsT() if self._depthwise else
                       schema.Conv2DOptionsT())
            options.padding, options.strideH, options.strideW = padding, 1, 1
            options.dilationHFactor = options.dilationWFactor = 1
            options.fusedActivationFunction = relu
            if self._depthwise:
                options.depthMultiplier = 1
                return operators.DEPTHWISE_CONV_2D, kinds.DepthwiseConv2DOptions, options
            return operators.CONV_2D, kinds.Conv2DOptions, options
        if "pool" in sample.operator:
            options = schema.Pool2DOptionsT()
            options.padding = padding
            options.filterHeight = options.filterWidth = sample.options["kernel_size"]
            options.strideH = options.strideW = sample.options["stride"]
            code = (operators.AVERAGE_POOL_2D if sample.operator == "avg_pool2d" else
                    operators.MAX_POOL_2D)
            return code, kinds.Pool2DOptions, options
        simple = {"linear": (operators.FULLY_CONNECTED, kinds.FullyConnectedOptions,
                             schema.FullyConnectedOptionsT),
                  "add": (operators.ADD, kinds.AddOptions, schema.AddOptionsT),
                  "mul": (operators.MUL, kinds.MulOptions, schema.MulOptionsT),
                  "cat": (operators.CONCATENATION, kinds.ConcatenationOptions,
                          schema.ConcatenationOptionsT),
                  "sigmoid": (operators.LOGISTIC, 0, None),
                  "hardswish": (operators.HARD_SWISH, kinds.HardSwishOptions,
                                schema.HardSwishOptionsT)}
        code, kind, make = simple[sample.operator]
        options = None if make is None else make()
        if sample.operator in ("linear", "add", "mul"):
            options.fusedActivationFunction = relu
        if sample.operator == "cat":
            options.axis = -1
        return code, kind, options
