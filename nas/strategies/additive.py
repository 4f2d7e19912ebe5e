"""Figures that add up over choices, and over pairs of them: given, or fitted to architectures whose figures are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nas.objectives import Floats
from search_spaces import SearchSpace

Pair = tuple[int, int]
Codes = NDArray[np.int32]  # of `SearchSpace.encode`
MOST = 600
"""Entries of the tables that a fit looks for."""
RIDGES = np.logspace(-6, 4, 21)


@dataclass(frozen=True)
class Additive:
    """A figure of an architecture that is a sum: an entry for the code of each column, and one for each pair of codes.

    Args:
        singles: for each column of the space a table of shape (values + 1,), where entry 0 is for a choice that does not exist.
        pairs: for some pairs of columns, the lower first, a table of shape (values + 1, values + 1).
        constant: what is added to all.
    """

    singles: tuple[Floats, ...]
    pairs: Mapping[Pair, Floats] = field(default_factory=dict)
    constant: float = 0.0

    def __call__(self, codes: Codes) -> Floats:
        """The figures of the rows of `SearchSpace.encode`, shape (n,)."""
        at = np.asarray(codes) + 1
        total = np.full(len(at), float(self.constant))
        for column, table in enumerate(self.singles):
            total += table[at[:, column]]
        for (a, b), table in self.pairs.items():
            total += table[at[:, a], at[:, b]]
        return total

    @classmethod
    def fit(cls, space: SearchSpace, codes: Codes, values: Sequence[float] | Floats, pairs: Sequence[Pair]) -> Additive:
        """The figure that fits what is known best, by ridge regression; the ridge is chosen by generalised cross-validation.

        Args:
            space: of the architectures.
            codes: of architectures whose figures are known, shape (n, columns).
            values: their figures, shape (n,).
            pairs: of columns that have a table; `pairs_of` says which are few enough.
        """
        fit = Fit(space, pairs)
        fit.add(codes)
        return fit.solve(np.asarray(values, dtype=np.float64))[0]


def pairs_of(space: SearchSpace) -> list[Pair]:
    """All pairs of columns, of columns that stand next to each other where there are too many, or none where even those are."""
    sizes = [len(column.values) + 1 for column in space.columns]
    every = list(combinations(range(len(sizes)), 2))
    return every if _entries(sizes, every) <= MOST else next_pairs(space)


def next_pairs(space: SearchSpace) -> list[Pair]:
    """The pairs of columns that stand next to each other, or none where there are too many."""
    sizes = [len(column.values) + 1 for column in space.columns]
    pairs = [(at, at + 1) for at in range(len(sizes) - 1)]
    return pairs if _entries(sizes, pairs) <= MOST else []


def _entries(sizes: Sequence[int], pairs: Sequence[Pair]) -> int:
    return sum(sizes) + sum(sizes[a] * sizes[b] for a, b in pairs)


class Fit:
    """Tables that are fitted again and again while more architectures become known: what they have in common is kept as sums.

    Args:
        space: of the architectures.
        pairs: of columns that have a table.
    """

    def __init__(self, space: SearchSpace, pairs: Sequence[Pair]) -> None:
        self.pairs = list(pairs)
        self.sizes = [len(column.values) + 1 for column in space.columns]
        shapes = [*self.sizes, *(self.sizes[a] * self.sizes[b] for a, b in self.pairs)]
        self.starts = np.cumsum([0, *shapes])
        self.gram = np.zeros((self.starts[-1], self.starts[-1]))
        self._rows: list[NDArray[np.int64]] = []

    def add(self, codes: Codes) -> None:
        """More architectures, shape (n, columns)."""
        at = np.asarray(codes, dtype=np.int64) + 1
        singles = [at[:, column] for column in range(len(self.sizes))]
        both = [at[:, a] * self.sizes[b] + at[:, b] for a, b in self.pairs]
        rows = np.stack([*singles, *both], axis=1) + self.starts[:-1] if singles else np.empty((len(at), 0), np.int64)
        dense = np.zeros((len(rows), self.starts[-1]))
        np.put_along_axis(dense, rows, 1.0, axis=1)
        self.gram += dense.T @ dense
        self._rows.append(rows)

    def solve(self, values: Floats) -> tuple[Additive, float]:
        """The tables for figures of all architectures so far, shape (n,), and the error to expect of them (mean square)."""
        rest, projected = self._projected(values)
        eigenvalues, vectors = np.linalg.eigh(self.gram)
        eigenvalues, along = np.maximum(eigenvalues, 0.0), vectors.T @ projected
        scale = max(float(np.trace(self.gram)) / max(len(self.gram), 1), 1e-12)
        best, chosen, n = np.inf, along * 0, len(values)
        for ridge in RIDGES * scale:
            solved = along / (eigenvalues + ridge)
            square = max(float(rest @ rest - 2 * along @ solved + solved @ (eigenvalues * solved)), 0.0)
            freedom = n - 1 - float((eigenvalues / (eigenvalues + ridge)).sum())
            error = n * square / freedom**2 if freedom > 0.5 else np.inf
            if error < best:
                best, chosen = error, solved
        return self._tables(vectors @ chosen, values), best

    def solve_with(self, values: Floats, ridge: float) -> Additive:
        """The tables for figures of all architectures so far, shape (n,), by a known ridge above 0, in a fraction of the time."""
        _, projected = self._projected(values)
        entries = np.linalg.solve(self.gram + ridge * np.eye(len(self.gram)), projected)
        return self._tables(entries.astype(np.float64), values)

    def _projected(self, values: Floats) -> tuple[Floats, Floats]:
        """Figures without their mean, and their sums for each entry of the tables."""
        rows, rest = np.concatenate(self._rows), values - values.mean()
        projected = np.zeros(len(self.gram))
        np.add.at(projected, rows, np.broadcast_to(rest[:, None], rows.shape))
        return rest, projected

    def _tables(self, entries: Floats, values: Floats) -> Additive:
        parts = np.split(entries, self.starts[1:-1])
        shaped = {
            (a, b): part.reshape(self.sizes[a], self.sizes[b])
            for (a, b), part in zip(self.pairs, parts[len(self.sizes) :], strict=True)
        }
        return Additive(tuple(parts[: len(self.sizes)]), shaped, float(values.mean()))
