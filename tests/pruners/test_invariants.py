"""Removing equals masking, for every construct, at random; the graph and the module say the same."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from estimators import count
from pruners.allocation.costs import CostModel
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph
from pruners.groups.ragged import keep_highest
from pruners.operators.axes import Axis
from pruners.surgery.masked import Masked, compare, difference, run_example
from pruners.surgery.module import agrees, cut_module
from pruners.surgery.module import build as build_smaller
from pruners.surgery.proof import prove
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.networks import NETWORKS, build


@cache
def analysed(name: str) -> tuple[nn.Module, tuple[Tensor, ...], AxisGraph]:
    """A network, its example inputs and its axes, traced once for all tests."""
    model, example = build(name)
    return model, example, tie_axes(trace(model, example))


def random_removal(graph: AxisGraph, seed: int) -> dict[Axis, torch.Tensor]:
    """Keep each index of every unprotected group with probability 0.6, and at least one; as many in rows of a ragged one."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in dependency_groups(graph):
        if not group.protected:
            kept = torch.rand(group.size, generator=generator) < 0.6
            kept[torch.randint(group.size, (1,), generator=generator)] = True
            if group.host is not None:
                kept = keep_highest(torch.rand(group.shape, generator=generator), int((~kept).sum()))
            keep[group.axis] = kept
    return keep


@pytest.mark.parametrize("name", NETWORKS)
def test_removing_equals_masking(name: str) -> None:
    model, _, graph = analysed(name)
    assert not graph.unknown
    for seed in range(3):
        removal = Removal(graph, random_removal(graph, seed))
        smaller = rewrite(removal)
        found = compare(removal, smaller, 1e-4)
        assert not found.where, f"{found} {[g.name for g in dependency_groups(graph) if g.axis in found.axes]}"
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_costs_equal_counted_ones(name: str) -> None:
    model, example, graph = analysed(name)
    cost = CostModel(graph, model)
    removal = Removal(graph, random_removal(graph, 1))
    smaller = rewrite(removal)
    for module, counts in ((model, {}), (smaller, removal.counts)):
        found = count(module, example).total
        predicted = (cost.macs(counts), cost.params(counts), cost.weight_bytes(counts))
        assert predicted == (found.macs, found.params, found.weight_bytes)


def test_what_is_computed_once_counts_once() -> None:
    model, (x,) = build("positions from weights")
    graph = tie_axes(trace(model, (x[:1],)))
    assert graph.trace.copies == 2
    assert CostModel(graph, model).macs({}) == count(model, (x[:1],)).total.macs


@pytest.mark.parametrize("name", NETWORKS)
def test_module_and_graph_return_the_same(name: str) -> None:
    model, _, graph = analysed(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    removal = Removal(graph, random_removal(graph, 2))
    smaller, form, *_ = build_smaller(removal, model, rewrite(removal), 1e-4)
    assert difference(run_example(smaller, graph.trace), run_example(rewrite(removal), graph.trace)) < 1e-4
    if name in MODULES:
        assert form == "module"
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Offset(nn.Module):
    """A module and a little more."""

    def __init__(self, module: nn.Module, offset: float) -> None:
        super().__init__()
        self.module, self.offset = module, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) + self.offset


def test_agreement_is_of_the_weights_themselves_and_of_others() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3, bias=False))
    graph = tie_axes(trace(model, (torch.randn(2, 4),)))
    removal = Removal(graph, random_removal(graph, 0))
    smaller = rewrite(removal)
    module = cut_module(removal, model, smaller, {})
    assert agrees(module, smaller, removal, 1e-4)
    with torch.no_grad():  # noise in a bias of zeros makes an output beside which the weights' own is small
        module[0].weight.mul_(1e-3)
        module[0].bias.zero_()
        offset = 1e-3 * float(run_example(module, graph.trace)[0].abs().max())
    assert not agrees(Offset(module, offset), smaller, removal, 1e-4)
    module[1].weight.data.zero_()  # a head of zeros hides all that is before it
    assert not agrees(nn.Sequential(Offset(module[0], 1.0), module[1]), smaller, removal, 1e-4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "stacked experts"])  # one output row per token
def test_another_batch_size(name: str) -> None:
    _, example, graph = analysed(name)
    smaller = rewrite(Removal(graph, random_removal(graph, 3)))
    twice = tuple(torch.cat([x, x.flip(0), x]) for x in example)
    with torch.no_grad():
        assert difference([smaller(*twice)[: len(example[0])]], [smaller(*example)]) < 1e-5


MODULES = ("residual", "dense", "gated", "shared", "looped experts", "stacked experts", "einsum")


class Amplifying(nn.Module):
    """The sine of a large number, which is a dot product: with some of its terms removed, the others are added in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dot = nn.Linear(4, 400), nn.Linear(400, 1)
        self.second, self.head = nn.Linear(400, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.second(x) + torch.sin(1e4 * self.dot(x)))


def test_rounding_is_told_from_mistakes() -> None:
    torch.manual_seed(0)
    model = Amplifying()
    graph = tie_axes(trace(model, (torch.randn(2, 4),)))
    removal = Removal(graph, random_removal(graph, 0))
    smaller = rewrite(removal)
    assert not compare(removal, smaller, 1e-6).where
    assert compare(removal, smaller, 1e-15).where  # in float64, too
    smaller.second.bias.data[0] += 1e-3
    assert compare(removal, smaller, 1e-6).where


def test_rounding_of_the_built_model_is_told_from_mistakes() -> None:
    torch.manual_seed(0)
    graph = tie_axes(trace(Amplifying(), (torch.randn(2, 4),)))
    removal = Removal(graph, random_removal(graph, 0))
    smaller = rewrite(removal)
    comparison = compare(removal, smaller, 1e-6)
    assert difference(run_example(smaller, graph.trace), list(comparison.reference)) > 1e-6
    assert prove(smaller, Masked(removal), comparison, 1e-6) < 1e-6
    smaller.head.bias.data[0] += 1e-3
    with pytest.raises(ValueError, match="on the built model"):
        prove(smaller, Masked(removal), comparison, 1e-6)
