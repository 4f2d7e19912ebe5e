"""Learners of one network: from a task, or from a task and another network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.runtime import memory_format
from nas.tasks import Batch, Goal, Step, Task
from nas.training.config import TrainingConfig
from nas.training.loop import Row, below, under
from nas.training.optimizer import check_weights, descend, make_optimizer, restore_state_, state_tensors
from search_spaces.core import Part, setting


class Alone:
    """A learner of one network on its own.

    Args:
        module: moved to `device` and trained in place.
        task: its goal, or its own step, is what is learnt.
        config: the optimiser's settings.
        device: where it trains.
    """

    def __init__(self, module: nn.Module, task: Task, config: TrainingConfig, device: torch.device) -> None:
        self.module = module.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.goal: Goal = task.goal.smoothed(config.label_smoothing)
        self.own_step: Step | None = task.step
        self.config, self.device = config, device
        self.optimizer = make_optimizer(self.module, config)
        self.losses: list[float] = []

    def begin(self, epoch: int) -> None:
        self.module.train()
        self.losses = []

    def step(self, batch: Batch, learning_rate: float) -> None:
        loss = descend(self.optimizer, lambda: self.loss(batch), self.device, learning_rate, self.config.clip)
        self.losses.append(loss)

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised on one batch."""
        if self.own_step is not None:
            return self.own_step(self.module, batch)
        return self.goal.loss(batch.call(self.module), batch.target)

    def end(self) -> list[Row]:
        check_weights(self.optimizer)
        self.module.eval()
        return [{"loss": sum(self.losses) / len(self.losses)}]

    def so_far(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def go_on(self, state: Mapping[str, Any]) -> None:
        self.losses = list(state["losses"])

    def tensors(self) -> dict[str, Tensor]:
        return {**under("weights", self.module.state_dict()), **under("momenta", state_tensors(self.optimizer))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(below("weights", tensors))
        restore_state_(self.optimizer, below("momenta", tensors))


class Distillation(Part):
    """How much a student follows its teacher.

    The task's own loss has the rest. A higher temperature, which both networks' scores of classes are divided by, shows the student
    more of the wrong classes; other outputs have none.
    """

    weight: float = setting(
        0.9,
        name="distill_weight",
        ge=0,
        le=1,
        help="The teacher's part of the loss, from 0 to 1; labels have the rest.",
    )
    temperature: float = setting(
        4.0, name="distill_temperature", gt=0, help="What the logits of the teacher and of its students are divided by."
    )

    def loss(self, goal: Goal, teacher: Any, student: Any, hard: Tensor) -> Tensor:
        """weight x temperature² x the divergence of student and teacher + (1 - weight) x the loss on the target.

        Args:
            goal: says how outputs differ: those of classes by KL(teacher || student), others by their relative squared distance, whose
                factor temperature² is 1.
            teacher: its outputs.
            student: its outputs.
            hard: its loss on the target.

        Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
        """
        temperature = self.temperature if goal.soft else 1.0
        taught = goal.divergence(teacher, student, temperature)
        return self.weight * temperature**2 * taught + (1 - self.weight) * hard


class Distilled(Alone):
    """A learner of one network that is taught by the task and by a network that can do it already.

    Args:
        module: the student, moved to `device` and trained in place.
        task: its goal has the rest of the loss.
        teacher: copied, so that the given one stays as and where it is; the copy runs in eval mode.
        config: the optimiser's settings.
        distillation: the teacher's share of the loss.
        device: where both run.
    """

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        teacher: nn.Module,
        config: TrainingConfig,
        distillation: Distillation,
        device: torch.device,
    ) -> None:
        super().__init__(module, task, config, device)
        own = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.teacher = own.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.distillation = distillation

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            aims = batch.call(self.teacher)
        outputs = batch.call(self.module)
        return self.distillation.loss(self.goal, aims, outputs, self.goal.loss(outputs, batch.target))
