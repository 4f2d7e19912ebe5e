"""What layers make up for, against least squares solved outright."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.importance import reconstruction
from pruners.importance.reconstruction import RIDGE, Moments, lost_by_group, made_up_for, second_moments
from pruners.surgery.rewrite import Removal
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


class TwoLayers(nn.Module):
    """One group of 6 that a second layer reads, with a bias, a batch norm or neither behind it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        convolution = kind != "linear"
        self.first = nn.Conv2d(3, 6, 3) if convolution else nn.Linear(5, 6)
        self.second = nn.Conv2d(6, 4, 3, bias=kind == "bias") if convolution else nn.Linear(6, 4, bias=False)
        self.norm = nn.BatchNorm2d(4) if kind == "norm" else nn.Identity()
        if kind == "norm":
            nn.init.uniform_(self.norm.weight)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)
            nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x).relu()))


def analysed(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor, AxisGraph, Group, dict[object, Moments]]:
    torch.manual_seed(seed)
    model = TwoLayers(kind).eval()
    x = torch.randn(60, 5) if kind == "linear" else torch.randn(12, 3, 7, 7)
    graph = tie_axes(trace(model, (x[:2],)))
    (group,) = [found for found in dependency_groups(graph) if not found.protected]
    values = graph.trace.values()
    data = [value if name in graph.trace.tensors else x for name, value in values.items()]
    return model, x, graph, group, dict(second_moments(Removal(graph, {}), [data]))


def hidden(model: nn.Module, x: Tensor) -> Tensor:
    """Columns that the second layer multiplies, as rows of samples."""
    h = model.first(x).relu()
    if h.dim() == 2:
        return h
    return nn.functional.unfold(h, 3).transpose(1, 2).flatten(0, 1)


KINDS = ("bias", "norm", "neither", "linear")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_index_to_go_is_the_one_least_missed(kind: str) -> None:
    model, x, graph, group, moments = analysed(kind)
    scores = lost_by_group(graph, group, moments)
    assert scores is not None
    with torch.no_grad():
        columns = hidden(model, x).double()
        weight = model.second.weight.double().flatten(1)
        if kind == "norm":
            weight = weight * (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt())[:, None]
        aim = columns @ weight.t()
        per_index = columns.shape[1] // 6
        ones = columns.new_ones(len(columns), 1) if kind in ("bias", "norm") else columns[:, :0]
        errors = []
        for index in range(6):
            rest = torch.cat([columns[:, : index * per_index], columns[:, (index + 1) * per_index :], ones], 1)
            errors.append(float((aim - rest @ torch.linalg.lstsq(rest, aim).solution).square().sum()))
        relative = min(errors) / float((aim - aim.mean(0)).square().sum())
    assert int(scores.argmin()) == min(range(6), key=errors.__getitem__)
    assert float(scores.min()) == pytest.approx(relative, rel=2e-2, abs=50 * RIDGE)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), lost=st.integers(1, 5))
@settings(max_examples=8, deadline=None)
def test_what_is_made_up_for_is_least_squares(kind: str, seed: int, lost: int) -> None:
    model, x, graph, group, moments = analysed(kind, seed)
    kept = torch.ones(6, dtype=torch.bool)
    kept[torch.randperm(6)[:lost]] = False
    values = {
        graph.trace.tensors[node.name]: value
        for node, value in made_up_for(Removal(graph, {group.axis: kept}), group.axis, moments).items()
    }
    with torch.no_grad():
        columns, before = hidden(model, x), model.second(model.first(x).relu())
        stays = kept.repeat_interleave(columns.shape[1] // 6)
        aim = columns.double() @ model.second.weight.double().flatten(1).t()
        shifts = kind in ("bias", "norm")
        rest = torch.cat([columns[:, stays], columns.new_ones(len(columns), int(shifts))], 1).double()
        missing = aim - columns[:, stays].double() @ model.second.weight.double().flatten(1)[:, stays].t()
        moved = torch.linalg.lstsq(rest, missing, driver="gelsd").solution  # the nearest to the weights as they are
        best = float((missing - rest @ moved).square().mean())
        held = RIDGE * float(columns.double().square().mean() * moved.square().sum()) / aim.shape[1]
        zeroed = float(
            (columns[:, ~stays].double() @ model.second.weight.double().flatten(1)[:, ~stays].t()).square().mean()
        )
        mean = model.norm.running_mean.clone() if kind == "norm" else None
        model.load_state_dict({**model.state_dict(), **values})
        assert float(model.second.weight.flatten(1)[:, ~stays].abs().max()) == 0
        after = model.second(model.first(x).relu())
        if mean is not None:  # the running mean has taken up the shift
            after = after + (mean - values["norm.running_mean"])[:, None, None]
    assert float((after - before).square().mean()) <= best * 1.05 + held + 1e-3 * zeroed


def test_indices_go_in_rising_order_in_wide_groups() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 200), nn.ReLU(), nn.Linear(200, 3)).eval()
    graph = tie_axes(trace(model, (torch.randn(2, 8),)))
    (group,) = [found for found in dependency_groups(graph) if not found.protected]
    data = [v if n in graph.trace.tensors else torch.randn(500, 8) for n, v in graph.trace.values().items()]
    scores = lost_by_group(graph, group, second_moments(Removal(graph, {}), [data]))
    assert scores is not None and len(set(scores.tolist())) == 200 and bool((scores >= 0).all())


