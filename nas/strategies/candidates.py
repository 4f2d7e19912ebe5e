"""What a surrogate chooses among: every architecture of a space that can be listed, else what evolution on its score comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.objectives import Floats
from nas.strategies.features import Features
from nas.strategies.strategy import Archive
from search_spaces import Architecture

Ints = NDArray[np.int64]
Score = Callable[[Floats, Floats], Floats]
"""From features (n, f) and signals (n, s) to numbers of shape (n,), of which more is better."""
SHORT = 2_000
"""Candidates that are scored for each trial, of those that are listed."""
CHUNK = 4_096
PARENTS = 8
"""Best candidates that children are bred from."""


class Pool(NamedTuple):
    """How many candidates are bred.

    Attributes:
        slots: candidates at a time.
        children: bred for each trial.
        generations, brood: of evolution where the surrogate learned anew, and the children of each.
    """

    slots: int
    children: int
    generations: int
    brood: int


MANY, FEW = Pool(500, 8, 4, 50), Pool(60, 1, 2, 8)
"""Few where it takes long to ask whether an architecture keeps the limits."""


class Listed:
    """All architectures, scored once in a while; the best of them are the candidates until then.

    Args:
        archive: of what is asked and told.
        archs: all of the space, in random order, which decides between equals.
        features: reads them.

    Attributes:
        archs, features, signals: of the candidates.
    """

    def __init__(self, archive: Archive, archs: Sequence[Architecture], features: Features) -> None:
        self._archive = archive
        self._archs, self._signals = list(archs), features.signals(archs)
        self._features = features(archs, self._signals)
        self._open = np.ones(len(archs), dtype=bool)
        self._take(list(range(min(len(archs), SHORT))))

    def refresh(self, score: Score, best: Sequence[Architecture]) -> None:
        """Make the best that are not known the candidates."""
        left, scores = np.flatnonzero(self._open), np.zeros(0)
        if len(left) > SHORT:
            parts = [left[at : at + CHUNK] for at in range(0, len(left), CHUNK)]
            scores = np.concatenate([score(self._features[part], self._signals[part]) for part in parts])
            left = left[np.argsort(-scores, kind="stable")]
        chosen: list[int] = []
        for at in left.tolist():
            if self._archs[at] in self._archive:
                self._open[at] = False
            else:
                chosen.append(at)
            if len(chosen) == SHORT:
                break
        self._take(sorted(chosen))

    def renew(self, scores: Floats) -> Ints:
        """The places of candidates that are others now: none."""
        return np.empty(0, dtype=np.int64)

    def _take(self, places: Sequence[int]) -> None:
        self.archs = [self._archs[at] for at in places]
        self.features, self.signals = self._features[list(places)], self._signals[list(places)]


class Bred:
    """Children of the best trials and of the best candidates, which replace the worst candidates: steps uphill of the score.

    Args:
        archive: of what is asked and told, which samples the space.
        features: reads architectures.

    Attributes:
        archs, features, signals: of the candidates.
    """

    def __init__(self, archive: Archive, features: Features) -> None:
        self._archive, self._rng, self._read = archive, archive.rng, features
        self._pool = FEW if archive.space.dear else MANY
        self._best: list[Architecture] = []
        self.archs: list[Architecture] = []
        self.signals = features.signals([])
        self.features = features([], self.signals)

    def refresh(self, score: Score, best: Sequence[Architecture]) -> None:
        """Some generations of evolution on the score, from the candidates, a few samples and the best trials."""
        pool, self._best = self._pool, list(best)
        self._keep(np.array([at for at, arch in enumerate(self.archs) if arch not in self._archive], dtype=np.int64))
        sampled = (self._archive.sample() for _ in range(pool.slots // 2 if not self.archs else pool.children))
        self._add([arch for arch in iter(lambda: next(sampled, None), None) if arch is not None])
        for _ in range(pool.generations):
            scores = score(self.features, self.signals) if self.archs else np.empty(0)
            kept = np.sort(np.argsort(-scores, kind="stable")[: pool.slots - pool.brood])
            self._keep(kept)
            self._add(islice(self._children(scores[kept]), pool.brood))

    def renew(self, scores: Floats) -> Ints:
        """Breed children in the places of the worst candidates.

        Args:
            scores: of the candidates.

        Returns:
            The places of the children.
        """
        children = self._new(islice(self._children(scores), self._pool.children))
        places = np.argsort(scores, kind="stable")[: len(children)]
        if len(places):
            children = children[: len(places)]
            signals = self._read.signals(children)
            self.features[places], self.signals[places] = self._read(children, signals), signals
            for at, child in zip(places.tolist(), children, strict=True):
                self.archs[at] = child
        return places

    def _children(self, scores: Floats) -> Iterable[Architecture]:
        """Children without end of the best trials and of the best candidates, half each; a third of them of two parents."""
        top = [self.archs[at] for at in np.argsort(-scores, kind="stable")[:PARENTS]]
        while self._best or top:
            first, second = self._parent(top), self._parent(top)
            if self._rng.random() < 1 / 3 and first != second:
                yield self._archive.space.crossover(first, second, self._rng)
            else:
                yield self._archive.space.mutate(first, self._rng, edits=1 + min(int(self._rng.exponential()), 4))

    def _parent(self, top: Sequence[Architecture]) -> Architecture:
        some = self._best if self._best and (not top or self._rng.random() < 0.5) else top
        return some[int(self._rng.integers(len(some)))]

    def _new(self, made: Iterable[Architecture]) -> list[Architecture]:
        """Those that are neither known nor candidates, each once."""
        there = set(self.archs)
        return [arch for arch in dict.fromkeys(made) if arch not in there and arch not in self._archive]

    def _add(self, made: Iterable[Architecture]) -> None:
        new = self._new(made)
        signals = self._read.signals(new)
        self.archs += new
        self.signals = np.concatenate([self.signals, signals])
        self.features = np.concatenate([self.features, self._read(new, signals)])

    def _keep(self, places: Ints) -> None:
        self.archs = [self.archs[at] for at in places]
        self.features, self.signals = self.features[places], self.signals[places]
