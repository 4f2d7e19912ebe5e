"""Repair of a pruned model on data: statistics, least squares, and training on labels or towards the unpruned model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor, nn

from nas.data import ImageData, Split, batches
from nas.runtime import stream
from nas.training import Alone, Distillation, Distilled, TrainingConfig, fit
from pruners import PruneResult, least_squares_, recalibrate_
from pruners.progress import Progress, silent
from search_spaces.core import Part, setting

CALIBRATION_IMAGES = 1000
BATCH = 100
WITHOUT_TRAINING = ("calibrate", "least-squares")
TRAINING = {"finetune": "fine-tuning", "distill": "distilling"}
STEPS = (*WITHOUT_TRAINING, *(f"{kind}:EPOCHS" for kind in TRAINING))


@dataclass(frozen=True)
class Recovery:
    """One step of repair: `calibrate` batch normalisation, solve `least-squares`, or train for some epochs, on labels (`finetune`)
    or towards the unpruned model as well (`distill`).
    """

    kind: str
    epochs: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.epochs}" if self.epochs else self.kind


def parse_recovery(steps: Sequence[str]) -> list[Recovery]:
    """Recovery steps as a user names them, such as `calibrate` and `finetune:1`.

    Raises:
        ValueError: an unknown step, or epochs that are not a positive number.
    """
    parsed = []
    for step in steps:
        kind, _, epochs = step.partition(":")
        trains = kind in TRAINING
        if kind not in (*WITHOUT_TRAINING, *TRAINING) or trains != epochs.isdigit() or (trains and int(epochs) < 1):
            raise ValueError(
                f"`recover` must be among {', '.join(STEPS)}, with a whole number of epochs above 0; got {step!r}"
            )
        parsed.append(Recovery(kind, int(epochs or 0)))
    return parsed


class RecoveryConfig(Part):
    """How a pruned model is repaired."""

    steps: tuple[str, ...] = setting(
        (),
        name="recover",
        help="Repair, in order, joined by commas: calibrate, least-squares, finetune:EPOCHS, distill:EPOCHS.",
    )
    learning_rate: float = setting(
        0.01,
        gt=0,
        help="Learning rate of finetune and distill at the start; it falls to a hundredth along half a cosine.",
    )
    batch_size: int = setting(128, gt=1, help="Images per step of finetune and distill.")
    distillation: Distillation = Distillation()

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        parse_recovery(steps)
        return steps

    def training(self, epochs: int) -> TrainingConfig:
        """Of one step of repair."""
        rate = self.learning_rate
        return TrainingConfig(
            epochs=epochs, batch_size=self.batch_size, learning_rate=rate, final_learning_rate=rate / 100
        )


class Repair:
    """Repairs pruned copies of one model, in place.

    Args:
        model: the unpruned model, on the CPU; it is left untouched.
        data: tells how images are normalised and augmented.
        split: the images to repair on.
        config: how training goes.
        seed: decides everything random.
        device: where training runs.
        progress: told about every step.

    Attributes:
        sample: some images of the split in batches, without augmentation.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        split: Split,
        config: RecoveryConfig,
        *,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> None:
        self.model, self.data, self.split, self.config = model, data, split, config
        self.seed, self.device, self.progress = seed, device, progress
        self.sample = list(_sample(data, split, seed))

    def __call__(self, step: Recovery, result: PruneResult) -> None:
        """Repair the model of a result; it is left on the CPU in eval mode."""
        if step.kind in WITHOUT_TRAINING:
            repair_untrained(step, result, self.model, self.sample, self.progress)
        else:
            self._train(step, result.model)

    def _train(self, step: Recovery, model: nn.Module) -> None:
        config = self.config.training(step.epochs)
        if step.kind == "distill":
            learner: Alone = Distilled(model, self.model, config, self.config.distillation, self.device)
        else:
            learner = Alone(model, config, self.device)
        name = TRAINING[step.kind]
        fit(
            learner,
            self.data,
            self.split,
            config,
            seed=self.seed,
            device=self.device,
            name=name,
            progress=self.progress,
        )
        model.to("cpu")


def repair_untrained(
    step: Recovery, result: PruneResult, model: nn.Module, sample: Iterable[Any], progress: Progress = silent
) -> None:
    """Repair the model of a result by a step that trains nothing.

    Args:
        step: one of `WITHOUT_TRAINING`.
        result: of pruning `model`.
        model: the unpruned model.
        sample: batches of inputs, with labels or without.
        progress: told how far it is.
    """
    if step.kind == "calibrate":
        recalibrate_(result.model, sample, progress)
    else:
        least_squares_(result.model, model, result.plan, sample, progress=progress)


def _sample(data: ImageData, split: Split, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for images, labels in batches(split, data, min(BATCH, len(split)), rng=stream(seed, "calibration")):
        yield images, labels
        seen += len(labels)
        if seen >= CALIBRATION_IMAGES:
            return
