"""Layers of low rank as choices of a trained model's space: exact costs, a proof, the same on disk, and damage that is what happens."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, least_squares_, load, remap_optimizer
from pruners.allocation.ranks import ranked_layer
from pruners.groups import analyse
from pruners.operators import find
from pruners.surgery import factors
from pruners.surgery.low_rank import Known, dense_layers, saving_rank, split
from pruners.surgery.masked import difference
from search_spaces import Architecture
from tests.pruners.networks import build
from tests.pruners.test_candidates import batches

NETS = ("residual", "gated", "shared", "torch encoder", "strided")


class Strided(nn.Module):
    """Convolutions of kernel 1 with a stride and a border, in one and two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.strided = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 1, stride=2, padding=1, bias=False)
        self.norm, self.line = nn.BatchNorm2d(12), nn.Conv1d(12, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.strided(self.first(x).relu())).relu()
        return self.head(self.line(x.flatten(2)).relu().mean(-1))


def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name != "strided":
        return build(name)
    torch.manual_seed(0)
    return Strided().eval(), (torch.randn(2, 3, 8, 8),)


@cache
def made(name: str) -> tuple[PrunableSpace, nn.Module, tuple[Tensor, ...]]:
    model, example = network(name)
    return PrunableSpace(model, example, batches=batches(example), steps=4, low_rank=True), model, example


def with_ranks(space: PrunableSpace, step: int = 0) -> Architecture:
    """The whole model, but for its ranks."""
    return space.space.architecture({**space.whole, **{name: found[step] for name, found in space.ranks.kept.items()}})


# --- the choice ---


@pytest.mark.parametrize("name", NETS)
def test_any_architecture_is_proved_costed_and_found_again(name: str, tmp_path: Path) -> None:
    space, model, example = made(name)
    rng = np.random.default_rng(0)
    for number in range(3):
        arch = space.space.sample(rng)
        result = space.build(arch)
        assert space.costs(arch) == result.summary.after
        assert result.summary.difference is not None and result.summary.difference < 1e-4
        assert space.space.parse(space.space.label(arch)) == arch
        if number == 0:
            assert result.plan.ranks and any(".1.weight" in key for key in result.model.state_dict())
            result.save(tmp_path)
            with torch.no_grad():
                assert torch.equal(load(tmp_path, model)(*example), result.model(*example))


@pytest.mark.parametrize("name", NETS)
def test_the_whole_architecture_has_layers_as_they_are(name: str) -> None:
    space, model, example = made(name)
    result = space.build(space.whole)
    assert not result.plan.ranks and space.damage(space.whole) == 0
    with torch.no_grad():
        assert torch.equal(result.model(*example), model(*example))


def test_what_is_no_layer_of_its_own_has_no_rank() -> None:
    """Called twice, tied, read by another module than its own, or too small to save anything."""
    found = {
        name: [layer.name for layer in _dense(name)] for name in ("shared", "torch encoder", "grouped and shuffled")
    }
    assert found["shared"] == ["inner", "outer"]
    assert "layer.self_attn.out_proj" not in found["torch encoder"] and "layer.linear1" in found["torch encoder"]
    assert found["grouped and shuffled"] == ["head"]
    assert saving_rank(1, 9) == saving_rank(2, 2) == 0 and saving_rank(3, 3) == 1


def _dense(name: str) -> list:
    model, example = build(name)
    return dense_layers(analyse(model, example, {}), model)


