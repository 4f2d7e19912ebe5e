"""Allocation meets its targets within a step, keeps its limits, or says what can be reached."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import nn

from estimators import count
from pruners.allocation.allocate import ALLOCATIONS, Limits
from pruners.allocation.costs import CostModel
from pruners.allocation.targets import counted_budgets
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.importance.score import score_groups
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.plain import allocate


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.ReLU(), nn.Conv2d(48, 40, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10),
        )  # fmt: skip


@cache
def plain() -> tuple[AxisGraph, list[Group], CostModel, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = Plain().eval()
    graph = tie_axes(trace(model, (torch.randn(1, 3, 12, 12),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    return graph, free, CostModel(graph, model), score_groups(graph, free)


@pytest.mark.parametrize("allocation", [name for name, entry in ALLOCATIONS.items() if not entry.knapsack])
@pytest.mark.parametrize(
    "targets", [{"macs": 0.5}, {"params": 0.3}, {"weight_bytes": 40_000}, {"macs": 0.7, "params": 0.4}]
)
def test_targets_are_met_and_one_index_less_would_not(allocation: str, targets: dict[str, float]) -> None:
    _, free, cost, scores = plain()
    wanted = counted_budgets(targets, cost)
    keep = allocate(free, scores, cost, wanted, allocation)
    counts = {axis: int(kept.sum()) for axis, kept in keep.items()}
    assert all(cost.of(name)(counts) <= value for name, value in wanted.items())
    if allocation == "global":  # give back the highest-scored index that went: some target must then be missed
        gone = {g.axis: scores[g.name][~keep[g.axis]].max() for g in free if g.axis in keep}
        last = max(gone, key=lambda axis: float(gone[axis]))
        counts[last] += 1
        assert any(cost.of(name)(counts) > value for name, value in wanted.items())


@pytest.mark.parametrize("left", [0.35, 0.5, 0.77])
def test_kinds_do_not_all_give_way_where_one_suffices(left: float) -> None:
    """Six kinds of equal groups: were they to lose indices at once, several times what one costs would be overshot."""
    model = nn.Sequential(*(layer for i in range(6) for layer in kind(i))).eval()
    graph = tie_axes(trace(model, (torch.randn(2, 16),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    cost = CostModel(graph, model)
    wanted = counted_budgets({"macs": left}, cost)
    keep = allocate(free, {group.name: torch.rand(16) for group in free}, cost, wanted, "isomorphic")
    found = cost.macs({axis: int(kept.sum()) for axis, kept in keep.items()})
    assert wanted["macs"] - 2 * (2 * 16) < found <= wanted["macs"]


def kind(number: int) -> list[nn.Module]:
    """A linear layer, with what makes its outputs a kind of their own."""
    after = [nn.Identity(), nn.LayerNorm(16), nn.LayerNorm(16, bias=False), nn.BatchNorm1d(16), nn.PReLU(16)]
    return [nn.Linear(16, 16, bias=number > 0), after[number - 1] if number else nn.ReLU()]


def test_the_built_model_has_the_predicted_macs() -> None:
    graph, free, cost, scores = plain()
    removal = Removal(graph, allocate(free, scores, cost, counted_budgets({"macs": 0.5}, cost), "global"))
    assert count(rewrite(removal), (3, 12, 12)).total.macs == cost.macs(removal.counts)


def test_uniform_removes_one_ratio() -> None:
    _, free, cost, scores = plain()
    keep = allocate(free, scores, cost, counted_budgets({"macs": 0.5}, cost), "uniform")
    ratios = [1 - int(keep[group.axis].sum()) / group.size for group in free]
    assert max(ratios) - min(ratios) < 1 / 32


@pytest.mark.parametrize("left", [0.25, 0.4, 0.6, 0.8])
def test_uniform_goes_no_further_than_the_groups_of_one_size_must(left: float) -> None:
    widths = (16, 32, 16, 32, 64, 16, 64, 10)
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths))).eval()
    graph = tie_axes(trace(model, (torch.randn(2, 16),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    cost = CostModel(graph, model)
    wanted = counted_budgets({"macs": left}, cost)
    keep = allocate(free, {group.name: torch.rand(group.size) for group in free}, cost, wanted, "uniform")
    kept = {group: int(keep[group.axis].sum()) if group.axis in keep else group.size for group in free}
    by_size = {size: {count for group, count in kept.items() if group.size == size} for size in widths[:-1]}
    assert all(len(counts) == 1 for counts in by_size.values()), "layers of one size must stay alike"
    assert cost.macs({group.axis: count for group, count in kept.items()}) <= wanted["macs"]
    more = [{g.axis: count + (g.size == size) for g, count in kept.items()} for size in by_size]
    assert any(cost.macs(counts) > wanted["macs"] for counts in more)


def test_isomorphic_groups_share_a_ratio() -> None:
    """Groups with a bias are one kind, groups without another; inside a kind the lowest scores go."""
    model = nn.Sequential(*(nn.Linear(16, 16, bias=i < 2) for i in range(5))).eval()
    graph = tie_axes(trace(model, (torch.randn(2, 16),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    scores = {group.name: torch.arange(16.0) + 100 * i for i, group in enumerate(free)}
    keep = allocate(
        free, scores, CostModel(graph, model), counted_budgets({"params": 0.8}, CostModel(graph, model)), "isomorphic"
    )
    assert list(keep) == [free[0].axis, free[2].axis]
    assert abs(int(keep[free[0].axis].sum()) - int(keep[free[2].axis].sum())) <= 1
    assert all(kept.tolist() == sorted(kept.tolist()) for kept in keep.values())


def test_isomorphic_tells_layers_of_several_sorts_apart() -> None:
    """A 1x1 convolution and a linear layer have parameters of the same names, and are of two kinds."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 4)
    ).eval()  # fmt: skip
    graph = tie_axes(trace(model, (torch.randn(2, 3, 8, 8),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    cost = CostModel(graph, model)
    scores = {group.name: torch.arange(16.0) + 100 * i for i, group in enumerate(free)}
    keep = allocate(free, scores, cost, counted_budgets({"params": 0.7}, cost), "isomorphic")
    assert {group.name for group in free if group.axis in keep} == {"0.weight:0", "1.weight:0", "4.weight:0"}


def test_the_lowest_scores_go() -> None:
    _, free, cost, scores = plain()
    keep = allocate(free, scores, cost, counted_budgets({"macs": 0.5}, cost), "global")
    for group in free:
        kept = keep.get(group.axis, torch.ones(group.size, dtype=torch.bool))
        if not kept.all():
            assert scores[group.name][kept].min() >= scores[group.name][~kept].max()


def test_limits_hold() -> None:
    _, free, cost, scores = plain()
    keep = allocate(
        free,
        scores,
        cost,
        counted_budgets({"macs": 0.3}, cost),
        "global",
        Limits(round_to=8, min_kept=9, max_ratio=0.6),
    )
    for axis, kept in keep.items():
        assert int(kept.sum()) % 8 == 0 and int(kept.sum()) >= max(9, 0.4 * axis.size)


def test_an_unreachable_target_is_refused_with_the_range() -> None:
    _, free, cost, scores = plain()
    with pytest.raises(ValueError, match=r"must be reachable, got macs .* reaches macs from [\d,]+ to [\d,]+"):
        allocate(free, scores, cost, counted_budgets({"macs": 0.001}, cost), "global")


@pytest.mark.parametrize("limits", [{"round_to": 0}, {"min_kept": 0}, {"max_ratio": 0.0}])
def test_bad_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Limits(**limits)


def test_allocation_names() -> None:
    _, free, cost, scores = plain()
    with pytest.raises(ValueError, match="one of uniform, global, isomorphic"):
        allocate(free, scores, cost, counted_budgets({"macs": 0.5}, cost), "best")
