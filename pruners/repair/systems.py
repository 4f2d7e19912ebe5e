"""Systems of one layer: normal equations over its columns, or over positions where these are fewer.

Shapes as in `pruners.repair.task`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from pruners.repair.task import Change, Part, Parts, Residual, Task, errors_after, mean_errors, plain_residual

WIDEST = 5_000  # rows of a matrix that is factored: columns, or positions where these are fewer
DAMPING = 10.0  # what a ridge that leaves a matrix indefinite is multiplied by
ATTEMPTS = 4  # to damp
TINY = 1e-30
CONSTANT = 1e-6  # deviation of a column, relative to its mean, that is rounding


class _Sums(NamedTuple):
    """Sums over positions about a mean: of columns as they are, (G, Q), of weights, and those of products and residuals."""

    columns: Tensor
    total: float
    products: Tensor
    crossed: Tensor
    residuals: Tensor


class Primal:
    """Normal equations over columns: second moments in float64, from products of some positions at a time.

    Attributes:
        plain: what `cross` gives for the aims as they are.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.parts = task, task.fit
        sums, self.total = _sums(task, task.fit)
        self.mean = sums / max(self.total, TINY)
        self._set(self._products(task.fit), *self._crossed(task.fit, partial(plain_residual, task=task)))

    def _set(self, products: Tensor, crossed: Tensor, residuals: Tensor) -> None:
        self.products, self.crossed, self.residuals = products, crossed, residuals
        gram = products / max(self.total, TINY)
        self.scale = _scales(gram.diagonal(dim1=-2, dim2=-1), self.mean)
        self.gram = gram * self.scale[:, :, None] * self.scale[:, None]
        self.plain = self._scaled(crossed, residuals)

    @cached_property
    def held(self) -> _Sums:
        """What is held out, about the mean of what is not."""
        crossed, residuals = self._crossed(self.task.held, partial(plain_residual, task=self.task))
        return _Sums(*_sums(self.task, self.task.held), self._products(self.task.held), crossed, residuals)

    def errors(self, changes: Sequence[Change]) -> list[float]:
        """Mean squared errors held out, of the weights as they are and after each change.

        Without limits and a metric they are quadratic in the change, and their moments are needed anyway.
        """
        task = self.task
        if task.limits is not None or task.metric is not None:
            return errors_after(task, changes)
        (before,) = mean_errors(task, task.held(), [(task.old, task.shift)])
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

    def with_held(self) -> Primal:
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


class Dual:
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
        self.plain = self.cross(partial(plain_residual, task=task))

    def with_held(self) -> Dual:
        """The same on all positions, those held out too."""
        task = self.task
        return Dual(replace(task, fit=lambda: chain(task.fit(), task.held())))

    def errors(self, changes: Sequence[Change]) -> list[float]:
        """Mean squared errors held out, of the weights as they are and after each change."""
        return errors_after(self.task, changes)

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


def factor(matrix: Tensor, ridge: float) -> Tensor | None:
    """Cholesky factors of matrices with a ridge on the diagonal, which grows until there are some; None if there are none."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for attempt in range(ATTEMPTS):
        root, failed = torch.linalg.cholesky_ex(matrix + ridge * DAMPING**attempt * eye)
        if not failed.any() and bool(root.isfinite().all()):
            return root
    return None


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
