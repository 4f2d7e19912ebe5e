"""Racing: a trial is judged on few examples first, and on more only while it may still stand on the front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.objectives import Floats, Objective, losses, non_dominated
from nas.scoring.costs import Figures
from nas.study import Trial

RUNGS = (250, 500, 1000)
"""Examples after which a trial is looked at."""
KNOWN = 8
"""Trials judged on all examples that say how far a figure on fewer of them is from that on all."""
DEVIATIONS = 3.0
"""Standard deviations of that difference which a trial is allowed."""
EXAMPLES = "examples"
"""The note of how many examples a trial was judged on."""


def rung_name(metric: str, examples: int | str = "") -> str:
    """The note of a metric after some examples."""
    return f"{metric}_after_{examples}"


@dataclass(frozen=True)
class Race:
    """What the trials before say to those that are judged now.

    Attributes:
        objectives: of the run.
        front: losses of the trials that none dominates, shape (n, k).
        drifts: for each metric, by number of examples, how much its figure on all exceeds that on so many: mean and standard deviation.
        costs: figures by the key of an architecture that are known before it is judged.
    """

    objectives: tuple[Objective, ...]
    front: Floats
    drifts: Mapping[str, Mapping[int, tuple[float, float]]]
    costs: Mapping[str, Figures]

    def of(self, priced: Iterable[tuple[Any, Figures]]) -> Race:
        """The same for architectures with their costs."""
        return replace(self, costs={arch.key: figures for arch, figures in priced})

    def stands(self, key: str, examples: int, found: Mapping[str, float]) -> bool:
        """Whether an architecture may still stand on the front, with these metrics on so many examples."""
        if not all(examples in self.drifts.get(name, {}) for name in found):
            return True
        hoped = dict(self.costs[key])
        for name, value in found.items():
            mean, deviation = self.drifts[name][examples]
            rises = next((one.higher_is_better for one in self.objectives if one.name == name), True)
            hoped[name] = value + mean + (1 if rises else -1) * DEVIATIONS * deviation
        try:
            values = np.array([[float(hoped[one.name]) for one in self.objectives]])
        except KeyError:  # an objective that comes later
            return True
        if not np.isfinite(values).all():
            return True
        loss = losses(values, self.objectives)[0]
        return not bool(((self.front <= loss).all(1) & (self.front < loss).any(1)).any())


class Races:
    """The trials that a search knows, as the next ones race against them. What it says depends on the trials alone.

    Args:
        objectives: of the run.
        metrics: those among them that are measured on examples.
    """

    def __init__(self, objectives: Sequence[Objective], metrics: Sequence[str]) -> None:
        self.objectives, self.metrics = tuple(objectives), metrics
        self._front: Floats = np.empty((0, len(self.objectives)))
        self._sums: dict[tuple[str, int], tuple[int, float, float]] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        """More trials that are over; failed ones say nothing."""
        values = [trial.values for trial in trials if trial.values is not None and np.isfinite(trial.values).all()]
        if values:
            both = np.concatenate([self._front, losses(values, self.objectives)])
            self._front = np.unique(both[non_dominated(both)], axis=0)
        for trial in trials:
            notes = trial.user_attrs
            if trial.values is None or EXAMPLES not in notes:
                continue
            whole = dict(zip((one.name for one in self.objectives), trial.values, strict=True))
            for metric, rung, after in _rungs(self.metrics, notes):
                if rung < notes[EXAMPLES] and math.isfinite(drift := whole[metric] - after):
                    count, total, squares = self._sums.get((metric, rung), (0, 0.0, 0.0))
                    self._sums[metric, rung] = (count + 1, total + drift, squares + drift**2)

    @property
    def now(self) -> Race:
        """What those say that were added until now."""
        drifts: dict[str, dict[int, tuple[float, float]]] = {metric: {} for metric in self.metrics}
        for (metric, rung), (count, total, squares) in self._sums.items():
            if count >= KNOWN:
                mean = total / count
                drifts[metric][rung] = mean, math.sqrt(max(squares / count - mean**2, 0.0) * count / (count - 1))
        return Race(self.objectives, self._front, drifts, {})


def _rungs(metrics: Sequence[str], notes: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """What the notes of a trial say of metrics on fewer examples."""
    for metric in metrics:
        start = rung_name(metric)
        for name, value in notes.items():
            if name.startswith(start) and value is not None:
                yield metric, int(name.removeprefix(start)), float(value)
