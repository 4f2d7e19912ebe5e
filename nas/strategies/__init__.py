"""Search strategies: they are asked for architectures and told what those turned out to be worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.nsga2 import NSGA2
from nas.strategies.random_search import RandomSearch
from nas.strategies.strategy import Strategy
from search_spaces import SearchSpace
from search_spaces.core import unknown_name

__all__ = [
    "NSGA2",
    "STRATEGIES",
    "CoarseToFine",
    "Evolution",
    "Exhaustive",
    "RandomSearch",
    "Strategy",
    "make_strategy",
]

STRATEGIES: dict[str, Callable[[SearchSpace, np.random.Generator], Strategy]] = {
    "exhaustive": Exhaustive,
    "random": RandomSearch,
    "nsga2": NSGA2,
    "evolution": Evolution,
    "coarse-to-fine": CoarseToFine,
}


def make_strategy(name: str, space: SearchSpace, rng: np.random.Generator) -> Strategy:
    """The strategy of that name with its default settings.

    Args:
        name: one of `STRATEGIES`.
        space: what to search.
        rng: becomes the strategy's own; nothing else may draw from it.

    Raises:
        ValueError: no strategy has that name; the nearest names are offered.
    """
    if name not in STRATEGIES:
        raise unknown_name("search strategy", name, STRATEGIES)
    return STRATEGIES[name](space, rng)
