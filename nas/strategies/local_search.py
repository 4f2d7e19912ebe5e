"""Local search: walk to better neighbours, and on from the next best where there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import Floats, non_dominated, rank_and_crowding
from nas.strategies.neighbours import neighbours
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace

KEPT = 500
"""Architectures behind the front whose neighbours may still be tried."""


class LocalSearch:
    """Tries the neighbours of the best architecture one by one, and walks to the first that is better.

    A neighbour differs in one choice, see `nas.strategies.neighbours`. Once an architecture has no neighbour left to try, the walk
    goes on from the best whose neighbours were not all tried, and from a new sample where there is none.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        start: samples before the first walk.
        best: whether all neighbours are tried before the walk goes to the best of them, instead of to the first that is better.

    With several objectives it is Pareto local search: each neighbour is that of another architecture on the front, drawn at random;
    with `best`, all of one before those of the next.

    Reference: White, Nolen, Savani, "Exploring the Loss Landscape in Neural Architecture Search", UAI 2021, arXiv:2005.02960; several
    objectives: Paquete, Chiarandini, Stützle, "Pareto Local Optimum Sets in the Biobjective Traveling Salesman Problem", 2004.
    Differs: at a local optimum the walk goes on from the best that has neighbours left, and does not start anew. Pareto local search
    takes turns on the front, because trials seldom suffice for all neighbours of one architecture.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator, *, start: int = 10, best: bool = False) -> None:
        if start < 1:
            raise ValueError(f"`start` must be at least 1, got {start}")
        self.start, self.best = start, best
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        self._front: list[Place] = []  # of those below, none of which dominates another; some have no neighbours left
        self._losses: Floats = np.empty((0, 0))  # of the front
        self._open: list[Place] = []  # of the front, that have neighbours left
        self._rest: list[Place] = []  # behind the front, that have neighbours left
        self._at: Place | None = None

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: the first samples, then one by one."""
        return max(1, self.start - len(self._archive))

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        for arch, row in zip(archs, self._archive.record(archs, losses), strict=True):
            self._add(Place(row, neighbours(self._space, arch, self._rng)))

    def _add(self, place: Place) -> None:
        front = self._losses if len(self._front) else place.losses[None, :][:0]
        no_worse, no_better = (front <= place.losses).all(axis=1), (front >= place.losses).all(axis=1)
        if (no_worse & ~no_better).any():
            self._rest.append(place)
            self._shorten()
            return
        dominated = no_better & ~no_worse
        if dominated.any():
            self._rest += [other for at in np.flatnonzero(dominated) if (other := self._front[at]).open]
            self._front = [self._front[at] for at in np.flatnonzero(~dominated)]
            self._open = [other for other in self._front if other.open]
        self._front.append(place)
        self._open.append(place)
        self._losses = np.vstack([front[~dominated], place.losses])

    def _shorten(self) -> None:
        if len(self._rest) >= 2 * KEPT:
            rank, _ = rank_and_crowding([place.losses for place in self._rest])
            self._rest = [self._rest[at] for at in np.argsort(rank, kind="stable")[:KEPT]]

    def _next(self) -> Architecture | None:
        if len(self._archive) >= self.start:
            while (place := self._place()) is not None:
                for arch in place.neighbours:
                    if arch not in self._archive:
                        return arch
                place.open = False
                self._open = [other for other in self._open if other.open]
        return self._archive.sample()

    def _place(self) -> Place | None:
        """Where the walk is: an architecture with neighbours left; None if there is none."""
        if self.best and self._at is not None and self._at.open:
            return self._at
        if not self._open:
            self._next_front()
        self._at = self._open[self._rng.integers(len(self._open))] if self._open else None
        return self._at

    def _next_front(self) -> None:
        """The best of the rest, once nothing is left of the front."""
        rest = [place for place in self._rest if place.open]
        best = non_dominated([place.losses for place in rest]) if rest else np.empty(0, bool)
        self._front = [place for place, stays in zip(rest, best, strict=True) if stays]
        self._rest = [place for place, stays in zip(rest, best, strict=True) if not stays]
        self._open = list(self._front)
        self._losses = np.array([place.losses for place in self._front])


class Place:
    """An architecture that was told: its losses, and its neighbours that were not tried yet, if any are left."""

    def __init__(self, losses: Floats, neighbours: Iterator[Architecture]) -> None:
        self.losses, self.neighbours = losses, neighbours
        self.open = True
