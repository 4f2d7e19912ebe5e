"""The front as a search goes on, at a cost that does not grow with the trials behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.objectives import Floats, Objective, hypervolume, losses, non_dominated

FIRST = 20
"""Trials that span the box which hypervolumes are measured in."""
MOST = 1000
"""Points of a front of three objectives whose hypervolume is computed; of two there is no bound."""


class FrontSoFar:
    """Takes trials, and gives the size of their front, its best value of each objective and its hypervolume.

    The box of the hypervolume is spanned by the first 20 trials and does not change: 1 is all of it, points beyond its best corner
    give more, and the figure never falls.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        self._front: Floats = np.empty((0, len(objectives)))
        self._new: list[Sequence[float]] = []
        self._first: list[Sequence[float]] = []

    def add(self, values: Sequence[float]) -> None:
        """Values of one trial; one with a value that is not finite is on no front."""
        if not all(map(np.isfinite, values)):
            return
        self._new.append(values)
        if len(self._first) < FIRST:
            self._first.append(values)

    def figures(self) -> dict[str, float]:
        """Of all trials so far: one pass over the front and what came since the last call."""
        if self._new:
            both = np.concatenate([self._front, losses(self._new, self.objectives)])
            self._front, self._new = np.unique(both[non_dominated(both)], axis=0), []
        if not len(self._front):
            return {"size": 0}
        best = zip(self.objectives, self._front.min(axis=0).tolist(), strict=True)
        found = {f"best_{one.name}": -loss if one.higher_is_better else loss for one, loss in best}
        return {"size": len(self._front), **found, **self._volume()}

    def _volume(self) -> dict[str, float]:
        count = len(self.objectives)
        if len(self._first) < FIRST or not (count == 2 or (count == 3 and len(self._front) <= MOST)):
            return {}
        box = losses(self._first, self.objectives)
        worst, span = box.max(axis=0), np.ptp(box, axis=0)
        scaled = (self._front - worst) / np.where(span > 0, span, 1)
        return {"hypervolume": hypervolume(scaled, np.zeros(count))}
