"""One layer's weights by least squares: the ridge, and whether they are worth it, are judged on examples held out from the solve.

Shapes: G groups, O outputs and Q columns of a group, P positions, as in `pruners.repair.readers`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 5_000  # rows of a matrix that is factored: columns, or positions where these are fewer
DAMPING = 10.0  # what a ridge that leaves a matrix indefinite is multiplied by
ATTEMPTS = 4  # to damp
EXACT = 1e-10  # squared error, relative to the aim, that is rounding
SLACK = 1.02  # times the held-out error of the aims as they are, which aims moved within limits may have
TINY = 1e-30
CONSTANT = 1e-6  # deviation of a column, relative to its mean, that is rounding


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


@dataclass(frozen=True)
class Solution:
    """Weights of a layer, and squared errors per value: of the old ones and of these, held out, and of these where they were fit.

    Attributes:
        weights: (G, O, Q).
        shift: (G, O).
        before: error of the weights that were there.
        after: error of these.
        fitted: error of these on the positions that were solved on.
        sure: whether the gain is more than chance: well above its standard error over the positions held out.
    """

    weights: Tensor
    shift: Tensor
    before: float
    after: float
    fitted: float
    sure: bool


def is_exact(task: Task) -> bool:
    """Whether a layer computes its aim already, on all positions."""
    for parts in (task.held, task.fit):  # fewer first
        error = energy = 0.0
        for part in parts():
            error += float(_squares(part, task, (task.old, task.shift)).sum(dtype=torch.float64))
            energy += float(_weighed(part, task, part.aim).sum(dtype=torch.float64))
        if not error <= EXACT * energy:  # no number is not exact
            return False
    return True


def solve(task: Task, ridges: Sequence[float], iterations: int) -> Solution | None:
    """Minimise |aim - other - W x - b|² + r |(W - W_old) D|², D being the deviation of the columns, b free.

    The ridge r is the one with the lowest error on what is held out; the shift alone is tried, too. Aims behind limits are
    then moved to the nearest values allowed, and solved for again, unless that clearly raises the error: the layers that follow gain
    more than this one. What is judged to be worth it is solved once more in the same way, on all positions.

    Args:
        task: the layer.
        ridges: relative to the variance of a column, which is scaled to 1.
        iterations: how often a layer with limits is solved again.

    Returns:
        The best weights, or None if no ridge gave any.
    """
    system = (_Dual if task.dual else _Primal)(task)
    found = {ridge: system.change(system.plain, ridge) for ridge in (*ridges, *([math.inf] if task.shifted else []))}
    changes = {ridge: change for ridge, change in found.items() if change is not None}
    if not changes:
        return None
    old = (task.old, task.shift)
    before, *errors = system.errors(list(changes.values()))
    best, least = min(zip(changes, errors, strict=True), key=lambda pair: pair[1])
    new = now = _applied(task, changes[best])
    after = least
    again = 0
    for _ in range(iterations if task.limits is not None else 0):
        change = system.change(system.cross(partial(_moved_residual, task=task, now=now)), best)
        if change is None:
            break
        now = _applied(task, change)
        (error,) = _errors(task, task.held(), [now])
        if not error < SLACK * least:
            break
        new, after, again = now, error, again + 1
    (fitted,) = _errors(task, _some(task), [new])
    gains = [(_squares(part, task, old) - _squares(part, task, new)).sum((0, 1)) for part in task.held()]
    sure = is_sure(gains)
    return Solution(*((sure and _on_all(task, system, best, again)) or new), before, after, fitted, sure)


def _some(task: Task) -> Iterator[Part]:
    """Of the positions that are solved on about as many as are judged by."""
    left = sum(part.aim.shape[-1] for part in task.held())
    for part in task.fit():
        if left <= 0:
            return
        left -= part.aim.shape[-1]
        yield part


def _on_all(task: Task, system: _Primal | _Dual, ridge: float, iterations: int) -> tuple[Tensor, Tensor] | None:
    """Weights and shift solved on all positions, those held out too; None if there are none."""
    system = system.with_held()
    change = system.change(system.plain, ridge)
    for _ in range(iterations):
        if change is None:
            return None
        now = _applied(task, change)
        change = system.change(system.cross(partial(_moved_residual, task=task, now=now)), ridge)
    return None if change is None else _applied(task, change)


def _errors_of(task: Task, changes: Sequence[Change]) -> list[float]:
    """Errors held out, of the weights as they are and after each change, from what they compute."""
    return _errors(task, task.held(), [(task.old, task.shift), *(_applied(task, change) for change in changes)])


def is_sure(gains: Sequence[Tensor]) -> bool:
    """Whether gains at some positions, of shapes (P,), have a mean above 0 that chance would not give: about 2.5 % of the time."""
    gain = torch.cat(list(gains)).double() if gains else torch.zeros(0)
    if len(gain) < 2:
        return False
    doubt = (2 + 10 / (len(gain) - 1) ** 2) * gain.std() / math.sqrt(len(gain))
    return bool(gain.mean() > doubt)


def _applied(task: Task, change: Change) -> tuple[Tensor, Tensor]:
    weights, shift = (x.to(task.old.dtype) for x in change)
    moves = ~task.stays
    return task.old + weights * moves[..., None], task.shift + shift * moves


def _outputs(part: Part, weights: Tensor, shift: Tensor) -> Tensor:
    y = torch.baddbmm(shift[..., None], weights, part.x)
    return y if part.other is None else y + part.other


def _residual(part: Part, task: Task, aim: Tensor) -> Tensor:
    return aim - _outputs(part, task.old, task.shift)


def _plain_residual(part: Part, task: Task) -> Tensor:
    return _residual(part, task, part.aim)


def _moved(part: Part, weights: tuple[Tensor, Tensor], limits: tuple[float, float] | None) -> Tensor:
    """Aims at or beyond the limits, moved to what the layer computes where that is beyond, too."""
    assert limits is not None
    now = _outputs(part, *weights)
    moved = torch.where(part.aim <= limits[0], now.clamp(max=limits[0]), part.aim)
    return torch.where(part.aim >= limits[1], now.clamp(min=limits[1]), moved)


def _moved_residual(part: Part, task: Task, now: tuple[Tensor, Tensor]) -> Tensor:
    return _residual(part, task, _moved(part, now, task.limits))


def _squares(part: Part, task: Task, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Squared errors of weights with a shift, (G, O, P)."""
    aim, now = part.aim, _outputs(part, *weights)
    if task.limits is not None:
        aim, now = aim.clamp(*task.limits), now.clamp(*task.limits)
    return _weighed(part, task, aim - now)


