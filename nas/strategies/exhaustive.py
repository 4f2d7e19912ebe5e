"""Every architecture, in the space's own order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace


class Exhaustive:
    """Visits the whole space in the order of `SearchSpace.enumerate`.

    Args:
        space: what to search; a large one is walked lazily.
        rng: not used; strategies are all made alike.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._archive = Archive(space, rng)
        self._rest = space.enumerate()

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, lambda: next((arch for arch in self._rest if arch not in self._archive), None))

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: all, as nothing told changes them."""
        return self._archive.space.raw_size

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; changes only what is left."""
        self._archive.record(archs, losses)
