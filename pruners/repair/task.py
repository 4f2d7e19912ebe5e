"""One layer to be solved: its positions, what it computes there, and how far that is from its aim.

Shapes: G groups, O outputs and Q columns of a group, P positions, as in `pruners.repair.readers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Some positions of a layer.

    Attributes:
        x: columns, (G, Q, P).
        aim: what the outputs should be, (G, O, P).
        other: what is added to the outputs before, (G, O, P).
        weight: how much each position counts, (P,).
    """

    x: Tensor
    aim: Tensor
    other: Tensor | None = None
    weight: Tensor | None = None


Parts = Callable[[], Iterable[Part]]
Residual = Callable[[Part], Tensor]
Change = tuple[Tensor, Tensor]
"""What is added to the weights, (G, O, Q), and to the shift, (G, O)."""


@dataclass(frozen=True)
class Task:
    """One layer to be solved.

    Attributes:
        old: its weights, (G, O, Q).
        shift: what it adds, (G, O).
        shifted: whether it can add anything else.
        limits: aims at or beyond these count as met by any value beyond.
        stays: outputs that are not solved for, (G, O).
        fit: positions to solve on; called as often as they are passed over.
        held: positions to judge by.
        dual: whether to factor a matrix over positions, not columns.
        metric: (G, O, O), which turns errors of the outputs into those that are judged.
    """

    old: Tensor
    shift: Tensor
    shifted: bool
    limits: tuple[float, float] | None
    stays: Tensor
    fit: Parts
    held: Parts
    dual: bool = False
    metric: Tensor | None = None


def applied(task: Task, change: Change) -> tuple[Tensor, Tensor]:
    """Weights and shift after a change; outputs that stay, stay."""
    weights, shift = (x.to(task.old.dtype) for x in change)
    moves = ~task.stays
    return task.old + weights * moves[..., None], task.shift + shift * moves


def _outputs(part: Part, weights: Tensor, shift: Tensor) -> Tensor:
    y = torch.baddbmm(shift[..., None], weights, part.x)
    return y if part.other is None else y + part.other


def _residual(part: Part, task: Task, aim: Tensor) -> Tensor:
    return aim - _outputs(part, task.old, task.shift)


def plain_residual(part: Part, task: Task) -> Tensor:
    """What the weights as they are lack, (G, O, P)."""
    return _residual(part, task, part.aim)


def _moved(part: Part, weights: tuple[Tensor, Tensor], limits: tuple[float, float] | None) -> Tensor:
    """Aims at or beyond the limits, moved to what the layer computes where that is beyond, too."""
    assert limits is not None
    now = _outputs(part, *weights)
    moved = torch.where(part.aim <= limits[0], now.clamp(max=limits[0]), part.aim)
    return torch.where(part.aim >= limits[1], now.clamp(min=limits[1]), moved)


def moved_residual(part: Part, task: Task, now: tuple[Tensor, Tensor]) -> Tensor:
    """The same of aims behind limits, moved to the nearest values allowed to what other weights compute, (G, O, P)."""
    return _residual(part, task, _moved(part, now, task.limits))


def squared_errors(part: Part, task: Task, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Squared errors of weights with a shift, (G, O, P)."""
    aim, now = part.aim, _outputs(part, *weights)
    if task.limits is not None:
        aim, now = aim.clamp(*task.limits), now.clamp(*task.limits)
    return weighed(part, task, aim - now)


def weighed(part: Part, task: Task, values: Tensor) -> Tensor:
    """Squares of values at the outputs, (G, O, P), as they are judged."""
    squares = (values if task.metric is None else task.metric.to(values.dtype) @ values).square()
    return squares if part.weight is None else squares * part.weight


def mean_errors(task: Task, parts: Iterable[Part], candidates: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Mean squared errors of weights with shifts; infinite where they are no numbers."""
    totals, count = [0.0] * len(candidates), 0
    for part in parts:
        count += part.aim.numel()
        for place, weights in enumerate(candidates):
            totals[place] += float(squared_errors(part, task, weights).sum(dtype=torch.float64))
    return [total / max(count, 1) if math.isfinite(total) else math.inf for total in totals]


def errors_after(task: Task, changes: Sequence[Change]) -> list[float]:
    """Errors held out, of the weights as they are and after each change, from what they compute."""
    return mean_errors(task, task.held(), [(task.old, task.shift), *(applied(task, change) for change in changes)])
