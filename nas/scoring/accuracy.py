"""What trials are worth: the figures of a task's metrics, by supernets, by a trained model's weights, or by training alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from nas.runtime import torch_seed
from nas.scoring.costs import Figures
from nas.scoring.race import EXAMPLES, RUNGS, Race, rung_name
from nas.scoring.rungs import STOPPED, Bars, at_rung
from nas.study import RankingConfig, RunConfig
from nas.supernets import Mixture, Splitting, Supernets, ranked
from nas.tasks import Examples, Task
from nas.training import Alone, Row, fit, measure
from pruners.progress import Progress
from search_spaces import Architecture, SearchSpace

Terms = Race | Mapping[str, Bars]
"""What trials have to come up to in order to be judged to the end: those before them, or bars by the keys of architectures."""


class SupernetScorer:
    """Figures on the validation part, from one or several trained supernets.

    Args:
        learner: the supernets.
        space: the search space.
        task: what is measured.
        names: of its metrics; the first is the one that supernets are compared by.
        config: how.
    """

    def __init__(
        self, learner: Supernets, space: SearchSpace, task: Task, names: Sequence[str], config: RankingConfig
    ) -> None:
        self.supernets = [member.supernet for member in learner.members]
        self.sampler = learner.team.sampler
        self.space, self.task, self.names, self.config = space, task, names, config
        self.calibration = task.train.head(config.calibration_images)
        self.learner: Mixture | Splitting | None = None
        if isinstance(learner, Splitting) or (isinstance(learner, Mixture) and config.supernet == "assigned"):
            self.learner = learner

    def choose(self, archs: Sequence[Architecture]) -> list[list[int]]:
        """The supernets that are asked about each architecture."""
        if self.learner is None:
            return [list(range(len(self.supernets)))] * len(archs)
        return [[number] for number in self.learner.assign(archs)]

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        table: list[dict[int, dict[str, float] | None]] = [{} for _ in archs]
        asked = self.choose(archs)
        for number, supernet in enumerate(self.supernets):
            rows = [row for row, numbers in enumerate(asked) if number in numbers]
            if not rows:
                continue

            def inner(step: str, done: float, total: float, number: int = number) -> None:
                progress(step, number + done / total, len(self.supernets))

            found = ranked(
                supernet,
                [self.space.locals(archs[row]) for row in rows],
                self.task,
                self.names,
                batch_size=self.config.batch_size,
                calibration=self.calibration,
                progress=inner,
            )
            for row, figures in zip(rows, found, strict=True):
                table[row][number] = figures
        return [self._figures(row) for row in table]

    def _figures(self, asked: dict[int, dict[str, float] | None]) -> Figures:
        """Those of the supernet with the best first metric, and the first metric of each; failed where the outputs of all are NaN."""
        first = self.names[0]
        rises = self.task.metric(first).objective.higher_is_better
        by_supernet = {number: found for number, found in asked.items() if found is not None}
        if not by_supernet:
            return {"reason": "NotFinite: outputs must be numbers, got NaN"}

        def loss(number: int) -> float:
            value = by_supernet[number][first]
            return math.inf if math.isnan(value) else -value if rises else value

        figures: Figures = dict(by_supernet[min(by_supernet, key=loss)])
        if len(self.supernets) > 1 and not isinstance(self.learner, Splitting):
            figures |= {
                f"{first}_supernet{number}": found[first]
                for number, found in by_supernet.items()
                if not math.isnan(found[first])
            }
        return figures


class OneByOne:
    """Figures on some examples of networks that are made with their weights, one after the other.

    Args:
        make: gives the network of an architecture; told about long steps.
        task: says what is measured.
        names: of its metrics.
        part: the examples, in random order where some of them are to say what all will.
        race: what a network must come near to be measured on all of them; None for no race.
    """

    def __init__(
        self,
        make: Callable[[Architecture, Progress], nn.Module],
        task: Task,
        names: Sequence[str],
        part: Examples,
        race: Race | None = None,
    ) -> None:
        self.make, self.task, self.names, self.part, self.race = make, task, names, part, race

    def under(self, terms: Terms) -> OneByOne:
        """The same in a race."""
        assert isinstance(terms, Race)
        return OneByOne(self.make, self.task, self.names, self.part, terms)

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        return _in_turn(archs, progress, self._figures)

    def _figures(self, arch: Architecture, progress: Progress) -> Figures:
        network, race = self.make(arch, progress), self.race
        if race is None:
            return dict(measure(network, self.task, self.part, self.names))
        rungs, notes, on = list(RUNGS), dict[str, float](), 0

        def goes_on(seen: int, figures: Callable[[], dict[str, float]]) -> bool:
            nonlocal on
            on = seen
            if not rungs or seen < rungs[0] or seen == len(self.part):
                return True
            rungs[:] = [rung for rung in rungs if rung > seen]
            found = figures()
            notes.update({rung_name(name, seen): value for name, value in found.items() if not math.isnan(value)})
            return race.stands(arch.key, seen, found)

        found = measure(network, self.task, self.part, self.names, goes_on=goes_on)
        return {**found, EXAMPLES: on, **notes}


class TrainedAlone:
    """Figures on the validation part of networks that are trained from random weights, as long as they reach the bars at their rungs.

    Args:
        space: the search space.
        task: what is learnt and measured.
        names: of its metrics; the first is compared at rungs.
        config: of the run.
        device: where networks train.
        bars: what each architecture has to reach, by its key; see `Halving`.
    """

    def __init__(
        self,
        space: SearchSpace,
        task: Task,
        names: Sequence[str],
        config: RunConfig,
        device: torch.device,
        bars: Mapping[str, Bars] | None = None,
    ) -> None:
        self.space, self.task, self.names, self.config, self.device = space, task, names, config, device
        self.bars = bars or {}

    def under(self, terms: Terms) -> TrainedAlone:
        """The same with bars."""
        assert not isinstance(terms, Race)
        return TrainedAlone(self.space, self.task, self.names, self.config, self.device, terms)

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        return _in_turn(archs, progress, self._figures)

    def _figures(self, arch: Architecture, progress: Progress) -> Figures:
        config, training, bars = self.config, self.config.supernets.training, self.bars.get(arch.key, {})
        module = self.space.build(arch, torch_seed(config.seed, "trial", arch.key))
        at_rungs: Figures = {}

        def look(history: list[Row]) -> None:
            epochs = len(history)
            if epochs not in bars:
                return
            found = self._measured(module)
            at_rungs.update({at_rung(name, epochs): value for name, value in found.items()})
            bar, value = bars[epochs], found[self.names[0]]
            if bar is not None and not self._loss(value) <= bar:
                raise _StoppedEarly(epochs)

        learner = Alone(module, self.task, training, self.device)
        try:
            fit(
                learner,
                self.task.train,
                training,
                seed=config.seed,
                device=self.device,
                progress=progress,
                on_epoch=look,
            )
        except _StoppedEarly as stopped:
            return {**dict.fromkeys(self.names, math.nan), **at_rungs, STOPPED: stopped.epochs}
        return {**self._measured(module), **at_rungs}

    def _measured(self, module: nn.Module) -> Figures:
        return dict(measure(module, self.task, self.task.validation, self.names))

    def _loss(self, value: float) -> float:
        return -value if self.task.metric(self.names[0]).objective.higher_is_better else value


class _StoppedEarly(Exception):
    """A trial did not reach a bar after so many epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.epochs = epochs


def _in_turn(
    archs: Sequence[Architecture], progress: Progress, of: Callable[[Architecture, Progress], Figures]
) -> list[Figures]:
    """The figures of architectures, one after the other; each tells of its own steps."""
    found: list[Figures] = []
    for number, arch in enumerate(archs):

        def inner(step: str, done: float, total: float, number: int = number) -> None:
            progress(step, number + done / total, len(archs))

        inner("ranking", 0, 1)
        found.append(of(arch, inner))
    return found