def test_ranks_at_any_widths_save_about_the_share_that_was_chosen() -> None:
    model = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 40)).eval()
    graph = analyse(model, (torch.randn(2, 48),), {})
    (layer,) = [layer for layer in dense_layers(graph, model) if layer.name == "2"]
    for multiple in (1, 4):
        ranked = ranked_layer(graph, layer, 4, multiple)
        assert ranked is not None and ranked.ranks[-1] == 40 and all(rank % multiple == 0 for rank in ranked.ranks)
        for chosen, inputs in product(ranked.ranks, range(1, 65)):
            counts = {ranked.group.axis: chosen, find(ranked.inputs): inputs}
            rank = int(ranked.rank(counts))
            assert rank * (40 + inputs) < 40 * inputs if rank else chosen == 40 or inputs < 5
            assert ranked.factors(counts) == (rank * (40 + inputs) - 40 * inputs if rank else 0)
            if rank >= multiple:
                assert rank % multiple == 0
            if rank > 2 * multiple:
                share, whole = rank * (40 + inputs) / (40 * inputs), chosen * 104 / 2560
                assert share <= whole + 1e-9 < share + (multiple + 1) * (40 + inputs) / (40 * inputs)
        every = ranked.factors({ranked.group.axis: 40 - np.arange(40)})
        assert every.tolist() == [ranked.factors({ranked.group.axis: 40 - n}) for n in range(40)]


def test_ranks_go_with_their_block_and_stay_where_they_are_ignored() -> None:
    space, model, example = made("residual")
    choices = {choice.name: choice for choice in space.space.choices}
    assert choices["outer.rank"].when == {"inner": ("keep",)} or choices["outer.rank"].when
    others = PrunableSpace(model, example, low_rank=True, ignore=["head.rank"])
    assert list(others.ranks.layers) == ["outer.rank"]
    assert not PrunableSpace(model, example).ranks.layers
    with pytest.raises(ValueError, match="`ignore` must name"):
        PrunableSpace(model, example, low_rank=True, ignore=["stem.rank"])


def test_a_model_of_which_only_ranks_can_be_chosen_is_a_space() -> None:
    model = nn.Linear(24, 20).eval()
    with pytest.raises(ValueError, match="nothing can be removed"):
        PrunableSpace(model, torch.randn(2, 24))
    space = PrunableSpace(nn.Sequential(model), torch.randn(2, 24), low_rank=True, steps=3)
    assert [choice.name for choice in space.space.choices] == ["0.rank"] and space.uniform(1) == space.whole


# --- the factors ---


def test_a_split_is_what_was_published() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 384)
    rank = 96 * 384 // (2 * (96 + 384))
    first, second, _ = split(weight, rank)
    assert first.shape == (rank, 384) and second.shape == (96, rank) and 768 * 3072 // (2 * (768 + 3072)) == 307
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    assert difference([second @ first], [u[:, :rank] * s[:rank] @ v[:rank]]) < 1e-6
    assert torch.allclose(first.norm(dim=1), second.norm(dim=0))
    for shape in ((7, 5), (5, 7), (6, 6)):
        square = torch.randn(shape)
        whole = split(square, min(shape))
        assert difference([whole.second @ whole.first], [square.double()]) < 1e-6


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_a_split_loses_least_of_what_the_layer_computes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, x = (
        torch.randn(shape).double(),
        torch.randn(400, shape[1]).double() @ torch.randn(shape[1], shape[1]).double() + 3,
    )
    centred = x - x.mean(0)
    root = torch.linalg.cholesky(centred.t() @ centred / len(x))
    known = split(weight, 4, Known(root, x.mean(0)))
    y = x @ weight.t()

    def lost(first: Tensor, second: Tensor, shift: Tensor) -> float:
        return float((x @ (second @ first).t() + shift - y).square().sum())

    ours = lost(*known)
    variance = torch.linalg.eigvalsh(torch.cov(y.t(), correction=0)).flip(0)
    assert ours == pytest.approx(float(variance[4:].sum()) * len(x), rel=1e-6)
    assert ours < lost(*split(weight, 4))
    for _ in range(20):
        q, _ = torch.linalg.qr(torch.randn(shape[0], 4).double())
        assert ours <= lost(q.t() @ weight, q, (weight - q @ q.t() @ weight) @ x.mean(0))


