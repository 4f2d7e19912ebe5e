"""Search by a surrogate whose best architecture is found exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import Floats, non_dominated
from nas.strategies.additive import Additive, Codes, Fit, Pair, pairs_of
from nas.strategies.balanced import Balanced
from nas.strategies.exact import least_within
from nas.strategies.program import Program, figures_of, value_of
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace

MOST_START = 60
NODES = 200
TRIES = 3
GROWTH = 0.1
FAILED = 1e29  # what a loss is at least whose trial failed


class Exact:
    """Fits figures that add up over choices, or over pairs of choices, to what was told, and asks for what is exactly best by them.

    At first every value of every choice is asked for about as often as the others. Then each round fits a sum to each objective (over
    pairs where that promises a lower error, by generalised cross-validation), and asks for architectures with the least of one
    objective, drawn at random, among those that are no worse in the others than one on the front, drawn at random too. So one
    objective gives its best, several give their front. Until trials are a tenth more, single choices of the front are changed.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        start: architectures before the first round; by default as many as a sum over choices has entries, from 10 to 60.
        proposals: architectures of a round.

    A failed trial counts as the worst that did not fail. An integer program holds choices and the conditions between them, but no
    other constraints, which exclude one solution at a time; where three in a row break one, single choices of the front are changed.
    """

    def __init__(
        self, space: SearchSpace, rng: np.random.Generator, *, start: int | None = None, proposals: int = 4
    ) -> None:
        if start is not None and start < 2:
            raise ValueError(f"`start` must be at least 2, got {start}")
        if proposals < 1:
            raise ValueError(f"`proposals` must be at least 1, got {proposals}")
        entries = 1 + sum(len(column.values) - 1 for column in space.columns)
        self.start = min(max(entries, 10), MOST_START) if start is None else start
        self.proposals = proposals
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        self._balanced = Balanced(space, rng)
        self._told: list[Architecture] = []
        self._losses: list[Floats] = []
        self._front: list[int] = []
        self._fits = [Fit(space, pairs) for pairs in dict.fromkeys([(), tuple(pairs_of(space))])]
        self._programs: dict[tuple[Pair, ...], Program] = {}
        self._fitted = 0
        self._due = self.start
        self._queue: deque[Architecture] = deque()

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: the first sample, or what is left of a round."""
        return max(1, self.start - len(self._archive), len(self._queue))

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        for arch, row in zip(archs, self._archive.record(archs, losses), strict=True):
            self._told.append(arch)
            self._losses.append(row)
            among = [*self._front, len(self._told) - 1]
            best = non_dominated([self._losses[at] for at in among])
            self._front = [at for at, stays in zip(among, best, strict=True) if stays]

    def _next(self) -> Architecture | None:
        if len(self._archive) < self.start:
            return self._archive.new_child(self._balanced.draw)
        if not self._queue and len(self._told) >= self._due:
            self._queue.extend(self._best())
            self._due = len(self._told) + max(self.proposals, int(GROWTH * len(self._told)))
        while self._queue:
            arch = self._queue.popleft()
            if arch not in self._archive:
                return arch
        return self._archive.new_child(self._changed)

    def _changed(self) -> Architecture | None:
        if not self._front:
            return None
        return self._space.mutate(self._told[self._front[self._rng.integers(len(self._front))]], self._rng)

    def _best(self) -> list[Architecture]:
        """What is best by figures fitted to all trials, in a new order each time."""
        new = self._space.encode(self._told[self._fitted :])
        for fit in self._fits:
            fit.add(new)
        self._fitted = len(self._told)
        losses = np.array(self._losses)
        worst = np.where(losses < FAILED, losses, -np.inf).max(axis=0)
        losses = np.minimum(losses, np.where(np.isfinite(worst), worst, 0.0))
        figures = [self._figure(column) for column in losses.T]
        pairs = tuple(figures_of(*figures))
        program = self._programs.setdefault(pairs, Program(self._space, pairs, NODES))
        found: dict[Architecture, Codes] = {}
        for _ in range(self.proposals):
            objective = int(self._rng.integers(len(figures)))
            codes = self._space.encode([self._told[self._front[self._rng.integers(len(self._front))]]])[0]
            limits = [(figure, value_of(figure, codes)) for at, figure in enumerate(figures) if at != objective]
            arch = self._new(program, figures[objective], limits, found)
            if arch is not None:
                found[arch] = self._space.encode([arch])[0]
            elif len(figures) == 1:
                break
        return list(found)

    def _figure(self, losses: Floats) -> Additive:
        return min((fit.solve(losses) for fit in self._fits), key=lambda solved: solved[1])[0]

    def _new(
        self,
        program: Program,
        objective: Additive,
        limits: Sequence[tuple[Additive, float]],
        found: dict[Architecture, Codes],
    ) -> Architecture | None:
        """The best that was not asked or told; None where three better ones were, or nothing is found."""
        excluded = list(found.values())
        for _ in range(TRIES):
            try:
                best = least_within(self._space, program, objective, limits, excluded, TRIES)
            except ValueError:
                return None
            if best is None or best.arch not in self._archive:
                return best and best.arch
            excluded.append(self._space.encode([best.arch])[0])
        return None