def test_by_reconstruction_loses_less_than_by_magnitude() -> None:
    better = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
        x = torch.randn(600, 8) @ torch.randn(8, 8)  # inputs that depend on each other
        errors = []
        for importance in ("l2", "obs"):
            plan = prune(model, x[:2], {"params": 0.4}, importance=importance, batches=[x]).plan
            kept = [i for i in range(40) if i not in set(plan.removed["0.weight:0"])]
            with torch.no_grad():
                rest = torch.cat([model[1](model[0](x))[:, kept], torch.ones(600, 1)], 1)
                errors.append(float((model(x) - rest @ torch.linalg.lstsq(rest, model(x)).solution).square().mean()))
        better += errors[1] < errors[0]
    assert better == 6


def test_without_batches_there_is_nothing_to_look_at() -> None:
    with pytest.raises(ValueError, match="needs `batches`"):
        prune(TwoLayers("bias"), torch.randn(2, 3, 7, 7), {"macs": 0.5}, importance="obs")


def spread_out(tokens: int) -> tuple[nn.Module, Tensor]:
    """A hidden layer over twelve orders of magnitude, and fewer examples than it has channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.mul_(10.0 ** torch.linspace(-6, 6, 64)[:, None])
        model[0].bias.zero_()
    return model, torch.randn(tokens, 8)


@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_few_examples_of_columns_over_many_orders_of_magnitude_are_no_error(tokens: int) -> None:
    model, x = spread_out(tokens)
    for allocation in ("optimal", "distortion"):
        result = prune(
            model, x[:1], {"params": 0.5}, importance="obs", allocation=allocation, normalise="none", batches=[x]
        )
        assert result.summary.difference < 1e-4


def test_units_of_columns_do_not_matter() -> None:
    model, x = spread_out(400)
    orders = []
    for _ in range(2):
        graph = tie_axes(trace(model, (x[:2],)))
        (group,) = [found for found in dependency_groups(graph) if not found.protected]
        data = [v if n in graph.trace.tensors else x for n, v in graph.trace.values().items()]
        orders.append(lost_by_group(graph, group, second_moments(Removal(graph, {}), [data])))
        with torch.no_grad():
            units = 10.0 ** torch.randint(-3, 4, (64,))
            model[0].weight.mul_(units[:, None])
            model[2].weight.div_(units)
    torch.testing.assert_close(orders[0], orders[1], rtol=1e-2, atol=1e-6)


def test_groups_whose_readers_are_too_wide_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "WIDEST", 39)
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    x = torch.randn(60, 8)
    with pytest.warns(
        UserWarning, match=r"'obs'` does not look at layers of more than .* here those that read 0\.weight:0, "
    ):
        prune(model, x[:2], {"params": 0.6}, importance="obs", batches=[x])


@pytest.mark.parametrize("constant", [1.0, 1e-3, 0.0])
def test_a_layer_that_always_computes_the_same_makes_no_scores_overflow(constant: float) -> None:
    model = TwoLayers("linear").eval()
    with torch.no_grad():
        model.first.weight.zero_()
        model.first.bias.fill_(constant)
        model.second.weight.mul_(1e6)
    graph = tie_axes(trace(model, (torch.randn(2, 5),)))
    (group,) = [found for found in dependency_groups(graph) if not found.protected]
    values = graph.trace.values()
    data = [value if name in graph.trace.tensors else torch.randn(60, 5) for name, value in values.items()]
    scores = lost_by_group(graph, group, second_moments(Removal(graph, {}), [data]))
    assert scores is not None and bool(scores.isfinite().all()) and float(scores.max()) < 10
