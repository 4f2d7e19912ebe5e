"""Search strategies: they are asked for architectures and told what those turned out to be worth."""

from nas.strategies.additive import Additive, pairs_of
from nas.strategies.bayesian import Bayesian
from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exact import Limits, Optimum, front, optimum
from nas.strategies.exact_search import Exact
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.knowledge import Knowledge
from nas.strategies.local_search import LocalSearch
from nas.strategies.mcts import MCTS
from nas.strategies.named import STRATEGIES, check_strategy, make_strategy, no_strategy
from nas.strategies.nni_space import read_nni_space, write_nni_space
from nas.strategies.nsga2 import NSGA2
from nas.strategies.optuna_strategy import suggest
from nas.strategies.random_search import RandomSearch
from nas.strategies.reinforce import Reinforce
from nas.strategies.slimming import Slimming
from nas.strategies.smbo import SMBO
from nas.strategies.strategy import SMALL, Strategy
from nas.strategies.strategy_sampler import StrategySampler

__all__ = [
    "MCTS", "NSGA2", "SMALL", "SMBO", "STRATEGIES", "Additive", "Bayesian", "CoarseToFine", "Evolution", "Exact", "Exhaustive",
    "Knowledge", "Limits", "LocalSearch", "Optimum", "RandomSearch", "Reinforce", "Slimming", "Strategy", "StrategySampler",
    "check_strategy", "front", "make_strategy", "no_strategy", "optimum", "pairs_of", "read_nni_space", "suggest",
    "write_nni_space",
]  # fmt: skip
