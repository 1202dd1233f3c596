"""ExecuTorch's XNNPACK delegate: the converted graph, lowered and run by its runtime."""

import logging
from typing import Any

import torch

from .samples import Levels, Reference, Sample, levels_of

__all__ = ["by_executorch"]


def by_executorch(sample: Sample) -> Levels:
    """An oracle. Raises ImportError where ExecuTorch is not installed, and RuntimeError where the
    operator was not taken by XNNPACK, so that something else would have been measured."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    logging.getLogger("executorch").setLevel(logging.ERROR)
    inputs = sample.floats()
    exported = torch.export.export(Reference(sample).eval(), inputs, strict=False)
    lowered: Any = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    left = {str(node.target) for node in lowered.exported_program().graph.nodes
            if node.op == "call_function"} - _AROUND
    if any("quantized_decomposed" not in name for name in left):
        raise RuntimeError(f"XNNPACK does not take {sample.operator}: {', '.join(sorted(left))}")
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    return levels_of(program.load_method("forward").execute(inputs)[0].numpy(), sample.target)


_AROUND = {"executorch_call_delegate", "<built-in function getitem>"}