def test_two_layers_that_are_not_their_product_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    space, _, _ = made("residual")
    honest = factors.factor_

    def wrong(model: nn.Module, found: dict) -> None:
        honest(model, {name: each._replace(first=1.01 * each.first) for name, each in found.items()})

    monkeypatch.setattr(factors, "factor_", wrong)
    with pytest.raises(ValueError, match="two layers must equal one with their product to 0.0001, got"):
        space.build(with_ranks(space))


def test_a_forward_that_reads_a_weight_by_itself_becomes_a_graph() -> None:
    space, _, _ = made("torch encoder")
    result = space.build(with_ranks(space))
    assert result.summary.form == "graph" and "weight" in str(result.summary.reason)
    assert made("gated")[0].build(with_ranks(made("gated")[0])).summary.form == "module"


# --- what it loses ---


@pytest.mark.parametrize("bias", [True, False])
def test_damage_of_a_rank_is_what_the_outputs_lose(bias: bool) -> None:
    """Where the layer's outputs are the model's, the second-order sum is exact but for what is drawn at random."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12, bias=bias)).eval()
    x = torch.randn(2000, 16) @ torch.randn(16, 16) + 1
    space = PrunableSpace(model, x[:2], batches=list(x.split(100)), steps=6, low_rank=True)
    with torch.no_grad():
        whole = model(x)
        spread = (whole - whole.mean(0)).square().sum()
        for rank in space.ranks.kept["0.rank"]:
            arch = space.space.architecture({"0.rank": rank})
            lost = (space.candidate(arch)(x) - whole).square().sum() / spread
            assert space.damage(arch) == pytest.approx(float(lost), rel=0.15, abs=1e-6)


@pytest.mark.parametrize("name", ["gated", "torch encoder"])
def test_nothing_drawn_at_random_is_ahead_of_the_front(name: str) -> None:
    space, _, _ = made(name)
    front, rng = space.front(8), np.random.default_rng(0)
    costs, damages = [space.costs(arch)["macs"] for arch in front], [space.damage(arch) for arch in front]
    assert costs == sorted(costs, reverse=True) and damages == sorted(damages)
    assert any(space.ranks.within(arch, {}) for arch in front)
    for _ in range(30):
        arch = space.space.sample(rng)
        cost, damage = space.costs(arch)["macs"], space.damage(arch)
        assert not any(cost <= c and damage < 0.9 * d for c, d in zip(costs, damages, strict=True))


@pytest.mark.parametrize("name", ["residual", "torch encoder"])
def test_a_candidate_for_every_size_computes_the_same(name: str) -> None:
    space, _, example = made(name)
    arch = space.space.sample(np.random.default_rng(3))
    with torch.no_grad():
        ours, every = space.candidate(arch)(*example), space.candidate(arch, every_size=True)(*example)
    assert difference([ours], [every]) < 1e-5


def test_what_leaves_a_search_is_repaired_with_its_factors() -> None:
    space, model, example = made("gated")
    given, arch = batches(example), with_ranks(space, 1)
    built, repaired = space.build(arch), space.repaired(arch, given)
    assert repaired.summary.chosen["recover"].startswith("least-squares: ") and repaired.plan.ranks
    assert "experts" not in repaired.summary.chosen["recover"]
    with torch.no_grad():
        whole = model(*given[0])
        before, after = ((result.model(*given[0]) - whole).square().mean() for result in (built, repaired))
        assert after < before
        again = load_again(repaired, model)
        assert torch.equal(again(*example), repaired.model(*example))
    assert least_squares_(built.model, model, built.plan, given).solved


def load_again(result, model: nn.Module) -> nn.Module:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        result.save(folder)
        return load(folder, model)


def test_an_optimiser_of_whole_layers_is_refused() -> None:
    space, model, _ = made("gated")
    with pytest.raises(ValueError, match="`result` must hold layers as they were, got .* that became two of low rank"):
        remap_optimizer(torch.optim.SGD(model.parameters(), 0.1), model, space.build(with_ranks(space)))
