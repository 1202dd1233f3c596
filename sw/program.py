"""Compiled programs: the memory image and what surrounds it.

A program file is one safetensors container (`container`): the memory image, the known-answer
vector, and as JSON the configuration with its hash, tensor descriptors, layers and memory map.
Nothing in it is ever executed on the host.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import DESCRIPTOR_BYTES, DecodeError, decode_descriptor

from . import container
from .bias_table import BiasRow, BiasTable
from .errors import ConfigError, ProgramError
from .layout import TensorDescriptor

__all__ = ["KnownAnswer", "LayerInfo", "Program", "Region", "Stage", "load"]


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One layer of the source model, with what is fused into it.

    `engine` is the queue that computes it: "array", "vector" or "post". `predicted_cycles` are the
    cost model's cycles of that engine (`systolith.attribution` defines them, as measured ones),
    `macs` useful multiply-accumulates, `bytes` what the layer moves between main memory and chip;
    `output` is the descriptor of its result where that lies in main memory after the run, else
    None.
    """

    name: str
    op: str
    engine: str = "array"
    macs: int = 0
    predicted_cycles: int = 0
    bytes: int = 0
    output: TensorDescriptor | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Layers `first` up to, not including, `last`, which run into each other and end in one mark.

    Stages are in the order in which their marks retire. `predicted_cycles` is the time from the
    mark before to this one; the last stage ends with the run.
    """

    first: int
    last: int
    predicted_cycles: int = 0


@dataclass(frozen=True, kw_only=True)
class Region:
    """A line of the memory map: `nbytes` bytes at `address` of a memory, used by some layers.

    `first_layer` and `last_layer` are indices into the program's layers between which the region
    holds `name`; regions with disjoint lives may share addresses.
    """

    name: str
    memory: str
    address: int
    nbytes: int
    first_layer: int = 0
    last_layer: int = 0


@dataclass(frozen=True)
class KnownAnswer:
    """One image's inputs and the outputs they must give, int8 in the descriptors' shapes."""

    inputs: tuple[NDArray[np.int8], ...]
    outputs: tuple[NDArray[np.int8], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A model compiled for one configuration.

    Parameters
    ----------
    config
        The configuration that the image was made for.
    image
        What main memory holds from address 0 before the first run: the descriptor, the
        instruction lists, parameters, weights and constants.
    memory_bytes
        Bytes of main memory in use from address 0: the image, tensors and scratch space.
    inputs, outputs
        Descriptors of the network's inputs and outputs.
    layers, stages
        The layers in the model's order, and what of them the program's marks tell apart.
    tail
        Operations on the dequantized outputs that the driver does in float, as JSON values.
    regions
        Lines of the memory map.
    model
        The model's name.
    batch
        Images that one run computes; more than one lie side by side in tensors (C, 1, batch).
    known_answer
        Inputs and expected outputs of one image, for self tests.
    biases
        What became of each bias; see `bias_report`.
    metadata
        Anything else worth keeping, as JSON values.

    Raises
    ------
    ProgramError
        When the parts contradict each other.
    """

    config: Config
    image: bytes
    memory_bytes: int
    inputs: tuple[TensorDescriptor, ...]
    outputs: tuple[TensorDescriptor, ...]
    layers: tuple[LayerInfo, ...] = ()
    stages: tuple[Stage, ...] = ()
    tail: tuple[Any, ...] = ()
    regions: tuple[Region, ...] = ()
    model: str = ""
    batch: int = 1
    known_answer: KnownAnswer | None = None
    biases: BiasTable | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "layers", "stages", "tail", "regions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_image()
        for kind, descriptors in (("input", self.inputs), ("output", self.outputs)):
            if not descriptors:
                raise ProgramError(f"the program has no {kind}: compile the model again")
            for tensor in descriptors:
                self._check_tensor(tensor)
        for layer in self.layers:
            if layer.output is not None:
                self._check_tensor(layer.output)
        for stage in self.stages:
            if not 0 <= stage.first < stage.last <= len(self.layers):
                raise ProgramError(f"a stage spans layers {stage.first} to {stage.last} of "
                                   f"{len(self.layers)}: compile the model again")
        self._check_batch()
        if self.known_answer is not None:
            self._check_answer("input", self.known_answer.inputs, self.inputs)
            self._check_answer("output", self.known_answer.outputs, self.outputs)

    def _check_image(self) -> None:
        if not DESCRIPTOR_BYTES <= len(self.image) <= self.memory_bytes:
            raise ProgramError(f"the program's image has {len(self.image)} bytes, which must be "
                               f"between {DESCRIPTOR_BYTES} and memory_bytes "
                               f"({self.memory_bytes}): compile the model again")
        if self.memory_bytes > self.config.memory_size:
            raise ProgramError(f"the program needs {self.memory_bytes} bytes of main memory and "
                               f"its configuration has {self.config.memory_size}: compile for a "
                               "configuration with more memory")
        try:
            config_hash, _ = decode_descriptor(self.image[:DESCRIPTOR_BYTES])
        except DecodeError as error:
            raise ProgramError(f"the program's image does not begin with a descriptor ({error}): "
                               "compile the model again") from None
        if config_hash != self.config.hash32:
            raise ProgramError(f"the program's image was made for configuration {config_hash:08x} "
                               f"and its file states {self.config.hash32:08x}: compile the model "
                               "again")

    def _check_batch(self) -> None:
        shapes = [tensor.shape for tensor in (*self.inputs, *self.outputs)]
        if self.batch < 1 or (self.batch > 1 and any(
                shape[1:] != (1, self.batch) for shape in shapes)):
            raise ProgramError(f"the program's batch of {self.batch} does not fit its tensors' "
                               "shapes: compile the model again")

    def image_shape(self, tensor: TensorDescriptor) -> tuple[int, ...]:
        """Shape of one image's part of an input or output tensor."""
        return tensor.shape if self.batch == 1 else tensor.shape[:1]

    def _check_tensor(self, tensor: TensorDescriptor) -> None:
        if tensor.end > self.memory_bytes:
            raise ProgramError(f"tensor '{tensor.name}' ends at byte {tensor.end} and the program "
                               f"uses {self.memory_bytes}: compile the model again")

    @staticmethod
    def _check_answer(kind: str, arrays: tuple[NDArray[np.int8], ...],
                      tensors: tuple[TensorDescriptor, ...]) -> None:
        shapes = [(array.shape, array.dtype) for array in arrays]
        if shapes != [(tensor.shape, np.dtype(np.int8)) for tensor in tensors]:
            raise ProgramError(f"the known answer's {kind}s do not have the shapes of the "
                               f"program's {kind}s: compile the model again")

    # Figures ------------------------------------------------------------------------------------

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def predicted_cycles(self) -> int:
        """The cost model's cycles of one image."""
        return sum(stage.predicted_cycles for stage in self.stages)

    def bias_report(self) -> list[BiasRow]:
        """What became of each bias: a row for every channel of every layer with weights."""
        return [] if self.biases is None else self.biases.rows()

    def check_config(self, config: Config) -> None:
        """Raise `ProgramError` unless the program was compiled for `config`."""
        if config.hash != self.config.hash:
            raise ProgramError(f"the program was compiled for configuration {self.config.hash} "
                               f"and the device has {config.hash}: compile the model for the "
                               "device's configuration")

    def memory_map(self) -> str:
        """The memory map as a text table, one region a line, ordered by memory and address."""
        regions = list(self.regions) or [
            Region(name="image", memory="main", address=0, nbytes=len(self.image)),
            *(Region(name=tensor.name, memory="main", address=tensor.address,
                     nbytes=tensor.nbytes) for tensor in (*self.inputs, *self.outputs))]
        lines = [f"{'memory':<12} {'address':>10} {'bytes':>10}  {'layers':<10} name"]
        for region in sorted(regions, key=lambda item: (item.memory, item.address)):
            life = f"{region.first_layer}-{region.last_layer}"
            lines.append(f"{region.memory:<12} {region.address:>#10x} {region.nbytes:>10}  "
                         f"{life:<10} {region.name}")
        lines.append(f"main memory in use: {self.memory_bytes} of {self.config.memory_size} bytes")
        return "\n".join(lines)

    # Files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the program to a file. Raises `ProgramError` when that is not possible."""
        data = self.to_bytes()
        try:
            Path(path).write_bytes(data)
        except OSError as error:
            raise ProgramError(f"cannot write program {path}: {error.strerror}") from None

    def to_bytes(self) -> bytes:
        """The contents of the program's file. Raises `ProgramError` when the header is too long."""
        tensors: dict[str, NDArray[Any]] = {"image": np.frombuffer(self.image, np.uint8)}
        if self.known_answer is not None:
            for kind, arrays in (("input", self.known_answer.inputs),
                                 ("output", self.known_answer.outputs)):
                for index, array in enumerate(arrays):
                    tensors[f"{kind}.{index}"] = np.ascontiguousarray(array)
        if self.biases is not None:
            shape, contents = self.biases.to_bytes()
            tensors["biases"] = np.frombuffer(contents, np.uint8).reshape(shape)
        text = json.dumps(self._to_dict(), separators=(",", ":"), allow_nan=False)
        parts = {name: ("I8" if array.dtype == np.int8 else "U8", array.shape, array.tobytes())
                 for name, array in tensors.items()}
        try:
            return container.write(text, parts)
        except container.Malformed as error:
            raise ProgramError(f"cannot write the program: {error}") from None

    def _to_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "config_hash": self.config.hash,
            "memory_bytes": self.memory_bytes,
            "inputs": [tensor.to_dict() for tensor in self.inputs],
            "outputs": [tensor.to_dict() for tensor in self.outputs],
            "layers": [vars(layer) | {"output": layer.output and layer.output.to_dict()}
                       for layer in self.layers],
            "stages": [dict(vars(stage)) for stage in self.stages],
            "tail": list(self.tail),
            "regions": [dict(vars(region)) for region in self.regions],
            "model": self.model,
            "batch": self.batch,
            "bias_layers": [] if self.biases is None else list(self.biases.layers),
            "metadata": self.metadata,
        }

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, where: str = "program") -> "Program":
        """Read a program file's contents; `where` names the file in messages.

        Raises `ProgramError` for everything that `to_bytes` would not have written.
        """
        try:
            values, parts = container.read(memoryview(data))
            return cls._from_dict(values, parts)
        except (container.Malformed, ConfigError, ProgramError) as error:
            raise ProgramError(f"cannot use {where}: {_printable(error)}") from None

    @classmethod
    def _from_dict(cls, values: dict[str, Any], parts: container.Parts) -> "Program":
        reader = container.Reader(values)
        config = Config.from_dict(reader.take("config", dict))
        stated = reader.take("config_hash", str)
        if config.hash != stated:
            raise container.Malformed(
                f"its configuration has hash {config.hash} and it states {stated}; it was written "
                "by another version, so compile the model again")
        if "image" not in parts:
            raise container.Malformed("it has no image; compile the model again")
        inputs = tuple(map(TensorDescriptor.from_dict, reader.take("inputs", list)))
        outputs = tuple(map(TensorDescriptor.from_dict, reader.take("outputs", list)))
        layers = reader.take("bias_layers", list)
        biases = None
        if "biases" in parts:
            _, shape, contents = parts["biases"]
            biases = BiasTable.from_bytes(layers, shape, contents)
        answer = None
        rest = len(parts) - 1 - (biases is not None)
        if rest:
            answer = KnownAnswer(_answers("input", parts, len(inputs)),
                                 _answers("output", parts, len(outputs)))
        if rest != (0 if answer is None else len(inputs) + len(outputs)):
            raise container.Malformed("it has tensors that do not belong to a program; compile "
                                      "again")
        program = cls(
            config=config, image=bytes(parts["image"][2]),
            memory_bytes=reader.take("memory_bytes", int), inputs=inputs, outputs=outputs,
            layers=tuple(_layer(item) for item in reader.take("layers", list)),
            stages=tuple(_record(Stage, item, _STAGE_FIELDS)
                         for item in reader.take("stages", list)),
            tail=tuple(reader.take("tail", list)),
            regions=tuple(_record(Region, item, _REGION_FIELDS)
                          for item in reader.take("regions", list)),
            model=reader.take("model", str), batch=reader.take("batch", int), known_answer=answer,
            biases=biases, metadata=reader.take("metadata", dict))
        reader.finish()
        return program


