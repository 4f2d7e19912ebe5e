"""Search strategies: they are asked for architectures and told what those turned out to be worth."""

from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.local_search import LocalSearch
from nas.strategies.named import STRATEGIES, make_strategy
from nas.strategies.nsga2 import NSGA2
from nas.strategies.random_search import RandomSearch
from nas.strategies.strategy import Strategy

__all__ = [
    "NSGA2", "STRATEGIES", "CoarseToFine", "Evolution", "Exhaustive", "LocalSearch", "RandomSearch", "Strategy", "make_strategy",
]  # fmt: skip
