"""What a trial is given: costs, and an accuracy from supernets or from training alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from estimators.cost import CostModel
from estimators.latency import Latency, compare_latency
from estimators.latency_table import LatencyTable
from estimators.zero_cost import ZERO_COST, score
from nas.batches import batches
from nas.config import RankingConfig, RunConfig
from nas.data import ImageData, Split
from nas.estimates import Estimate
from nas.evaluation import accuracy, module_accuracy, predict
from nas.learners import Supernets
from nas.mixture import Mixture
from nas.progress import Progress
from nas.seeding import stream, torch_seed
from nas.splitting import Splitting
from nas.training import Alone, fit
from search_spaces import Architecture, SearchSpace

TAKE_TURNS = 8
SCORED_IMAGES = 32
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
    """Latency of one image, measured on the run's device with untrained weights, in float32 on a CPU; a few networks take turns."""

    def __init__(self, space: SearchSpace, device: torch.device) -> None:
        self.space, self.device = space, device

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures: list[Figures] = []
        for start in range(0, len(archs), TAKE_TURNS):
            progress("ranking", start, len(archs))
            some = archs[start : start + TAKE_TURNS]
            modules = {arch: self.space.net.build(self.space.locals(arch)) for arch in some}
            with torch.autocast("cpu", enabled=False):
                measured = compare_latency(modules, self.space.net.input_shape, device=self.device)
            figures += [latency_figures(measured[arch]) for arch in some]
        return figures


def latency_figures(latency: Latency) -> dict[str, float]:
    """The median in milliseconds, and the quartiles without which it is not given."""
    return {"latency_ms": latency.median_ms, "latency_p25_ms": latency.p25_ms, "latency_p75_ms": latency.p75_ms}


class TableScorer:
    """Latency of one batch as a table of measured blocks predicts it."""

    def __init__(self, space: SearchSpace, table: LatencyTable) -> None:
        self.space, self.table = space, table

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        return [{"latency_ms": self.table.predict(self.space, arch)} for arch in archs]


class UntrainedScorer:
    """Zero-cost scores of the untrained network that an architecture describes, all on the same few training images.

    A network without a score, such as one whose gradients vanish, has the worst there is: minus infinity where higher is better.
    """

    def __init__(
        self, space: SearchSpace, names: Sequence[str], data: ImageData, device: torch.device, seed: int
    ) -> None:
        self.space, self.names, self.device, self.seed = space, names, device, seed
        images = min(SCORED_IMAGES, len(data.train))
        self.batch = next(batches(data.train, data, images, rng=stream(seed, "scored"), device=device))

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            seed = torch_seed(self.seed, "scored", arch.key)
            module = self.space.net.build(self.space.locals(arch), seed).to(self.device)
            figures.append({name: self._score(name, module, seed) for name in self.names})
        return figures

    def _score(self, name: str, module: nn.Module, seed: int) -> float:
        value = score(name, module, self.batch, F.cross_entropy, seed=seed)
        if math.isfinite(value):
            return value
        return -math.inf if ZERO_COST[name].higher_is_better else math.inf


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
