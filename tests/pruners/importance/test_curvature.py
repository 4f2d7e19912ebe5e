"""What the outputs lose with an index, against least squares solved outright where the outputs are linear in what is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.importance import curvature, readings
from pruners.importance.config import Importance
from pruners.importance.score import score_groups
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.networks import build


def opened(model: nn.Module, *example: Any) -> tuple[AxisGraph, list[Group]]:
    graph = tie_axes(trace(model.eval(), example))
    return graph, [group for group in dependency_groups(graph) if not group.protected]


def scores_of(model: nn.Module, x: Tensor, *batches: Tensor, seed: int = 0) -> dict[str, Tensor]:
    graph, free = opened(model, x[:2])
    return score_groups(graph, free, Importance(criterion="curvature"), batches=batches or [x], seed=seed)


def only(scores: dict[str, Tensor]) -> Tensor:
    (found,) = scores.values()
    return found


def two_layers(hidden: int = 6, outputs: int = 1, seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    """One group that one linear layer reads, and inputs that depend on each other."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
    return model, torch.randn(400, 8) @ torch.randn(8, 8)


def missed(columns: Tensor, weights: Tensor, gone: Sequence[int]) -> float:
    """The squared error, relative to the variance of the outputs, of the best fit to them on the columns that stay."""
    columns, aim = columns.double(), columns.double() @ weights.double().t()
    stays = [i for i in range(columns.shape[1]) if i not in set(gone)]
    rest = torch.cat([columns[:, stays], columns.new_ones(len(columns), 1)], 1)
    error = (aim - rest @ torch.linalg.lstsq(rest, aim).solution).square().sum() / len(aim)
    return float(error / aim.var(0).sum())


@pytest.mark.parametrize("seed", range(3))
def test_what_goes_first_costs_what_least_squares_miss(seed: int) -> None:
    """With one output its random projections are itself: nothing is left to chance."""
    model, x = two_layers(seed=seed)
    scores = only(scores_of(model, x))
    with torch.no_grad():
        hidden = model[:2](x)
    errors = [missed(hidden, model[2].weight.detach(), [i]) for i in range(6)]
    assert int(scores.argmin()) == min(range(6), key=errors.__getitem__)
    assert float(scores.min()) == pytest.approx(min(errors), rel=0.05, abs=1e-4)


def test_scores_add_up_to_what_all_that_went_miss_together() -> None:
    """At least: they rise, also where one is easier to miss once another has gone."""
    model, x = two_layers()
    scores = only(scores_of(model, x))
    order = scores.argsort().tolist()
    with torch.no_grad():
        hidden = model[:2](x)
    for number in range(1, 7):
        together = missed(hidden, model[2].weight.detach(), order[:number])
        assert 0.95 * together - 1e-3 < float(scores.sort().values[:number].sum()) < 2 * together + 1e-3


def test_several_outputs_are_seen_through_random_projections() -> None:
    model, x = two_layers(outputs=4)
    x = torch.cat([x] * 10)
    scores = only(scores_of(model, x))
    with torch.no_grad():
        hidden = model[:2](x)
    errors = [missed(hidden, model[2].weight.detach(), [i]) for i in range(6)]
    assert int(scores.argmin()) == min(range(6), key=errors.__getitem__)
    assert float(scores.min()) == pytest.approx(min(errors), rel=0.1)


def test_batches_add_up_and_a_seed_decides() -> None:
    model, x = two_layers(outputs=3)
    torch.testing.assert_close(scores_of(model, x), scores_of(model, x))
    assert not torch.equal(only(scores_of(model, x)), only(scores_of(model, x, seed=1)))
    model, x = two_layers()
    parts = only(scores_of(model, x, x[:300], x[300:]))
    assert parts.argsort().tolist() == only(scores_of(model, x)).argsort().tolist()


def test_one_of_two_copies_costs_nothing() -> None:
    model, x = two_layers()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, :2] = 1.0  # both matter, and one can do for two
    scores = only(scores_of(model, x))
    first, second = sorted(scores[:2].tolist())
    assert first == float(scores.min()) < 1e-3 < 0.1 < second


