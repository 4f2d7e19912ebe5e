"""Least squares against what is known in closed form, and on what they may be given."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pruners import PruningPlan, Repaired, least_squares_, noise, recalibrate_
from pruners.surgery.masked import difference
from tests.pruners.networks import build
from tests.pruners.plain import prune
from tests.pruners.repair.test_batch_norm import data


def apart(model: nn.Module, other: nn.Module, batches: list[Tensor]) -> float:
    """Mean square of the difference of two models' outputs."""
    with torch.no_grad():
        return sum((model(x) - other(x)).square().mean().item() for x in batches)


def test_a_linear_layer_is_solved_as_least_squares_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3)).eval()
    x = torch.randn(200, 4)
    result = prune(model, x[:2], {"params": 0.7})
    with torch.no_grad():
        hidden = torch.cat([result.model[1](result.model[0](x)), torch.ones(200, 1)], 1)
        best = torch.linalg.lstsq(hidden.double(), model(x).double()).solution.t()
    assert least_squares_(result.model, model, result.plan, [x], ridge=1e-12) == Repaired(1)  # the first is exact
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
        assert least_squares_(again, model, result.plan, [x], iterations=iterations).solved
        with torch.no_grad():
            found.append(float((again.before_head(x) - model.before_head(x)).square().mean()))
    assert found[1] < 0.99 * found[0]


class JoinedOnce(Joined):
    """The same with weights in the shortcut that are computed, and so cannot be solved for."""

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.outer(self.inner(x).relu()))
        beside = nn.functional.conv2d(x, self.beside.weight.tanh())
        return self.head((branch + beside).relu().mean((2, 3)))


def test_the_branch_makes_up_for_a_shortcut_that_runs_later_and_is_not_solved() -> None:
    torch.manual_seed(0)
    model = JoinedOnce().eval()
    x = torch.cat(data(64))
    result = prune(model, x[:2], {"macs": 0.8}, ignore=["beside", "norm"])
    repaired = copy.deepcopy(result.model)
    with torch.no_grad():
        repaired.beside.weight.zero_()
    assert least_squares_(repaired, model, result.plan, [x], iterations=0).solved
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


class Sentences(nn.Module):
    """Tokens of any length, and positions that stay within 16."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.outer = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(24, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = self.norm(x + self.outer(self.inner(x).tanh()))
        return self.head(x.mean(1))


def sentences(length: int, samples: int = 40) -> Tensor:
    return torch.randint(0, 20, (samples, length), generator=torch.Generator().manual_seed(length))


def pruned_sentences() -> tuple[nn.Module, nn.Module, PruningPlan]:
    torch.manual_seed(0)
    model = Sentences().eval()
    result = prune(model, sentences(6, 2), {"params": 0.7}, importance="random")
    return model, result.model, result.plan


def test_sequences_of_several_lengths() -> None:
    model, smaller, plan = pruned_sentences()
    repaired = copy.deepcopy(smaller)
    batches = [sentences(length) for length in (4, 6, 9, 4)]
    assert least_squares_(repaired, model, plan, batches).solved
    fresh = [sentences(11), sentences(5)]
    assert apart(repaired, model, fresh) < 0.9 * apart(smaller, model, fresh)


def test_lengths_that_the_model_does_not_serve_are_refused() -> None:
    model, example = build("residual")
    result = prune(model, example, {"macs": 0.6})
    with pytest.raises(ValueError, match="`batches` must hold inputs like `example_inputs`, here Nx3x8x8"):
        least_squares_(result.model, model, result.plan, [*data(8), torch.randn(4, 2, 8, 8)])


def test_a_model_of_one_batch_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(6, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(x.reshape(20, 6)).tanh())

    torch.manual_seed(0)
    model, batches = Fixed().eval(), list(torch.randn(10, 4, 5, 6))
    result = prune(model, batches[0], {"params": 0.6}, importance="random")
    repaired = copy.deepcopy(result.model)
    assert least_squares_(repaired, model, result.plan, batches).solved == 1
    assert apart(repaired, model, batches) < 0.7 * apart(result.model, model, batches)


def test_examples_beyond_the_memory_are_left_out() -> None:
    model, smaller, plan = pruned_sentences()
    repaired = copy.deepcopy(smaller)
    did = least_squares_(repaired, model, plan, [sentences(6, 200)], max_bytes=2**19)
    assert did.solved and did.used is not None and 2 <= did.used[0] < did.used[1] == 200
    assert apart(repaired, model, [sentences(7)]) < apart(smaller, model, [sentences(7)])
    with pytest.raises(ValueError, match="`max_bytes` must hold two examples at least, got 1,000 where one takes"):
        least_squares_(smaller, model, plan, [sentences(6)], max_bytes=1000)


def test_without_time_all_layers_are_left_and_named() -> None:
    model, smaller, plan = pruned_sentences()
    before = {name: tensor.clone() for name, tensor in smaller.state_dict().items()}
    repaired = least_squares_(smaller, model, plan, [sentences(6)], max_seconds=0)
    assert repaired.solved == 0 and "outer (no time was left)" in repaired.left_out
    assert all(torch.equal(before[name], tensor) for name, tensor in smaller.state_dict().items())


def test_training_mode_counts_as_evaluation_and_stays() -> None:
    model, smaller, plan = pruned_sentences()
    other = copy.deepcopy(smaller).train()
    least_squares_(smaller, model, plan, [sentences(6)])
    least_squares_(other, model.train(), plan, [sentences(6)])
    assert other.training and model.training
    for one, again in zip(smaller.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, again)


def test_outputs_that_the_inputs_do_not_determine_are_refused() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(6, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(nn.functional.dropout(self.inner(x), training=True))

    model = Noisy().eval()
    result = prune(model, torch.randn(2, 6), {"params": 0.6})
    with pytest.raises(ValueError, match=r"must compute the same from the same batch, got aten.dropout.*draws random"):
        least_squares_(result.model, model, result.plan, [torch.randn(20, 6)])


def test_units_that_no_example_activates_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        model[0].bias[:12] = -100
    x = torch.randn(200, 4)
    result = prune(model, x[:2], {"params": 0.7}, importance="random")
    silent = (result.model[0].bias < -50).nonzero().flatten()
    before = result.model[2].weight[:, silent].clone()
    assert len(silent) and least_squares_(result.model, model, result.plan, [x]).solved == 1
    assert torch.equal(before, result.model[2].weight[:, silent])
