"""Repair of a pruned model on data: statistics, least squares, and training on labels or towards the unpruned model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class RecoveryEntry:
    """One way of repair.

    Attributes:
        help: what it does.
        repair: without training: changes the model of a result, from the unpruned model and batches of inputs.
        learner: what trains for some epochs: of the pruned model, the unpruned one, settings, distillation and a device.
        title: what the training is called.
    """

    help: str
    repair: Callable[[PruneResult, nn.Module, Iterable[Any], Progress], object] | None = None
    learner: Callable[[nn.Module, nn.Module, TrainingConfig, Distillation, torch.device], Alone] | None = None
    title: str = ""

    @property
    def trains(self) -> bool:
        """Whether it is named with a number of epochs."""
        return self.learner is not None

    @property
    def needs(self) -> str:
        """The data that it passes over."""
        return "labels" if self.trains else "inputs"


RECOVERIES: dict[str, RecoveryEntry] = {
    "calibrate": RecoveryEntry(
        "gathers the statistics of batch norms anew",
        lambda result, model, sample, progress: recalibrate_(result.model, sample, progress),
    ),
    "least-squares": RecoveryEntry(
        "fits each layer to the outputs that the unpruned one had, by linear least squares",
        lambda result, model, sample, progress: least_squares_(
            result.model, model, result.plan, sample, progress=progress
        ),
    ),
    "finetune": RecoveryEntry(
        "trains on the labels",
        learner=lambda pruned, model, config, distillation, device: Alone(pruned, config, device),
        title="fine-tuning",
    ),
    "distill": RecoveryEntry(
        "trains on the labels and towards the unpruned model", learner=Distilled, title="distilling"
    ),
}
STEPS = [f"{name}:EPOCHS" if entry.trains else name for name, entry in RECOVERIES.items()]


@dataclass(frozen=True)
class Recovery:
    """One step of repair: one of `RECOVERIES`, for some epochs where it trains."""

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
        trains = kind in RECOVERIES and RECOVERIES[kind].trains
        if kind not in RECOVERIES or trains != epochs.isdigit() or (trains and int(epochs) < 1):
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
        help="Repair, in order, joined by commas: see `nas list recoveries`; training ones with epochs, such as finetune:1.",
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
        if RECOVERIES[step.kind].trains:
            self._train(step, result.model)
        else:
            repair_untrained(step, result, self.model, self.sample, self.progress)

    def _train(self, step: Recovery, model: nn.Module) -> None:
        config = self.config.training(step.epochs)
        entry = RECOVERIES[step.kind]
        assert entry.learner is not None
        learner = entry.learner(model, self.model, config, self.config.distillation, self.device)
        fit(
            learner,
            self.data,
            self.split,
            config,
            seed=self.seed,
            device=self.device,
            name=entry.title,
            progress=self.progress,
        )
        model.to("cpu")


def repair_untrained(
    step: Recovery, result: PruneResult, model: nn.Module, sample: Iterable[Any], progress: Progress = silent
) -> None:
    """Repair the model of a result by a step that trains nothing.

    Args:
        step: one that does not train.
        result: of pruning `model`.
        model: the unpruned model.
        sample: batches of inputs, with labels or without.
        progress: told how far it is.
    """
    repair = RECOVERIES[step.kind].repair
    assert repair is not None
    repair(result, model, sample, progress)


def _sample(data: ImageData, split: Split, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for images, labels in batches(split, data, min(BATCH, len(split)), rng=stream(seed, "calibration")):
        yield images, labels
        seen += len(labels)
        if seen >= CALIBRATION_IMAGES:
            return
