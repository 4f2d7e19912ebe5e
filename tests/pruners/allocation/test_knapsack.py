"""Optimal allocation against every allocation there is, and against the global ranking."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruners.allocation.allocate import Limits
from pruners.allocation.costs import CostModel
from pruners.allocation.knapsack import Choice, multiple_choice
from pruners.allocation.targets import counted_budgets
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import Group
from pruners.operators.axes import Axis
from pruners.tracing.trace import trace
from tests.pruners.allocation.test_allocate import plain
from tests.pruners.networks import build
from tests.pruners.plain import allocate


@cache
def analysed(name: str) -> tuple[list[Group], CostModel]:
    model, example = build(name)
    graph = tie_axes(trace(model, example))
    return [group for group in dependency_groups(graph) if not group.protected], CostModel(graph, model)


CURVES = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 10)), min_size=1, max_size=5), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(CURVES, st.integers(0, 25))
def test_the_program_equals_brute_force(items: list[list[tuple[int, float]]], capacity: int) -> None:
    costs = [np.array([cost for cost, _ in item]) for item in items]
    damages = [np.array([damage for _, damage in item]) for item in items]
    every = [list(picks) for picks in product(*(range(len(item)) for item in items))]
    fits = [picks for picks in every if sum(c[k] for c, k in zip(costs, picks, strict=True)) <= capacity]
    picked = multiple_choice(list(map(Choice, costs, damages)), capacity)
    if not fits:
        assert picked is None
    else:
        assert picked in fits
        totals = [sum(d[k] for d, k in zip(damages, picks, strict=True)) for picks in [picked, *fits]]
        assert totals[0] == pytest.approx(min(totals))


def test_the_program_sees_what_greed_does_not() -> None:
    """Removing 3 units of curves (0, 1, 4) and (0, .5, 1.5, 3, 10): 1 and 2, not 0 and 3."""
    curves = [np.array([0.0, 1.0, 4.0]), np.array([0.0, 0.5, 1.5, 3.0, 10.0])]
    costs = [np.arange(len(curve))[::-1] for curve in curves]
    choices = list(map(Choice, costs, curves))
    assert multiple_choice(choices, 6 - 3) == [1, 2]
    assert multiple_choice(choices, -1) is None


@settings(max_examples=200, deadline=None)
@given(CURVES, CURVES, st.integers(0, 9), st.floats(0, 10), st.integers(0, 25))
def test_bundles_equal_brute_force(
    outer: list[list[tuple[int, float]]], inner: list[list[tuple[int, float]]], cost: int, damage: float, capacity: int
) -> None:
    """Some decisions fall away together, at a cost and a damage of their own."""

    def choices(items: list[list[tuple[int, float]]]) -> list[Choice]:
        return [Choice(np.array([c for c, _ in item]), np.array([d for _, d in item])) for item in items]

    def every(items: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
        picks = product(*items)
        return [(sum(c for c, _ in pick), sum(d for _, d in pick)) for pick in picks]

    bundle = Choice(np.array([cost]), np.array([damage]), tuple(choices(inner)))
    inside = [*every(inner), (cost, damage)]
    totals = [d + e for c, d in every(outer) for b, e in inside if b + c <= capacity]
    picked = multiple_choice([*choices(outer), bundle], capacity)
    if picked is None:
        assert not totals
        return
    *own, last = picked
    spent = [outer[at][pick] for at, pick in enumerate(own)]
    spent += [(cost, damage)] if last is None else [inner[at][pick] for at, pick in enumerate(last)]
    assert sum(c for c, _ in spent) <= capacity
    assert sum(d for _, d in spent) == pytest.approx(min(totals))


class Branches(nn.Module):
    """Hidden layers side by side: the parameters of one do not depend on another."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(2 + i, width), nn.ReLU(), nn.Linear(width, 3)) for i, width in enumerate(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x[:, : branch[0].in_features]) for branch in self.branches)  # type: ignore[return-value]


@pytest.mark.parametrize("widths", [(4, 5), (6, 3, 5)])
def test_where_costs_add_up_the_allocation_is_the_best(widths: tuple[int, ...]) -> None:
    model = Branches(widths).eval()
    graph = tie_axes(trace(model, (torch.randn(2, 4),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    cost = CostModel(graph, model)
    every = [
        dict(zip((g.axis for g in free), counts, strict=True))
        for counts in product(*(range(1, g.size + 1) for g in free))
    ]
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
        least = cost.params(every[0])
        budget = least + (seed + 1) / 22 * (cost.params({}) - least)
        keep = allocate(free, scores, cost, {"params": budget}, "optimal", Limits(max_ratio=1))
        counts = {g.axis: int(keep[g.axis].sum()) if g.axis in keep else g.size for g in free}
        best = max(kept_importance(free, scores, kept) for kept in every if cost.params(kept) <= budget)
        assert kept_importance(free, scores, counts) == pytest.approx(best)
        assert cost.params(counts) <= budget


def kept_importance(free: list[Group], scores: dict[str, Tensor], counts: dict[Axis, int]) -> float:
    return sum(float(scores[g.name].double().sort(descending=True).values[: counts[g.axis]].sum()) for g in free)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["residual", "dense", "fused qkv", "shared", "grouped and shuffled", "looped experts"]),
    st.dictionaries(st.sampled_from(["macs", "params"]), st.floats(0.4, 0.95), min_size=1),
    st.sampled_from([1, 2]),
    st.integers(0, 1000),
)
def test_never_worse_than_the_global_ranking(name: str, targets: dict[str, float], round_to: int, seed: int) -> None:
    free, cost = analysed(name)
    generator = torch.Generator().manual_seed(seed)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
    limits = Limits(round_to=round_to)
    budgets = counted_budgets(targets, cost)
    importance = {}
    least = {group.axis: group.size - limits.removed(group, group.size) for group in free}
    assume(all(cost.of(target)(least) <= budget for target, budget in budgets.items()))
    for allocation in ("global", "optimal"):
        keep = allocate(free, scores, cost, budgets, allocation, limits)
        counts = {g.axis: int(keep[g.axis].sum()) if g.axis in keep else g.size for g in free}
        assert all(cost.of(target)(counts) <= budget for target, budget in budgets.items())
        assert all(count % round_to == 0 or count == axis.size for axis, count in counts.items())
        importance[allocation] = kept_importance(free, scores, counts)
    assert importance["optimal"] >= importance["global"] - 1e-9


def test_products_of_costs_are_met_and_worth_it() -> None:
    """A plain network, where the macs of a layer are a product: more importance is kept than by ranking."""
    _, free, cost, _ = plain()
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
    kept = {}
    for allocation in ("global", "optimal"):
        keep = allocate(free, scores, cost, counted_budgets({"macs": 0.3}, cost), allocation)
        counts = {g.axis: int(keep[g.axis].sum()) if g.axis in keep else g.size for g in free}
        assert 0.27 < cost.macs(counts) / cost.macs({}) <= 0.3
        kept[allocation] = kept_importance(free, scores, counts)
    assert kept["optimal"] > 1.05 * kept["global"]


def test_an_unreachable_budget_is_refused_with_the_range() -> None:
    _, free, cost, scores = plain()
    with pytest.raises(ValueError, match=r"must be reachable, got macs .* reaches macs from [\d,]+ to [\d,]+"):
        allocate(free, scores, cost, {"macs": 1000.0}, "optimal")
