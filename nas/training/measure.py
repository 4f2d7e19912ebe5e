"""What one network is worth on a task, and its batch statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from nas.runtime import precision
from nas.tasks import Examples, Numbers, Task, figures, tallied
from nas.training.config import NotFinite
from pruners import recalibrate_

Result = TypeVar("Result")
GoesOn = Callable[[int, Callable[[], dict[str, float]]], bool]
BatchNorm = nn.modules.batchnorm._BatchNorm


def measure(
    module: nn.Module,
    task: Task,
    examples: Examples,
    names: Sequence[str] | None = None,
    *,
    batch_size: int = 250,
    goes_on: GoesOn | None = None,
) -> dict[str, float]:
    """The metrics of one network in evaluation mode, where its weights are; its mode is left as it was.

    Args:
        module: the network.
        task: says what is measured.
        examples: a part of it.
        names: of the metrics; None for the first one.
        batch_size: examples at a time, at most.
        goes_on: asked after each batch, with the examples until then and what gives their figures; where it says no, these are the
            figures.

    Returns:
        A figure for each metric, NaN where it has none.

    Raises:
        NotFinite: outputs are NaN.
    """
    wanted = [task.metric(name) for name in names or [task.main.name]]
    device = next(module.parameters()).device

    def by(size: int) -> dict[str, float]:
        tallies, numbers, seen = tallied(wanted), Numbers(), 0
        for batch in examples.evenly(size, device):
            outputs = batch.call(module)
            numbers.update(outputs)
            for tally in tallies.values():
                tally.update(outputs, batch.target)
            seen += batch.size
            if goes_on is not None and not goes_on(seen, lambda: figures(tallies)):
                break
        if not numbers.all():
            raise NotFinite("outputs must be numbers, got NaN")
        return figures(tallies)

    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode(), precision(device):
            return as_large_as_fits(by, batch_size)
    finally:
        module.train(was_training)


def as_large_as_fits(by: Callable[[int], Result], batch_size: int) -> Result:
    """What `by` computes in batches of a size; where the memory of a GPU does not do, of half of it, and so on, with a warning."""
    while True:
        try:
            return by(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        torch.cuda.empty_cache()
        warnings.warn(
            f"the GPU has no memory for {batch_size} examples at a time; measuring goes on with {batch_size // 2}",
            stacklevel=3,
        )
        batch_size //= 2


def warn_of_chance(found: float, task: Task, examples: Examples, who: str) -> None:
    """Warn where a figure of the task's first metric is no better than what needs no knowledge."""
    if task.chance is None:
        return
    how, chance = task.chance(examples)
    if found <= chance:
        warnings.warn(
            f"{who} has {task.main.name} {found:.4g} on {task.name}, no better than {how}, {chance:.4g}", stacklevel=3
        )


def calibrate_(module: nn.Module, examples: Examples, *, batch_size: int = 250) -> nn.Module:
    """Give every batch normalisation of `module` its mean statistics on examples, and leave the module in evaluation mode.

    Normalisations by batch statistics become ones with running statistics, so the module no longer depends on how examples are
    batched.
    """
    device = next(module.parameters()).device
    for norm in batch_norms(module):
        norm.track_running_stats = True
        norm.running_mean = torch.zeros(norm.num_features, device=device)
        norm.running_var = torch.ones(norm.num_features, device=device)
        norm.num_batches_tracked = torch.tensor(0, device=device)
    with precision(device):
        recalibrate_(module, ((batch.inputs, None) for batch in examples.evenly(batch_size, device)))
    return module.eval()


def batch_norms(block: nn.Module) -> list[BatchNorm]:
    return [module for module in block.modules() if isinstance(module, BatchNorm)]
