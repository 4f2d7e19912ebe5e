"""Search strategies: they are asked for architectures and told what those turned out to be worth."""

from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.named import STRATEGIES, make_strategy
from nas.strategies.nsga2 import NSGA2
from nas.strategies.random_search import RandomSearch
from nas.strategies.strategy import SMALL, Strategy

__all__ = [
    "NSGA2", "SMALL", "STRATEGIES", "CoarseToFine", "Evolution", "Exhaustive", "RandomSearch", "Strategy", "make_strategy",
]  # fmt: skip
