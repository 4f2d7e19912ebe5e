"""Training towards a teacher: what it must equal at its ends, and that the teacher learns nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.tasks import Batch, Classes, Task
from nas.training.alone import Alone, Distillation, Distilled
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from search_spaces.core import parse

CPU = torch.device("cpu")
CONFIG = TrainingConfig(epochs=2, batch_size=32, label_smoothing=0.1)


def network(seed: int, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def distilled(task: Task, weight: float, path: Path | None = None, stop_after: int | None = None) -> nn.Module:
    learner = Distilled(network(0), task, network(1), CONFIG, Distillation(weight=weight), CPU)

    def stop(history: list) -> None:
        if history[-1]["epoch"] == stop_after:
            raise KeyboardInterrupt

    fit(learner, task.train, CONFIG, seed=0, device=CPU, path=path, on_epoch=stop)
    return learner.module


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_weight_0_is_training_on_labels_bit_for_bit(task: Task) -> None:
    plain = Alone(network(0), task, CONFIG, CPU)
    fit(plain, task.train, CONFIG, seed=0, device=CPU)
    assert same(plain.module, distilled(task, 0.0))
    assert not same(plain.module, distilled(task, 0.5))


def test_stopped_and_resumed_is_never_stopped(task: Task, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        distilled(task, 0.9, tmp_path / "c", stop_after=0)
    assert same(distilled(task, 0.9), distilled(task, 0.9, tmp_path / "c"))


def test_the_teacher_stays_as_it_was(task: Task) -> None:
    teacher = network(1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    learner = Distilled(network(0), task, teacher, CONFIG, Distillation(), CPU)
    fit(learner, task.train, CONFIG, seed=0, device=CPU)
    for kept in (teacher, learner.teacher):
        assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
        assert all(p.grad is None for p in kept.parameters())
    assert teacher.training and all(p.requires_grad for p in teacher.parameters())


def test_a_teacher_that_the_student_equals_teaches_nothing(task: Task) -> None:
    student = network(0, norm=False)
    learner = Distilled(student, task, student, CONFIG, Distillation(weight=1.0), CPU)
    loss = learner.loss(Batch(torch.randn(8, 1, 8, 8), torch.randint(10, (8,))))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert all(p.grad is not None and p.grad.abs().max() < 1e-6 for p in student.parameters())


def test_the_loss_is_the_definition(task: Task) -> None:
    torch.manual_seed(0)
    teacher, student, temperature = torch.randn(6, 5), torch.randn(6, 5), 3.0
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    expected = sum(p[n, k] * (p[n, k] / q[n, k]).log() for n in range(6) for k in range(5)) / 6
    assert Classes().divergence(teacher, student, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
    learner = Distilled(
        network(0, False), task, network(1, False), CONFIG, Distillation(weight=0.3, temperature=temperature), CPU
    )
    images, labels = torch.randn(6, 1, 8, 8), torch.randint(10, (6,))
    logits, aims = learner.module(images), learner.teacher(images)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    expected = 0.3 * 9 * Classes().divergence(aims, logits, temperature) + 0.7 * hard
    torch.testing.assert_close(learner.loss(Batch(images, labels)), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -0.1}, "`weight`: input should be greater than or equal to 0, got -0.1"),
        ({"weight": float("nan")}, "`weight`: input should be less than or equal to 1, got nan"),
        ({"temperature": 0}, "`temperature`: input should be greater than 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Distillation, settings)
