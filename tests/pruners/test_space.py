"""A model as a search space: every architecture is built, proved, costed without building, and found again on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from examples.cifar_resnet import resnet20
from pruners import PrunableSpace, least_squares_, load, remap_optimizer
from pruners.importance.config import Importance
from pruners.importance.score import score_groups
from pruners.surgery.masked import difference
from search_spaces import Architecture
from tests.pruners.networks import build


class Nested(nn.Module):
    """A residual block inside a residual block, then two that share a layer and scale it each on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.outer = nn.ModuleDict({"up": nn.Linear(8, 12), "down": nn.Linear(12, 8)})
        self.outer["inner"] = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 12))
        self.shared = nn.Sequential(nn.Tanh(), nn.Linear(8, 8))
        self.scale = nn.ParameterList([torch.rand(8), torch.rand(8)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, skip: frozenset[str] = frozenset()) -> Tensor:
        x = self.stem(x)
        if "outer" not in skip:
            y = self.outer["up"](x).relu()
            if "inner" not in skip:
                y = y + self.outer["inner"](y)
            x = x + self.outer["down"](y)
        for i, scale in enumerate(self.scale):
            if f"scale[{i}]" not in skip:
                x = x + self.shared(x) * scale
        return self.head(x)


def nested() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Nested().eval(), (torch.randn(3, 6),)


def cifar() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model = resnet20()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval(), (torch.randn(2, 3, 16, 16),)


OWN = {"nested": nested, "cifar": cifar}
SHARED = {"shared.1.weight", "shared.1.bias"}
NETS = (
    "residual",
    "grouped and shuffled",
    "residual group norm",
    "dense",
    "gated",
    "shared",
    "stacked experts",
    "torch encoder",
    *OWN,
)


@cache
def made(name: str) -> tuple[PrunableSpace, nn.Module, tuple[Tensor, ...]]:
    model, example = OWN[name]() if name in OWN else build(name)
    return PrunableSpace(model, example, steps=4), model, example


def leave_out(space: PrunableSpace, *blocks: str) -> Architecture:
    """The whole model without some blocks."""
    values = {**space.whole, **dict.fromkeys(blocks, "leave out")}
    return space.space.architecture(
        {
            choice.name: values[choice.name]
            for choice in space.space.choices
            if not any(values.get(parent) == "leave out" or parent not in values for parent in choice.when)
            and not any(nested_in(space, choice.name, block) for block in blocks)
        }
    )


def nested_in(space: PrunableSpace, name: str, block: str) -> bool:
    parents = next(choice.when for choice in space.space.choices if choice.name == name)
    return any(parent == block or nested_in(space, parent, block) for parent in parents)


@pytest.mark.parametrize("name", NETS)
def test_the_whole_architecture_is_the_model_bit_for_bit(name: str) -> None:
    space, model, example = made(name)
    result = space.build(space.whole)
    with torch.no_grad():
        assert torch.equal(result.model(*example), model(*example))
    assert result.summary.form == "module" and not result.plan.removed and not result.plan.blocks


@pytest.mark.parametrize("name", NETS)
def test_any_architecture_is_proved_costed_and_found_again(name: str, tmp_path: Path) -> None:
    space, model, example = made(name)
    rng = np.random.default_rng(0)
    for number in range(2 if name == "cifar" else 4):  # by far the deepest
        arch = space.space.sample(rng)
        result = space.build(arch)
        predicted = space.costs(arch)
        assert predicted == result.summary.after
        assert result.summary.difference is not None and result.summary.difference < 1e-4
        assert space.space.parse(space.space.label(arch)) == arch
        assert space.space.from_json(json.loads(json.dumps(arch.to_json()))) == arch
        if number == 0:
            result.save(tmp_path)
            with torch.no_grad():
                assert torch.equal(load(tmp_path, model)(*example), result.model(*example))


def test_leaving_out_is_bypassing() -> None:
    """Against the networks' own forward passes, with the blocks taken out by hand."""
    space, model, example = made("cifar")
    assert list(space.blocks) == ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
    for names in (["layer1.1"], ["layer1.0", "layer1.1", "layer1.2", "layer3.2"], list(space.blocks)):
        by_hand, _ = cifar()
        for name in names:
            by_hand.set_submodule(name, nn.Identity())
        result = space.build(leave_out(space, *names))
        assert result.summary.form == "module" and list(result.summary.blocks) == names
        assert {name for name, _ in result.model.named_parameters()} == {n for n, _ in by_hand.named_parameters()}
        with torch.no_grad():
            assert difference([result.model(*example)], [by_hand(*example)]) < 1e-6
    space, model, example = made("nested")
    for name, skip in (("outer", {"outer"}), ("outer.inner", {"inner"})):
        with torch.no_grad():
            expected = model(*example, skip)
            assert difference([space.build(leave_out(space, name)).model(*example)], [expected]) < 1e-6


def test_every_size_or_that_of_the_example(tmp_path: Path) -> None:
    model, _ = nested()
    space = PrunableSpace(model, torch.randn(3, 7, 6), steps=4)
    arch = leave_out(space, "scale[1]")  # whose layer another block still needs, so that no module does without it
    wide, narrow = space.build(arch), space.build(arch, every_size=False)
    assert wide.summary.serves == {"x": "NxLx6"} and narrow.summary.serves == {"x": "Nx7x6"}
    wide.save(tmp_path)
    for length in (1, 4, 16):
        x = torch.randn(2, length, 6)
        with torch.no_grad():
            assert difference([wide.model(x)], [model(x, {"scale[1]"})]) < 1e-6
            assert torch.equal(load(tmp_path, model)(x), wide.model(x))
        with pytest.raises(ValueError, match="must get inputs of the shapes that it serves"):
            narrow.model(x)


def test_what_is_part_of_a_block_is_chosen_only_while_it_stays() -> None:
    space, _, _ = made("nested")
    choices = {choice.name: choice for choice in space.space.choices}
    assert choices["outer.inner"].when == {"outer": ("keep",)}
    assert choices["outer.inner.0.weight:0"].when == {"outer.inner": ("keep",)}
    assert choices["outer.up.weight:0"].when == {"outer": ("keep",)}
    assert not choices["stem.weight:0"].when
    arch = leave_out(space, "outer")
    assert "outer.inner" not in arch and "outer.up.weight:0" not in arch


def test_tensors_that_another_block_uses_stay_until_both_are_gone() -> None:
    space, model, _ = made("nested")
    assert list(space.blocks) == ["outer", "scale[0]", "scale[1]", "outer.inner"]
    assert space.blocks["scale[0]"].tensors == {"scale.0"}
    everything = {name for name, _ in model.named_parameters()}
    for names, gone in (("scale[1]",), {"scale.1"}), (("scale[0]", "scale[1]"), {"scale.0", "scale.1", *SHARED}):
        arch = leave_out(space, *names)
        result = space.build(arch)
        assert {name for name, _ in result.model.named_parameters()} == everything - gone
        assert space.costs(arch)["params"] == result.summary.after["params"]


def test_the_highest_scores_stay() -> None:
    space, _, _ = made("residual")
    scores = score_groups(space.graph, list(space.scores), Importance(criterion="l2"))
    name = "inner.weight:0"
    arch = space.space.architecture({**space.whole, name: 3})
    lowest = sorted(range(12), key=lambda i: float(scores[name][i]))[:9]
    assert list(space.build(arch).plan.removed[name]) == sorted(lowest)


def test_kept_numbers_are_aligned_and_end_with_all() -> None:
    model, example = build("residual")
    space = PrunableSpace(model, example, steps=5, round_to=4, depth=False)
    values = {choice.name: [choice.value(i) for i in range(choice.size)] for choice in space.space.choices}
    assert values == {"stem.weight:0": [4, 8], "inner.weight:0": [4, 8, 12]}


def test_uniform_architectures_keep_one_share_of_every_group() -> None:
    space, _, _ = made("cifar")
    half = space.uniform(2)
    assert all(half[name] == "keep" for name in space.blocks)
    assert all(half[group.name] * 2 == group.size for group in space.scores)
    assert space.uniform(4) == space.whole


def test_spaces_of_other_weights_have_other_fingerprints() -> None:
    model, example = build("residual")
    same = PrunableSpace(model, example, steps=4).space.fingerprint
    assert same == made("residual")[0].space.fingerprint
    with torch.no_grad():
        model.head.bias[0] += 1
    assert PrunableSpace(model, example, steps=4).space.fingerprint != same


def test_repair_and_optimiser_know_of_left_out_blocks() -> None:
    space, model, _ = made("cifar")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    result = space.build(leave_out(space, "layer2.1", "layer3.2"))
    smaller = remap_optimizer(optimizer, model, result)
    assert [id(p) for p in smaller.param_groups[0]["params"]] == [
        id(dict(result.model.named_parameters())[name])
        for name, _ in model.named_parameters()
        if not name.startswith(("layer2.1", "layer3.2"))
    ]
    batches = list(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)).split(32))
    with torch.no_grad():
        before = sum((result.model(x) - model(x)).square().mean().item() for x in batches)
        least_squares_(result.model, model, result.plan, batches)
        after = sum((result.model(x) - model(x)).square().mean().item() for x in batches)
    assert after < 0.5 * before


