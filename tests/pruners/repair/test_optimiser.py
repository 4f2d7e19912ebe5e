"""The optimiser of a pruned model goes on as the full model's would have, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruners import PruneResult, remap_optimizer
from pruners.surgery.replay import replay
from pruners.surgery.rewrite import rewrite
from tests.pruners.networks import build
from tests.pruners.plain import prune
from tests.pruners.surgery.test_module_form import Attention

OPTIMISERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "SGD without momentum": lambda p: torch.optim.SGD(p, lr=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=False),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, lr_decay=0.1, initial_accumulator_value=0.1),
}
NETS = ("residual", "zero padded shortcut", "gated", "shared", "normed")
CASES = [
    (kind, NETS[(i + shift) % 5], form)
    for i, kind in enumerate(OPTIMISERS)
    for shift, form in ((0, "own"), (2, "graph"))
]


def network(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network no two of whose weights are equal."""
    model, example = build(name, seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model, example


def gradients(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def step(optimizer: Optimizer, model: nn.Module, by_name: dict[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        p.grad = by_name[name].clone()
    optimizer.step()


def positions(model: nn.Module, result: PruneResult) -> dict[str, Tensor]:
    """For each entry of each smaller parameter, where it stands in the full one: found by its value."""
    full = dict(model.named_parameters())
    found = {}
    for name, p in result.model.named_parameters():
        place = {value: i for i, value in enumerate(full[name].flatten().tolist())}
        assert len(place) == full[name].numel()
        found[name] = torch.tensor([place[value] for value in p.flatten().tolist()]).view(p.shape)
    return found


@pytest.mark.parametrize(("kind", "name", "form"), CASES)
def test_the_next_step_is_the_slice_of_the_full_models(kind: str, name: str, form: str) -> None:
    model, example = network(name, seed=len(kind))
    parameters = list(model.parameters())
    optimizer = OPTIMISERS[kind]([{"params": parameters[::2]}, {"params": parameters[1::2], "lr": 0.03}])
    for seed in (1, 2, 3):
        step(optimizer, model, gradients(model, seed))
    result = prune(model, example, {"params": 0.6}, importance="random", seed=len(kind))
    if form == "graph":
        result = replace(result, model=rewrite(replay(result.plan, model)))
    where = positions(model, result)
    smaller = remap_optimizer(optimizer, model, result)
    last = gradients(model, 4)
    step(optimizer, model, last)
    step(smaller, result.model, {name: last[name].flatten()[at] for name, at in where.items()})
    full = dict(model.named_parameters())
    for name, p in result.model.named_parameters():
        torch.testing.assert_close(p.detach(), full[name].detach().flatten()[where[name]], rtol=0, atol=1e-6)


def stepped(make: Callable[[nn.Module], Optimizer]) -> tuple[Optimizer, nn.Module, PruneResult]:
    model, example = network("residual")
    optimizer = make(model)
    step(optimizer, model, gradients(model, 0))
    return optimizer, model, prune(model, example, {"params": 0.6})


def test_class_settings_and_names_stay_and_nothing_is_shared() -> None:
    def make(model: nn.Module) -> Optimizer:
        named = list(model.named_parameters())
        return torch.optim.AdamW(
            [{"params": named[:3], "initial_lr": 0.5}, {"params": named[3:], "weight_decay": 0.2}], fused=True, eps=1e-5
        )

    optimizer, model, result = stepped(make)
    before = {p: {k: v.clone() for k, v in state.items()} for p, state in optimizer.state.items()}
    smaller = remap_optimizer(optimizer, model, result)
    assert type(smaller) is torch.optim.AdamW and smaller.defaults == optimizer.defaults
    for ours, theirs in zip(smaller.param_groups, optimizer.param_groups, strict=True):
        assert {**ours, "params": None} == {**theirs, "params": None}
        assert [p.shape for p in ours["params"]] == [result.model.get_parameter(n).shape for n in theirs["param_names"]]
    step(smaller, result.model, gradients(result.model, 1))
    assert all(torch.equal(v, optimizer.state[p][k]) for p, state in before.items() for k, v in state.items())


def test_a_frozen_parameter_and_one_without_state_are_no_obstacle() -> None:
    def make(model: nn.Module) -> Optimizer:
        model.stem.requires_grad_(False)
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)

    optimizer, model, result = stepped(make)
    del optimizer.state[model.head.bias]
    smaller = remap_optimizer(optimizer, model, result)
    held = smaller.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in result.model.parameters() if p.requires_grad]
    assert len(smaller.state) == len(held) - 1


def test_an_optimiser_of_another_model_is_refused() -> None:
    _, model, result = stepped(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    stranger = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(7))], lr=0.1)
    with pytest.raises(ValueError, match=r"over parameters of `model`, got one of shape \(7,\)"):
        remap_optimizer(stranger, model, result)
    other, _ = network("zero padded shortcut")
    with pytest.raises(ValueError, match="a plan must be applied to the model it was made for"):
        remap_optimizer(torch.optim.SGD(other.parameters(), lr=0.1), other, result)


