"""What a trial is given: costs, and an accuracy from supernets or from training alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nas.data import ImageData, head
from nas.runtime import torch_seed
from nas.scoring.costs import Figures
from nas.scoring.weights import recalibrated
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


class AloneScorer:
    """Accuracy on the validation part of a network trained alone on the training part."""

    def __init__(self, space: SearchSpace, data: ImageData, config: RunConfig, device: torch.device) -> None:
        self.space, self.data, self.config, self.device = space, data, config, device

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for number, arch in enumerate(archs):

            def inner(step: str, done: float, total: float, number: int = number) -> None:
                progress(step, number + done / total, len(archs))

            training = self.config.supernets.training
            module = self.space.build(arch, torch_seed(self.config.seed, "trial", arch.key))
            fit(
                Alone(module, training, self.device),
                self.data,
                self.data.train,
                training,
                seed=self.config.seed,
                device=self.device,
                progress=inner,
            )
            figures.append({"accuracy": module_accuracy(module, self.data, self.data.validation)})
        return figures


class PrunedScorer:
    """Accuracy on the validation part of the smaller model as it is, its batch statistics gathered again on training images."""

    def __init__(
        self, space: SearchSpace, data: ImageData, config: RankingConfig, seed: int, device: torch.device
    ) -> None:
        self.space, self.data, self.config, self.seed, self.device = space, data, config, seed, device

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures: list[Figures] = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            module = recalibrated(self.space, arch, self.data, self.config, self.seed).to(self.device)
            figures.append({"accuracy": module_accuracy(module, self.data, self.data.validation)})
        return figures
