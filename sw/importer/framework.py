"""The source model's own integers, for comparison with ours."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from systolith.graph import Graph
from systolith.importer.sources import graph_module

__all__ = ["framework_tensors"]


def framework_tensors(model: Any, graph: Graph, images: Any) -> dict[str, NDArray[np.int8]]:
    """Run the quantized model in PyTorch and return the tensors that it quantizes itself.

    Parameters
    ----------
    model
        What `graph` was imported from.
    images
        Float tensor or array [N, ...] as the model takes it, or a tuple of them.

    Returns
    -------
    int8 arrays [N, *shape] by the names that tensors have in `graph`; levels of a uint8 model are
    moved by 128. A tensor's bounds may be wider here than in the graph where the model applies an
    activation function in a later step.
    """
    module = graph_module(model)
    places = {origin: name for name, origin in graph.origins.items()}
    found: dict[str, NDArray[np.int8]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in places:
                name = places[n.name]
                levels = result.numpy().astype(np.int16)
                levels = levels - 128 if result.dtype == torch.uint8 else levels
                found[name] = levels.astype(np.int8).reshape(-1, *graph.tensors[name].shape)
            return result

    arrays = images if isinstance(images, tuple | list) else (images,)
    with torch.no_grad():
        Recorder(module).run(*(torch.as_tensor(array, dtype=torch.float32) for array in arrays))
    return found
