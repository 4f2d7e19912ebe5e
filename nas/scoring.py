"""What a trial is given: costs, and an accuracy from supernets or from training alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from estimators.cost import CostModel
from estimators.latency import measure_latency
from nas.config import RankingConfig, RunConfig
from nas.data import ImageData, Split
from nas.estimates import Estimate
from nas.evaluation import accuracy, module_accuracy, predict
from nas.learners import Supernets
from nas.mixture import Mixture
from nas.progress import Progress
from nas.seeding import torch_seed
from nas.splitting import Splitting
from nas.training import Alone, fit
from search_spaces import Architecture, SearchSpace

Figures = dict[str, Any]


class Scorer(Protocol):
    """Gives each architecture of a batch some figures by name."""

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]: ...


class CostScorer:
    """Exact costs of the network that an architecture describes."""

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.model = space, CostModel(space)

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        costs = self.model.batch(self.space.encode(archs))
        return [{name: int(values[row]) for name, values in costs.items()} for row in range(len(archs))]


class LatencyScorer:
    """Median latency of one image, measured on the run's device with untrained weights, in float32 on a CPU."""

    def __init__(self, space: SearchSpace, device: torch.device) -> None:
        self.space, self.device = space, device

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for arch in archs:
            module = self.space.net.build(self.space.locals(arch))
            with torch.autocast("cpu", enabled=False):
                measured = measure_latency(module, self.space.net.input_shape, device=self.device)
            figures.append({"latency_ms": measured.median_ms})
        return figures


class NetworkScorer:
    """Estimates of the network that an architecture describes, for one image."""

    def __init__(self, space: SearchSpace, known: Mapping[str, Estimate]) -> None:
        self.space, self.known = space, known

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            module = self.space.net.build(self.space.locals(arch))
            with torch.autocast("cpu", enabled=False):  # the network's own dtypes, whatever the run computes in
                figures.append({name: of(module, self.space.net.input_shape) for name, of in self.known.items()})
        return figures


class SupernetScorer:
    """Accuracy on the validation part, from one or several trained supernets."""

    def __init__(self, learner: Supernets, space: SearchSpace, data: ImageData, config: RankingConfig) -> None:
        self.supernets = [member.supernet for member in learner.members]
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
            module = self.space.net.build(self.space.locals(arch), torch_seed(self.config.seed, "trial", arch.key))
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


def head(split: Split, most: int) -> Split:
    """The first images of a split whose order is already random, at most so many."""
    return Split(split.images[:most], split.labels[:most])
