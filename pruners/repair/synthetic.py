"""Inputs for those who have no data, made from what a trained model remembers of its own: the statistics of its batch norms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.errors import fitting, whole_number
from pruners.progress import Progress, silent
from pruners.repair.batch_norm import noise
from pruners.untouched import untouched

LEARNING_RATE = 0.1
"""At the start; it falls to 0 along a line."""
OTHERWISE = "give data of your own, or `pruners.noise`."
Seen = tuple[_BatchNorm, Tensor]


def synthetic(
    model: nn.Module,
    example: Tensor,
    samples: int = 500,
    batch: int = 100,
    steps: int = 100,
    seed: int = 0,
    progress: Progress = silent,
    max_seconds: float | None = None,
) -> list[Tensor]:
    """Inputs made from noise: optimised until the batch norms of the model see the statistics of its training data.

    For `batches` of `prune` and of `least_squares_`; no labels go with it. A pass forward and backward over all samples a step.

    Args:
        model: a model of one input with batch norms that keep running statistics; it is left untouched.
        example: an input of the model, batch first; its shape, type and device are taken.
        samples: how many in all.
        batch: how many per batch, which has the statistics together.
        steps: of gradient descent (Adam) on each batch.
        seed: of the noise.
        progress: called as ("synthetic inputs", steps done, all steps).
        max_seconds: time that there is, about: as many samples are made as one step on one of them says; any time if None.

    Returns:
        Tensors of shape (batch, ...), the last one smaller if need be.

    Raises:
        ValueError: a number is no whole one of at least 1, the example is no tensor of real numbers or does not fit the model, or the
            model runs no such batch norm, lets no gradient through to it, or has statistics that no input can have.

    Reference: Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, arXiv:2001.00281.
    Differs: squared differences of means and of standard deviations are relative to the layer's own variances, so that every layer
    counts alike; the input itself is held to no statistics.
    """
    if not isinstance(example, Tensor):
        raise ValueError(
            f"`example` must be the one tensor that the model takes, got {type(example).__name__}; {OTHERWISE}"
        )
    whole_number("steps", steps)
    if max_seconds is not None:
        samples = max(1, min(samples, int(max_seconds / (steps * _seconds(model, example)))))
    batches = noise(example, samples, batch, seed)
    with untouched(model), torch.enable_grad():
        for at, x in enumerate(batches):
            optimizer = torch.optim.Adam([x.requires_grad_()], lr=LEARNING_RATE)
            for step in range(steps):
                distance = mismatch(model, x)
                if not distance.requires_grad:
                    raise ValueError(
                        "`model` must run batch norms with running statistics, from which synthetic inputs are made, and let gradients "
                        f"through to its input, got none that does; {OTHERWISE}"
                    )
                if not distance.isfinite():
                    raise ValueError(
                        f"batch norms of `model` must have finite statistics and variances above 0, got a distance of {distance:g} to "
                        f"them; {OTHERWISE}"
                    )
                (x.grad,) = torch.autograd.grad(distance, x)
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
                optimizer.step()
                progress("synthetic inputs", at * steps + step + 1, steps * len(batches))
    return [x.detach() for x in batches]


def _seconds(model: nn.Module, example: Tensor) -> float:
    """How long a pass forward and backward takes for a sample."""
    (x,) = noise(example, 1, 1)
    started = time.monotonic()
    for _ in range(2):  # the first one warms up
        started = time.monotonic()
        with untouched(model), torch.enable_grad():
            distance = mismatch(model, x.requires_grad_())
            if distance.requires_grad:
                torch.autograd.grad(distance, x)
    return time.monotonic() - started


def mismatch(model: nn.Module, x: Tensor) -> Tensor:
    """How far what enters the batch norms of a model in eval mode is from their running statistics, summed over layers; a scalar."""
    with _watched(model) as seen, fitting((x,), {}, "example"):
        model(x)
    return sum((_distance(layer, given) for layer, given in seen), x.new_zeros(()))


def _distance(layer: _BatchNorm, x: Tensor) -> Tensor:
    assert layer.running_mean is not None and layer.running_var is not None
    others = [dim for dim in range(x.dim()) if dim != 1]
    mean, deviation = x.mean(others), (x.var(others, unbiased=False) + layer.eps).sqrt()
    wanted = (layer.running_var + layer.eps).sqrt()
    return ((mean - layer.running_mean).square() + (deviation - wanted).square()).sum() / wanted.square().sum()


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Seen]]:
    """What enters each batch norm that keeps running statistics."""
    seen: list[Seen] = []

    def hook(layer: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        seen.append((layer, given[0]))

    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_var is not None]
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
