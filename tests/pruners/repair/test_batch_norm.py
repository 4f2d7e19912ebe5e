"""Repair without training: statistics, and least squares against what is known in closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pruners import least_squares_, noise, prune, recalibrate_
from pruners.surgery.masked import difference
from tests.pruners.networks import build


def data(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(n, 3, 8, 8, generator=generator).split(n // 2))


def apart(model: nn.Module, other: nn.Module, batches: list[Tensor]) -> float:
    """Mean square of the difference of two models' outputs."""
    with torch.no_grad():
        return sum((model(x) - other(x)).square().mean().item() for x in batches)


def test_statistics_are_the_average_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    batches = [torch.randn(4, 3, 5, 5) + 3, torch.randn(4, 3, 5, 5) * 2]
    recalibrate_(model, batches)
    torch.testing.assert_close(model[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0))
    assert model[0].momentum == 0.1 and not model.training


def test_a_rewritten_graph_is_recalibrated() -> None:
    model, example = build("zero padded shortcut")
    graph_form = prune(model, example, {"macs": 0.5})
    assert graph_form.summary.form == "graph"
    recalibrate_(graph_form.model, data(8))
    state = graph_form.model.state_dict()
    weight, bias = state["block.0.weight"], state["block.0.bias"]
    means = []
    for batch in data(8):
        stem = nn.functional.conv2d(batch, state["stem.weight"], state["stem.bias"], padding=1).relu()
        means.append(nn.functional.conv2d(stem, weight, bias, stride=2, padding=1).mean((0, 2, 3)))
    torch.testing.assert_close(state["block.1.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


def batch_norms(graph: nn.Module) -> list[tuple[object, ...]]:
    return [node.args[5:7] for node in graph.graph.nodes if "batch_norm" in str(node.target)]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spoilt", [True, False])
def test_momentum_and_mode_stay(mode: bool, spoilt: bool) -> None:
    """Of a graph and of a module, also where a batch is refused half-way."""
    model, example = build("zero padded shortcut")
    model.block[1].momentum = 0.01
    graph = prune(model, example, {"macs": 0.5}).model.train(mode)
    batches = [*data(8), torch.randn(1, 4, 8, 8)] if spoilt else data(8)
    for repaired in (graph, model.train(mode)):
        before = [(module, module.training, getattr(module, "momentum", None)) for module in repaired.modules()]
        arguments = [node.args for node in graph.graph.nodes]
        if spoilt:
            with pytest.raises(ValueError, match=r"`batches` must fit the model, got \[\(1, 4, 8, 8\)\]"):
                recalibrate_(repaired, batches)
        else:
            recalibrate_(repaired, batches)
        assert before == [(module, module.training, getattr(module, "momentum", None)) for module in repaired.modules()]
        assert arguments == [node.args for node in graph.graph.nodes] and batch_norms(graph) == [(mode, 0.01)]


def test_a_graph_without_momentum_gets_torchs_own() -> None:
    """A graph cannot count batches; the exporter would write 0, which never moves the statistics."""
    model, example = build("zero padded shortcut")
    model.block[1].momentum = None
    graph = prune(model, example, {"macs": 0.5}).model
    assert batch_norms(graph) == [(False, nn.BatchNorm2d(1).momentum)]


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_(nn.BatchNorm1d(3), [])


def test_a_linear_layer_is_solved_as_least_squares_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3)).eval()
    x = torch.randn(200, 4)
    result = prune(model, x[:2], {"params": 0.7})
    with torch.no_grad():
        hidden = torch.cat([result.model[1](result.model[0](x)), torch.ones(200, 1)], 1)
        best = torch.linalg.lstsq(hidden.double(), model(x).double()).solution.t()
    assert least_squares_(result.model, model, result.plan, [x], ridge=1e-12) == 2
    torch.testing.assert_close(result.model[2].weight.double(), best[:, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.model[2].bias.double(), best[:, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["residual", "zero padded shortcut", "dense"])
def test_repair_brings_the_outputs_closer(name: str) -> None:
    model, example = build(name)
    result = prune(model, example, {"macs": 0.6})
    broken = copy.deepcopy(result.model)
    least_squares_(result.model, model, result.plan, data(64))
    assert apart(result.model, model, data(64)) < 0.5 * apart(broken, model, data(64))


@pytest.mark.parametrize("name", ["residual", "dense"])
def test_statistics_are_those_of_the_repaired_model(name: str) -> None:
    """Normalised by the batch, as in training, it computes the same as in evaluation."""
    model, example = build(name)
    result = prune(model, example, {"macs": 0.6})
    x = torch.cat(data(64))
    least_squares_(result.model, model, result.plan, [x])
    with torch.no_grad():
        repaired = result.model(x)
        recalibrate_(result.model, [x])
        assert difference([result.model(x)], [repaired]) < 1e-3


def test_with_nothing_lost_nothing_changes() -> None:
    """A channel that is silent anyway goes: least squares finds the weights that were there."""
    model, example = build("residual")
    with torch.no_grad():
        for name in ("inner.weight", "inner_norm.weight", "inner_norm.bias"):
            model.get_parameter(name)[0] = 0
        model.get_parameter("outer.weight")[:, 0] = 0
    result = prune(model, example, {"macs": 0.999}, ignore=["stem"])
    assert list(result.plan.removed.values()) == [[0]]
    least_squares_(result.model, model, result.plan, data(64))
    with torch.no_grad():
        assert difference([result.model(*example)], [model(*example)]) < 1e-3


class Joined(nn.Module):
    """A block whose shortcut has a layer of its own that runs after the branch, before the ReLU that both reach."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.beside = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 6, 3), nn.Conv2d(3, 6, 3)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.outer(self.inner(x).relu()))
        return self.head((branch + self.beside(x)).relu().mean((2, 3)))

    def before_head(self, x: Tensor) -> Tensor:
        return (self.norm(self.outer(self.inner(x).relu())) + self.beside(x)).relu()


def test_aims_behind_a_relu_bring_what_it_lets_through_closer() -> None:
    torch.manual_seed(0)
    model = Joined().eval()
    x = torch.cat(data(64))
    result = prune(model, x[:2], {"macs": 0.5}, ignore=["beside", "norm"])
    found = []
    for iterations in (0, 8):
        again = copy.deepcopy(result.model)
        assert least_squares_(again, model, result.plan, [x], iterations=iterations) == 4
        with torch.no_grad():
            found.append(float((again.before_head(x) - model.before_head(x)).square().mean()))
    assert found[1] < 0.99 * found[0]


def test_the_branch_makes_up_for_a_shortcut_that_runs_later_and_cannot_be_solved() -> None:
    torch.manual_seed(0)
    model = Joined()
    model.beside = nn.Conv2d(3, 6, 3, groups=3)  # type: ignore[assignment]
    model.eval()
    x = torch.cat(data(64))
    result = prune(model, x[:2], {"macs": 0.8}, ignore=["beside", "norm"])
    repaired = copy.deepcopy(result.model)
    with torch.no_grad():
        repaired.beside.weight.zero_()
    assert least_squares_(repaired, model, result.plan, [x], iterations=0) == 3
    branch = copy.deepcopy(repaired)
    with torch.no_grad():
        branch.outer, branch.inner, branch.norm = result.model.outer, result.model.inner, result.model.norm
    assert apart(repaired, model, [x]) < 0.5 * apart(branch, model, [x])


def test_repair_without_data_brings_outputs_on_data_closer() -> None:
    model, example = build("residual")
    result = prune(model, example, {"macs": 0.6})
    broken = copy.deepcopy(result.model)
    batches = noise(example[0], samples=150)
    assert [len(x) for x in batches] == [100, 50] and torch.equal(batches[0], noise(example[0])[0])
    least_squares_(result.model, model, result.plan, batches)
    patterns = [x.cumsum(3).tanh() for x in data(64)]  # not noise
    assert apart(result.model, model, patterns) < 0.7 * apart(broken, model, patterns)


def test_noise_is_no_substitute_for_tokens() -> None:
    with pytest.raises(ValueError, match="real numbers, got torch.int64"):
        noise(torch.zeros(1, 8, dtype=torch.int64))
