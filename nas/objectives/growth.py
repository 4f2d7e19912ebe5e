"""Whether the hypervolume of what a search finds still grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.objectives.pareto import Floats, hypervolume, non_dominated

FIRST = 10
"""Points that the reference point is made of."""
LEAST = 1e-3
"""The share of the hypervolume by which it has to become larger to count as grown."""


class Growth:
    """Counts the points that came since the hypervolume last grew by 0.1 %.

    The reference point is the worst of each objective among the first ten points, so what is worse than those adds nothing. Until
    there are ten, everything counts as growth. Only a point that no other dominates takes more than a comparison with the front.

    Attributes:
        since: points since it last grew.
    """

    def __init__(self) -> None:
        self.since = 0
        self._first: list[Floats] = []
        self._reference: Floats | None = None
        self._front = np.empty((0, 0))
        self._volume = 0.0

    def take(self, losses: Sequence[float] | None) -> None:
        """A point, shape (k,), minimised; None for one without a value of an objective, which adds nothing."""
        if losses is None:
            self.since += self._reference is not None
            return
        point = np.asarray(losses, dtype=np.float64)
        if self._reference is None:
            self._first.append(point)
            if len(self._first) == FIRST:
                self._reference = np.max(self._first, axis=0)
                self._front = np.stack(self._first)
                self._grow()
            return
        self.since += 1
        if (point < self._reference).all() and not (self._front <= point).all(axis=1).any():
            self._front = np.vstack([self._front, point])
            self._grow()

    def _grow(self) -> None:
        assert self._reference is not None
        self._front = self._front[non_dominated(self._front)]
        volume = hypervolume(self._front, self._reference)
        if volume > (1 + LEAST) * self._volume:
            self._volume, self.since = volume, 0
