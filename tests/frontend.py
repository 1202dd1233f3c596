"""What the tests of importer, quantizer and reference share: converting, and comparing."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.testing.pt2e import _xnnpack_quantizer

from systolith.graph import Graph
from systolith.importer.framework import framework_tensors
from systolith.integer_reference import execute

LAYERS = ("Conv2d", "ConvTranspose2d", "Linear", "Add", "Multiply", "AveragePool", "Requantize")


def xnnpack(model: nn.Module, batch: torch.Tensor, *, per_channel: bool = True,
            qat: bool = False, weight_limit: int = 127, source: Any = _xnnpack_quantizer) -> Any:
    """The stock PT2E flow with the XNNPACK quantizer; a limit of 7 gives 4-bit weights.

    `source` is the module that has the quantizer: torchao's, or ExecuTorch's.
    """
    exported = torch.export.export(model.eval(), (batch,)).module(check_guards=False)
    quantizer = source.XNNPACKQuantizer().set_global(source.get_symmetric_quantization_config(
        is_per_channel=per_channel, is_qat=qat, weight_qmin=-weight_limit,
        weight_qmax=weight_limit))
    prepared = (prepare_qat_pt2e if qat else prepare_pt2e)(exported, quantizer)
    with torch.no_grad():
        prepared(batch)
    return convert_pt2e(prepared)


def seeded(model: nn.Module, seed: int) -> nn.Module:
    """The model in evaluation mode with seeded weights and biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.5 if parameter.ndim < 2 else (1.5 / parameter[0].numel()) ** 0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Seeded normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1000))


def layer_differences(model: Any, graph: Graph, images: torch.Tensor
                      ) -> dict[str, tuple[int, int, int]]:
    """(different, elements, largest) a tensor that the framework has too.

    Between two such tensors our integer nodes run alone, fed with the framework's integers, so
    that one difference is counted once.
    """
    framework = framework_tensors(model, graph, images)
    found = {}
    for tensor in framework:
        nodes = _section(graph, tensor, set(framework))
        feeds = [name for node in nodes for name in node.inputs if name in framework]
        section = Graph(inputs=list(dict.fromkeys(feeds)), outputs=[tensor], nodes=nodes,
                        tensors=graph.tensors, multiplier_bits=graph.multiplier_bits)
        if not nodes:
            continue
        ours = execute(section, framework)[tensor]
        difference = np.abs(ours.astype(int) - framework[tensor])
        found[tensor] = int((difference > 0).sum()), difference.size, int(difference.max())
    return found


def _section(graph: Graph, tensor: str, known: set[str]) -> list[Any]:
    wanted, nodes = {tensor}, []
    for node in reversed(graph.nodes):
        if node.output in wanted and (node.output == tensor or node.output not in known):
            nodes.append(node)
            wanted.update(node.inputs)
    return nodes[::-1]
