"""What a surrogate reads of an architecture: its choices, what they add up to, and free signals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.objectives import Floats
from nas.strategies.coarse_to_fine import tie
from nas.strategies.knowledge import Knowledge
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Integer

Ints = NDArray[np.int64]


class Features:
    """Numbers of architectures in groups, each of which a surrogate learns one weight and one length for.

    A group is a column of the encoding (its value, centred; where its values are ordered also their position), what all choices
    of a kind add up to (the shares of their values), or a signal. Each has variance 1 over uniform values, so that groups compare.
    A signal counts by its rank among a sample: neither its unit nor a long tail matters.

    Args:
        space: whose architectures they are.
        sample: architectures that stand for the space.
        knowledge: gives the signals, if there are any.

    Attributes:
        groups: the group of each feature, shape (f,).
    """

    def __init__(self, space: SearchSpace, sample: Sequence[Architecture], knowledge: Knowledge | None) -> None:
        self.space, self.knowledge, self._count = space, knowledge, 0
        self._absent = [choice.when != {} for choice in space.choices for _ in choice.columns]
        self._ordered = [isinstance(choice, Integer) for choice in space.choices for _ in choice.columns]
        self._ties = _ties(space)
        signals = self.signals(sample)
        self._count = signals.shape[1]
        self._sorted = np.sort(_finite(signals), axis=0)
        parts = self._parts(space.encode(sample[:1]), signals[:1])
        self.groups: Ints = np.array([at for at, part in enumerate(parts) for _ in part.T], dtype=np.int64)

    def __call__(self, archs: Sequence[Architecture], signals: Floats) -> Floats:
        """Features of n architectures with their signals, shape (n, f)."""
        return np.hstack([np.empty((len(archs), 0)), *self._parts(self.space.encode(archs), signals)])

    def signals(self, archs: Sequence[Architecture]) -> Floats:
        """Signals of n architectures, shape (n, s)."""
        if self.knowledge is None or not archs:
            return np.empty((len(archs), self._count))
        found = np.asarray(self.knowledge.signals(archs), dtype=np.float64)
        if found.ndim != 2 or len(found) != len(archs):
            raise ValueError(
                f"`signals` must give {len(archs)} architectures numbers of shape ({len(archs)}, s), got {found.shape}"
            )
        return found

    def _parts(self, codes: NDArray[np.int32], signals: Floats) -> list[Floats]:
        parts = []
        for at, column in enumerate(self.space.columns):
            size, first = len(column.values), -1 if self._absent[at] else 0
            if size - first > 1:
                parts.append(_centred(codes[:, [at]] == np.arange(first, size)))
            if self._ordered[at] and size > 2:
                parts.append(_place(codes[:, [at]], size))
        for columns in self._ties:
            some, size = codes[:, columns], len(self.space.columns[columns[0]].values)
            shares = (some[:, :, None] == np.arange(size)).mean(axis=1) - (some >= 0).mean(axis=1, keepdims=True) / size
            parts.append(shares * np.sqrt(len(columns) * size / (size - 1)))
            if self._ordered[columns[0]] and size > 2:
                parts.append(_place(some, size).mean(axis=1, keepdims=True) * np.sqrt(len(columns)))
        return [*parts, *(self._scores(values, at)[:, None] for at, values in enumerate(_finite(signals).T))]

    def _scores(self, values: Floats, at: int) -> Floats:
        """Normal scores of a signal among those of the sample; 0 for what is not known."""
        known = self._sorted[:, at]
        known = known[~np.isnan(known)]
        return np.nan_to_num(normal_scores(values, known)) if len(known) else np.zeros(len(values))


def normal_scores(values: Floats, ordered: Floats) -> Floats:
    """The quantiles of a normal distribution that values stand for by their ranks among `ordered` ones; equals share one."""
    from scipy.special import ndtri  # as all of scipy, a tenth of what `import nas` takes

    n = len(ordered)
    rank = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    scores: Floats = ndtri(np.clip(rank, 0.5, n - 0.5) / n)
    return np.where(np.isnan(values), np.nan, scores)


def _centred(one_hot: NDArray[np.bool_]) -> Floats:
    """Columns of one choice with mean 0, and variance 1 in all, over uniform values."""
    size = one_hot.shape[1]
    return (one_hot - 1 / size) * np.sqrt(size / (size - 1))


def _place(codes: NDArray[np.int32], size: int) -> Floats:
    """The position among ordered values with mean 0 and variance 1 over uniform ones; 0 where the choice does not exist."""
    place: Floats = (codes - (size - 1) / 2) / np.sqrt((size**2 - 1) / 12)
    return np.where(codes < 0, 0.0, place)


def _ties(space: SearchSpace) -> list[list[int]]:
    """Columns with as many values, of choices that are of one kind or have the same values."""
    found: dict[tuple[Hashable, int], list[int]] = {}
    at = 0
    for choice in space.choices:
        for column in choice.columns:
            found.setdefault((tie(choice), len(column.values)), []).append(at)
            at += 1
    return [columns for (_, values), columns in found.items() if len(columns) > 1 and values > 1]


def _finite(values: Floats) -> Floats:
    return np.clip(values, -np.finfo(np.float64).max, np.finfo(np.float64).max)
