"""Regularised evolution: the oldest dies, not the worst."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.ranked import Member, Ranked
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace


class Evolution:
    """The winner of a tournament is mutated; whoever was told longest ago leaves the population.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        population: how many of the latest results are alive.
        tournament: how many of them are drawn, with replacement, for each child.

    The first `population` architectures are uniform samples, and so are later ones until a first result is told.

    Reference: Real, Aggarwal, Huang, Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, arXiv:1802.01548.
    Differs: several objectives: the winner has the lowest non-dominated rank, then the greatest crowding distance, both taken in the
    population, because in a small tournament the ends of the front would nearly always win. Children that were asked before are
    bred anew. Defaults are half of the paper's population of 100 and its sample of 25, because trials are few.
    """

    def __init__(
        self, space: SearchSpace, rng: np.random.Generator, *, population: int = 50, tournament: int = 12
    ) -> None:
        if population < 1:
            raise ValueError(f"`population` must be at least 1, got {population}")
        if not 1 <= tournament <= population:
            raise ValueError(f"`tournament` must be from 1 to the population of {population}, got {tournament}")
        self.population, self.tournament = population, tournament
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        self._alive: deque[Member] = deque(maxlen=population)
        self._ranked = Ranked([])

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, lambda: self._archive.new_child(self._breed))

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: the first population, then one by one."""
        return max(1, self.population - len(self._archive))

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        self._alive.extend(zip(archs, self._archive.record(archs, losses), strict=True))
        self._ranked = Ranked(self._alive)

    def _breed(self) -> Architecture | None:
        if len(self._archive) < self.population or not self._alive:
            return None
        entrants = self._rng.integers(len(self._alive), size=self.tournament)
        return self._space.mutate(self._ranked.winner(entrants.tolist()), self._rng)
