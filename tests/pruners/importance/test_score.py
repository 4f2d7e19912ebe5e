"""Criteria against numbers worked out by hand, and what every criterion must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.importance.config import Importance
from pruners.importance.criteria import activation, fisher, lamp, taylor
from pruners.importance.named import CRITERIA, distances
from pruners.importance.score import score_groups
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.batches import as_batch
from pruners.tracing.trace import trace
from tests.pruners.networks import build


def analysed(name: str) -> tuple[nn.Module, AxisGraph, list[Group], list[tuple[Tensor, Tensor]]]:
    model, example = build(name)
    graph = tie_axes(trace(model, example))
    free = [group for group in dependency_groups(graph) if not group.protected]
    batches = [(torch.randn(4, *example[0].shape[1:]), torch.arange(4)) for _ in range(2)]
    return model, graph, free, batches


def test_lamp_divides_by_all_that_is_not_smaller() -> None:
    expected = torch.tensor([[9 / 25, 1 / 30], [1.0, 4 / 29]])
    torch.testing.assert_close(lamp(torch.tensor([[9.0, 1.0], [16.0, 4.0]])), expected)


def test_lamp_is_of_squared_norms_of_indices() -> None:
    """Not of single weights: the strongest index has two weights of middling size."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [2.0, 2.9]]))
        model[1].weight.zero_()
    graph = tie_axes(trace(model, (torch.randn(2, 2),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    (scores,) = score_groups(graph, free, Importance(criterion="lamp")).values()
    torch.testing.assert_close(scores, torch.tensor([1 / 26.41, 4 / 25.41, 9 / 21.41, 1.0]))


@pytest.mark.parametrize("name", ["residual", "fused qkv", "grouped and shuffled"])
def test_lamp_keeps_the_order_of_squared_norms_and_its_highest_is_one(name: str) -> None:
    _, graph, free, _ = analysed(name)
    scores, norms = (
        score_groups(graph, free, Importance(criterion=criterion, normalise="none")) for criterion in ("lamp", "l2")
    )
    assert all(
        torch.equal(x, y)
        for x, y in zip(score_groups(graph, free, Importance(criterion="lamp")).values(), scores.values(), strict=True)
    )
    for group in free:
        assert torch.equal(scores[group.name].flatten().argsort(), norms[group.name].flatten().argsort())
        assert scores[group.name].max() == 1


def test_fpgm_sums_distances_to_the_others() -> None:
    filters = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    expected = torch.tensor([6.24264, 6.01976, 6.01976, 11.45374])
    torch.testing.assert_close(distances(filters), expected, atol=1e-4, rtol=0)


def test_fpgm_adds_distances_between_the_columns_that_read_a_filter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = tie_axes(trace(model, (torch.randn(2, 3),)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    (scores,) = score_groups(graph, free, Importance(criterion="fpgm", normalise="none")).values()
    torch.testing.assert_close(scores, distances(model[0].weight.detach()) + distances(model[2].weight.detach().T))
    assert "Differs:" in str(distances.__doc__)


def test_activation_scales_columns_by_the_norm_of_what_they_read() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    weight = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.1, -1.0]])
    x = torch.tensor([[3.0, 0.0, 4.0], [1.0, 1.0, 0.0]])
    graph_model = rewrite(Removal(tie_axes(trace(model, (x,))), {}))
    scores = (
        activation(graph_model, [as_batch(x)], {"0.weight": weight})["0.weight"] * 2**0.5
    )  # root mean square of two rows to norm
    torch.testing.assert_close(scores, torch.tensor([[3.162, 2.0, 2.0], [9.487, 0.1, 4.0]]), atol=1e-3, rtol=0)


def test_taylor_and_fisher_of_a_linear_loss() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    tensors = {"weight": model.weight.detach()}
    batch = as_batch((torch.tensor([[3.0, 1.0], [1.0, 0.0]]), torch.zeros(2)))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()

    torch.testing.assert_close(taylor(model, [batch], loss, tensors)["weight"], torch.tensor([[4.0, 2.0]]))
    torch.testing.assert_close(taylor(model, [batch, batch], loss, tensors)["weight"], torch.tensor([[8.0, 4.0]]))
    # per sample: gradients (3, 1) and (1, 0); squares add up to (10, 1)
    torch.testing.assert_close(fisher(model, [batch], loss, tensors)["weight"], torch.tensor([[5.0, 2.0]]))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_group_and_changes_nothing(criterion: str) -> None:
    model, graph, free, batches = analysed("residual")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scores = score_groups(graph, free, Importance(criterion=criterion), model=model, batches=batches)
    for group in free:
        assert scores[group.name].shape == (group.size,)
        assert torch.isfinite(scores[group.name]).all() and (scores[group.name] >= 0).all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    again = score_groups(graph, free, Importance(criterion=criterion), model=model, batches=batches)
    assert all(torch.equal(scores[name], again[name]) for name in scores)


def test_a_unit_of_a_product_gets_all_its_indices() -> None:
    _, graph, free, _ = analysed("fused qkv")
    scores = score_groups(graph, free, Importance(criterion="l2", normalise="none"))
    weight, out = graph.trace.tensor("qkv.weight").detach(), graph.trace.tensor("project.weight").detach()
    heads = next(group for group in free if group.size == 4)
    expected = weight.view(3, 4, 8, 16).square().sum((0, 2, 3)) + out.view(16, 4, 8).square().sum((0, 2))
    torch.testing.assert_close(scores[heads.name], expected)


def test_aggregations_and_normalisations() -> None:
    _, graph, free, _ = analysed("residual")
    name = free[0].name
    total = score_groups(graph, free, Importance(aggregate="sum", normalise="none"))[name]
    mean = score_groups(graph, free, Importance(aggregate="mean", normalise="none"))[name]
    largest = score_groups(graph, free, Importance(aggregate="max", normalise="none"))[name]
    assert (mean <= largest).all() and (largest <= total).all()
    for normalise, value in (("mean", "mean"), ("max", "max"), ("sum", "sum")):
        scores = score_groups(graph, free, Importance(normalise=normalise))[name]
        torch.testing.assert_close(getattr(scores, value)(), torch.tensor(1.0))


@pytest.mark.parametrize("field", ["criterion", "aggregate", "normalise"])
def test_unknown_choices_are_refused(field: str) -> None:
    _, graph, free, _ = analysed("residual")
    with pytest.raises(ValueError, match=r"must be one of .* got 'best'"):
        score_groups(graph, free, Importance(**{field: "best"}))


def test_data_is_asked_for() -> None:
    model, graph, free, _ = analysed("residual")
    with pytest.raises(ValueError, match="needs `batches`"):
        score_groups(graph, free, Importance(criterion="taylor"), model=model)
    with pytest.raises(ValueError, match="at least one batch"):
        score_groups(graph, free, Importance(criterion="taylor"), model=model, batches=[])


def test_an_own_criterion_is_aggregated_and_normalised_like_any() -> None:
    model, graph, free, _ = analysed("residual")
    own = score_groups(
        graph,
        free,
        Importance(criterion=lambda tensors: {n: t.abs() for n, t in tensors.items() if t.dim() > 1}, aggregate="max"),
    )
    named = score_groups(graph, free, Importance(criterion="l1", aggregate="max"))
    assert all(torch.equal(own[name], named[name]) for name in named)
    only = score_groups(
        graph,
        free,
        Importance(criterion=lambda tensors: {"inner.weight": tensors["inner.weight"].abs()}, normalise="none"),
    )
    torch.testing.assert_close(only["inner.weight:0"], model.inner.weight.detach().abs().sum((1, 2, 3)))
