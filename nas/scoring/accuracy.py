"""What a trial is given: costs, and an accuracy from supernets or from training alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from nas.data import ImageData, head
from nas.runtime import torch_seed
from nas.scoring.costs import Figures, Scorer
from nas.study import RankingConfig, RunConfig
from nas.supernets import Mixture, Splitting, Supernets, predict
from nas.training import Alone, accuracy, fit, module_accuracy
from pruners.progress import Progress
from search_spaces import Architecture, SearchSpace


class SupernetScorer:
    """Accuracy on the validation part, from one or several trained supernets."""

    def __init__(self, learner: Supernets, space: SearchSpace, data: ImageData, config: RankingConfig) -> None:
        self.supernets = [member.supernet for member in learner.members]
        self.sampler = learner.team.sampler
        self.space, self.data, self.config = space, data, config
        self.calibration = head(data.train, config.calibration_images)
        self.learner: Mixture | Splitting | None = None
        if isinstance(learner, Splitting) or (isinstance(learner, Mixture) and config.supernet == "assigned"):
            self.learner = learner

    def choose(self, archs: Sequence[Architecture]) -> list[list[int]]:
        """The supernets that are asked about each architecture."""
        if self.learner is None:
            return [list(range(len(self.supernets)))] * len(archs)
        return [[number] for number in self.learner.assign(archs)]

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        table = np.full((len(archs), len(self.supernets)), np.nan)
        asked = self.choose(archs)
        for number, supernet in enumerate(self.supernets):
            rows = [row for row, numbers in enumerate(asked) if number in numbers]
            if not rows:
                continue

            def inner(step: str, done: float, total: float, number: int = number) -> None:
                progress(step, number + done / total, len(self.supernets))

            predictions = predict(
                supernet,
                [self.space.locals(archs[row]) for row in rows],
                self.data,
                self.data.validation,
                batch_size=self.config.batch_size,
                calibration=self.calibration,
                progress=inner,
            )
            table[rows, number] = accuracy(predictions, self.data.validation)
        return [self._figures(row) for row in table]

    def _figures(self, row: np.ndarray) -> Figures:
        figures: Figures = {"accuracy": float(np.nanmax(row))}
        if len(row) > 1 and not isinstance(self.learner, Splitting):
            figures |= {f"accuracy_supernet{n}": float(value) for n, value in enumerate(row) if not np.isnan(value)}
        return figures


def one_by_one(make: Callable[[Architecture, Progress], nn.Module], data: ImageData) -> Scorer:
    """Accuracy on the validation part of the networks that `make` gives with their weights, told about long steps."""

    def score(archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures: list[Figures] = []
        for number, arch in enumerate(archs):

            def inner(step: str, done: float, total: float, number: int = number) -> None:
                progress(step, number + done / total, len(archs))

            inner("ranking", 0, 1)
            figures.append({"accuracy": module_accuracy(make(arch, inner), data, data.validation)})
        return figures

    return score


def trained_alone(
    space: SearchSpace, arch: Architecture, data: ImageData, config: RunConfig, device: torch.device, progress: Progress
) -> nn.Module:
    """The network of a trial, trained from random weights on the training part."""
    training = config.supernets.training
    module = space.build(arch, torch_seed(config.seed, "trial", arch.key))
    learner = Alone(module, training, device)
    fit(learner, data, data.train, training, seed=config.seed, device=device, progress=progress)
    return module
