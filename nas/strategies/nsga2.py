"""NSGA-II: elitist evolution towards the whole Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.ranked import Member, Ranked
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace


class NSGA2:
    """Parents win binary tournaments by front and crowding; the best of parents and children survive.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        population: survivors of a generation, and its number of children.
        crossover: probability that a child has two parents; else it starts as a copy of one.

    The first `population` architectures are uniform samples. A generation closes whenever `population` results were told, in whatever
    batches; the best `population` of it and of the parents before are the next parents. Children are bred from the parents of the
    moment, whether or not all children of the generation have been told; before the first generation closes, from everything told,
    or sampled until there are two to breed from.

    Reference: Deb, Pratap, Agarwal, Meyarivan, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions on
    Evolutionary Computation 6(2), 2002.
    Differs: choices are crossed over and mutated by the space; the number of mutated choices is binomial with mean 1, which is the
    paper's mutation probability of one over the number of variables. Children that were asked before are bred anew. Crowding is
    measured among the survivors, not in the front that they were cut from. The population is 20 instead of 100, because a search
    has hundreds of trials rather than tens of thousands.
    """

    def __init__(
        self, space: SearchSpace, rng: np.random.Generator, *, population: int = 20, crossover: float = 0.9
    ) -> None:
        if population < 2:
            raise ValueError(f"`population` must be at least 2, got {population}")
        if not 0 <= crossover <= 1:
            raise ValueError(f"`crossover` is a probability between 0 and 1, got {crossover}")
        self.population, self.crossover = population, crossover
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        self._survivors: list[Member] = []
        self._newcomers: list[Member] = []
        self._parents = Ranked([])

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, lambda: self._archive.new_child(self._breed))

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: those that close the generation."""
        return self.population - len(self._newcomers)

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        for member in zip(archs, self._archive.record(archs, losses), strict=True):
            self._newcomers.append(member)
            if len(self._newcomers) == self.population:
                self._survivors = Ranked([*self._survivors, *self._newcomers]).best(self.population)
                self._newcomers = []
        self._parents = Ranked(self._survivors or self._newcomers)

    def _breed(self) -> Architecture | None:
        if len(self._archive) < self.population or len(self._parents) < 2:
            return None
        child = self._parent()
        if self._rng.random() < self.crossover:
            child = self._space.crossover(child, self._parent(), self._rng)
        choices = len(self._space.choices)
        edits = int(self._rng.binomial(choices, 1 / choices))
        return self._space.mutate(child, self._rng, edits) if edits else child

    def _parent(self) -> Architecture:
        return self._parents.winner(self._rng.choice(len(self._parents), 2, replace=False).tolist())