def _weighed(part: Part, task: Task, values: Tensor) -> Tensor:
    """Squares of values at the outputs, (G, O, P), as they are judged."""
    squares = (values if task.metric is None else task.metric.to(values.dtype) @ values).square()
    return squares if part.weight is None else squares * part.weight


def _errors(task: Task, parts: Iterable[Part], candidates: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Mean squared errors of weights with shifts; infinite where they are no numbers."""
    totals, count = [0.0] * len(candidates), 0
    for part in parts:
        count += part.aim.numel()
        for place, weights in enumerate(candidates):
            totals[place] += float(_squares(part, task, weights).sum(dtype=torch.float64))
    return [total / max(count, 1) if math.isfinite(total) else math.inf for total in totals]


def _sums(task: Task, parts: Parts) -> tuple[Tensor, float]:
    """Weighted sum of each column, (G, Q), zeros where the layer adds nothing; and the weight of all positions."""
    total, sums = 0.0, torch.zeros(task.old.shape[::2], dtype=torch.float64, device=task.old.device)
    for part in parts():
        total += part.x.shape[-1] if part.weight is None else float(part.weight.sum(dtype=torch.float64))
        if task.shifted:
            sums += (part.x.sum(-1) if part.weight is None else part.x @ part.weight).double()
    return sums, total


def _centred(part: Part, mean: Tensor) -> Tensor:
    """Columns without their means, times the root of the weights of positions."""
    x = part.x - mean.to(part.x.dtype)[..., None]
    return x if part.weight is None else x * part.weight.sqrt()


def _rooted(part: Part, residual: Tensor) -> Tensor:
    return residual if part.weight is None else residual * part.weight.sqrt()


def _scales(squares: Tensor, mean: Tensor) -> Tensor:
    """One over the deviation of each column, and 0 for a column that is constant but for rounding; shapes (G, Q)."""
    deviation = squares.clamp(min=0).sqrt()
    return torch.where(deviation > CONSTANT * mean.abs(), 1 / deviation.clamp(min=1e-30), 0.0)


def factor(matrix: Tensor, ridge: float) -> Tensor | None:
    """Cholesky factors of matrices with a ridge on the diagonal, which grows until there are some; None if there are none."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for attempt in range(ATTEMPTS):
        root, failed = torch.linalg.cholesky_ex(matrix + ridge * DAMPING**attempt * eye)
        if not failed.any() and bool(root.isfinite().all()):
            return root
    return None


class _Sums(NamedTuple):
    """Sums over positions about a mean: of columns as they are, (G, Q), of weights, and those of products and residuals."""

    columns: Tensor
    total: float
    products: Tensor
    crossed: Tensor
    residuals: Tensor


class _Primal:
    """Normal equations over columns: second moments in float64, from products of some positions at a time.

    Attributes:
        plain: what `cross` gives for the aims as they are.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.parts = task, task.fit
        sums, self.total = _sums(task, task.fit)
        self.mean = sums / max(self.total, TINY)
        self._set(self._products(task.fit), *self._crossed(task.fit, partial(_plain_residual, task=task)))

    def _set(self, products: Tensor, crossed: Tensor, residuals: Tensor) -> None:
        self.products, self.crossed, self.residuals = products, crossed, residuals
        gram = products / max(self.total, TINY)
        self.scale = _scales(gram.diagonal(dim1=-2, dim2=-1), self.mean)
        self.gram = gram * self.scale[:, :, None] * self.scale[:, None]
        self.plain = self._scaled(crossed, residuals)

    @cached_property
    def held(self) -> _Sums:
        """What is held out, about the mean of what is not."""
        crossed, residuals = self._crossed(self.task.held, partial(_plain_residual, task=self.task))
        return _Sums(*_sums(self.task, self.task.held), self._products(self.task.held), crossed, residuals)

    def errors(self, changes: Sequence[Change]) -> list[float]:
        """Mean squared errors held out, of the weights as they are and after each change.

        Without limits and a metric they are quadratic in the change, and their moments are needed anyway.
        """
        task = self.task
        if task.limits is not None or task.metric is not None:
            return _errors_of(task, changes)
        (before,) = _errors(task, task.held(), [(task.old, task.shift)])
        count = max(sum(part.aim.numel() for part in task.held()), 1)
        return [before, *(max(before + self._gained(change) / count, 0.0) for change in changes)]

    def _gained(self, change: Change) -> float:
        """What a change adds to the sum of squared errors held out; infinite if it is no number."""
        held, moves = self.held, ~self.task.stays
        weights, shift = change[0] * moves[..., None], change[1] * moves
        shift = shift + (weights @ self.mean[..., None])[..., 0]
        off = held.columns - held.total * self.mean
        linear = (weights * held.crossed).sum() + (shift * held.residuals).sum()
        square = (weights @ held.products * weights).sum() + held.total * shift.square().sum()
        found = float(square + 2 * ((weights @ off[..., None])[..., 0] * shift).sum() - 2 * linear)
        return found if math.isfinite(found) else math.inf

    def with_held(self) -> _Primal:
        """The same on all positions: those held out are added to the sums, whose centre moves."""
        task, more, held = self.task, copy.copy(self), self.held
        more.parts = lambda: chain(task.fit(), task.held())
        more.total = self.total + held.total
        more.mean = (self.mean * self.total + held.columns) / max(more.total, TINY)
        moved = more.mean - self.mean
        products = self.products + held.products
        crossed, residuals = self.crossed + held.crossed, self.residuals + held.residuals
        more._set(
            products - more.total * moved[:, :, None] * moved[:, None],
            crossed - residuals[:, :, None] * moved[:, None],
            residuals,
        )
        return more

    def cross(self, residual: Residual) -> tuple[Tensor, Tensor]:
        """Mean products of residuals with scaled columns, (G, O, Q), and mean residuals, (G, O)."""
        return self._scaled(*self._crossed(self.parts, residual))

    def _products(self, parts: Parts) -> Tensor:
        """Sums of products of columns about the mean, (G, Q, Q)."""
        found = torch.zeros(*self.mean.shape, self.mean.shape[-1], dtype=torch.float64, device=self.mean.device)
        for part in parts():
            z = _centred(part, self.mean)
            found += z @ z.transpose(1, 2)
        return found

    def _crossed(self, parts: Parts, residual: Residual) -> tuple[Tensor, Tensor]:
        """Sums of products of residuals with columns about the mean, (G, O, Q), and of residuals, (G, O)."""
        task = self.task
        cross = torch.zeros(task.old.shape, dtype=torch.float64, device=task.old.device)
        total = torch.zeros(task.shift.shape, dtype=torch.float64, device=task.old.device)
        for part in parts():
            e = residual(part)
            cross += _rooted(part, e) @ _centred(part, self.mean).transpose(1, 2)
            total += (e.sum(-1) if part.weight is None else e @ part.weight).double()
        return cross, total

    def _scaled(self, crossed: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        total = max(self.total, TINY)
        return crossed / total * self.scale[:, None], residuals / total

    def change(self, cross: tuple[Tensor, Tensor], ridge: float) -> Change | None:
        """What is added to the weights, (G, O, Q), and to the shift, (G, O)."""
        products, mean = cross
        weights = torch.zeros_like(products)
        if math.isfinite(ridge):
            root = factor(self.gram, ridge)
            if root is None:
                return None
            weights = torch.cholesky_solve(products.transpose(1, 2), root).transpose(1, 2) * self.scale[:, None]
        return weights, _shift_change(self.task, weights, self.mean, mean)


class _Dual:
    """The same over positions, where there are fewer of them than columns; of one group."""

    def __init__(self, task: Task) -> None:
        self.task = task
        sums, self.total = _sums(task, task.fit)
        self.mean = sums / max(self.total, TINY)
        z = torch.cat([_centred(part, self.mean)[0] for part in task.fit()], 1)
        scale = _scales(z.square().sum(1, dtype=torch.float64)[None] / max(self.total, TINY), self.mean)
        self.scale = scale
        self.z = z * scale[0, :, None].to(z.dtype) / math.sqrt(max(self.total, TINY))
        self.gram = sum((block.t() @ block).double() for block in self.z.split(WIDEST))
        self.plain = self.cross(partial(_plain_residual, task=task))

    def with_held(self) -> _Dual:
        """The same on all positions, those held out too."""
        task = self.task
        return _Dual(replace(task, fit=lambda: chain(task.fit(), task.held())))

    def errors(self, changes: Sequence[Change]) -> list[float]:
        """Mean squared errors held out, of the weights as they are and after each change."""
        return _errors_of(self.task, changes)

    def cross(self, residual: Residual) -> tuple[Tensor, Tensor]:
        """Residuals without their means at all positions, (O, P), and these means, (1, O)."""
        found = [(part, residual(part)) for part in self.task.fit()]
        mean = torch.zeros_like(self.task.shift, dtype=torch.float64)
        for part, e in found if self.task.shifted else ():
            mean += (e.sum(-1) if part.weight is None else e @ part.weight).double() / max(self.total, TINY)
        rows = [_rooted(part, e - mean[..., None].to(e.dtype))[0].double() for part, e in found]
        return torch.cat(rows, 1) / math.sqrt(max(self.total, TINY)), mean

    def change(self, cross: tuple[Tensor, Tensor], ridge: float) -> Change | None:
        """What is added to the weights, (1, O, Q), and to the shift, (1, O)."""
        rows, mean = cross
        weights = torch.zeros_like(self.task.old, dtype=torch.float64)
        if math.isfinite(ridge):
            root = factor(self.gram, ridge)
            if root is None:
                return None
            held = torch.cholesky_solve(rows.t(), root).t()
            weights = ((held.to(self.z.dtype) @ self.z.t()).double() * self.scale)[None]
        return weights, _shift_change(self.task, weights, self.mean, mean)


def _shift_change(task: Task, weights: Tensor, columns: Tensor, residual: Tensor) -> Tensor:
    """What the shift makes up for, (G, O)."""
    if not task.shifted:
        return torch.zeros_like(residual)
    return residual - (weights @ columns[..., None])[..., 0]
