"""Repair after removal without training: batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.rewrite import GraphModel
from pruners.tracing import evaluating


def recalibrate_(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every batch norm by their average over batches, each weighing the same.

    Args:
        model: changed in place; weights, gradients and mode stay.
        batches: iterable of inputs, or of (inputs, targets).

    Raises:
        ValueError: if there is no batch.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    seen = 0
    with evaluating(model), torch.no_grad():
        for layer in layers:
            layer.training = True
        for seen, batch in enumerate(batches, 1):
            for layer in layers:
                layer.momentum = 1 / seen  # a cumulative average: the first batch replaces what was there
            if isinstance(model, GraphModel):
                model.set_batch_norm(training=True, momentum=1 / seen)
            model(inputs_of(batch))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    if isinstance(model, GraphModel):
        model.set_batch_norm(training=model.training, momentum=0.1)
    if not seen:
        raise ValueError("`batches` must hold at least one batch, got none; pass a list or a data loader.")


def inputs_of(batch: Any) -> Tensor:
    """The inputs of a batch that is inputs, or (inputs, targets)."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(inputs, Tensor):
        raise ValueError(f"`batches` must hold tensors or (tensor, targets), got {type(inputs).__name__}.")
    return inputs