def test_indices_go_in_rising_order_in_wide_groups() -> None:
    scores = only(scores_of(*two_layers(hidden=200, outputs=2)))
    assert len(set(scores.tolist())) == 200 and bool((scores > 0).all())


def test_what_has_gone_is_minus_infinity_and_is_not_made_up_with() -> None:
    model, x = two_layers()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, :2] = 1.0
    graph, (group,) = opened(model, x[:2])
    keep = {group.axis: torch.tensor([True, False, True, True, True, True])}
    smaller = rewrite(Removal(graph, keep))
    scores = only(
        score_groups(graph, [group], Importance(criterion="curvature"), model=smaller, keep=keep, batches=[x])
    )
    assert scores[1] == -torch.inf and scores.isneginf().sum() == 1
    assert float(scores[0]) > 100 * float(only(scores_of(model, x))[:2].min()), "its copy is gone"


@pytest.mark.parametrize("widest", [4, 8])
def test_blocks_of_columns_that_have_nothing_in_common_are_as_the_whole(
    widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.block_diag(*torch.randn(4, 4, 4)))
    x = torch.linalg.qr(torch.cat([torch.ones(100, 1), torch.randn(100, 16)], 1)).Q[:, 1:] * 10
    whole = only(scores_of(model, x))
    monkeypatch.setattr(readings, "WIDEST", widest)
    in_blocks = only(scores_of(model, x))
    torch.testing.assert_close(in_blocks, whole, rtol=1e-3, atol=1e-5)


class Flattened(nn.Module):
    """Channels of 2 x 2 places, four columns each of the layer that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 5, 3), nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu().flatten(1))


def test_columns_of_one_index_go_together() -> None:
    torch.manual_seed(0)
    model, x = Flattened(), torch.randn(600, 3, 4, 4)
    scores = only(scores_of(model, x))
    with torch.no_grad():
        hidden = model.first(x).relu().flatten(1)
    errors = [missed(hidden, model.last.weight.detach(), range(4 * i, 4 * i + 4)) for i in range(5)]
    assert int(scores.argmin()) == min(range(5), key=errors.__getitem__)
    assert float(scores.min()) == pytest.approx(min(errors), rel=0.05)


def test_of_very_many_columns_some_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Flattened(), torch.randn(600, 3, 4, 4)
    whole = only(scores_of(model, x))
    monkeypatch.setattr(curvature, "MOST_PER_INDEX", 2)
    some = only(scores_of(model, x))
    assert bool((some > whole / 4).all()) and bool((some < whole * 4).all())


NETWORKS = [
    "residual", "grouped and shuffled", "fused qkv", "grouped queries by operator", "recurrent", "projected recurrent", "gated",
    "shared", "looped experts", "stacked experts", "state space", "torch encoder",
]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_of_all_kinds_are_scored(name: str) -> None:
    """Ragged ones, heads, gates of recurrent layers, products without weights, and what only elementwise operators read."""
    model, example = build(name)
    graph, free = opened(model, *example)
    (first,) = example
    generator = torch.Generator().manual_seed(0)
    shape = (16, *first.shape[1:])
    x = torch.randn(shape, generator=generator) if first.is_floating_point() else torch.randint(0, 11, shape)
    scores = score_groups(graph, free, Importance(criterion="curvature"), batches=[x])
    for group in free:
        assert scores[group.name].shape == group.shape and bool(scores[group.name].isfinite().all())
        assert bool((scores[group.name] >= 0).all())
    assert any(len(set(scores[group.name].flatten().tolist())) == scores[group.name].numel() for group in free)


class Summed(nn.Module):
    """A group that no layer reads: what it holds is added up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).sum(-1, keepdim=True)


def test_a_group_that_no_layer_reads_is_seen_where_it_occurs_last() -> None:
    torch.manual_seed(0)
    model, x = Summed(), torch.randn(400, 8)
    scores = only(scores_of(model, x))
    with torch.no_grad():
        errors = [missed(model.first(x), torch.ones(1, 6), [i]) for i in range(6)]
    assert int(scores.argmin()) == min(range(6), key=errors.__getitem__)
    assert float(scores.min()) == pytest.approx(min(errors), rel=0.05)


