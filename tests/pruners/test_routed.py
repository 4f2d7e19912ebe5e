"""Experts that see only the tokens routed to them: removing equals masking on other inputs and routes too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import count
from pruners import groups, least_squares_, load
from pruners.allocation.costs import CostModel
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph
from pruners.operators.routing import NothingChosen
from pruners.surgery.masked import difference, run_traced
from pruners.surgery.module import build as build_smaller
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.plain import prune
from tests.pruners.routed import ROUTES, Routed, build, skipping
from tests.pruners.test_invariants import random_removal

NAMES = [*ROUTES, "sliced"]


@cache
def analysed(name: str) -> tuple[nn.Module, Tensor, AxisGraph]:
    """A network, its example and its axes, traced once for all tests."""
    model, x = build(name, seed=len(name))
    return model, x, tie_axes(trace(model, (x,)))


def others() -> list[Tensor]:
    """Inputs of other batch sizes and scales, a single token among them, so that most experts get nothing."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((1, 3, 5), (7, 3, 5), (64, 3, 5))
    return [3 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def masked(removal: Removal, x: Tensor) -> Tensor:
    """What the masked full model returns."""
    graph = replace(removal.graph, trace=replace(removal.graph.trace, args=(x,)))
    return run_traced(Removal(graph, removal.keep))[0]


@pytest.mark.parametrize("name", NAMES)
def test_removing_equals_masking_whatever_the_routes(name: str) -> None:
    model, x, graph = analysed(name)
    nothing = Removal(graph, {})
    for seed in range(2):
        removal = Removal(graph, random_removal(graph, seed))
        smaller, form, *_ = build_smaller(removal, model, rewrite(removal), 1e-9)
        assert form == "module"
        for other in others():
            with torch.no_grad():
                assert difference([model(other)], [masked(nothing, other)]) < 1e-12
        for forward in (smaller, rewrite(removal)):
            for other in (x, *others()):
                with torch.no_grad():
                    assert difference([forward(other)], [masked(removal, other)]) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_experts_lose_units_of_their_own(name: str) -> None:
    _, _, graph = analysed(name)
    free = [group for group in dependency_groups(graph) if not group.protected]
    inner = [group for group in free if group.name.endswith(("gate.weight:0", "gate_up:1"))]
    experts = 1 if name == "sliced" else sum(map(len, analysed(name)[0].experts))
    assert len(inner) == experts
    width = {member.tensor for group in free for member in group.members}
    assert ("embed.weight" in width) == (name != "sorted_once")
    assert not any("router" in group.name for group in free)


@pytest.mark.parametrize(("name", "batch"), [*((name, 2) for name in NAMES), ("skipping", 1)])
def test_costs_are_those_of_the_route_taken(name: str, batch: int) -> None:
    model, x, graph = analysed(name)
    x = x[:batch]
    graph = graph if batch > 1 else tie_axes(trace(model, (x,)))
    cost = CostModel(graph, model)
    assert cost.macs({}) == count(model, (x,)).total.macs
    last = ("gate_up:1", "experts.1.")  # nothing is routed by what they compute
    inner = {group.axis for group in dependency_groups(graph) if group.name.startswith(last)}
    removal = Removal(graph, {axis: kept for axis, kept in random_removal(graph, 0).items() if axis in inner})
    assert removal.counts
    found = count(rewrite(removal), (x,)).total
    assert (cost.macs(removal.counts), cost.params(removal.counts)) == (found.macs, found.params)


def test_a_routed_model_is_pruned_saved_and_repaired(tmp_path: object) -> None:
    torch.manual_seed(0)
    model = Routed(skipping, 8, [12, 12, 12], 1).eval()
    with torch.no_grad():
        model.routers[0].bias[2] = -100.0  # an expert that never sees a token
    data = [(torch.randn(4, 3, 5), torch.randint(0, 3, (4,))) for _ in range(2)]
    for importance in ("activation", "obs"):
        result = prune(model, data[0][0], {"macs": 0.6}, importance=importance, batches=data)
        assert result.summary.form == "module" and result.summary.difference < 1e-6
    result.save(tmp_path)
    again = load(tmp_path, Routed(skipping, 8, [12, 12, 12], 1).eval())
    assert torch.equal(again(data[1][0]), result.model(data[1][0]))
    experts = {k: v.clone() for k, v in result.model.state_dict().items() if "experts" in k}
    repaired = least_squares_(result.model, model, result.plan, data)
    assert any("experts" in name and "it sees what is routed to it" in name for name in repaired.left_out)
    after = result.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in experts.items())
    assert all(value.isfinite().all() for value in after.values())


