"""Sequential model-based optimisation as in DeepArchitect: a linear surrogate says which candidates are tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.additive import Additive, Codes, Fit, next_pairs
from nas.strategies.rewards import Rewards
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace

RIDGE = 1.0
GROWTH = 1.2
POOL = 500
BEST = 10
FEWEST, GENERATIONS = 100, 5


class SMBO:
    """Fits rewards by choices and by choices that follow each other, and tries the candidates that are predicted to be best.

    Rewards are shares of trials that do not dominate, see `nas.strategies.rewards`. A round begins when trials are a fifth more: the
    surrogate, a ridge regression, is fitted to all of them, and `candidates` for each trial of the round, at least 100, join a pool, of
    which the best predicted 500 stay. Half of the candidates are samples of the space; the others, in five generations, are changes
    of single choices of the 10 best of the pool.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        start: samples before the first round.
        candidates: new ones for each trial of a round.
        explore: probability of a sample instead of the best candidate.

    Reference: Negrinho, Gordon, "DeepArchitect: Automatically Designing and Training Deep Architectures", 2017, arXiv:1704.08792.
    Differs: n-grams are pairs of columns that stand next to each other; rewards are ranks, so several objectives have one; candidates
    are sampled or changed, not found by a tree search, and stay in the pool, so that few new ones are made for each trial.
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: np.random.Generator,
        *,
        start: int = 20,
        candidates: int = 1,
        explore: float = 0.1,
    ) -> None:
        if start < 2 or candidates < 1:
            raise ValueError(
                f"`start` must be at least 2 and `candidates` at least 1, got start={start} and candidates={candidates}"
            )
        if not 0 <= explore <= 1:
            raise ValueError(f"`explore` is a probability between 0 and 1, got {explore:g}")
        self.start, self.candidates, self.explore = start, candidates, explore
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        self._rewards = Rewards()
        self._fit = Fit(space, next_pairs(space))
        self._new: list[Architecture] = []  # that the fit was not told of
        self._due = start
        self._pool: dict[Architecture, Codes] = {}  # the best last

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: the first samples, or what is left of a round."""
        return max(1, self.start - len(self._archive), self._due - len(self._rewards))

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        for arch, row in zip(archs, self._archive.record(archs, losses), strict=True):
            self._rewards.add(row)
            self._new.append(arch)

    def _next(self) -> Architecture | None:
        if len(self._archive) < self.start:
            return self._archive.sample()
        if len(self._rewards) >= self._due:
            self._round()
        if self._rng.random() >= self.explore:
            while self._pool:
                arch, _ = self._pool.popitem()
                if arch not in self._archive:
                    return arch
        return self._archive.sample()

    def _round(self) -> None:
        """Fit the surrogate, and order the pool by it."""
        self._fit.add(self._space.encode(self._new))
        self._new = []
        predict = self._fit.solve_with(self._rewards.renewed(), RIDGE)
        trials = len(self._rewards)
        self._due = int(np.ceil(GROWTH * trials))
        number = max(FEWEST, self.candidates * (self._due - trials)) // 2
        pool = self._joined(self._pool, self._samples(number), predict)
        for _ in range(GENERATIONS):
            best = list(pool)[-BEST:]
            drawn: list[int] = self._rng.integers(len(best), size=number // GENERATIONS).tolist() if best else []
            pool = self._joined(pool, [self._space.mutate(best[at], self._rng) for at in drawn], predict)
        self._pool = pool

    def _joined(
        self, pool: dict[Architecture, Codes], more: Sequence[Architecture], predict: Additive
    ) -> dict[Architecture, Codes]:
        """A pool with more candidates, the best predicted last."""
        joined = pool | dict(zip(more, self._space.encode(more), strict=True))
        new = [(arch, codes) for arch, codes in joined.items() if arch not in self._archive]
        if not new:
            return {}
        order = np.argsort(predict(np.stack([codes for _, codes in new])), kind="stable")
        return dict(new[at] for at in order[-max(POOL, self._due - len(self._rewards)) :])

    def _samples(self, number: int) -> list[Architecture]:
        """Of the space; none where none was found to keep its constraints."""
        try:
            return [self._space.sample(self._rng) for _ in range(number)]
        except ValueError:
            return []
