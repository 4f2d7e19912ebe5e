"""Candidates of a search in a trained model: slices in a moment, repaired from what all share; and a front before any is tried."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace
from pruners.surgery.masked import difference
from tests.pruners.networks import build

NETS = ("residual", "grouped and shuffled", "residual group norm", "dense", "gated", "shared", "torch encoder")


@cache
def made(name: str, with_data: bool = True) -> tuple[PrunableSpace, nn.Module, tuple[Tensor, ...]]:
    model, example = build(name)
    return PrunableSpace(model, example, batches=batches(example) if with_data else None, steps=4), model, example


def batches(example: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    many = [x.repeat_interleave(40 // len(x) + 1, 0) for x in example]
    return [tuple(torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for x in many)]


@pytest.mark.parametrize("name", NETS)
def test_without_data_a_candidate_is_the_built_model(name: str) -> None:
    space, _, example = made(name, with_data=False)
    rng = np.random.default_rng(0)
    for _ in range(3):
        arch = space.space.sample(rng)
        with torch.no_grad():
            ours, built = space.candidate(arch)(*example), space.build(arch, check=False).model(*example)
        assert difference([ours], [built]) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_layers_make_up_for_what_they_lost(name: str) -> None:
    """On the whole over random architectures; each layer sees the full model's inputs, so one by one it need not."""
    space, model, _ = made(name)
    rng, given = np.random.default_rng(0), batches(made(name)[2])[0]
    ratios = []
    for _ in range(6):
        arch = space.space.sample(rng)
        with torch.no_grad():
            whole = model(*given)
            mended = space.candidate(arch)(*given)
            cut = space.build(arch, check=False, every_size=False).model(*given)
        ratios.append(float((mended - whole).square().mean() / (cut - whole).square().mean().clamp_min(1e-12)))
    assert np.median(ratios) <= 1 and min(ratios) < 1


@pytest.mark.parametrize("name", ["residual", "torch encoder"])
def test_a_candidate_for_every_size_computes_the_same(name: str) -> None:
    space, _, example = made(name)
    arch = space.space.sample(np.random.default_rng(3))
    with torch.no_grad():
        ours, every = space.candidate(arch)(*example), space.candidate(arch, every_size=True)(*example)
    assert difference([ours], [every]) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_nothing_drawn_at_random_is_ahead_of_the_front(name: str) -> None:
    space, _, _ = made(name)
    front, rng = space.front(8), np.random.default_rng(0)
    assert front[0] == space.whole and space.damage(space.whole) == 0
    costs, damages = [space.costs(arch)["macs"] for arch in front], [space.damage(arch) for arch in front]
    assert costs == sorted(costs, reverse=True) and damages == sorted(damages)
    for _ in range(30):
        arch = space.space.sample(rng)
        cost, damage = space.costs(arch)["macs"], space.damage(arch)
        assert not any(cost <= c and damage < 0.9 * d for c, d in zip(costs, damages, strict=True))


@pytest.mark.parametrize("name", NETS)
def test_damage_grows_with_what_goes(name: str) -> None:
    space, _, _ = made(name)
    rng = np.random.default_rng(0)
    for _ in range(5):
        arch = space.space.sample(rng)
        for choice in space.space.choices:
            kept = arch.get(choice.name)
            more = [value for value in map(choice.value, range(choice.size)) if isinstance(value, int)]
            if isinstance(kept, int) and (larger := [value for value in more if value > kept]):
                grown = space.space.architecture({**arch, choice.name: larger[0]})
                assert space.damage(grown) <= space.damage(arch)


def test_without_scores_of_outputs_there_is_no_front() -> None:
    space, _, _ = made("residual", with_data=False)
    assert "a few hundred unlabelled examples" in space.note
    for call in (lambda: space.front(), lambda: space.damage(space.whole)):
        with pytest.raises(ValueError, match=r"needs scores that are changes of the outputs; give `batches`"):
            call()


def test_what_leaves_a_search_is_repaired_as_prune_does() -> None:
    space, model, example = made("residual")
    result = space.repaired(space.front(6)[3], batches(example))
    assert "least-squares" in result.summary.chosen["recover"] and result.summary.difference is not None
    given = batches(example)[0]
    with torch.no_grad():
        assert result.model(*given).shape == model(*given).shape


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_a_candidate_reach_the_weights_that_it_shares(name: str) -> None:
    space, model, example = made(name)
    full = {key: x.detach().clone().requires_grad_() for key, x in model.named_parameters(remove_duplicate=False)}
    rng = np.random.default_rng(1)
    for _ in range(3):
        arch = space.space.sample(rng)
        smaller, parts = space.shared(arch)
        given = {**dict(smaller.named_buffers()), **parts({**dict(model.named_buffers()), **full})}
        found = torch.func.functional_call(smaller, given, example, tie_weights=False)
        with torch.no_grad():
            assert difference([found], [space.candidate(arch)(*example)]) < 1e-4
        found.square().sum().backward()
        reached = [x for x in full.values() if x.grad is not None and x.grad.abs().max() > 0]
        assert reached
        for x in full.values():
            x.grad = None


@pytest.mark.parametrize("name", ["residual", "torch encoder"])
def test_other_weights_leave_the_space_and_the_first_model_as_they_are(name: str) -> None:
    space, model, example = made(name)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    weights = {key: x * 1.1 for key, x in model.named_parameters()}
    other = space.with_weights(weights)
    arch = space.space.sample(np.random.default_rng(2))
    assert other.damage(arch) == space.damage(arch) and other.costs(arch) == space.costs(arch)
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    with torch.no_grad():
        ours = other.finished(arch).model(*example)
        assert difference([other.candidate(arch)(*example)], [ours]) < 1e-5
        assert difference([space.candidate(arch)(*example)], [ours]) > 1e-3
        masked = torch.func.functional_call(model, weights, example)
        assert difference([other.build(space.whole).model(*example)], [masked]) < 1e-5
