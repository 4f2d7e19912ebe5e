"""What workers do for a search: score trials and train networks alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from estimators.zero_cost import ZERO_COST
from nas.engines import Place
from nas.retrain import Trained, carried, train_one
from nas.runtime import half, import_function, resolve_device
from nas.scoring import (
    Evaluate,
    EvaluatedScorer,
    Figures,
    OneByOne,
    Scorer,
    Shared,
    Terms,
    TrainedAlone,
    UntrainedScorer,
    contract,
    score,
)
from nas.study import Study, load_task, recorded_config
from nas.tasks import Task
from nas.train import load_shared
from pruners.progress import Progress, silent
from search_spaces import Architecture, SearchSpace

FILES = ("run.yaml", "record.json", "supernets/checkpoint.safetensors", "supernets/parent.safetensors")
"""What a worker needs of a run folder."""


@dataclass
class Worker:
    """The state of a worker.

    Args:
        study: the run.
        task: of the run; None where a function evaluates.
        evaluate: the function that does.
        device: where it computes.
        learner: gives the run's trained supernets, or None if it has none; asked once, and only to score trials.
        temporary: the folder of the study, where it is only this worker's; weights are carried to the run folder in results.
    """

    study: Study
    task: Task | None
    evaluate: Evaluate | None
    device: torch.device
    learner: Callable[[], Shared | None]
    temporary: TemporaryDirectory[str] | None = None

    def score(
        self, archs: Sequence[Architecture], terms: Terms | None = None, *, progress: Progress = silent
    ) -> list[Figures]:
        """Figures of architectures beside costs, or the reason why one has none; see `nas.scoring.score`.

        Args:
            archs: the architectures.
            terms: what they have to come up to in order to be judged to the end.
            progress: told how far it is.
        """
        scorers = self.scorers
        if terms is not None:
            scorers = [each.under(terms) if isinstance(each, (OneByOne, TrainedAlone)) else each for each in scorers]
        with half(self.study.config.bfloat16):
            return score(archs, scorers, progress)

    def train_alone(self, arch: Architecture, seed: int, *, progress: Progress = silent) -> Trained:
        """Train a network alone, and leave its weights in the run folder."""
        assert self.task is not None
        with half(self.study.config.bfloat16):
            trained = train_one(self.study, arch, seed, self.task, self.device, progress)
        return trained if self.temporary is None else carried(self.study, arch, seed, trained)

    @property
    def scores(self) -> bool:
        """Whether trials have figures beside costs."""
        config = self.study.config
        return bool(self.evaluate or config.measured or ZERO_COST.keys() & set(config.objectives))

    @cached_property
    def scorers(self) -> list[Scorer]:
        """What gives trials their figures beside costs."""
        config, space = self.study.config, self.study.space
        if self.evaluate is not None:
            return [EvaluatedScorer(space, self.evaluate, self.study.objectives, config.seed)]
        assert self.task is not None
        scorers: list[Scorer] = []
        if untrained := [name for name in config.objectives if name in ZERO_COST]:
            scorers.append(UntrainedScorer(space, untrained, self.task, self.device, config.seed))
        if wanted := [metric.name for metric in config.measured]:
            scorers.append(contract(space).worth(config, self.task, wanted, self.device, self.learner()))
        return scorers


@dataclass(frozen=True)
class Recruit:
    """Makes the worker of another process from the run folder, of which it makes the task again and loads the supernets.

    Args:
        folder: of the run.
        space, task, evaluate: where they were given as objects, which the folder cannot name.
        files: of the folder, by their names in it, for workers that do not see it; see `files_of`.
    """

    folder: Path
    space: SearchSpace | None = None
    task: Task | None = None
    evaluate: Evaluate | None = None
    files: Mapping[str, bytes] | None = None

    def __call__(self, place: Place) -> Worker:
        temporary = None if self.files is None else _unpacked(self.files)
        folder = self.folder if temporary is None else Path(temporary.name)
        config = recorded_config(folder)
        here = temporary is None and config.evaluate is None
        task, evaluate = self.task or (load_task(config) if here else None), self.evaluate
        study = Study.open(folder, self.space, task=task, trust=True)  # the process that searches has imported the same
        device = resolve_device(config.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", place.number % torch.cuda.device_count())
        if config.evaluate is not None:
            evaluate = evaluate or import_function(config.evaluate)
        elif task is None and study.has_examples:
            task = study.task()  # the same data on another machine

        def learner() -> Shared | None:
            return None if task is None else load_shared(study, task, device)

        return Worker(study, task, evaluate, device, learner, temporary)


def files_of(study: Study) -> Mapping[str, bytes]:
    """What workers on other machines need of a run folder."""
    return {name: (study.folder / name).read_bytes() for name in FILES if (study.folder / name).exists()}


def _unpacked(files: Mapping[str, bytes]) -> TemporaryDirectory[str]:
    """A folder with files, which goes with its worker."""
    temporary = TemporaryDirectory(prefix="nas-", ignore_cleanup_errors=True)
    for name, data in files.items():
        path = Path(temporary.name) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return temporary
