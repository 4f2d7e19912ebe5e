"""The learning rate that a trained network goes on from without losing what it knows: found by a few steps at each of several."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from nas.training.config import NotFinite
from pruners.progress import Progress, silent

WORSE = 1.1
"""A loss above this times the best ends the test: higher rates are worse still."""
AS_GOOD = 1.01
"""Of rates whose losses are within this factor of the best, the highest is taken: a whole training has time to settle."""
WARM_UP = 0.2
"""Share of a trial's steps in which its rate rises; then it falls to 0 along half a cosine."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
        rate: the learning rate to train at.
        start: the loss on held-out examples before any step.
        losses: the same after the steps at each rate that was tried.
    """

    rate: float
    start: float
    losses: Mapping[float, float] = field(default_factory=dict)


def safe_rate(
    module: nn.Module,
    optimizer: Optimizer,
    trial: Callable[[float], object],
    loss: Callable[[], float],
    rates: Sequence[float],
    *,
    seconds: float = math.inf,
    progress: Progress = silent,
) -> RangeTest:
    """Try learning rates from where a network is, the lowest first, and leave it there.

    After each trial the module, the optimiser and torch's random numbers are what they were, to the bit.

    Args:
        module: with all that a step changes: weights and buffers.
        optimizer: over its parameters.
        trial: takes a few steps at a rate; `trial_rate` gives that of each step.
        loss: of held-out examples.
        rates: to try.
        seconds: no further rate is tried after so long.
        progress: called as ("range test", rates done, all rates).

    Returns:
        The highest of the rates that end within 1 % of the lowest loss. The test ends early at a rate that is clearly worse than one
        before it, or whose loss is not finite.

    Raises:
        ValueError: no rate, or none leads to a finite loss.

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv:1506.01186.
    Differs: every rate starts from the same weights, falls to 0 as in a training, and is judged on held-out examples.
    """
    began = time.perf_counter()
    start = loss()
    found: dict[float, float] = {}
    for done, rate in enumerate(sorted(rates), 1):
        with _restored(module, optimizer):
            try:
                trial(rate)
                found[rate] = loss()
            except NotFinite:
                found[rate] = math.inf
        progress("range test", done, len(rates))
        finite = [value for value in found.values() if math.isfinite(value)]
        over = time.perf_counter() - began > seconds
        if over or not math.isfinite(found[rate]) or found[rate] > WORSE * min(finite):
            break
    good = [rate for rate, value in found.items() if math.isfinite(value) and value <= AS_GOOD * min(finite)]
    if not good:
        raise ValueError(
            f"a learning rate must lead to a finite loss, got none among {', '.join(f'{rate:g}' for rate in rates)}; give a "
            "lower one as `learning_rate`, and check that the data are finite"
        )
    return RangeTest(max(good), start, found)


def trial_rate(rate: float, step: int, steps: int) -> float:
    """The rate of one step of a trial: it rises for a fifth of them, then falls to 0 along half a cosine."""
    done = (step + 0.5) / steps
    if done < WARM_UP:
        return rate * done / WARM_UP
    return rate * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


@contextmanager
def _restored(module: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Give a module its tensors and modes back, an optimiser its state, and torch its random numbers."""
    tensors = [*module.parameters(), *module.buffers()]
    values = [x.detach().clone() for x in tensors]
    modes = {part: part.training for part in module.modules()}
    state = copy.deepcopy(optimizer.state_dict())
    devices = {x.device.index for x in tensors if x.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        with torch.no_grad():
            for x, value in zip(tensors, values, strict=True):
                x.copy_(value)
        for part, mode in modes.items():
            part.training = mode
        optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
