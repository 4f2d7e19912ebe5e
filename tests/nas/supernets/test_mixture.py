"""The mixture's arithmetic against numbers worked out by hand, and its independence between supernets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from nas.runtime.seeding import stream
from nas.samplers.basic import Draw, Sandwich, Uniform
from nas.samplers.size_order import extremes
from nas.supernets.mixture import MOST_ARCHITECTURES, Mixture, MixtureConfig, balance, kl_from_uniform, replay, softmax
from nas.supernets.rules import InPlace, Labels
from nas.supernets.team import Team
from nas.tasks import Batch, Classes, Task
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from search_spaces import SearchSpace, ensemble, make_space
from tests.elastic_toy import elastic_space

THRESHOLD = 1e-4
CPU = torch.device("cpu")
T = np.log(3)


@pytest.fixture
def space() -> SearchSpace:
    return make_space("resnet20-pooling", in_channels=1, image_size=8)


def mixture(space: SearchSpace, task: Task, supernets: int = 3, epochs: int = 1, **settings: float) -> Mixture:
    config = TrainingConfig(epochs=epochs, batch_size=64)
    team = Team(space, config, Uniform(space), Labels(Classes()), seed=0, device=CPU, supernets=supernets)
    return Mixture(team, task, MixtureConfig(**settings), CPU)


def test_equal_averages_are_uniform_and_need_no_balancing() -> None:
    rows, divisors = balance(softmax(7 * np.ones((5, 4))), THRESHOLD)
    np.testing.assert_allclose(rows, 0.25)
    assert divisors == []


def test_one_division_balances_equal_rows() -> None:
    rows = softmax(T * np.array([[1.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.75, 0.25]] * 2)
    assert kl_from_uniform(rows.mean(0)) == pytest.approx(0.130812, abs=1e-6)
    balanced, divisors = balance(rows, THRESHOLD)
    assert len(divisors) == 1
    np.testing.assert_allclose(balanced, 0.5)


def test_two_divisions_balance_unequal_rows() -> None:
    balanced, divisors = balance(softmax(T * np.array([[1.0, 0.0], [0.0, 0.0]])), THRESHOLD)
    np.testing.assert_allclose(divisors, [[0.625, 0.375], [0.508929, 0.491071]], atol=1e-6)
    np.testing.assert_allclose(balanced, [[0.634615, 0.365385], [0.366667, 0.633333]], atol=1e-6)
    assert kl_from_uniform(balanced.mean(0)) == pytest.approx(8.2e-7, abs=1e-8)


@given(st.integers(2, 40), st.integers(1, 8), st.floats(1, 100), st.integers(0, 10_000))
def test_balanced_rows_are_chances_and_the_supernets_get_equal_shares(
    rows: int, supernets: int, temperature: float, seed: int
) -> None:
    averages = np.random.default_rng(seed).uniform(0.5, 1, (rows, supernets))
    chances = softmax(temperature * averages)
    balanced, divisors = balance(chances, THRESHOLD)
    np.testing.assert_allclose(balanced.sum(1), 1)
    assert abs(kl_from_uniform(balanced.mean(0))) <= THRESHOLD
    np.testing.assert_allclose(replay(chances, divisors), balanced)


def test_a_row_alone_replays_to_the_same_chances() -> None:
    chances = softmax(20 * np.random.default_rng(1).uniform(0.5, 1, (6, 3)))
    balanced, divisors = balance(chances, THRESHOLD)
    assert divisors
    for row in range(6):
        np.testing.assert_allclose(replay(chances[row], divisors), balanced[row])


def test_a_step_changes_one_supernet_and_one_average(space: SearchSpace, task: Task) -> None:
    learner = mixture(space, task)
    learner.begin(0)
    before = [{name: value.clone() for name, value in m.supernet.state_dict().items()} for m in learner.members]
    learner.step(Batch(torch.randn(64, 1, 8, 8), torch.randint(10, (64,))), 0.1)
    changed = [
        number
        for number, member in enumerate(learner.members)
        if any(not torch.equal(value, before[number][name]) for name, value in member.supernet.state_dict().items())
    ]
    assert len(changed) == 1
    rows = learner.end()
    at, columns = np.nonzero(learner.averages != 1)
    assert len(at) == 1 and columns.tolist() == changed
    assert learner.averages[at[0], columns[0]] == pytest.approx(0.9 + 0.1 * rows[changed[0]]["accuracy"])


def test_an_accuracy_reaches_the_averages_one_step_late(space: SearchSpace, task: Task) -> None:
    learner = mixture(space, task)
    learner.begin(0)
    known = []
    for _ in range(3):
        learner.step(Batch(torch.randn(64, 1, 8, 8), torch.randint(10, (64,))), 0.1)
        known.append(sum(len(member.accuracies) for member in learner.members))
    assert known == [0, 0, 1]


def test_every_architecture_of_a_step_goes_to_a_supernet_of_its_own(space: SearchSpace, task: Task) -> None:
    config = TrainingConfig(epochs=1, batch_size=64)
    team = Team(space, config, Uniform(space, 12), Labels(Classes()), seed=0, device=CPU, supernets=2)
    learner = Mixture(team, task, MixtureConfig(), CPU)
    learner.begin(0)
    learner.step(Batch(torch.randn(64, 1, 8, 8), torch.randint(10, (64,))), 0.1)
    assert all(member.steps == 1 for member in learner.members)
    learner.end()
    assert (learner.averages != 1).any(axis=1).sum() > 6


def test_the_temperature_rises_from_one(space: SearchSpace, task: Task) -> None:
    learner = mixture(space, task, epochs=10, temperature=101)
    learner.averages[0, 0] = 0.5
    for epoch, temperature in ((0, 1), (5, 51), (10, 101)):
        unbalanced = softmax(temperature * learner.averages)
        expected, _ = balance(unbalanced, THRESHOLD)
        np.testing.assert_allclose(learner.assignment(epoch)[0], expected)


def test_stopping_and_going_on_ends_with_the_same_weights_and_averages(
    space: SearchSpace, task: Task, tmp_path
) -> None:
    config = TrainingConfig(epochs=3, batch_size=64)

    def train(path=None, stop_after: int | None = None) -> Mixture:
        learner = mixture(space, task, epochs=3)

        def stop(history: list) -> None:
            if history[-1]["epoch"] == stop_after:
                raise KeyboardInterrupt

        fit(learner, task.train, config, seed=0, device=torch.device("cpu"), path=path, on_epoch=stop)
        return learner

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint", stop_after=0)
    resumed = train(tmp_path / "checkpoint")
    np.testing.assert_array_equal(whole.averages, resumed.averages)
    for a, b in zip(whole.members, resumed.members, strict=True):
        for name, value in a.supernet.state_dict().items():
            assert torch.equal(value, b.supernet.state_dict()[name]), name


@pytest.mark.parametrize("paths", [1, 2])
def test_averages_take_in_what_the_subnet_gets_right_of_the_next_validation_images(paths: int, task: Task) -> None:
    space = ensemble(elastic_space()) if paths == 2 else elastic_space()
    learner = mixture(space, task, supernets=2, decay=0.75)
    learner.begin(0)
    learner.step(Batch(torch.randn(64, 1, 8, 8), torch.randint(10, (64,))), 0.1)
    [[(rows, number, _)]] = learner.untold
    images, labels = next(learner._validation(stream(0, "validation", 0)))
    with torch.no_grad():
        logits = learner.members[number].supernet(images, space.locals(learner.archs[rows[0]]))
    chances = logits.softmax(-1) if paths == 1 else logits.softmax(-1).mean(1)
    right = (chances.argmax(1) == labels).double().mean().item()
    learner.end()
    assert learner.averages[rows[0], number] == pytest.approx(0.75 + 0.25 * right)
    assert (learner.averages != 1).sum() == 1


def test_an_architecture_belongs_to_the_supernet_of_the_last_temperature(space: SearchSpace, task: Task) -> None:
    learner = mixture(space, task, epochs=10, temperature=30)
    learner.averages = np.random.default_rng(0).uniform(0.2, 0.9, learner.averages.shape)
    last, first = (learner.assignment(epoch)[0].argmax(axis=1).tolist() for epoch in (10, 0))
    assert learner.assign(learner.archs) == last != first


def test_a_sandwich_is_shared_among_the_supernets_and_one_largest_teaches_them_all(task: Task) -> None:
    space = elastic_space()
    config = TrainingConfig(epochs=1, batch_size=50)
    small, large = extremes(space)
    team = Team(space, config, Sandwich(space, small, large), InPlace(Classes()), seed=0, device=CPU, supernets=2)
    images, labels = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    with torch.no_grad():
        teacher, student = (
            copy.deepcopy(member.supernet).train()(images, space.locals(arch))
            for member, arch in zip(team.members, (large, small), strict=True)
        )
    team.begin(0)
    team.step([0, 1], [Draw(large, "max"), Draw(small, "min")], Batch(images, labels), 0.1)
    team.settle()
    expected = cross_entropy(teacher, labels), cross_entropy(student, teacher.softmax(1))
    assert [row["loss"] for row in team.end()] == pytest.approx([loss.item() for loss in expected])
    history = fit(Mixture(team, task, MixtureConfig(), CPU), task.train, config, seed=0, device=CPU)
    assert [row["supernet"] for row in history] == [0, 1] and all(np.isfinite(row["loss"]) for row in history)


def test_a_space_too_large_to_list_keeps_averages_by_value(task: Task) -> None:
    space = elastic_space(blocks=12)
    assert space.raw_size > MOST_ARCHITECTURES
    learner = mixture(space, task, supernets=2)
    learner.begin(0)
    learner.step(Batch(torch.randn(64, 1, 8, 8), torch.randint(10, (64,))), 0.1)
    rows = learner.end()
    assert learner.averages.shape == (sum(len(column.values) for column in space.columns), 2)
    moved = np.argwhere(learner.averages != 1)
    drawn = next(number for number, row in enumerate(rows) if row["steps"])
    assert {number for _, number in moved} == {drawn}
    # one row per choice: each column's value of the one architecture that was drawn
    offsets = np.cumsum([0, *(len(column.values) for column in space.columns)])
    columns = np.searchsorted(offsets, moved[:, 0], side="right") - 1
    assert len(set(columns.tolist())) == len(columns)
    chances, _ = learner.assignment(0)
    np.testing.assert_allclose(chances.mean(0), 0.5, atol=0.02)
    assert set(learner.assign(learner.archs[:5])) <= {0, 1}
