"""A space that narrows in training: what is dropped, that it stays out of the search, and that a stop changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.data.dataset import ImageData
from nas.samplers.basic import Uniform
from nas.samplers.narrowing import Narrowing, dissimilarity
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner, make_sampler
from nas.supernets.team import OneSupernet
from nas.tasks import Task
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from search_spaces import Constraint, Supernet, ensemble, make_space
from tests.elastic_toy import WIDTHS, elastic_space
from tests.subnets import images, same, state

CPU = torch.device("cpu")
SPACE = elastic_space()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def told(sampler: Narrowing, worst: int, steps: int = 60) -> Narrowing:
    """A sampler that was told of high losses wherever a width is the `worst`."""
    generator = rng()
    for _ in range(steps):
        (draw,) = sampler.draw(0, generator)
        sampler.tell([draw], [5.0 if worst in draw.arch.values() else 1.0])
    return sampler


def test_the_value_that_does_worst_goes_where_values_differ_alike() -> None:
    supernet = Supernet(SPACE.net).train()
    sampler = told(Narrowing(SPACE, 8, seed=0, weight=0.0), worst=4)
    before = state(supernet)
    sampler.begin(1, [supernet], images(SPACE))
    assert all(sampler.left[name].all() for name in sampler.groups)
    sampler.begin(2, [supernet], images(SPACE))
    assert same(state(supernet), before)
    widths = [choice for choice in SPACE.choices if choice.name.startswith("width")]
    assert [sampler.open(choice) for choice in widths] == [[2, 8], [2, 8]]
    assert sampler.open(SPACE.choices[0]) == [1, 2]
    drawn = {draw.arch["width1"] for _ in range(50) for draw in sampler.draw(3, rng(_))}
    assert drawn == {2, 8}
    sampler = told(sampler, worst=2)
    sampler.begin(4, [supernet], images(SPACE))
    assert sampler.open(widths[0]) == [2, 8]  # two are left


def test_the_value_that_makes_no_difference_goes_where_all_do_alike() -> None:
    supernet = Supernet(SPACE.net).train()
    with torch.no_grad():  # widths 2 and 4 of the first block are one and the same
        supernet.blocks["block1"].project[:, 2:4] = 0
    arch = {"depth": 1, "kernel1": 3}
    paths = [SPACE.locals(SPACE.architecture({**arch, "width1": width})) for width in WIDTHS]
    apart = dissimilarity(supernet, paths, images(SPACE))
    assert apart[0] == pytest.approx(apart[1], rel=1e-4) and apart[2] > 1.5 * apart[0] > 0
    np.testing.assert_array_equal(dissimilarity(supernet, paths[:1] * 3, images(SPACE)), 0)

    def block1(width: int) -> torch.Tensor:
        out = supernet.blocks["block1"](supernet.blocks["stem"](images(SPACE), None), (width, 3))
        return out.mean((2, 3)).log_softmax(1)

    with torch.no_grad():
        logs = [block1(width) for width in WIDTHS]
    expected = np.mean([float((logs[2].exp() * (logs[2] - other)).sum(1).mean()) for other in logs[:2]])
    assert apart[2] == pytest.approx(expected, rel=1e-4)


def test_the_last_block_of_the_last_path_is_compared_by_its_own_logits() -> None:
    space = ensemble(make_space("resnet-elastic", depth=20, choices="head", in_channels=1, image_size=8), splits=(5,))
    supernet = Supernet(space.net).train()
    archs = [
        space.architecture({"split": 5, "head.pooling": "avg", "path2.head.pooling": name})
        for name in ("avg", "simpool")
    ]
    apart = dissimilarity(supernet, [space.locals(arch) for arch in archs], images(space))
    logits = [supernet(images(space), space.locals(arch))[:, -1].log_softmax(1) for arch in archs]
    with torch.no_grad():
        expected = [float((a.exp() * (a - b)).sum(1).mean()) for a, b in (logits, logits[::-1])]
    np.testing.assert_allclose(apart, expected, rtol=1e-4)


def test_paths_of_an_ensemble_have_what_is_left_in_common() -> None:
    space = ensemble(SPACE)
    sampler = Narrowing(space, 4, seed=0)
    assert set(sampler.groups) == {"width1", "width2"}
    told(sampler, worst=4).begin(1, [Supernet(space.net).train()], images(space))
    for name in ("width1", "width2"):
        first, second = (next(c for c in space.choices if c.name == n) for n in (name, f"path2.{name}"))
        assert sampler.open(first) == sampler.open(second) and len(sampler.open(first)) == 2


@pytest.mark.parametrize("paths", [1, 2])
def test_a_search_proposes_what_is_left(paths: int) -> None:
    space = ensemble(SPACE, paths)
    sampler = Narrowing(space, 4, seed=0)
    sampler.left = {name: np.array([True, False, True]) for name in sampler.groups}
    fewer, generator = sampler.narrowed(space), rng()
    every = {arch for arch in space.enumerate() if 4 not in arch.values()}
    assert set(fewer.enumerate()) == every
    arch = fewer.sample(generator)
    for _ in range(50):
        arch = fewer.crossover(fewer.mutate(arch, generator), fewer.sample(generator), generator)
        assert arch in every
        space.check(arch)
        fewer.check(arch)
    assert Uniform(space).narrowed(space) is space


def test_values_that_a_canonical_form_brings_back_are_not_proposed() -> None:
    space = make_space("nas-bench-macro", image_size=8, in_channels=1)
    sampler = Narrowing(space, 4, seed=0)
    sampler.left["block5"] = np.array([True, True, False])  # block5 of kind 2 may come from block4
    fewer = sampler.narrowed(space)
    for seed in range(50):
        arch = fewer.mutate(fewer.sample(rng(seed)), rng(seed))
        assert arch["block5"] != 2
        space.check(arch)


def test_a_stop_changes_nothing(task: Task, tmp_path: Path) -> None:
    config = SupernetConfig(sampler="narrowing", training=TrainingConfig(epochs=4, batch_size=50))

    def train(path: Path | None, stop_after: int | None = None) -> OneSupernet:
        learner = make_learner(config, ensemble(SPACE), task, seed=0, device=CPU, mixture=False)
        assert isinstance(learner, OneSupernet)

        def stop(history: list) -> None:
            if history[-1]["epoch"] == stop_after:
                raise KeyboardInterrupt

        fit(learner, task.train, config.training, seed=0, device=CPU, path=path, on_epoch=stop)
        return learner

    whole = train(None)
    for stop in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "c", stop)
    again = train(tmp_path / "c")
    assert whole.tensors().keys() == again.tensors().keys()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name
    sampler = whole.team.sampler
    assert isinstance(sampler, Narrowing) and not all(left.all() for left in sampler.left.values())


def test_a_run_searches_what_its_training_left(digits: ImageData, tmp_path: Path) -> None:
    study = nas.search(
        SPACE,
        digits,
        strategy="evolution",
        sampler="narrowing",
        epochs=4,
        batch_size=50,
        trials=8,
        retrain="none",
        out=tmp_path / "run",
    )
    widths = {
        value for key in study.trials["architecture"] for name, value in study.find(key).items() if "width1" in name
    }
    assert len(study.trials) == 8 and len(widths) == 2


def test_spaces_and_trainings_without_anything_to_drop_are_refused() -> None:
    few = replace(SPACE, choices=SPACE.choices[:1], constraints=(Constraint("-", lambda values: True),))
    with pytest.raises(ValueError, match="more than 2 values and at least 4 epochs, got 8 epochs and 0 such"):
        make_sampler("narrowing", few, epochs=8, seed=0)
    with pytest.raises(ValueError, match="got 3 epochs and 2 such choices of 'toy'; use uniform"):
        make_sampler("narrowing", SPACE, epochs=3, seed=0)
    with pytest.raises(ValueError, match="compares values on images"):
        make_sampler("narrowing", SPACE, epochs=4, seed=0).begin(1, [], None)
