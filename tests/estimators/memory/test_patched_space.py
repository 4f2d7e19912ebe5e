"""Plans of inference patch by patch over a space, against the whole network cut outright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from estimators import PatchModel, count, patched_cost, peak_memory
from nas import search
from search_spaces import SearchSpace, ensemble, make_space

SPACES = {
    "resnet20-pooling": {},
    "nas-bench-macro": {},
    "nas-bench-201": {},
    "channel-bench-macro-resnet": {},
    "resnet-elastic": {"choices": ["width", "depth", "kernel"], "depths": [1]},
}


def small(name: str) -> SearchSpace:
    return make_space(name, image_size=16, **SPACES[name])


@pytest.mark.parametrize("name", SPACES)
def test_a_plan_from_blocks_is_that_of_the_whole_network(name: str) -> None:
    space, rng = small(name), np.random.default_rng(0)
    model = PatchModel(space, element_bytes=1)
    arch = space.sample(rng)
    network, plans = space.build(arch), model.plans(arch)
    usual = plans[0]
    assert usual.patches == 1 and usual.macs == count(network, space.net.input_shape).total.macs
    assert usual.peak_bytes == peak_memory(network, space.net.input_shape, element_bytes=1).peak_bytes
    for at in rng.permutation(np.arange(1, len(plans)))[:2]:
        plan = plans[at]
        assert plan == patched_cost(network, space.net.input_shape, plan.blocks, plan.patches, element_bytes=1)


def test_of_what_keeps_the_limit_the_fewest_macs_come() -> None:
    space = make_space("resnet20-pooling", image_size=8)
    arch, model = space.parse("4-3-3"), PatchModel(space, patches=(1, 2))
    plans = model.plans(arch)
    least, most = (pick(plan.peak_bytes for plan in plans) for pick in (min, max))
    for limit in np.linspace(least, most, 5):
        found = model.choose(arch, limit)
        assert found.macs == min(plan.macs for plan in plans if plan.peak_bytes <= limit)
    assert model.choose(arch).peak_bytes == model.choose(arch, 1).peak_bytes == least


def test_the_image_is_that_behind_the_choice_of_a_resolution() -> None:
    space = make_space(
        "resnet-elastic", choices=["resolution", "depth"], resolutions=[8, 16], image_size=16, depths=[1]
    )
    model, plain = (
        PatchModel(space),
        PatchModel(make_space("resnet-elastic", choices=["depth"], depths=[1], image_size=8)),
    )
    lower = next(arch for arch in space.enumerate() if arch["resolution"] == 8)
    (same,) = plain.space.enumerate()
    assert model.plans(lower) == plain.plans(same)


def test_what_is_no_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="`patches` must be numbers of tiles along a side, 1 or more, got \\[0\\]"):
        PatchModel(small("nas-bench-macro"), patches=[0])
    with pytest.raises(ValueError, match="chains of blocks, and .* has paths or skip connections"):
        PatchModel(ensemble(make_space("resnet20-pooling", image_size=8)))


def test_a_search_finds_architecture_resolution_and_patches_together(tmp_path: Path) -> None:
    limit, options = 25_000, {"choices": ["depth", "resolution"], "resolutions": [12, 16], "depths": [1, 2]}
    study = search(
        "resnet-elastic", out=tmp_path, space_options={**options, "image_size": 16}, strategy="random", trials=12,
        evaluate=lambda arch: sum(value for value in arch.values() if isinstance(value, int)),
        objectives=["score:max", "patched_macs"], limits={"patched_peak_bytes": limit},
    )  # fmt: skip
    trials = study.trials
    assert (
        len(trials) and trials["patched_peak_bytes"].max() <= limit and (trials["patched_macs"] >= trials["macs"]).all()
    )
    assert (trials["patched_blocks"] > 0).equals(trials["patches"] > 1) and (trials["patches"] > 1).any()
    model = PatchModel(study.space)
    for row in trials.to_dict("records")[:3]:
        plan = model.choose(study.find(row["architecture"]), limit)
        assert (plan.macs, plan.peak_bytes) == (row["patched_macs"], row["patched_peak_bytes"])