def load(path: str | Path) -> Program:
    """Read a program file.

    Raises `ProgramError`, one sentence, for a file that cannot be read, is damaged, or is none.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ProgramError(f"cannot read program {path}: {error.strerror}: check the "
                           "path") from None
    return Program.from_bytes(data, str(path))


_LONGEST_MESSAGE = 300

_LAYER_FIELDS = {"name": str, "op": str, "engine": str, "macs": int, "predicted_cycles": int,
                 "bytes": int}
_STAGE_FIELDS: dict[str, type] = {"first": int, "last": int, "predicted_cycles": int}
_REGION_FIELDS = {"name": str, "memory": str, "address": int, "nbytes": int, "first_layer": int,
                  "last_layer": int}


def _printable(error: Exception) -> str:
    """A message that may quote the file, on one line, shortened, fit for any terminal."""
    text = "".join(mark if mark.isprintable() else "?" for mark in str(error))
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " …"


def _answers(kind: str, parts: container.Parts, count: int) -> tuple[NDArray[np.int8], ...]:
    arrays: list[NDArray[np.int8]] = []
    for index in range(count):
        if f"{kind}.{index}" not in parts:
            raise container.Malformed(f"its known answer lacks {kind} {index}; compile again")
        dtype, shape, data = parts[f"{kind}.{index}"]
        if dtype != "I8":
            raise container.Malformed(f"its known answer's {kind} {index} is not int8; compile "
                                      "again")
        arrays.append(np.frombuffer(data, np.int8).reshape(shape).copy())
    return tuple(arrays)


def _record(cls: type[Any], values: Any, kinds: dict[str, type], **more: Any) -> Any:
    if type(values) is not dict:
        raise container.Malformed("one of its lists holds something else than records; compile "
                                  "again")
    reader = container.Reader(values)
    taken = {name: reader.take(name, kind) for name, kind in kinds.items()}
    reader.finish()
    return cls(**taken, **more)


def _layer(values: Any) -> LayerInfo:
    output = values.pop("output", None) if type(values) is dict else None
    return _record(LayerInfo, values, _LAYER_FIELDS,
                   output=None if output is None else TensorDescriptor.from_dict(output))
