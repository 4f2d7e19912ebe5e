"""Models that draw random numbers in evaluation: the same numbers on both sides of every comparison."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners.groups.dependency import tie_axes
from pruners.surgery.masked import compare, run_example
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.plain import prune
from tests.pruners.test_invariants import random_removal


class Variational(nn.Module):
    """A latent drawn around a mean, with a spread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decode, self.out = nn.Linear(4, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x).relu()
        z = self.mean(x) + torch.randn_like(self.mean(x)) * self.spread(x).exp()
        return self.out(self.decode(z).relu())


class DroppedOut(nn.Module):
    """Dropout that evaluation leaves on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(self.first(x).relu(), 0.5, training=True))


class Noisy(nn.Module):
    """One draw per sample and place for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last((x + torch.randn(x.shape[0], 1, *x.shape[2:], generator=None)).relu())


MODELS = {
    "variational": (Variational, (3, 6)),
    "dropped out": (DroppedOut, (3, 6)),
    "noisy": (Noisy, (3, 3, 8, 8)),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_random_models_are_pruned_and_proved(name: str, batch: int) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make().eval(), torch.randn(batch, *shape[1:])
    result = prune(model, x, {"params": 0.6})
    assert result.summary.form == "module"
    assert result.summary.difference < 1e-4
    assert result.summary.difference_inside < 1e-4
    more = torch.cat([x] * 20)
    assert not torch.equal(result.model(more), result.model(more))


def test_examples_run_with_numbers_of_their_own() -> None:
    model, x = DroppedOut(), torch.randn(4, 6)
    example, state = trace(model, (x,)), torch.get_rng_state()
    first, second = run_example(model, example), run_example(model, example)
    assert torch.equal(first[0], second[0])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", MODELS)
def test_mistakes_are_found_beside_random_numbers(name: str) -> None:
    make, shape = MODELS[name]
    graph = tie_axes(trace(make(), (torch.randn(*shape),)))
    removal = Removal(graph, random_removal(graph, 0))
    smaller = rewrite(removal)
    assert not compare(removal, smaller, 1e-4).where
    next(smaller.parameters()).data[0] += 0.1
    assert compare(removal, smaller, 1e-4).where


def test_a_graph_keeps_dropout_that_evaluation_leaves_on() -> None:
    x = torch.randn(4, 6)
    graph = rewrite(Removal(tie_axes(trace(DroppedOut(), (x,))), {}))
    for model in (graph, copy.deepcopy(graph), graph.train().eval()):
        assert not torch.equal(model(x), model(x))


class Unlike(DroppedOut):
    """Draws once more where it is not traced."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            torch.rand(())
        return super().forward(x)


def test_numbers_that_come_out_differently_are_named() -> None:
    with pytest.raises(ValueError, match=r"draws random numbers \(aten.dropout.default\), which came out differently"):
        prune(Unlike(), torch.randn(4, 6), {"params": 0.6})
