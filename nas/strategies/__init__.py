"""Search strategies: they are asked for architectures and told what those turned out to be worth."""

from nas.strategies.additive import Additive, pairs_of
from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exact import Limits, Optimum, front, optimum
from nas.strategies.exact_search import Exact
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.local_search import LocalSearch
from nas.strategies.mcts import MCTS
from nas.strategies.named import STRATEGIES, make_strategy
from nas.strategies.nsga2 import NSGA2
from nas.strategies.random_search import RandomSearch
from nas.strategies.reinforce import Reinforce
from nas.strategies.smbo import SMBO
from nas.strategies.strategy import Strategy

__all__ = [
    "MCTS", "NSGA2", "SMBO", "STRATEGIES", "Additive", "CoarseToFine", "Evolution", "Exact", "Exhaustive", "Limits",
    "LocalSearch", "Optimum", "RandomSearch", "Reinforce", "Strategy", "front", "make_strategy", "optimum", "pairs_of",
]  # fmt: skip
