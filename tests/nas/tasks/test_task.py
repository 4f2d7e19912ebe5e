"""A task refuses what does not fit before anything is trained, measures what its metrics say, and learns by its loss or step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from nas import tasks
from nas.tasks import Batch, Classes, Task, Values
from nas.training import Alone, Distillation, Distilled, TrainingConfig, fit, measure, warn_of_chance

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 6)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.8)
MLP = TrainingConfig(epochs=15, batch_size=16, learning_rate=0.2)


def mlp(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, outputs))


def learnt(task: Task, model: nn.Module, config: TrainingConfig = MLP) -> dict[str, float]:
    fit(Alone(model, task, config, CPU), task.train, config, seed=0, device=CPU)
    return measure(model, task, task.test, list(task.metrics))


def outputs_and_labels(model: nn.Module, task: Task) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        found = [(batch.call(model), batch.target) for batch in task.test.evenly(7)]
    return torch.cat([out for out, _ in found]), torch.cat([target for _, target in found])


def test_metrics_of_classes_are_those_of_scikit_learn() -> None:
    task, model = tasks.classification((X, LABELS)), mlp(3)
    found = learnt(task, model)
    scores, target = outputs_and_labels(model, task)
    best = scores.argmax(1)
    assert found["accuracy"] == (best == target).double().mean().item() > 0.8
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, best), abs=1e-6)
    assert found["macro_f1"] == pytest.approx(f1_score(target, best, average="macro"), abs=1e-6)
    assert found["top5"] == 1


def test_weights_of_classes_are_those_of_the_loss() -> None:
    task = tasks.classification((X, LABELS), class_weights=[1, 2, 0.5])
    scores, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert task.goal.loss(scores, target) == F.cross_entropy(scores, target, torch.tensor([1, 2, 0.5]))
    smoothed = task.goal.smoothed(0.1).loss(scores, target)
    assert smoothed == F.cross_entropy(scores, target, torch.tensor([1, 2, 0.5]), label_smoothing=0.1)
    with pytest.raises(ValueError, match="`class_weights` must be 3 numbers"):
        tasks.classification((X, LABELS), class_weights=[1, 2])


def test_a_model_that_names_the_largest_class_is_warned_of() -> None:
    task = tasks.classification((X, LABELS))
    with pytest.warns(UserWarning, match="no better than always naming the largest class"):
        warn_of_chance(0.2, task, task.test, "the network")
    _, chance = task.chance(task.test)  # type: ignore[misc]
    _, target = outputs_and_labels(mlp(3), task)
    assert chance == pytest.approx((target == target.mode().values).double().mean().item())


def test_the_chance_of_pixels_is_what_naming_one_class_reaches() -> None:
    target = (np.arange(20 * 4 * 4).reshape(20, 4, 4) % 5 > 3).astype(np.int64)
    task = tasks.segmentation((np.zeros((20, 1, 4, 4), np.float32), target), classes=2)

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x + 1 + self.own, x], dim=1)

    found = measure(Zero(), task, task.test, ["miou", "pixel_accuracy"])
    assert task.chance is not None and task.chance(task.test)[1] == pytest.approx(found["miou"])
    assert found["pixel_accuracy"] == pytest.approx(2 * found["miou"])


def test_regression_squeezes_and_never_broadcasts() -> None:
    y = X[:, 0] * 2 + X[:, 1]
    task = tasks.regression((X, y))
    found = learnt(task, mlp(1), MLP.model_copy(update={"learning_rate": 0.02}))
    assert found["r2"] > 0.8 and found["rmse"] < 1
    with pytest.raises(ValueError, match="outputs must have the shape of the target"):
        task.goal.loss(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(
        ValueError, match="must fit what the model returns, got outputs 2x3 float32 for a target 2 float32"
    ):
        task.check(mlp(3))


def test_perplexity_is_of_tokens_not_of_batches() -> None:
    tokens = torch.randint(0, 11, (9, 6))
    tokens_mask = torch.ones_like(tokens)
    tokens_mask[4:, 3:] = 0
    task = tasks.language_modelling(
        {"input_ids": tokens, "attention_mask": tokens_mask}, validation=tokens, test=tokens
    )
    batch = next(task.train.batches(9))
    scores = torch.randn(9, 6, 11)
    kept = (tokens_mask[:, 1:] == 1).flatten()
    wanted = F.cross_entropy(scores[:, :-1].flatten(0, 1)[kept], tokens[:, 1:].flatten()[kept])
    assert task.goal.loss({"logits": scores}, batch.target).item() == pytest.approx(wanted.item(), rel=1e-6)
    tally = task.metric("perplexity").make()
    for rows in (slice(0, 2), slice(2, 9)):
        tally.update(scores[rows], batch.target[rows])
    assert tally.compute() == pytest.approx(math.exp(wanted.item()), rel=1e-5)


def test_ctc_reads_what_greedy_decoding_reads() -> None:
    symbols, lengths = torch.tensor([[1, 1, 2], [2, 0, 0]]), torch.tensor([3, 1])
    task = tasks.ctc(
        (torch.zeros(2, 1), (symbols, lengths)), alphabet="-ab", validation=(torch.zeros(2, 1), (symbols, lengths)),
        test=(torch.zeros(2, 1), (symbols, lengths)),
    )  # fmt: skip
    path = torch.tensor([[1, 0, 1, 1, 2, 2], [0, 2, 2, 0, 0, 1]])
    scores = 9 * F.one_hot(path, 3).float()
    cer = task.metric("cer").make()
    cer.update(scores, (symbols, lengths))
    assert float(cer.compute()) == pytest.approx(1 / 4)  # aab is right, ba has one symbol too many
    exact = task.metric("exact").make()
    exact.update(scores, (symbols, lengths))
    assert exact.compute() == 0.5
    right, wrong = (task.goal.loss(s, (symbols[:1], lengths[:1])) for s in (scores[:1], -scores[:1]))
    assert right < wrong


def test_matching_needs_no_labels() -> None:
    teacher = mlp(4)
    task = tasks.matching(teacher, X)
    student = nn.Linear(6, 4)
    before = measure(student, task, task.test, list(task.metrics))
    after = learnt(task, student, MLP.model_copy(update={"learning_rate": 0.05}))
    assert after["cosine"] > before["cosine"] and after["relative_error"] < before["relative_error"]
    perfect = measure(teacher, task, task.test, list(task.metrics))
    assert perfect["cosine"] == pytest.approx(1) and perfect["relative_error"] == pytest.approx(0, abs=1e-9)


def test_metrics_of_ones_own() -> None:
    found = tasks.task(
        (X, LABELS),
        loss=F.cross_entropy,
        metrics={
            "right": MulticlassAccuracy(3, average="micro"),
            "gap": (lambda out, target: float((out.argmax(1) != target).float().mean()), "min"),
        },
    )
    measured = measure(mlp(3), found, found.test, ["right", "gap"])
    assert measured["right"] == pytest.approx(1 - measured["gap"]) and found.main.higher_is_better
    assert not found.metric("gap").objective.higher_is_better
    with pytest.raises(ValueError, match="'rigth'.*'right'|right"):
        found.metric("rigth")
    alone = tasks.task((X, LABELS), loss=F.cross_entropy)
    assert alone.main.name == "loss" and measure(mlp(3), alone, alone.test)["loss"] > 0


def test_of_a_metric_that_computes_several_figures_the_one_of_its_name_counts() -> None:
    class Several:
        higher_is_better = True

        def reset(self) -> None:
            self.count = 0

        def update(self, outputs: Tensor, target: Tensor) -> None:
            self.count += len(target)

        def compute(self) -> dict[str, Tensor]:
            return {"map": torch.tensor(0.1), "map_50": torch.tensor(float(self.count))}

    task = tasks.task((X, LABELS), loss=F.cross_entropy, metrics={"map_50": Several()})
    assert measure(mlp(3), task, task.test)["map_50"] == len(task.test) == measure(mlp(3), task, task.test)["map_50"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"x": lambda out, target: 1.0}, "must say whether higher is better"),
        ({"x": (lambda out, target: 1.0, "up")}, "must say whether higher is better, got up"),
        ({"x": (7, "max")}, "must be of torchmetrics, or a function"),
        ({"seconds": (lambda out, target: 1.0, "max")}, "none of architecture"),
        ({"a b": (lambda out, target: 1.0, "max")}, "letters, digits and underscores"),
        ({"iou_alone": (lambda out, target: 1.0, "max")}, "ends with _alone"),
    ],
)
def test_metrics_that_are_none_are_refused(metrics: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tasks.task((X, LABELS), loss=F.cross_entropy, metrics=metrics)


def test_what_does_not_fit_is_said_in_shapes_before_training() -> None:
    task = tasks.classification((X, LABELS))
    with pytest.raises(ValueError, match="the model must take the inputs of 'classification', got 2x6 float32"):
        task.check(nn.Linear(5, 3))
    with pytest.raises(ValueError, match="2 classes, of 3 or more"):
        task.check(mlp(2))
    with pytest.raises(ValueError, match="a loss of 2 float32, not one number"):
        tasks.task((X, LABELS), loss=lambda out, target: out[:, 0]).check(mlp(3))
    with pytest.raises(ValueError, match="labels must be whole numbers from 0"):
        tasks.classification((X, LABELS - 1))
    with pytest.raises(ValueError, match="one whole number as the target"):
        tasks.classification((X, LABELS.astype(np.float32)))
    with pytest.raises(ValueError, match="must hold numbers, got <U1; number the classes from 0"):
        tasks.classification((X, np.array(["a", "b"] * 100)))
    model = mlp(3).train()
    task.check(model)
    assert model.training


def test_labels_out_of_range_are_said() -> None:
    labels = np.where(np.arange(200) == 150, 9, LABELS)
    task = tasks.classification((X, labels), classes=3, validation=(X, labels), test=(X, labels))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, for 3 scores of classes, got 0 to 9"):
        learnt(task, mlp(3))


def test_groups_are_in_one_part_and_strata_in_all() -> None:
    groups = np.repeat(np.arange(40), 5)
    task = tasks.classification((X, LABELS), groups=groups)
    parts = [set(groups[part.indices]) for part in (task.train, task.validation, task.test)]  # type: ignore[attr-defined]
    assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]
    assert set.union(*parts) == set(range(40))
    even = tasks.classification((X, LABELS), stratify=True)
    share = np.bincount(LABELS) / len(LABELS)
    for part in (even.train, even.validation, even.test):
        own = np.bincount(LABELS[part.indices], minlength=3) / len(part)  # type: ignore[attr-defined]
        assert np.abs(own - share).max() < 0.03
    with pytest.raises(ValueError, match="one entry for each of 200"):
        tasks.classification((X, LABELS), groups=[1, 2])
    with pytest.raises(ValueError, match="`test_fraction` must be between"):
        tasks.classification((X, LABELS), test_fraction=1.0)
    with pytest.raises(ValueError, match="give validation and test"):
        tasks.task(Once(), loss=F.cross_entropy)


class Once:
    """An iterable of one batch, which can be started again."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(X, LABELS)])

    def __len__(self) -> int:
        return 1


