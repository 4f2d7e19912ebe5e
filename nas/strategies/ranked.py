"""Told architectures by the order that NSGA-II prefers, for selection and tournaments."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nas.objectives import Floats, rank_and_crowding
from search_spaces import Architecture

Member = tuple[Architecture, Floats]


class Ranked:
    """Architectures with their losses; a lower front is better, then a greater crowding distance within the front.

    Args:
        members: architectures, each with losses of shape (k,).
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = list(members)
        rank, crowding = rank_and_crowding(np.array([losses for _, losses in self.members] or np.empty((0, 1))))
        self._standing = list(zip(rank.tolist(), (-crowding).tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.members)

    def best(self, n: int) -> list[Member]:
        """The best `n`; of equals, the earlier."""
        order = sorted(range(len(self.members)), key=self._standing.__getitem__)
        return [self.members[at] for at in order[:n]]

    def winner(self, entrants: Iterable[int]) -> Architecture:
        """The best of the members at these positions; of equals, the first named."""
        return self.members[min(entrants, key=self._standing.__getitem__)][0]