def test_ignored_blocks_and_groups_stay() -> None:
    model, example = cifar()
    space = PrunableSpace(model, example, ignore=["layer1", "layer2.1", "layer3.2.conv1.weight"])
    assert list(space.blocks) == ["layer2.2", "layer3.1"]
    assert not any("layer1" in choice.name or "layer3.2" in choice.name for choice in space.space.choices)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    space, model, example = made("residual")
    with pytest.raises(ValueError, match="`steps` must be a whole number of at least 1, got 0"):
        PrunableSpace(model, example, steps=0)
    with pytest.raises(ValueError, match="`steps` must be at most 35, a digit each, got 36"):
        PrunableSpace(model, example, steps=36)
    with pytest.raises(ValueError, match="`ignore` must name groups"):
        PrunableSpace(model, example, ignore=["nowhere"])
    with pytest.raises(ValueError, match="nothing can be removed"):
        PrunableSpace(nn.Linear(3, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"a label must have 3 digits, one for each choice and within it, got '19'"):
        space.space.parse("19")
    other, _, _ = made("nested")
    with pytest.raises(ValueError, match="missing|unknown|choice"):
        space.build(other.whole)
    result = space.build(space.whole)
    replace(result, plan=replace(result.plan, blocks=("nowhere",))).save(tmp_path)
    with pytest.raises(ValueError, match=r"must leave out blocks that the model has, got \['nowhere'\]"):
        load(tmp_path, model)