def test_a_result_that_was_changed_is_refused() -> None:
    optimizer, model, result = stepped(lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    result.model.head = nn.Linear(3, 5)
    with pytest.raises(
        ValueError, match=r"`result` must hold the model as it was pruned, got head.weight of shape \(5, 3\)"
    ):
        remap_optimizer(optimizer, model, result)


def test_state_that_cannot_be_sliced_is_refused() -> None:
    optimizer, model, result = stepped(lambda model: torch.optim.Adafactor(model.parameters()))
    with pytest.raises(
        ValueError, match=r"numbers or shaped like the parameter .* got 'row_var' of .* make a new optimiser"
    ):
        remap_optimizer(optimizer, model, result)


class Wrapped(torch.optim.SGD):
    """Needs more than groups to be made."""

    def __init__(self, params: Any, model: nn.Module) -> None:
        super().__init__(params, lr=0.1)


def test_a_class_that_needs_more_than_groups_is_refused() -> None:
    optimizer, model, result = stepped(lambda model: Wrapped(model.parameters(), model))
    with pytest.raises(ValueError, match="made from groups and their settings, got Wrapped: .*'model'"):
        remap_optimizer(optimizer, model, result)


FOLDED: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def folded() -> tuple[nn.Module, PruneResult, dict[str, Tensor]]:
    """A model, its cut whose queries were multiplied, and the factor of each parameter, found by dividing."""
    torch.manual_seed(0)
    model, x = Attention(2, 8, "fused").eval(), torch.randn(2, 6, 5)
    result = prune(model, x, {"params": 0.5}, allocation="uniform")
    assert result.summary.form == "module" and result.plan.folded
    cut = dict(rewrite(replay(result.plan, model)).named_parameters())
    return model, result, {name: (p / cut[name]).detach() for name, p in result.model.named_parameters()}


def step_some(optimizer: Optimizer, model: nn.Module, gradients: dict[str, Tensor]) -> None:
    """A step on those of the parameters that the model runs."""
    for name, p in model.named_parameters():
        p.grad = gradients[name].clone() if name in gradients else None
    optimizer.step()


@pytest.mark.parametrize("kind", FOLDED)
def test_state_of_multiplied_parameters_is_what_their_gradients_would_have_made(kind: str) -> None:
    model, result, factors = folded()
    assert {name for name, x in factors.items() if not torch.allclose(x, torch.ones(()))} == set(result.plan.folded)
    last, momentum = gradients(model, 1), torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    step(momentum, model, last)
    graph = replace(result, model=rewrite(replay(result.plan, model)))
    sliced = remap_optimizer(momentum, model, graph)
    optimizer = FOLDED[kind](model.parameters())
    step(optimizer, model, last)
    new = remap_optimizer(optimizer, model, result)
    by_name = {name: sliced.state[p]["momentum_buffer"] for name, p in graph.model.named_parameters()}
    fresh = FOLDED[kind](result.model.parameters())
    step_some(fresh, result.model, {name: x / factors[name] for name, x in by_name.items()})
    for p in fresh.state:
        assert new.state[p].keys() == fresh.state[p].keys()
        for key, value in fresh.state[p].items():
            torch.testing.assert_close(new.state[p][key], value, rtol=1e-4, atol=1e-6)


def test_gradients_of_multiplied_parameters_are_divided() -> None:
    model, result, factors = folded()
    x, found = torch.randn(4, 6, 5), []
    for smaller in (result.model, rewrite(replay(result.plan, model))):
        smaller.zero_grad()
        smaller(x).square().sum().backward()
        found.append({name: p.grad for name, p in smaller.named_parameters() if p.grad is not None})
    for name, there in found[1].items():
        torch.testing.assert_close(found[0][name] * factors[name], there, rtol=1e-3, atol=1e-4)


def test_state_of_multiplied_parameters_that_is_not_known_stays_and_is_named() -> None:
    model, result, _ = folded()
    optimizer = torch.optim.Adadelta(model.parameters())
    step(optimizer, model, gradients(model, 1))
    with pytest.warns(UserWarning, match="state 'acc_delta' of a parameter that was multiplied stays as it was"):
        remap_optimizer(optimizer, model, result)
