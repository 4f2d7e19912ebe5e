"""Learners of one network: from labels, or from labels and another network."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.runtime import memory_format
from nas.training.config import TrainingConfig
from nas.training.loop import Row, below, under
from nas.training.optimizer import (
    check_weights,
    cross_entropy,
    descend,
    make_optimizer,
    restore_state_,
    state_tensors,
)
from search_spaces.core import Part, setting


class Alone:
    """A learner of one network on its own.

    Args:
        module: moved to `device` and trained in place.
        config: the optimiser's settings.
        device: where it trains.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        self.module = module.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.config = config
        self.optimizer = make_optimizer(self.module, config)
        self.losses: list[float] = []

    def begin(self, epoch: int) -> None:
        self.module.train()
        self.losses = []

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        loss = descend(
            self.optimizer, lambda: self.loss(images, labels), labels.device, learning_rate, self.config.clip
        )
        self.losses.append(loss)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """What is minimised on one batch."""
        return cross_entropy(self.module(images), labels, self.config)

    def end(self) -> list[Row]:
        check_weights(self.optimizer)
        self.module.eval()
        return [{"loss": sum(self.losses) / len(self.losses)}]

    def tensors(self) -> dict[str, Tensor]:
        return {**under("weights", self.module.state_dict()), **under("momenta", state_tensors(self.optimizer))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(below("weights", tensors))
        restore_state_(self.optimizer, below("momenta", tensors))


class Distillation(Part):
    """How much a student follows its teacher.

    Labels have the rest of the loss. A higher temperature, which both networks' logits are divided by, shows the student more of the
    wrong classes.
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

    def loss(self, teacher: Tensor, student: Tensor, hard: Tensor) -> Tensor:
        """weight x temperature² x KL(teacher || student) + (1 - weight) x the loss on labels.

        Args:
            teacher: its logits (batch, classes).
            student: its logits.
            hard: its loss on labels.

        Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
        """
        taught = divergence(teacher, student, self.temperature)
        return self.weight * self.temperature**2 * taught + (1 - self.weight) * hard


class Distilled(Alone):
    """A learner of one network that is taught by labels and by a network that knows them already.

    Args:
        module: the student, moved to `device` and trained in place.
        teacher: copied, so that the given one stays as and where it is; the copy runs in eval mode.
        config: the optimiser's settings.
        distillation: the teacher's share of the loss.
        device: where both run.
    """

    def __init__(
        self,
        module: nn.Module,
        teacher: nn.Module,
        config: TrainingConfig,
        distillation: Distillation,
        device: torch.device,
    ) -> None:
        super().__init__(module, config, device)
        own = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.teacher = own.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.distillation = distillation

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            aims = self.teacher(images)
        logits = self.module(images)
        return self.distillation.loss(aims, logits, cross_entropy(logits, labels, self.config))


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of logits (batch, classes) at a temperature, averaged over the batch."""
    ours, theirs = (F.log_softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
