"""One layer by least squares, against what is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pruners.repair.solve import Solution, _least_held, is_exact, is_gain, solve
from pruners.repair.systems import Primal
from pruners.repair.task import Part, Task, errors_after


def task(x: Tensor, aim: Tensor, outputs: int = 3, **settings: Any) -> Task:
    """Old weights of zero, four fifths of the positions to solve on, the rest to judge by."""
    groups, columns, positions = x.shape
    cut = positions - max(1, positions // 5)
    stays = torch.zeros(groups, outputs, dtype=torch.bool)
    given = {"shifted": True, "limits": None, "weight": None, "dual": False} | settings
    weight = given.pop("weight")

    def part(chosen: slice) -> list[Part]:
        return [Part(x[..., chosen], aim[..., chosen], None, None if weight is None else weight[chosen])]

    return Task(
        torch.zeros(groups, outputs, columns, dtype=x.dtype),
        torch.zeros(groups, outputs, dtype=x.dtype),
        given["shifted"],
        given["limits"],
        stays,
        lambda: part(slice(0, cut)),
        lambda: part(slice(cut, None)),
        given["dual"],
    )


def solved(given: Task, *ridges: float) -> Solution:
    found = solve(given, ridges or (1e-6, 1e-3, 1.0), 0)
    assert found is not None
    return found


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("columns", "positions"), [(5, 60), (40, 20)])
def test_a_ridge_in_closed_form(dual: bool, shifted: bool, columns: int, positions: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, columns, positions, dtype=torch.float64) * torch.logspace(-3, 3, columns)[:, None] + 2
    weight = torch.rand(positions, dtype=torch.float64)
    aim = torch.randn(1, 3, columns, dtype=torch.float64) @ x
    found = solved(task(x, aim, shifted=shifted, weight=weight, dual=dual), 0.1)
    cut = positions if found.helps else positions - positions // 5  # what is worth it is solved again on all
    w, z, y = weight[:cut], x[0, :, :cut], aim[0, :, :cut]
    mean, middle = (((v * w).sum(1, keepdim=True) / w.sum()) * shifted for v in (z, y))
    scale = (((z - mean).square() * w).sum(1) / w.sum()).sqrt()
    normed = (z - mean) / scale[:, None]
    gram = normed * w @ normed.t() / w.sum() + 0.1 * torch.eye(columns)
    weights = torch.linalg.solve(gram, (normed * w @ (y - middle).t()) / w.sum()).t() / scale
    torch.testing.assert_close(found.weights[0], weights, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.shift[0], (middle - weights @ mean)[:, 0], rtol=1e-6, atol=1e-6)


def test_groups_are_solved_by_themselves() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, 80)
    aim = torch.randn(4, 3, 5) @ x
    together = solved(task(x, aim), 1e-3)
    for group in range(4):
        one = slice(group, group + 1)
        torch.testing.assert_close(together.weights[one], solved(task(x[one], aim[one]), 1e-3).weights)


def test_columns_of_very_different_sizes() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 12, 400) * torch.logspace(-6, 6, 12)[:, None]
    weights = torch.randn(1, 3, 12) / torch.logspace(-6, 6, 12)
    found = solved(task(x, weights @ x))
    assert found.after < 1e-6 * found.before
    torch.testing.assert_close(found.weights, weights, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("dual", [False, True])
def test_systems_without_a_unique_solution_are_solved_all_the_same(dual: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 30)
    x[:, 1], x[:, 2], x[:, 3] = x[:, 0], 0.0, 7.0
    found = solved(task(x, x[:, :3] * 2, dual=dual), 0.0, 1e-12, 1e-6)
    assert found.weights.isfinite().all() and found.after < 1e-3 * found.before
    assert not found.weights[:, :, 2:4].any()  # nothing is known of columns that never change


def test_what_is_no_number_is_no_solution() -> None:
    x = torch.randn(1, 4, 30)
    x[0, 0, 3] = math.nan
    found = solve(task(x, torch.randn(1, 3, 30)), (1e-3,), 0)
    assert found is None or not found.after < found.before


def test_the_ridge_is_what_serves_examples_held_out() -> None:
    """Noise with as many columns as positions: fitted to the last bit by a small ridge, which serves nobody else."""
    torch.manual_seed(0)
    x, aim = torch.randn(1, 40, 50), torch.randn(1, 3, 50)
    given = task(x, aim, shifted=False)
    close, chosen = solved(given, 1e-9), solved(given, 1e-9, 1e-3, 1.0, 1e3)
    assert close.fitted < 1e-6 and chosen.after < close.after


def test_of_ridges_that_serve_alike_the_least_is_taken() -> None:
    assert _least_held({1e-6: 0.509, 1e-3: 0.5, 1.0: 0.501}, 1.0) == (1e-6, 0.509)
    assert _least_held({1e-6: 0.511, 1e-3: 0.509, 1.0: 0.5}, 1.0) == (1e-3, 0.509)
    assert _least_held({1e-6: 1.001, 1e-3: 0.999, 1.0: 0.99}, 1.0) == (1e-3, 0.999), "worse than before is not alike"
    assert _least_held({1e-6: math.inf, math.inf: 2.0}, 1.0) == (math.inf, 2.0)
    assert _least_held({1e-6: math.inf, math.inf: math.inf}, math.inf) == (1e-6, math.inf)


def test_limits_let_values_lie_beyond() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 500)
    aim = 2 * torch.randn(1, 3, 6) @ x + torch.randn(1, 3, 500)
    relaxed = aim.clamp(min=0) - 5 * (aim < 0)  # beyond the limit, where a linear layer cannot follow
    given = task(x, relaxed, limits=(0.0, math.inf))
    errors = [solve(given, (1e-6,), iterations) for iterations in (0, 10)]
    assert errors[0] is not None and errors[1] is not None and errors[1].after < 0.9 * errors[0].after


def test_a_layer_that_computes_its_aim_is_exact() -> None:
    x = torch.randn(1, 4, 30)
    assert is_exact(task(x, torch.zeros(1, 3, 30))) and not is_exact(task(x, torch.ones(1, 3, 30)))
    assert not is_exact(task(x, torch.full((1, 3, 30), math.nan)))
    assert not is_exact(task(x, torch.full((1, 3, 30), 1e6), weight=torch.full((30,), 1e-12)))


def test_a_gain_at_few_positions_must_be_clear() -> None:
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean()
    assert is_gain([noise + 0.05]) and not is_gain([noise - 0.05])
    assert not is_gain([]) and not is_gain([torch.ones(1)]) and not is_gain([torch.tensor([1.0, 0.1])])


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_system_that_grows_is_that_of_all_positions(shifted: bool, weighted: bool) -> None:
    torch.manual_seed(0)
    x, aim = torch.randn(2, 5, 60, dtype=torch.float64) + 3, torch.randn(2, 3, 60, dtype=torch.float64)
    given = task(x, aim, shifted=shifted, weight=torch.rand(60, dtype=torch.float64) if weighted else None)
    grown = Primal(given).with_held()
    whole = Primal(replace(given, fit=lambda: [*given.fit(), *given.held()]))
    assert torch.allclose(grown.gram, whole.gram) and torch.allclose(grown.mean, whole.mean)
    for one, other in zip((*grown.plain, grown.scale), (*whole.plain, whole.scale), strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_errors_from_moments_are_those_of_what_is_computed(shifted: bool, weighted: bool) -> None:
    torch.manual_seed(0)
    x, aim = torch.randn(2, 5, 60, dtype=torch.float64) + 3, torch.randn(2, 3, 60, dtype=torch.float64)
    given = task(x, aim, shifted=shifted, weight=torch.rand(60, dtype=torch.float64) if weighted else None)
    given.stays[1, 2] = True
    system = Primal(given)
    changes = [change for ridge in (1e-3, 1.0, math.inf) if (change := system.change(system.plain, ridge)) is not None]
    changes.append((torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64) * shifted))
    assert system.errors(changes) == pytest.approx(errors_after(given, changes))
    nothing = (torch.full((2, 3, 5), math.nan, dtype=torch.float64), changes[0][1])
    assert system.errors([nothing])[1] == math.inf
