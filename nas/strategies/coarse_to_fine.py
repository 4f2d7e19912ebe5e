"""Coarse to fine: at first the choices of a kind move together, then one by one around the best."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import count, product

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import non_dominated
from nas.strategies.ranked import Member
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Choice, composed, first_kept

POINTS = 10_000
TRIES = 10


class CoarseToFine:
    """The best of a grid in which the choices of a kind are tied is the skeleton; then its choices are changed one at a time.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        coarse: most points of the grid that are asked, drawn at random where there are more.

    Tied choices stand at the same relative position between their first and last value: all widths in the middle, say, and all depths
    at the end. Choices without a kind are tied if they have the same values. Points that break a constraint are no part of the grid;
    from what is beyond limits, some kinds of choices are moved to their first values, until the limits are kept. What is told without
    being asked for, such as trials of another run, takes the place of as many points. Each change starts from the best so far, so it
    is kept if it is better. It is one of several choices where ten changes of one choice were all known, and a sample until a first
    result is told.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142, for
    its selection after training.
    Differs: several objectives: every architecture on the front is a skeleton, and each change starts from one of them at random;
    of equals, all are kept. The paper has several grid values of its own for each kind.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator, *, coarse: int = 64) -> None:
        if coarse < 1:
            raise ValueError(f"`coarse` must be at least 1, got {coarse}")
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        points = tied(space, rng, coarse)
        self._grid, self._coarse = iter(points), len(points)
        self._front: list[Member] = []

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: each change starts from the best so far."""
        return 1

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        members = [*self._front, *zip(archs, self._archive.record(archs, losses), strict=True)]
        if members:
            best = non_dominated([losses for _, losses in members])
            self._front = [member for member, kept in zip(members, best, strict=True) if kept]

    def _next(self) -> Architecture | None:
        coarse = len(self._archive) < self._coarse
        if coarse and (point := next((arch for arch in self._grid if arch not in self._archive), None)) is not None:
            return point
        tries = count()
        return self._archive.new_child(lambda: self._changed(edits=1 + next(tries) // TRIES))

    def _changed(self, edits: int) -> Architecture | None:
        if not self._front:
            return None
        skeleton, _ = self._front[self._rng.integers(len(self._front))]
        return self._space.mutate(skeleton, self._rng, edits)


def tied(space: SearchSpace, rng: np.random.Generator, most: int) -> list[Architecture]:
    """Architectures whose choices of a kind are all at one relative position, see `CoarseToFine`; in random order, at most `most`.

    A grid of more than 10,000 points is not listed; as many are drawn from it.
    """
    levels: dict[Hashable, int] = {}
    for choice in space.choices:
        levels[tie(choice)] = max(choice.size, levels.get(tie(choice), 1))
    found: dict[Architecture, None] = {}
    for point in _points(list(levels.values()), rng):
        places = {tie: at / max(1, size - 1) for at, (tie, size) in zip(point, levels.items(), strict=True)}
        arch = _down(space, places, rng) if space.limited else _at(space, places)
        if arch is not None:
            found[arch] = None
        if len(found) == most:
            break
    return list(found)


def _at(space: SearchSpace, places: Mapping[Hashable, float]) -> Architecture | None:
    """The architecture with tied choices at these relative positions, from 0 to 1; None where that breaks a constraint."""
    try:
        return composed(space, lambda choice: choice.value(round(places[tie(choice)] * (choice.size - 1))))
    except ValueError:
        return None


def _down(space: SearchSpace, places: Mapping[Hashable, float], rng: np.random.Generator) -> Architecture | None:
    """The architecture at these positions, or behind as many as it takes, in random order, moved to 0 until limits are kept.

    None where the smallest one does not keep them.
    """
    ties = list(places)
    order = [ties[at] for at in rng.permutation(len(ties))]
    path = [{**places, **dict.fromkeys(order[:moved], 0.0)} for moved in range(len(order) + 1)]
    if _at(space, path[-1]) is None:
        return None
    return _at(space, first_kept(path, lambda point: _at(space, point) is not None))


def tie(choice: Choice) -> Hashable:
    return choice.kind or (choice.size, tuple(column.values for column in choice.columns))


def _points(sizes: Sequence[int], rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """The points of a grid of these sizes in random order, or 10,000 draws of a larger one."""
    if math.prod(sizes) > POINTS:
        return (tuple(rng.integers(sizes).tolist()) for _ in range(POINTS))
    points = list(product(*map(range, sizes)))
    return (points[at] for at in rng.permutation(len(points)))
