"""Second moments that cannot be inverted as they are."""

from __future__ import annotations

import pytest
import torch

from pruners.importance.damped import RIDGE, SMALLEST, damped_inverse, damped_solve


def moments(positions: int, columns: int, orders: float) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(positions, columns).double() * 10.0 ** torch.linspace(-orders, orders, columns)
    return x.t() @ x / positions


@pytest.mark.parametrize("orders", [0, 8, 12])
def test_the_inverse_is_of_each_column_with_a_ridge_of_its_own(orders: float) -> None:
    held = moments(500, 12, orders)
    size = held.diagonal().sqrt()
    expected = torch.linalg.inv(held / size / size[:, None] + RIDGE * torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(damped_inverse(held) * size * size[:, None], expected)


@pytest.mark.parametrize("orders", [0, 8])
@pytest.mark.parametrize("positions", [3, 500])
def test_solutions_solve(positions: int, orders: float) -> None:
    """Also where there are fewer positions than columns, as far as the columns allow it."""
    held = moments(positions, 12, orders)
    right = held @ torch.randn(12, 2).double().div(held.diagonal().sqrt()[:, None])
    size = held.diagonal().sqrt()[:, None]
    torch.testing.assert_close(held @ damped_solve(held, right) / size, right / size, rtol=1e-4, atol=1e-4)


def test_one_matrix_that_rounding_left_indefinite_leaves_the_others_alone() -> None:
    good = moments(500, 3, 0)
    bad = torch.diag(torch.tensor([1.0, -1e-12, 1.0]).double())
    both = damped_solve(torch.stack([good, bad]), torch.ones(2, 3, 1).double())
    assert bool(both.isfinite().all())
    torch.testing.assert_close(both[0], torch.linalg.solve(good, torch.ones(3, 1).double()))


def test_columns_of_zeros_are_no_division_by_zero() -> None:
    held = torch.zeros(2, 2, dtype=torch.float64)
    assert bool(damped_inverse(held).isfinite().all())
    assert bool(damped_solve(held, held).eq(0).all())
    assert float(damped_solve(held[:1, :1], torch.ones(1, 1).double())) == pytest.approx(SMALLEST**-2)
