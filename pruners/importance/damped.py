"""Second moments inverted and solved with, whose columns may span many orders of magnitude: scaled, factored, damped until they can be.

Matrices are positive definite as far as rounding, and fewer positions than columns, have left them so. Everything is done on columns
of mean square 1, so that units do not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-4  # relative to a column's own mean square
SMALLEST = 1e-30  # root mean square of a column that is of zeros
ROUNDING = 1e-10  # relative to the diagonal
DAMPING = 10.0  # what a ridge that is too little is multiplied by


def damped_inverse(moments: Tensor) -> Tensor:
    """The inverse of second moments with a ridge on each column, shape (Q, Q).

    Args:
        moments: (Q, Q), float64.

    Raises:
        ValueError: they are not finite.
    """
    scaled, size = _scaled(moments)
    return torch.cholesky_inverse(_factor(scaled, RIDGE)) / size[:, None] / size[None, :]


def damped_root(moments: Tensor) -> Tensor:
    """A lower triangle L with L Lᵀ the second moments, with a ridge on each column; shape (Q, Q), float64.

    Raises:
        ValueError: they are not finite.
    """
    scaled, size = _scaled(moments)
    return _factor(scaled, RIDGE) * size[:, None]


def damped_solve(matrices: Tensor, right: Tensor) -> Tensor:
    """Solutions X of A X = B.

    Args:
        matrices: A, (..., Q, Q), float64.
        right: B, (..., Q, R).

    Raises:
        ValueError: A is not finite.
    """
    if matrices.shape[-1] == 1:
        return right / matrices.abs().clamp_min(SMALLEST**2)
    scaled, size = _scaled(matrices)
    return torch.cholesky_solve(right / size[..., :, None], _factor(scaled, ROUNDING)) / size[..., :, None]


def _scaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    size = matrices.diagonal(dim1=-2, dim2=-1).abs().sqrt().clamp_min(SMALLEST)
    return matrices / size[..., :, None] / size[..., None, :], size


def _factor(scaled: Tensor, least: float) -> Tensor:
    """Cholesky factors, each with as much of a ridge as it needs."""
    if not scaled.isfinite().all():  # no ridge would be enough
        raise ValueError(
            "second moments must be finite, got NaN or infinity; look for them in the data and the weights."
        )
    eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    ridge = torch.full(scaled.shape[:-2], least, dtype=scaled.dtype, device=scaled.device)
    while True:
        factor, failed = torch.linalg.cholesky_ex(scaled + ridge[..., None, None] * eye)
        if not failed.any():
            return factor
        ridge = torch.where(failed > 0, DAMPING * ridge, ridge)
