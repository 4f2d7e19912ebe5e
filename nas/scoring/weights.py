"""Weights of a network that was not trained alone, its batch statistics gathered again on training examples."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.pruning import PrunedNetwork, match_
from nas.runtime import stream
from nas.study import Study
from nas.supernets import OneSupernet, Supernets
from nas.tasks import Batch, Examples, Task
from nas.training import calibrate_
from pruners import PruneResult, recalibrate_
from search_spaces import Architecture

BATCH = 100
CALIBRATED = 250
"""Examples that batch statistics of a candidate inside a search are gathered on."""
JUDGED = 2000
"""Validation examples, drawn at random, that a candidate is judged by at most."""
REPAIRED = 1000
"""Examples that what leaves a search is repaired on."""
SEEN = 20
"""Examples of a step of training that candidates are drawn for, with those that are held out."""
PROVED = 20
"""One of so many candidates inside a search is proved: those whose key says so, whoever scores them."""


def from_supernet(study: Study, arch: Architecture, task: Task, learner: Supernets | None) -> nn.Module:
    """The network of an architecture with the weights of the supernet that ranked it best, on the CPU in evaluation mode.

    Where the supernet's normalisations have no scale and shift, the network's get 1 and 0.

    Args:
        study: the run.
        arch: the architecture.
        task: of the run.
        learner: the run's trained supernets on the CPU.

    Raises:
        ValueError: there are no supernets.
    """
    if learner is None:
        raise ValueError(
            f"{study.space.label(arch)} was not trained alone, and the run has no supernet to take weights from"
        )
    supernet = learner.members[_best_supernet(study, arch, learner)].supernet
    subnet = supernet.extract(study.space.locals(arch))
    calibrate_(subnet, task.train.head(study.config.ranking.calibration_images))
    module = study.space.build(arch)
    module.load_state_dict(subnet.state_dict(), strict=False)
    return module.eval()


def _best_supernet(study: Study, arch: Architecture, learner: Supernets) -> int:
    """The number of the supernet that ranked an architecture best; where none ranked it, of the one that it is assigned to."""
    table = study.trials
    ranked = table[table["architecture"] == arch.key].filter(regex=r"_supernet\d+$").dropna(axis=1)
    if ranked.size:
        row = ranked.iloc[0]
        best = row.idxmax() if study.worth.higher_is_better else row.idxmin()
        return int(str(best).rpartition("_supernet")[2])
    return 0 if isinstance(learner, OneSupernet) else learner.assign([arch])[0]


def candidate(network: PrunedNetwork, arch: Architecture, task: Task, seed: int) -> nn.Module:
    """A smaller model of a trained one in a moment: a slice, repaired from what all share, its batch statistics gathered again.

    The whole model is as it was.

    One of `PROVED` is built and proved beside it.

    Raises:
        ValueError: it is not what the masked model computes.
    """
    model = network.source
    if zlib.crc32(arch.key.encode()) % PROVED == 0:
        model.build(arch, every_size=False)
    module = model.candidate(arch, network.every_size)
    if arch != model.whole and _has_statistics(model.model):
        recalibrate_(module, _examples(task, CALIBRATED, seed))
    return module


def repaired(network: PrunedNetwork, arch: Architecture, task: Task, seed: int) -> PruneResult:
    """A smaller model of a trained one, proved, and repaired as `prune` does by default; on the CPU."""
    return network.source.repaired(arch, list(_examples(task, REPAIRED, seed)), network.every_size)


def shared(network: PrunedNetwork, arch: Architecture, task: Task, seed: int) -> nn.Module:
    """A smaller model of one whose weights a nested training has shared, proved, its batch statistics gathered again; on the CPU."""
    module = network.source.finished(arch, network.every_size).model
    if _has_statistics(network.source.model):
        recalibrate_(module, _examples(task, REPAIRED, seed))
    return module


class Steps:
    """Trains smaller models towards the trained one, each for as many steps, at a learning rate that is found once.

    Args:
        network: makes them.
        task: whose training examples, without labels, it takes.
        steps: of each training.
        seed: decides the order of examples.
        device: where it trains.
        first: the smaller model on which the learning rate is found.
    """

    def __init__(
        self, network: PrunedNetwork, task: Task, steps: int, seed: int, device: torch.device, first: Architecture
    ) -> None:
        self.network, self.task, self.steps, self.seed, self.device = network, task, steps, seed, device
        self.first = first

    @cached_property
    def batches(self) -> list[Batch]:
        drawn = _examples(self.task, max(REPAIRED, SEEN * self.steps), self.seed)
        return [Batch(batch.inputs) for batch in drawn]

    @cached_property
    def rate(self) -> float:
        """The learning rate that a range test finds."""
        return self._train(candidate(self.network, self.first, self.task, self.seed), "auto")

    def __call__(self, model: nn.Module) -> nn.Module:
        """Train a model in place; it stays where it is."""
        self._train(model, self.rate)
        return model

    def _train(self, model: nn.Module, rate: float | Literal["auto"]) -> float:
        whole = self.network.source.model
        done = match_(model, whole, self.batches, steps=self.steps, rate=rate, seed=self.seed, device=self.device)
        return done.rate


def parent_path(folder: Path) -> Path:
    """Where the weights stand that a nested training has left in a run folder."""
    return folder / "supernets" / "parent.safetensors"


def judged_on(task: Task, seed: int) -> Examples:
    """What candidates inside a search are judged by."""
    return _drawn(task.validation, JUDGED, seed, "judged")


def _has_statistics(model: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in model.modules())


def _examples(task: Task, number: int, seed: int) -> Iterator[Batch]:
    examples = _drawn(task.train, number, seed, "calibration")
    return examples.batches(min(BATCH, len(examples)))


def _drawn(examples: Examples, number: int, seed: int, purpose: str) -> Examples:
    """Some examples at random, in an order that says nothing; of a loader that only can be iterated the first ones."""
    order = stream(seed, purpose).permutation(len(examples))
    return examples.take(torch.from_numpy(order[:number]))