def test_seeds_decide_the_parts() -> None:
    found = [tasks.classification((X, LABELS), seed=seed) for seed in (0, 0, 1)]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint
    assert [len(part) for part in (found[0].train, found[0].validation, found[0].test)] == [128, 32, 40]


def test_a_step_of_ones_own_is_what_is_learnt() -> None:
    seen = []

    def step(call: Any, batch: Batch) -> Tensor:
        one, other = call(batch.inputs), call(batch.inputs + 0.1)
        seen.append(batch.size)
        return (one - other).square().mean()

    task = tasks.task((X, LABELS), loss=F.cross_entropy, step=step)
    model = mlp(3)
    fit(Alone(model, task, MLP, CPU), task.train, MLP, seed=0, device=CPU)
    assert seen and step(model, next(task.train.batches(100))).item() < 1e-4


def test_a_teacher_of_values_is_matched() -> None:
    y = X[:, 0] * 3
    task = tasks.regression((X, y))
    teacher = nn.Linear(6, 1)
    student = mlp(1)
    config = MLP.model_copy(update={"learning_rate": 0.05, "epochs": 30})
    learner = Distilled(student, task, teacher, config, Distillation(weight=1.0), CPU)
    fit(learner, task.train, config, seed=0, device=CPU)
    batch = next(task.test.batches(40))
    with torch.no_grad():
        far = tasks.distance(batch.call(teacher), batch.call(student))
    assert far < 0.05