def test_units_do_not_matter() -> None:
    """Columns over sixteen orders of magnitude, each weight making up for its column."""
    model, x = two_layers()
    model[1] = nn.ReLU()
    before = only(scores_of(model, x))
    units = 10.0 ** torch.tensor([-8.0, 8, 0, 4, -4, 1])
    with torch.no_grad():
        model[0].weight.mul_(units[:, None])
        model[0].bias.mul_(units)
        model[2].weight.div_(units)
    torch.testing.assert_close(only(scores_of(model, x)), before, rtol=0.02, atol=1e-4)


def test_a_channel_that_is_never_active_goes_first_for_nothing() -> None:
    model, x = two_layers()
    model[1] = nn.ReLU()
    with torch.no_grad():
        model[0].bias[3] = -1e4
        model[2].weight[:, 3] = 1e6
    scores = only(scores_of(model, x))
    assert scores.argmin() == 3 and scores[3] == 0
    with torch.no_grad():
        model[0].bias.fill_(-1e4)
        model[2].weight[:, 3] = 1.0
    assert float(only(scores_of(model, x)).max()) < 1e-20, "nor is it an error where all are"


def test_fewer_examples_than_columns_are_no_error() -> None:
    model, x = two_layers(hidden=40)
    scores = only(scores_of(model, x[:3]))
    assert bool(scores.isfinite().all()) and float(scores.min()) < 1e-2


def test_values_that_are_not_finite_are_refused_where_they_enter() -> None:
    model, x = two_layers()
    x[3, 2] = torch.nan
    with pytest.raises(
        ValueError, match="`batches` must give every layer finite values, got NaN or infinity in the inputs"
    ):
        scores_of(model, x)


class Logarithms(nn.Module):
    """Takes roots of what is negative for some inputs, in a layer in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 4).sqrt()


def test_the_first_layer_without_numbers_is_named_though_gradients_carry_them_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), Logarithms(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    )
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[0].weight[0, 0] = 1
        model[2].weight.zero_()
        model[2].weight[:, 0] = -10
    x = torch.randn(40, 8).clamp(max=0.1)
    assert model(x).isfinite().all()
    x[7, 0] = 3
    with pytest.raises(
        ValueError, match=r"finite values, got NaN or infinity first at 'sqrt' of '3'; look for them in the data"
    ):
        scores_of(model, x)


class Rooted(nn.Module):
    """Roots whose gradient at zero is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x.gt(0)).sqrt()


def test_gradients_that_are_not_finite_are_refused_where_values_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6), Rooted(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="must give every layer finite gradients, got NaN or infinity at 'linear'"):
        scores_of(model, torch.randn(40, 8))


def test_outputs_that_never_vary_cost_finitely() -> None:
    """The inputs do not matter, and gradients are large."""
    model, x = two_layers(outputs=3)
    with torch.no_grad():
        model[0].weight.zero_()
        model[2].weight.mul_(1e5)
    assert float(only(scores_of(model, x)).max()) < 1


def test_outputs_almost_constant_are_judged_by_their_size() -> None:
    model, x = two_layers(hidden=6, outputs=2)
    with torch.no_grad():
        model[2].weight.mul_(1e-9)
        model[2].bias.fill_(1e3)
    scores = only(scores_of(model, x))
    assert float(scores.max()) < 1e-6


class Detached(nn.Sequential):
    """Outputs that no gradient comes back from."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Chosen(nn.Sequential):
    """Outputs that are whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(-1)


@pytest.mark.parametrize("kind", [Detached, Chosen])
def test_where_no_gradient_comes_back_all_indices_are_alike(kind: type[nn.Sequential]) -> None:
    model, x = two_layers(outputs=3)
    assert bool((only(scores_of(kind(*model), x)) == 0).all())


def test_the_model_and_gradients_are_left_alone() -> None:
    model, x = two_layers()
    with torch.inference_mode(False), torch.no_grad():
        scores_of(model, x)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
