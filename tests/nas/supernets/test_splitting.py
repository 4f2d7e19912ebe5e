"""Supernets that split: who parts from whom, what the parts begin with, and that a stopped run ends alike."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from nas import search
from nas.samplers.basic import Uniform
from nas.supernets.rules import Labels
from nas.supernets.splitting import Splitting, halves, rounds, usual_splits
from nas.supernets.team import Team
from nas.tasks import Batch, Classes, Task
from nas.training.config import TrainingConfig
from nas.training.loop import Row, fit
from search_spaces import SearchSpace, make_space

CPU = torch.device("cpu")


@pytest.fixture
def space() -> SearchSpace:
    return make_space("resnet20-pooling", in_channels=1, image_size=8)


def splitting(space: SearchSpace, task: Task, splits: dict[int, int], epochs: int = 3) -> Splitting:
    config = TrainingConfig(epochs=epochs, batch_size=64)
    team = Team(space, config, Uniform(space), Labels(Classes()), seed=0, device=CPU)
    return Splitting(team, task, splits, CPU)


def test_two_groups_that_agree_within_are_parted() -> None:
    alike = np.full((6, 6), -0.5)
    for group in ([0, 2, 4], [1, 3, 5]):
        alike[np.ix_(group, group)] = 0.9
    leaving = halves(alike)
    assert set(np.flatnonzero(leaving)) in ({0, 2, 4}, {1, 3, 5})


def test_items_that_are_all_alike_are_parted_too() -> None:
    leaving = halves(np.ones((5, 5)))
    assert 0 < leaving.sum() < 5


def test_every_round_takes_each_once() -> None:
    drawn = list(islice(rounds(7, np.random.default_rng(0)), 21))
    assert set(Counter(drawn).values()) == {3} and len(set(drawn[:7])) == 7


def test_parts_begin_with_the_weights_they_come_from_and_then_go_their_own_way(space: SearchSpace, task: Task) -> None:
    learner = splitting(space, task, {1: 5})
    learner.begin(0)
    batch = Batch(torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,)))
    learner.step(batch, 0.1)
    learner.begin(1)
    assert len(learner.members) == 5 and set(learner.home) == set(range(5))
    states = [member.tensors() for member in learner.members]
    assert all(torch.equal(states[0][name], state[name]) for state in states for name in states[0])

    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    learner.order = iter([7])
    learner.step(batch, 0.1)
    for number, member in enumerate(learner.members):
        same = all(torch.equal(before[number][name], tensor) for name, tensor in member.tensors().items())
        assert same == (number != learner.home[7])


def test_a_stopped_run_ends_with_the_same_weights(space: SearchSpace, task: Task, tmp_path: Path) -> None:
    def run(learner: Splitting, path: Path | None, stop: int | None = None) -> None:
        def on_epoch(history: list[Row]) -> None:
            if history[-1]["epoch"] == stop:
                raise KeyboardInterrupt

        fit(learner, task.train, learner.team.config, seed=0, device=CPU, path=path, on_epoch=on_epoch)

    whole, first, second = (splitting(space, task, {1: 2, 2: 5}) for _ in range(3))
    run(whole, None)
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path / "state", stop=1)
    run(second, tmp_path / "state")
    assert np.array_equal(whole.home, second.home) and len(second.members) == 5
    ours, theirs = whole.tensors(), second.tensors()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("splits", [{0: 2}, {1: 1}, {1: 4, 2: 4}, {1: 37}])
def test_splits_must_rise(space: SearchSpace, task: Task, splits: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="rising numbers of supernets, 2 to 36"):
        splitting(space, task, splits)


def test_the_usual_splits_end_with_a_supernet_for_each_architecture() -> None:
    assert usual_splits(36, 60) == {30: 6, 45: 36}
    assert usual_splits(1000, 8) == {4: 32, 6: 64}
    assert usual_splits(36, 1) == {}


def test_a_search_ranks_each_architecture_by_its_own_supernet(tmp_path: Path) -> None:
    shared = {"strategy": "one-shot", "sampler": "split", "retrain": "none", "out": tmp_path / "run", "test_limit": 50}
    study = search("resnet20-pooling", "digits", epochs=4, batch_size=64, limit=200, **shared)
    assert len(study.trials) == 36 and study.trials["accuracy"].between(0, 1).all()
    assert not [name for name in study.trials.columns if name.startswith("accuracy_supernet")]


def test_it_makes_its_supernets_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes supernets as it needs them; use strategy one-shot"):
        search("resnet20-pooling", "digits", sampler="split", epochs=2, limit=100, out=tmp_path / "run")
