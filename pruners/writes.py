"""Models that write to their own parameters and buffers as they run: each run starts from what they held."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.export.graph_signature import OutputKind

from pruners.rewrite import Removal, sliced
from pruners.tracing import Trace


def to_run(model: nn.Module, trace: Trace) -> nn.Module:
    """The model, or a copy of it where it writes to its own tensors: an embedding with `max_norm` does so in evaluation, too."""
    return copy.deepcopy(model) if _written(trace) else model


def unwritten(removal: Removal, built: nn.Module) -> nn.Module:
    """What was built and has run, after taking back what it wrote to its own tensors."""
    own = {**dict(built.named_parameters()), **dict(built.named_buffers())}
    with torch.no_grad():
        for name in _written(removal.graph.trace) & own.keys() & removal.graph.tensors.keys():
            own[name].copy_(sliced(removal, name))
    return built


def _written(trace: Trace) -> set[str]:
    """Names of the parameters and buffers that a model writes to as it runs."""
    kinds = (OutputKind.PARAMETER_MUTATION, OutputKind.BUFFER_MUTATION)
    specs = trace.program.graph_signature.output_specs
    return {spec.target for spec in specs if spec.kind in kinds and spec.target is not None}
