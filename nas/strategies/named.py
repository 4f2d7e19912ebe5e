"""The strategies by name: what proposes architectures, and how many supernets rank them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exact_search import Exact
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.local_search import LocalSearch
from nas.strategies.mcts import MCTS
from nas.strategies.nsga2 import NSGA2
from nas.strategies.random_search import RandomSearch
from nas.strategies.reinforce import Reinforce
from nas.strategies.smbo import SMBO
from nas.strategies.strategy import Strategy
from search_spaces import SearchSpace
from search_spaces.core import unknown_name


class StrategyEntry(NamedTuple):
    """One strategy.

    Attributes:
        help: what it does.
        use: when to take it.
        make: from the space and a generator of its own.
        together: trials that are scored together, where a supernet can share work between them.
        supernets: their number by default; none for a trained model, unless it is `ranked`.
        fewest, most: supernets that it can be used with; most 0 for any number.
        ranked: architectures are ranked by supernets, and the strategy is named after them.
        mixture: one supernet is a mixture too.
    """

    help: str
    use: str
    make: Callable[[SearchSpace, np.random.Generator], Strategy]
    together: int
    supernets: int = 1
    fewest: int = 0
    most: int = 0
    ranked: bool = False
    mixture: bool = False

    @property
    def everything(self) -> bool:
        """Whether all architectures are proposed, in the order of the space."""
        return self.make is Exhaustive

    @property
    def needs(self) -> str:
        """The supernets that it needs."""
        return (
            f"{self.supernets} supernet{'s' * (self.supernets > 1)}{', or another number' * (not self.most)}"
            if self.ranked
            else ""
        )


STRATEGIES: dict[str, StrategyEntry] = {
    "mixture": StrategyEntry(
        "M supernets share the architectures; every architecture is ranked",
        "the space can be enumerated and its architectures disturb each other's weights, as placements of pooling do",
        Exhaustive, 256, supernets=4, fewest=1, ranked=True, mixture=True,
    ),
    "one-shot": StrategyEntry(
        "one supernet, uniform paths; every architecture is ranked", "the same, and memory or time for one supernet only",
        Exhaustive, 256, fewest=1, most=1, ranked=True,
    ),
    "random": StrategyEntry("uniform sampling without repetition", "as the control, always", RandomSearch, 64),
    "evolution": StrategyEntry("regularised evolution", "large spaces and one main objective", Evolution, 10),
    "nsga2": StrategyEntry("NSGA-II", "large spaces and a front", NSGA2, 20),
    "coarse-to-fine": StrategyEntry(
        "up to 64 points of a grid in which all choices of a kind (all widths, all depths) move together, then single choices of "
        "the best", "large spaces and few trials", CoarseToFine, 10,
    ),
    "local-search": StrategyEntry(
        "from the best of 10 samples to the first better neighbour, and on from the next best",
        "one choice at a time makes a difference, and results have little noise",
        LocalSearch, 10,
    ),
    "mcts": StrategyEntry(
        "a tree of decisions, one choice after the other, with upper confidence bounds and statistics shared between its nodes",
        "early choices matter more than late ones", MCTS, 10,
    ),
    "reinforce": StrategyEntry(
        "a policy for each choice, which learns from rewards (REINFORCE)", "as a control; it learns slowly", Reinforce, 5,
    ),
    "n2n": StrategyEntry(
        "REINFORCE in two stages: 50 trials on which blocks stay, the rest on widths",
        "a trained model is made smaller in blocks and widths", partial(Reinforce, removal=50), 5,
    ),
    "smbo": StrategyEntry(
        "a linear surrogate of choices and neighbouring pairs of choices, which orders candidates",
        "trials cost little, and there are many", SMBO, 10,
    ),
    "exact": StrategyEntry(
        "fits sums over choices and pairs of choices to the trials, and finds what is best by them by integer programming",
        "what choices are worth adds up, and macs or params are an objective", Exact, 4,
    ),
    "exhaustive": StrategyEntry("everything, in order", "small spaces without supernets", Exhaustive, 256),
}  # fmt: skip


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
    return STRATEGIES[name].make(space, rng)
