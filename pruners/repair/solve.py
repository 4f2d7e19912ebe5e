"""One layer's weights by least squares: the ridge, and whether they are worth it, are judged on examples held out from the solve.

Shapes as in `pruners.repair.task`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pruners.repair.systems import Dual, Primal
from pruners.repair.task import Change, Part, Task, applied, mean_errors, moved_residual, squared_errors, weighed

EXACT = 1e-10  # squared error, relative to the aim, that is rounding
NEAR = 1.02  # times the lowest held-out error, up to which a ridge is as good
FEW = 10.0  # over the squared number of positions: standard errors by which a gain must lie above 0


@dataclass(frozen=True)
class Solution:
    """Weights of a layer, and squared errors per value: of the old ones and of these, held out, and of these where they were fit.

    Attributes:
        weights: (G, O, Q).
        shift: (G, O).
        before: error of the weights that were there.
        after: error of these.
        fitted: error of these on the positions that were solved on.
        helps: whether these are nearer to the aims, held out.
    """

    weights: Tensor
    shift: Tensor
    before: float
    after: float
    fitted: float
    helps: bool


def is_exact(task: Task) -> bool:
    """Whether a layer computes its aim already, on all positions."""
    for parts in (task.held, task.fit):  # fewer first
        error = energy = 0.0
        for part in parts():
            error += float(squared_errors(part, task, (task.old, task.shift)).sum(dtype=torch.float64))
            energy += float(weighed(part, task, part.aim).sum(dtype=torch.float64))
        if not error <= EXACT * energy:  # no number is not exact
            return False
    return True


def solve(task: Task, ridges: Sequence[float], iterations: int) -> Solution | None:
    """Minimise |aim - other - W x - b|² + r |(W - W_old) D|², D being the deviation of the columns, b free.

    The ridge r is the least of those whose error on what is held out is about the lowest: what it holds back would add up over the
    layers, where noise does not. The shift alone is tried, too. Aims behind limits are
    then moved to the nearest values allowed, and solved for again; that may cost this layer something, and the layers that follow
    gain more. What is nearer to its aims, held out, is solved once more in the same way, on all positions.

    Args:
        task: the layer.
        ridges: relative to the variance of a column, which is scaled to 1.
        iterations: how often a layer with limits is solved again.

    Returns:
        The best weights, or None if no ridge gave any.
    """
    system = (Dual if task.dual else Primal)(task)
    found = {ridge: system.change(system.plain, ridge) for ridge in (*ridges, *([math.inf] if task.shifted else []))}
    changes = {ridge: change for ridge, change in found.items() if change is not None}
    if not changes:
        return None
    old = (task.old, task.shift)
    before, *errors = system.errors(list(changes.values()))
    best, least = _least_held(dict(zip(changes, errors, strict=True)), before)
    again = iterations if task.limits is not None else 0
    new = _again(task, system, changes[best], best, again)
    (after,) = mean_errors(task, task.held(), [new]) if again else (least,)
    if after >= before:
        new, after, again = applied(task, changes[best]), least, 0
    (fitted,) = mean_errors(task, _some(task), [new])
    gains = [(squared_errors(part, task, old) - squared_errors(part, task, new)).sum((0, 1)) for part in task.held()]
    if helps := is_gain(gains):
        system = system.with_held()
        change = system.change(system.plain, best)
        new = new if change is None else _again(task, system, change, best, again)
    return Solution(*new, before, after, fitted, helps)


def _least_held(errors: Mapping[float, float], before: float) -> tuple[float, float]:
    """The least ridge of those that are about as good as the best, with its error; none that is worse than before if any is better."""
    lowest = min(errors.values())
    limit = min(NEAR * lowest, max(lowest, before))
    return next((ridge, errors[ridge]) for ridge in sorted(errors) if errors[ridge] <= limit)


def _some(task: Task) -> Iterator[Part]:
    """Of the positions that are solved on about as many as are judged by."""
    left = sum(part.aim.shape[-1] for part in task.held())
    for part in task.fit():
        if left <= 0:
            return
        left -= part.aim.shape[-1]
        yield part


def _again(task: Task, system: Primal | Dual, change: Change, ridge: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Weights and shift after a change, and after further ones for aims moved within the limits."""
    now = applied(task, change)
    for _ in range(iterations):
        further = system.change(system.cross(partial(moved_residual, task=task, now=now)), ridge)
        if further is None:
            break
        now = applied(task, further)
    return now


def is_gain(gains: Sequence[Tensor]) -> bool:
    """Whether gains at some positions, of shapes (P,), have a mean above 0: of a few positions clearly above."""
    gain = torch.cat(list(gains)).double() if gains else torch.zeros(0)
    if len(gain) < 2:
        return False
    doubt = FEW / (len(gain) - 1) ** 2 * gain.std() / math.sqrt(len(gain))
    return bool(gain.mean() > doubt)