class Choosing(nn.Module):
    """An operation between two layers."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x)))


def other_where_none(x: Tensor) -> Tensor:
    rows = x[x.sum(-1) > 0]
    return torch.cat([x, rows]).relu() if rows.shape[0] > 0 else -x


def branching(x: Tensor) -> Tensor:
    return x.relu() if (x > 0).any() else x.tanh()


def of_some_number(x: Tensor) -> Tensor:
    rows = x[x.sum(-1) > 0]
    return x / len(rows)


def smallest_of_some(x: Tensor) -> Tensor:
    sums = x.sum(-1)
    return x - sums[sums > 0].min()


def some_needed(x: Tensor) -> Tensor:
    rows = x[x.sum(-1) > 0]
    if len(rows) == 0:
        raise ValueError("some rows must be positive")
    return x + rows.new_ones(1)


class Named(nn.Module):
    """Experts called by name, those that have tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(5, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleDict({f"expert_{i}": nn.Linear(8, 8) for i in range(3)})
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        mask = F.one_hot(self.router(x).argmax(-1), 3).T
        result = torch.zeros_like(x)
        for which in mask.sum(-1).gt(0).nonzero().flatten():
            rows = mask[which].nonzero().flatten()
            result = result.index_add(0, rows, self.experts[f"expert_{which}"](x[rows]))
        return self.last(result)


@pytest.mark.parametrize("make", [lambda: Choosing(some_needed), Named], ids=["some needed", "named"])
def test_choices_that_are_proved(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    assert prune(model, torch.randn(16, 5), {"params": 0.7}).summary.difference < 1e-5


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (smallest_of_some, "must compute the same for no rows .* got an error"),
        (other_where_none, "must compute the same for no rows"),
        (branching, "must compute the same for no rows"),
        (of_some_number, "must return what the model returns"),
        (lambda x: sum(x * i for i in x.argmax(-1).unique().tolist()), r"cannot be traced(?s:.*)loop over all experts"),
        (lambda x: x if x.sum() > 100 else -x, r"cannot be traced(?s:.*)test_routed.py"),
        (lambda x: x if (x > 0).sum() > 5 else -x, r"cannot be traced(?s:.*)test_routed.py"),
    ],
)
def test_what_depends_on_values_otherwise_is_refused(operation: Callable[[Tensor], Tensor], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        prune(Choosing(operation), torch.randn(16, 5), {"params": 0.7})


def test_rows_that_merge_with_features_keep_them() -> None:
    model = Choosing(lambda x: x[x.sum(-1) > 0].flatten().sum() + x)
    found = {group.name: group.protected for group in groups(model, torch.randn(4, 5))}
    assert found["first.weight:0"] == "chosen by data"


def test_nothing_is_chosen() -> None:
    x = torch.ones(3)
    with NothingChosen():
        assert not x.nonzero().numel() and not (x > 0).any() and not (x > 0).sum() and not x[x > 0].numel()
        assert x.sum() == 3
        assert (x > 0)[torch.arange(2)].all()  # what is read is no choice
    with NothingChosen(counts=False):
        assert (x > 0).any() and not x[x > 0].numel()
