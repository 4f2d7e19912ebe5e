"""Random search without repetition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace


class RandomSearch:
    """Every architecture that is left is equally likely; the baseline that other strategies have to beat.

    Args:
        space: what to search.
        rng: the strategy's own generator.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._archive = Archive(space, rng)

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._archive.sample)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: all, as nothing told changes them."""
        return self._archive.space.raw_size

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; changes only what is left."""
        self._archive.record(archs, losses)
