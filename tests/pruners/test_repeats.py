"""Blocks that run twice, as choices of a trained model's space: as the model's own code, costed exactly, proved, the same on disk."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, least_squares_, load
from pruners.surgery.masked import difference
from search_spaces import Architecture
from tests.pruners.networks import build
from tests.pruners.test_candidates import batches
from tests.pruners.test_space import Nested, cifar

cutting, replaying = (import_module(f"pruners.surgery.{name}") for name in ("cut", "replay"))
NETS = ("nested", "gated", "torch encoder")


class Twice(Nested):
    """The same, in which some parts run twice."""

    def forward(self, x: Tensor, twice: frozenset[str] = frozenset()) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return y + self.outer["inner"](y)

        def outer(x: Tensor) -> Tensor:
            y = inner(self.outer["up"](x).relu())
            return x + self.outer["down"](inner(y) if "outer.inner" in twice else y)

        x = self.stem(x)
        x = outer(outer(x)) if "outer" in twice else outer(x)
        for i, scale in enumerate(self.scale):
            for _ in range(2 if f"scale[{i}]" in twice else 1):
                x = x + self.shared(x) * scale
        return self.head(x)


def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name != "nested":
        return build(name)
    torch.manual_seed(0)
    return Twice().eval(), (torch.randn(3, 6),)


@cache
def made(name: str) -> tuple[PrunableSpace, nn.Module, tuple[Tensor, ...]]:
    model, example = network(name)
    return PrunableSpace(model, example, batches=batches(example), steps=4, repeats=True), model, example


def repeating(space: PrunableSpace, *names: str) -> Architecture:
    return space.space.architecture({**space.whole, **dict.fromkeys(names, "repeat")})


@pytest.mark.parametrize(
    "names", [["outer"], ["outer.inner"], ["outer", "outer.inner"], ["scale[1]"], ["scale[0]", "scale[1]", "outer"]]
)
def test_repeating_is_what_the_forward_computes_with_the_block_run_twice(names: list[str]) -> None:
    space, model, example = made("nested")
    result = space.build(repeating(space, *names))
    with torch.no_grad():
        assert difference([result.model(*example)], [model(*example, frozenset(names))]) < 1e-6
    assert set(result.plan.repeated) == set(names) and result.summary.form == "graph"
    assert "runs each block once" in str(result.summary.reason)


def test_an_activation_behind_the_sum_runs_twice_where_the_input_comes_from_one() -> None:
    model, example = cifar()
    space = PrunableSpace(model, example, repeats=True, steps=2)
    assert list(space.repeatable) == list(space.blocks)
    names = ["layer1.0", "layer2.1", "layer3.2"]
    by_hand, _ = cifar()
    for name in names:
        block = by_hand.get_submodule(name)
        by_hand.set_submodule(name, nn.Sequential(block, block))
    with torch.no_grad():
        found = space.candidate(repeating(space, *names))(*example)
        assert difference([found], [by_hand(*example)]) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_any_architecture_is_proved_costed_and_found_again(name: str, tmp_path: Path) -> None:
    space, model, example = made(name)
    rng = np.random.default_rng(1)
    seen = set()
    for number in range(3):
        arch = space.space.sample(rng)
        result = space.build(arch)
        seen.update(result.plan.repeated)
        assert space.costs(arch) == result.summary.after
        assert result.summary.difference is not None and result.summary.difference < 1e-4
        assert space.space.parse(space.space.label(arch)) == arch
        if number == 0:
            result.save(tmp_path)
            with torch.no_grad():
                assert torch.equal(load(tmp_path, model)(*example), result.model(*example))
    assert seen


@pytest.mark.parametrize("name", NETS)
def test_a_block_that_runs_twice_costs_its_operators_again_and_no_parameters(name: str) -> None:
    space, _, _ = made(name)
    whole = space.costs(space.whole)
    for block in space.repeatable:
        more = space.costs(repeating(space, block))
        (axis,) = (axis for axis, found in space._axes.items() if found.name == block)
        without = space.cost.with_blocks({axis: space.blocks[block]}).macs({axis: 0})
        assert more["macs"] - whole["macs"] == whole["macs"] - without > 0
        assert (more["params"], more["weight_bytes"]) == (whole["params"], whole["weight_bytes"])


def test_damage_is_the_change_of_the_outputs() -> None:
    space, model, example = made("gated")
    (given,) = batches(example)[0]
    unit = space._ranking.unit
    with torch.no_grad():
        some = given[:32]
        whole = model(some)
        spread = (whole - whole.mean(0)).square().sum() * len(some) / (len(some) - 1)
        for name in space.repeatable:
            arch = repeating(space, name)
            changed = (space.build(arch, check=False, every_size=False).model(some) - whole).square().sum()
            assert space.damage(arch) * unit == pytest.approx(float(changed / spread), rel=0.05)


def test_blocks_run_once_unless_asked_and_only_where_their_result_can_enter_them() -> None:
    model, example = network("nested")
    assert not PrunableSpace(model, example).repeatable
    space, _, _ = made("nested")
    choices = {choice.name: choice for choice in space.space.choices}
    assert choices["outer.inner"].when == {"outer": ("keep", "repeat")}
    experts, example = build("looped experts")
    found = PrunableSpace(experts, example, repeats=True)
    assert set(found.repeatable) <= set(found.blocks)
    for name in found.repeatable:
        found.build(repeating(found, name), every_size=False)


def test_a_block_that_does_not_run_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    space, _, _ = made("gated")
    for place in (cutting, replaying):
        monkeypatch.setattr(place, "repeat_", lambda *_: None)
    with pytest.raises(ValueError, match="removing must equal masking to 0.0001, got .* on the built model"):
        space.build(repeating(space, "add_1"))


def test_repair_leaves_shared_layers_and_mends_the_others() -> None:
    space, model, example = made("gated")
    result = space.build(repeating(space, "add_1"))
    repaired = least_squares_(result.model, model, result.plan, batches(example))
    assert repaired.solved and any("its weights are shared" in each for each in repaired.left_out)


def test_a_plan_that_repeats_what_cannot_is_refused(tmp_path: Path) -> None:
    space, model, _ = made("nested")
    result = space.build(repeating(space, "outer"))
    replace(result, plan=replace(result.plan, repeated=("nowhere",))).save(tmp_path)
    with pytest.raises(ValueError, match=r"a plan must .* blocks .*, got \['nowhere'\]"):
        load(tmp_path, model)
