"""Update rules on the invariants of their methods, and what a step of several subnets does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.samplers.basic import Delayed, Draw, Groups, Sampler, Sandwich, Uniform
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner, make_sampler, zero_residuals_
from nas.supernets.rules import InPlace, Labels, Peers, Rule, Snapshot, Step, Taught, check_teacher
from nas.supernets.team import OneSupernet, Team, Watched
from nas.tasks import Batch, Classes, Task
from nas.training.alone import Distillation
from nas.training.config import NotFinite, TrainingConfig
from nas.training.loop import fit
from search_spaces import SearchSpace, Supernet, make_space
from tests.elastic_toy import elastic_space
from tests.nas.samplers.test_basic import LARGE, SMALL, SPACE, reversed_choices
from tests.nas.supernets.test_slices import batch

CPU = torch.device("cpu")
PLAIN = TrainingConfig(epochs=6, batch_size=16, momentum=0, learning_rate=0.1)
DECAYING = TrainingConfig(epochs=6, batch_size=16, weight_decay=0.1)


def learner(
    sampler: Sampler, rule: Rule, config: TrainingConfig = PLAIN, space: SearchSpace = SPACE, **settings
) -> OneSupernet:
    return OneSupernet(Team(space, config, sampler, rule, seed=0, device=CPU, **settings))


def weights(made: OneSupernet) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in made.members[0].supernet.parameters()]


def moved(made: OneSupernet, epoch: int = 0, steps: int = 1) -> list[Tensor]:
    """How far `steps` steps of rate 1 move the weights: minus the gradient, without momentum."""
    before = weights(made)
    made.begin(epoch)
    for _ in range(steps):
        made.step(batch(), 1.0)
    made.end()
    return [after - was for after, was in zip(weights(made), before, strict=True)]


def assert_close(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Fixed(Sampler):
    def __init__(self, *draws: Draw) -> None:
        self.draws = list(draws)

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        return self.draws


def test_distilling_the_largest_into_itself_adds_nothing_to_its_gradient() -> None:
    same = Sandwich(SPACE, LARGE, LARGE, subnets=0)
    alone = moved(learner(Fixed(Draw(LARGE, "max")), InPlace(Classes())))
    assert_close(moved(learner(same, InPlace(Classes()))), alone)


def test_the_smaller_subnets_do_not_see_labels_and_the_teacher_gets_no_gradient_from_them() -> None:
    logits = torch.randn(16, 10, requires_grad=True)
    step = Step(batch(), done=[(Draw(LARGE, "max"), torch.randn(16, 10))])
    first = InPlace(Classes()).loss(Draw(SMALL, "min"), logits, step)
    step.batch = step.batch._replace(target=(step.batch.target + 1) % 10)
    assert torch.equal(first, InPlace(Classes()).loss(Draw(SMALL, "min"), logits, step))
    torch.testing.assert_close(first, Classes().towards([step.done[0][1]], logits))
    made = learner(Sandwich(SPACE, SMALL, LARGE), InPlace(Classes()))
    made.begin(0)
    seen: list[Step] = []
    rule = made.team.rule
    original = rule.loss
    rule.loss = lambda draw, logits, step: (seen.append(step), original(draw, logits, step))[1]  # type: ignore[method-assign, func-returns-value]
    made.step(batch(), 0.1)
    assert len(seen[0].done) == 4 and not any(done.requires_grad for _, done in seen[0].done)


def test_gradients_of_the_subnets_of_a_step_add_up() -> None:
    other = SPACE.architecture({"depth": 1, "width1": 4, "kernel1": 3})
    apart = [moved(learner(Fixed(Draw(arch)), Labels(Classes()))) for arch in (SMALL, other)]
    both = moved(learner(Fixed(Draw(SMALL), Draw(other)), Labels(Classes())))
    assert_close(both, [a + b for a, b in zip(*apart, strict=True)])


def test_epsilon_zero_changes_nothing_and_one_is_the_sandwich() -> None:
    sandwich = Sandwich(SPACE, SMALL, LARGE)
    alone = moved(learner(Fixed(Draw(LARGE, "max")), InPlace(Classes()), DECAYING))
    assert_equal(moved(learner(Delayed(sandwich, 0, epsilon=0), InPlace(Classes()), DECAYING)), alone)
    whole = moved(learner(sandwich, InPlace(Classes()), DECAYING))
    assert_equal(moved(learner(Delayed(sandwich, 0, epsilon=1), InPlace(Classes()), DECAYING)), whole)
    with pytest.raises(AssertionError):
        assert_equal(whole, alone)


def test_before_it_shrinks_delayed_training_is_that_of_the_largest_alone() -> None:
    late = moved(learner(Delayed(Sandwich(SPACE, SMALL, LARGE), 3), InPlace(Classes()), DECAYING), epoch=2, steps=3)
    assert_equal(late, moved(learner(Fixed(Draw(LARGE)), Labels(Classes()), DECAYING), epoch=2, steps=3))


def test_dropout_regularises_the_largest_alone_in_a_sandwich() -> None:
    space = elastic_space(dropout=0.5)
    large, small = space.architecture(dict(LARGE)), space.architecture(dict(SMALL))
    made = learner(Sandwich(space, small, large, 0), InPlace(Classes()), space=space)
    dropout = made.members[0].supernet.blocks["block1"].dropout
    seen: list[bool] = []
    dropout.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    made.begin(0)
    made.step(batch(), 0.1)
    assert seen == [True, False] and dropout.training


def test_one_group_with_all_open_is_a_plain_step_and_each_image_counts_once() -> None:
    plain = moved(learner(Fixed(Draw(LARGE)), Labels(Classes())))
    assert_equal(moved(learner(Groups(SPACE, subnets=1, opening=9), Labels(Classes()), split=True)), plain)
    images, labels = batch()
    made = learner(Fixed(Draw(SMALL), Draw(LARGE)), Labels(Classes()), split=True)
    supernet = copy.deepcopy(made.members[0].supernet)
    halves = [supernet(images[part], SPACE.locals(a)) for part, a in ((slice(8), SMALL), (slice(8, 16), LARGE))]
    nn.functional.cross_entropy(torch.cat(halves), labels).backward()
    assert_close(moved(made), [-parameter.grad for parameter in supernet.parameters()])  # type: ignore[operator]


@pytest.mark.parametrize("split", [False, True])
def test_supernets_that_share_a_step_average_what_each_has_of_it(split: bool) -> None:
    images, labels = batch()
    images, labels = images[:15], labels[:15]
    archs = [SMALL, LARGE, SPACE.architecture({"depth": 1, "width1": 4, "kernel1": 3})]
    draws = [Draw(arch, weight=1.0 if split else 1 / 3) for arch in archs]

    def team(supernets: int) -> Team:
        made = Team(
            SPACE, PLAIN, Uniform(SPACE, 3), Labels(Classes()), seed=0, device=CPU, supernets=supernets, split=split
        )
        made.begin(0)
        return made

    shared = team(2)
    shared.step([1, 0, 1], draws, Batch(images, labels), 1.0)
    for number, own in ((0, [1]), (1, [0, 2])):
        alone = team(2)
        mine = [draws[at]._replace(weight=1.0 if split else 1 / len(own)) for at in own]
        part = torch.cat([torch.arange(5) + 5 * at for at in own]) if split else torch.arange(15)
        alone.step([number] * len(own), mine, Batch(images[part], labels[part]), 1.0)
        ours, theirs = (list(made.members[number].supernet.parameters()) for made in (shared, alone))
        assert_close(ours, theirs)
        with pytest.raises(AssertionError):
            assert_close(ours, list(team(2).members[number].supernet.parameters()))


def test_accumulating_two_batches_is_one_step_on_their_mean_gradient() -> None:
    images, labels = batch()
    made = learner(Fixed(Draw(SMALL)), Labels(Classes()), accumulate=2)
    before = weights(made)
    made.begin(0)
    made.step(Batch(images[:8], labels[:8]), 1.0)
    assert_equal(weights(made), before)
    made.step(Batch(images[8:], labels[8:]), 1.0)
    mean = [after - was for after, was in zip(weights(made), before, strict=True)]
    parts = []
    for half in (slice(8), slice(8, 16)):
        one = learner(Fixed(Draw(SMALL)), Labels(Classes()))
        one.begin(0)
        one.step(Batch(images[half], labels[half]), 0.5)
        parts.append([after - was for after, was in zip(weights(one), before, strict=True)])
    assert_close(mean, [a + b for a, b in zip(*parts, strict=True)])


def test_batches_left_over_at_the_end_of_an_epoch_make_a_step() -> None:
    made = learner(Fixed(Draw(SMALL)), Labels(Classes()), accumulate=3)
    assert any(change.any() for change in moved(made, steps=2))


def test_the_moving_average_of_the_weights_follows_its_formula_and_survives_a_checkpoint() -> None:
    made = learner(Uniform(SPACE), Labels(Classes()), ema=0.9)
    expected = weights(made)
    made.begin(0)
    for _ in range(3):
        made.step(batch(), 0.1)
        expected = [0.9 * e + 0.1 * w for e, w in zip(expected, weights(made), strict=True)]
    again = learner(Uniform(SPACE), Labels(Classes()), ema=0.9)
    again.restore(made.tensors())
    again.team.use_averages_()
    assert_close(weights(again), expected)


def test_the_smallest_learns_from_the_mean_of_its_peers() -> None:
    step = Step(batch())
    logits = [torch.randn(16, 10) for _ in range(3)]
    rule = Peers(Classes(), Labels(Classes()))
    torch.testing.assert_close(
        rule.loss(Draw(LARGE), logits[0], step), nn.functional.cross_entropy(logits[0], step.batch.target)
    )
    step.done += [(Draw(LARGE), logits[0]), (Draw(LARGE), logits[1])]
    aim = (logits[0].softmax(1) + logits[1].softmax(1)) / 2
    expected = -(aim * logits[2].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(rule.loss(Draw(SMALL, "min"), logits[2], step), expected)


def teacher(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


TWO, LOGITS = Batch(torch.zeros(2, 1, 8, 8)), torch.zeros(2, 10)


def taught(given: nn.Module, distillation: Distillation, on: Batch = TWO) -> Taught:
    return Taught(Classes(), given, distillation, CPU, on, LOGITS)


def test_a_given_teacher_is_copied_asked_once_a_step_and_followed() -> None:
    given = teacher().train()
    rule = taught(given, Distillation(weight=1.0, temperature=2.0))
    assert given.training and not rule.teacher.training and rule.teacher is not given
    calls: list[int] = []
    rule.teacher.register_forward_hook(lambda *_: calls.append(1))
    step = Step(batch())
    aims = rule.teacher(step.batch.inputs).detach()
    assert rule.loss(Draw(SMALL), aims, step).item() == pytest.approx(0, abs=1e-6)
    assert rule.loss(Draw(SMALL), torch.zeros(16, 10), step).item() > 0
    assert len(calls) == 2


def test_a_teacher_with_other_classes_or_images_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"what the networks of the space do, for each example \(10,\), got \(7,\); use one that"
    ):
        taught(teacher(7), Distillation())
    with pytest.raises(ValueError, match=r"must take the inputs of the task, \(3, 8, 8\), but fails on them"):
        taught(teacher(), Distillation(), Batch(torch.zeros(2, 3, 8, 8)))


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("r"), ValueError("v"), TypeError("t"), AssertionError("a"), KeyError("k")]
)
def test_a_teacher_that_fails_in_any_way_is_refused_with_its_reason(error: Exception) -> None:
    said = (
        rf"must take the inputs of the task, \(1, 8, 8\), but fails on them: {type(error).__name__}: .*; use one made"
    )
    with pytest.raises(ValueError, match=said):
        check_teacher(Failing(error), TWO, LOGITS)


class Returning(nn.Module):
    """What `wrap` makes of the logits of a network."""

    def __init__(self, inner: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x))


@pytest.mark.parametrize(
    ("wrap", "found"),
    [(lambda x: "cat", "str"), (lambda x: None, "NoneType"), (lambda x: (x, x), r"\(10,\), \(10,\)")],
)
def test_a_teacher_that_returns_something_else_than_logits_is_refused(
    wrap: Callable[[Tensor], Any], found: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"what the networks of the space do, for each example \(10,\), got {found}; use one that"
    ):
        check_teacher(Returning(teacher(), wrap), TWO, LOGITS)


@pytest.mark.parametrize("wrap", [lambda x: (x,), lambda x: {"logits": x}])
def test_a_teacher_that_returns_its_logits_in_a_structure_teaches_by_them(wrap: Callable[[Tensor], Any]) -> None:
    plain, outputs = teacher(), torch.randn(16, 10)
    losses = [
        taught(given, Distillation()).loss(Draw(SMALL), outputs, Step(batch()))
        for given in (plain, Returning(plain, wrap))
    ]
    assert torch.equal(*losses)


def test_progressive_shrinking_sorts_once_and_keeps_its_teacher(task: Task, tmp_path) -> None:
    config = TrainingConfig(epochs=6, batch_size=50)
    shared = SupernetConfig(training=config, sampler="progressive")

    def make() -> OneSupernet:
        made = make_learner(shared, SPACE, task, seed=0, device=CPU, mixture=False)
        assert isinstance(made, OneSupernet) and isinstance(made.team.rule, Snapshot)
        return made

    made = make()
    sampler = make_sampler("progressive", SPACE, epochs=6, seed=0)
    sorting = [epoch for epoch in range(6) if sampler.sorts(epoch)]  # type: ignore[attr-defined]
    assert len(sorting) == 1
    fit(made, task.train, config, seed=0, device=CPU)
    made.begin(sorting[0])  # sorted again: the order of importance now
    inner = made.members[0].supernet.blocks["block1"]
    importance = inner.project.detach().abs().sum((0, 2, 3))
    assert (importance[:-1] >= importance[1:]).all() and not made.members[0].optimizer.state

    def stop(history: list) -> None:
        if history[-1]["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make(), task.train, config, seed=0, device=CPU, path=tmp_path / "c", on_epoch=stop)
    whole, resumed = make(), make()
    fit(whole, task.train, config, seed=0, device=CPU)
    fit(resumed, task.train, config, seed=0, device=CPU, path=tmp_path / "c")
    assert_equal(weights(whole), weights(resumed))
    assert isinstance(whole.team.rule, Snapshot) and whole.team.rule.teacher and whole.team.rule.teacher.training
    ours, theirs = whole.team.rule, resumed.team.rule
    assert isinstance(ours, Snapshot) and isinstance(theirs, Snapshot) and ours.teacher and theirs.teacher
    assert_equal(list(ours.teacher.parameters()), list(theirs.teacher.parameters()))


def test_sorting_leaves_the_largest_subnet_as_it_is(task: Task) -> None:
    made = make_learner(
        SupernetConfig(training=TrainingConfig(epochs=8), sampler="progressive"),
        SPACE,
        task,
        seed=0,
        device=CPU,
        mixture=False,
    )
    supernet, images = made.members[0].supernet, batch()[0]
    before, unsorted = supernet(images, SPACE.locals(LARGE)).detach(), weights(made)
    made.begin(next(epoch for epoch in range(8) if made.team.sampler.sorts(epoch)))  # type: ignore[attr-defined]
    torch.testing.assert_close(supernet(images, SPACE.locals(LARGE)).detach(), before, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        assert_equal(weights(made), unsorted)


@pytest.mark.parametrize(
    ("name", "options", "block", "local"),
    [
        ("resnet20-pooling", {"bn": "affine"}, "block2", None),
        ("resnet20-pooling", {"bn": "affine", "weights": "per-resolution"}, "block2", None),
        ("nas-bench-macro", {}, "block2", 1),
    ],
)
def test_residual_branches_of_blocks_without_slices_can_start_at_zero(
    name: str, options: dict[str, str], block: str, local: int | None
) -> None:
    supernet = Supernet(make_space(name, **options).net).eval()
    x = torch.rand(2, 64 if name == "nas-bench-macro" else 16, 32, 32)
    assert not torch.equal(supernet.blocks[block](x, local), x)
    zero_residuals_(supernet)
    assert torch.equal(supernet.blocks[block](x, local), x)


@pytest.mark.parametrize(("sampler", "epoch"), [("sandwich", 0), ("progressive", None)])
def test_the_moving_average_starts_anew_where_weights_were_rearranged(
    sampler: str, epoch: int | None, task: Task
) -> None:
    config = TrainingConfig(epochs=8, batch_size=50)
    shared = SupernetConfig(training=config, sampler=sampler, ema=0.9)
    made = make_learner(shared, SPACE, task, seed=0, device=CPU, mixture=False)
    if epoch is None:
        made.begin(0)
        made.step(batch(), 0.1)
        epoch = next(at for at in range(8) if made.team.sampler.sorts(at))  # type: ignore[attr-defined]
    made.begin(epoch)
    (member,) = made.members
    for name, value in member.supernet.named_parameters():
        assert torch.equal(member.averaged[name], value), name


@pytest.mark.parametrize(("sampler", "zero"), [("sandwich", True), ("delayed", True), ("uniform", False)])
def test_residual_branches_start_at_zero_where_the_sandwich_is_trained(sampler: str, zero: bool, task: Task) -> None:
    shared = SupernetConfig(training=TrainingConfig(epochs=8), sampler=sampler)
    made = make_learner(shared, SPACE, task, seed=0, device=CPU, mixture=False)
    block, x = made.members[0].supernet.blocks["block1"], torch.randn(4, 6, 4, 4)
    assert torch.equal(block(x, (8, 3)), x) is zero


@pytest.mark.parametrize("sampler", ["uniform", "fair", "sandwich", "sorted", "complexity", "performance", "groups"])
def test_it_learns_and_the_history_tells_the_losses_of_small_random_and_large(sampler: str, task: Task) -> None:
    config = TrainingConfig(epochs=8, batch_size=25)
    shared = SupernetConfig(training=config, sampler=sampler)
    made = make_learner(shared, SPACE, task, seed=0, device=CPU, mixture=False)
    history = fit(made, task.train, config, seed=0, device=CPU)
    assert history[-1]["loss_largest"] < history[0]["loss_largest"] - 0.1
    assert all(np.isfinite([row["loss_smallest"], row["loss_random"]]).all() for row in history)


def test_a_space_without_an_order_of_size_is_followed_by_three_architectures_too(task: Task) -> None:
    backwards = SearchSpace("backwards", tuple(reversed_choices(SPACE)), network=SPACE.network)
    made = make_learner(SupernetConfig(), backwards, task, seed=0, device=CPU, mixture=False)
    made.begin(0)
    made.step(batch(), 0.1)
    (row,) = made.end()
    assert {"loss_smallest", "loss_random", "loss_largest"} <= row.keys()
    assert row["loss_smallest"] != row["loss_largest"]


def test_looking_at_losses_leaves_running_statistics_alone(task: Task) -> None:
    space = make_space("resnet20-pooling", in_channels=1, image_size=8, bn="affine")
    made = learner(Uniform(space), Labels(Classes()), space=space, watched=Watched(batch(), {}))
    made.begin(0)
    made.step(batch(), 0.1)
    kept = [buffer.clone() for buffer in made.members[0].supernet.buffers()]
    rows = made.end()
    assert "loss_random" in rows[0] and "loss_largest" not in rows[0]
    assert_equal(kept, list(made.members[0].supernet.buffers()))


def test_a_loss_that_is_not_finite_names_the_step_and_the_architecture_and_training_can_go_on(
    task: Task, tmp_path
) -> None:
    config = TrainingConfig(epochs=3, batch_size=50)

    class Breaking(Uniform):
        broken = True

        def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
            draws = super().draw(epoch, rng)
            if epoch == 1 and self.broken:
                return [draw._replace(weight=float("nan")) for draw in draws]
            return draws

    made = learner(Breaking(SPACE), Labels(Classes()), config)
    said = r"finite, got nan in step 2 of epoch 2 for architecture \{\"depth\".*lower `learning_rate` .*keeps the state after 1 epochs"
    with pytest.raises(NotFinite, match=said):
        fit(made, task.train, config, seed=0, device=CPU, path=tmp_path / "c")
    mended = learner(Uniform(SPACE), Labels(Classes()), config)
    history = fit(mended, task.train, config, seed=0, device=CPU, path=tmp_path / "c")
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert all(np.isfinite(row["loss"]) for row in history)


@pytest.mark.parametrize("value", [float("nan"), 1e25])
def test_supernets_that_the_last_step_of_an_epoch_breaks_are_not_kept(value: float, task: Task, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=50)
    steps = len(task.train) // 50

    class Breaking(OneSupernet):
        def step(self, batch: Batch, learning_rate: float) -> None:
            last = self.team.epoch == 1 and self.team.steps == steps - 1
            super().step(batch, value if last else learning_rate)

    def train(kind: type[OneSupernet]) -> list:
        watched = Watched(batch(), {"largest": LARGE})
        made = kind(learner(Fixed(Draw(LARGE)), Labels(Classes()), config, watched=watched).team)
        return fit(made, task.train, config, seed=0, device=CPU, path=tmp_path / "c")

    with pytest.raises(NotFinite, match="finite squares after an epoch.*lower `learning_rate`.*after 1 epochs"):
        train(Breaking)
    assert all(np.isfinite(list(row.values())).all() for row in train(OneSupernet))


def test_a_watched_loss_that_is_not_finite_ends_the_epoch_without_a_row() -> None:
    images, labels = batch()
    made = learner(Uniform(SPACE), Labels(Classes()), watched=Watched(Batch(images * 1e38, labels), {"largest": LARGE}))
    made.begin(0)
    made.step(Batch(images, labels), 0.1)
    with pytest.raises(
        NotFinite, match="finite, got nan after epoch 1 for architecture .*depth.*lower `learning_rate`"
    ):
        made.end()
