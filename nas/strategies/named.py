"""The strategies by name: what proposes architectures, and how many supernets rank them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from nas.strategies.bayesian import Bayesian
from nas.strategies.coarse_to_fine import CoarseToFine
from nas.strategies.evolution import Evolution
from nas.strategies.exact_search import Exact
from nas.strategies.exhaustive import Exhaustive
from nas.strategies.knowledge import Knowledge
from nas.strategies.local_search import LocalSearch
from nas.strategies.mcts import MCTS
from nas.strategies.nni_strategy import UNUSABLE, nni_strategy
from nas.strategies.nsga2 import NSGA2
from nas.strategies.optuna_strategy import optuna_strategy
from nas.strategies.random_search import RandomSearch
from nas.strategies.reinforce import Reinforce
from nas.strategies.slimming import Slimming
from nas.strategies.smbo import SMBO
from nas.strategies.strategy import Strategy
from search_spaces import SearchSpace
from search_spaces.core import unknown_name


class StrategyEntry(NamedTuple):
    """One strategy.

    Attributes:
        help: what it does.
        use: when to take it.
        make: from the space and a generator of its own; and from what is known without a trial, if it `knows`.
        together: trials that are scored together, where a supernet can share work between them.
        supernets: their number by default; none for a trained model, unless it is `ranked`.
        fewest, most: supernets that it can be used with; most 0 for any number.
        ranked: architectures are ranked by supernets, and the strategy is named after them.
        mixture: one supernet is a mixture too.
        knows: `make` takes `Knowledge`, or None, as well.
        extra: the extra of this package, and the module, that it needs.
    """

    help: str
    use: str
    make: Callable[..., Strategy]
    together: int
    supernets: int = 1
    fewest: int = 0
    most: int = 0
    ranked: bool = False
    mixture: bool = False
    knows: bool = False
    extra: str = ""

    @property
    def everything(self) -> bool:
        """Whether all architectures are proposed, in the order of the space."""
        return self.make is Exhaustive

    @property
    def needs(self) -> str:
        """The supernets or the extra that it needs."""
        if self.ranked:
            return f"{self.supernets} supernet{'s' * (self.supernets > 1)}{', or another number' * (not self.most)}"
        return self.extra and f"extra {self.extra}"


LINAS = partial(Bayesian, start=50, together=50, explore=False)
"""The loop of SimQ-NAS and DyNAS-T, see `Bayesian`."""
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
    "bayesian": StrategyEntry(
        "a Gaussian process learned from the trials; what promises most by it comes next",
        "any space that is not tried to its end, and trials that take seconds or more", Bayesian, 10, knows=True,
    ),
    "linas": StrategyEntry(
        "rounds of 50 by evolution on a predictor, as SimQ-NAS and DyNAS-T have it", "the same, and 50 trials at a time", LINAS, 50,
        knows=True,
    ),
    "random": StrategyEntry("uniform sampling without repetition", "as the control, always", RandomSearch, 64),
    "evolution": StrategyEntry("regularised evolution", "large spaces and one main objective", Evolution, 10),
    "nsga2": StrategyEntry("NSGA-II", "large spaces and a front", NSGA2, 20),
    "coarse-to-fine": StrategyEntry(
        "up to 64 points of a grid in which all choices of a kind (all widths, all depths) move together, then single choices of "
        "the best", "large spaces and few trials", CoarseToFine, 10,
    ),
    "slimming": StrategyEntry(
        "from the largest down, each step what costs the least worth for what it saves",
        "a latency to reach, and a trained model or few choices", Slimming, 10, knows=True,
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
    "optuna:tpe": StrategyEntry(
        "Optuna's tree-structured Parzen estimator", "to compare with, or as in another study of yours",
        partial(optuna_strategy, sampler="tpe"), 10,
    ),
    "optuna:gp": StrategyEntry(
        "Optuna's Gaussian process", "up to some hundred trials that take minutes each, as proposing one comes to take seconds",
        partial(optuna_strategy, sampler="gp"), 10,
    ),
    "optuna:nsga2": StrategyEntry(
        "Optuna's NSGA-II, of a population of 50", "to compare with", partial(optuna_strategy, sampler="nsga2"), 50
    ),
    "optuna:nsga3": StrategyEntry(
        "Optuna's NSGA-III, of a population of 50", "three objectives or more", partial(optuna_strategy, sampler="nsga3"), 50
    ),
    "optuna:cmaes": StrategyEntry(
        "Optuna's CMA-ES", "one objective, and choices of many values in order", partial(optuna_strategy, sampler="cmaes"), 10,
        extra="cmaes",
    ),
    "nni:tpe": StrategyEntry(
        "NNI's TPE", "to compare with, or as in another study of yours", partial(nni_strategy, tuner="tpe"), 10, extra="nni"
    ),
    "nni:evolution": StrategyEntry(
        "NNI's Evolution, of a population of 32", "to compare with", partial(nni_strategy, tuner="evolution"), 32, extra="nni"
    ),
    "nni:random": StrategyEntry("NNI's Random", "to compare with", partial(nni_strategy, tuner="random"), 64, extra="nni"),
    "nni:grid": StrategyEntry(
        "NNI's GridSearch, the last choice turning fastest", "to compare with", partial(nni_strategy, tuner="grid"), 64, extra="nni"
    ),
}  # fmt: skip


def make_strategy(
    name: str, space: SearchSpace, rng: np.random.Generator, knowledge: Knowledge | None = None
) -> Strategy:
    """The strategy of that name with its default settings.

    Args:
        name: one of `STRATEGIES`.
        space: what to search.
        rng: becomes the strategy's own; nothing else may draw from it.
        knowledge: what is known without a trial, for strategies that make use of it.

    Raises:
        ValueError: no strategy has that name, and the nearest names are offered; or its extra is not installed.
    """
    check_strategy(name)
    entry = STRATEGIES[name]
    return entry.make(space, rng, knowledge) if entry.knows else entry.make(space, rng)


def no_strategy(name: str) -> ValueError:
    """The error for a name that is not in `STRATEGIES`."""
    library, _, tuner = name.partition(":")
    if library == "nni" and tuner in UNUSABLE:
        return ValueError(f"`strategy` {name} does not run: {UNUSABLE[tuner]}; take optuna:gp, or nni:tpe")
    return unknown_name("strategy", name, STRATEGIES)


def check_strategy(name: str) -> None:
    """Refuse a strategy that is not there; ValueError as for `make_strategy`."""
    if name not in STRATEGIES:
        raise no_strategy(name)
    extra = STRATEGIES[name].extra
    if extra and find_spec(extra) is None:
        raise ValueError(f"`strategy` {name} needs a package: pip install 'nas-toolkit[{extra}]'")