def test_divergences_of_sequences_and_pixels_are_means_over_places() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 7, 5), torch.randn(4, 7, 5)
    flat = Classes().divergence(teacher.flatten(0, 1), student.flatten(0, 1), 2.0)
    assert Classes(axis=-1).divergence(teacher, student, 2.0) == pytest.approx(flat.item(), rel=1e-5)
    pixels = [x.permute(0, 2, 1).unsqueeze(-1) for x in (teacher, student)]
    assert Classes(axis=1).divergence(*pixels, 2.0) == pytest.approx(flat.item(), rel=1e-5)
    assert Classes().towards([teacher[:, 0]], student[:, 0]) == pytest.approx(
        F.cross_entropy(student[:, 0], teacher[:, 0].softmax(1)).item()
    )


def test_label_smoothing_is_of_classes() -> None:
    with pytest.raises(ValueError, match="`label_smoothing` is for a task whose target is one of several classes"):
        Alone(mlp(1), tasks.regression((X, X[:, 0])), MLP.model_copy(update={"label_smoothing": 0.1}), CPU)
    assert Values(F.mse_loss).smoothed(0.0)


def test_places_without_a_class_count_neither_right_nor_wrong() -> None:
    target = torch.tensor([[[0, 1], [-100, -100]]])
    scores = torch.stack([1.0 - (target == 1).float(), (target == 1).float()], dim=1)
    tally = tasks.segmentation((np.zeros((9, 1)), np.zeros((9,))), classes=2).metric("pixel_accuracy").make()
    tally.update(scores, target)
    assert tally.compute() == 1


def test_a_teacher_shows_what_it_puts_out_in_evaluation() -> None:
    teacher = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).train()
    batch = next(tasks.matching(teacher, X).train.batches(8))
    assert batch.target.equal(teacher[0](batch.inputs)) and teacher.training
