"""The user's arrays on their way to a program and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.errors import InputError, ProgramError
from systolith.graph import TailOperation
from systolith.layout import as_images
from systolith.program import Program
from systolith.tail import run_tail

__all__ = ["finish_outputs", "group_images", "input_levels", "ungroup_images"]


def input_levels(program: Program, images: Any) -> list[NDArray[np.int8]]:
    """Quantized inputs of a batch, one array an input, batch first.

    `images` is one array, or a sequence of arrays for a program of several inputs. Raises
    `InputError` naming the input, what it is and what it should be.
    """
    several = len(program.inputs) > 1
    arrays = list(images) if several and isinstance(images, Sequence) else [images]
    if len(arrays) != len(program.inputs):
        names = ", ".join(f"'{tensor.name}'" for tensor in program.inputs)
        raise InputError(f"the program takes {len(program.inputs)} inputs ({names}), not "
                         f"{len(arrays)}: pass a list with one array for each")
    levels = []
    for tensor, values in zip(program.inputs, arrays, strict=True):
        array = _real_array(tensor.name, values)
        shape = program.image_shape(tensor)
        array = as_images(array, shape)
        wanted = "(N, " + "".join(f"{size}, " for size in shape)[:-2] + ")"
        if array.shape == shape:
            raise InputError(f"input '{tensor.name}' has shape {array.shape} and lacks the batch "
                             f"axis: pass images[None], of shape {wanted}")
        if array.shape[1:] != shape:
            raise InputError(f"input '{tensor.name}' must have shape {wanted}, not "
                             f"{array.shape}: pass images as the model takes them")
        if not len(array):
            raise InputError(f"input '{tensor.name}' has no images: pass a batch of at least one")
        levels.append(tensor.quantize(array))
    if len({len(array) for array in levels}) > 1:
        sizes = ", ".join(str(len(array)) for array in levels)
        raise InputError(f"the inputs have batches of {sizes} images: pass as many of each")
    return levels


def group_images(program: Program, levels: list[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
    """Images as the program takes them: `batch` of them side by side, the last group filled up."""
    if program.batch == 1:
        return levels
    groups = []
    for array in levels:
        filler = np.zeros((-len(array) % program.batch, array.shape[1]), np.int8)
        whole = np.concatenate([array, filler]).reshape(-1, program.batch, array.shape[1])
        groups.append(whole.transpose(0, 2, 1)[:, :, None])
    return groups


def ungroup_images(program: Program, outputs: list[NDArray[np.int8]], images: int
                   ) -> list[NDArray[np.int8]]:
    """The other way round, without what was filled up."""
    if program.batch == 1:
        return outputs
    return [array[:, :, 0].transpose(0, 2, 1).reshape(-1, array.shape[1])[:images]
            for array in outputs]


def _real_array(name: str, values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"input '{name}' is not an array of numbers ({error}): pass a numpy "
                         "array") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"input '{name}' must hold real numbers, not {array.dtype}: convert it "
                         "to float32")
    return array


def finish_outputs(program: Program, levels: list[NDArray[np.int8]], dequantize: bool) -> Any:
    """What the user gets: integers, or floats behind the program's tail of float operations.

    One array, or a tuple of arrays for several. Raises `ProgramError` when the program's float
    operations make no sense.
    """
    results: list[NDArray[Any]] = list(levels)
    if dequantize:
        values = {tensor.name: tensor.dequantize(array)
                  for tensor, array in zip(program.outputs, levels, strict=True)}
        names = [tensor.name for tensor in program.outputs]
        try:
            tail = [TailOperation(**operation) for operation in program.tail]
            results = run_tail(tail, values, program.metadata.get("results", names))
        except (LookupError, TypeError, ValueError, AttributeError, MemoryError) as error:
            # They come from a file, and no check there knows what numpy will accept.
            raise ProgramError("the program's operations behind the network cannot be done "
                               f"({type(error).__name__}): it is damaged, compile the model again"
                               ) from error
    return results[0] if len(results) == 1 else tuple(results)
