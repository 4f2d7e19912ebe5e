"""Repair after removal without training: batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.errors import fitting, whole_number
from pruners.operators import evaluating
from pruners.progress import Progress, silent, watched
from pruners.surgery import GraphModel
from pruners.tracing import as_batch


def recalibrate_(model: nn.Module, batches: Iterable[Any], progress: Progress = silent) -> None:
    """Replace the running statistics of every batch norm by their average over batches, each weighing the same.

    Args:
        model: changed in place; weights, gradients, momenta and mode stay, also where a batch is refused.
        batches: iterable of inputs, or of (inputs, targets); several inputs are a tuple, or a dict by name.
        progress: called as ("batch statistics", batches done, all batches).

    Raises:
        ValueError: if there is no batch, or one that the model does not take.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    seen = 0
    with _unchanged(model, layers), evaluating(model), torch.no_grad():
        for layer in layers:
            layer.training = True
        for seen, given in enumerate(watched(batches, "batch statistics", progress), 1):
            batch = as_batch(given)
            for layer in layers:
                layer.momentum = 1 / seen  # a cumulative average: the first batch replaces what was there
            if isinstance(model, GraphModel):
                model.set_batch_norm(training=True, momentum=1 / seen)
            with fitting(batch.args, batch.kwargs, "batches"):
                model(*batch.args, **batch.kwargs)
    if not seen:
        raise ValueError("`batches` must hold at least one batch, got none; pass a list or a data loader.")


@contextmanager
def _unchanged(model: nn.Module, layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Give layers their momenta back, and a graph the arguments of its operators."""
    momenta = [layer.momentum for layer in layers]
    arguments = {node: node.args for node in model.graph.nodes} if isinstance(model, GraphModel) else {}
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for node, args in arguments.items():
            node.args = args
        if isinstance(model, GraphModel):
            model.recompile()


def noise(example: Tensor, samples: int = 1000, batch: int = 100, seed: int = 0) -> list[Tensor]:
    """Batches of standard normal noise for those who have no data: for `batches` of `prune` and of `least_squares_`.

    Batch statistics of noise are not those of data: do not recalibrate with it. Better for a model with batch norms is
    `pruners.synthetic`.

    Args:
        example: an input of the model, batch first; its shape, type and device are taken.
        samples: how many in all.
        batch: how many per batch.
        seed: of the noise.

    Returns:
        Tensors of shape (batch, ...), the last one smaller if need be.

    Raises:
        ValueError: the example is not of real numbers, or a number is no whole one of at least 1.

    Reference: Wang et al., Structurally prune anything, 2024 (OBSPA without data: calibration on noise).
    """
    whole_number("samples", samples)
    whole_number("batch", batch)
    if not example.is_floating_point():
        raise ValueError(f"`example` must hold real numbers, got {example.dtype}; noise is no substitute for tokens.")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(samples, *example.shape[1:], generator=generator)
    return list(drawn.to(example).split(batch))
