"""Weights of a network that was not trained alone, its batch statistics gathered again on training examples."""

from __future__ import annotations

from torch import nn

from nas.runtime import stream
from nas.study import RankingConfig, Study
from nas.supernets import OneSupernet, Supernets
from nas.tasks import Task
from nas.training import calibrate_
from pruners import recalibrate_
from search_spaces import Architecture, SearchSpace

BATCH = 100


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


def recalibrated(space: SearchSpace, arch: Architecture, task: Task, config: RankingConfig, seed: int) -> nn.Module:
    """The smaller model of an architecture with its part of a trained model's weights, on the CPU."""
    module = space.build(arch)
    examples = task.train.head(config.calibration_images)
    recalibrate_(module, examples.batches(min(BATCH, len(examples)), rng=stream(seed, "calibration")))
    return module
