"""Optuna's samplers as strategies, and search spaces for those whose loop is Optuna's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import optuna
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    TPESampler,
)
from optuna.trial import Trial, TrialState

from nas.objectives import Floats
from nas.runtime import quiet_optuna
from nas.strategies.adapted import Adapted, Proposal
from nas.strategies.parameters import Answer, Parameter, Parameters
from nas.strategies.strategy import Strategy
from search_spaces import Architecture, SearchSpace

RULES = "rules"
"""The constraint of Optuna that says how many rules of the space a trial breaks; -1 for one that keeps them."""


class SamplerEntry(NamedTuple):
    """A sampler of Optuna.

    Attributes:
        make: from a seed.
        startup: architectures that are sampled at first, as many as the sampler would draw at random.
        conditions: whether it models choices that do not always exist; else it is given a value of every choice.
        again: whether it needs to be told of the same parameters again, to go on from them.
        only: it takes only numbers, one objective and trials that keep the rules.
    """

    make: Callable[[int], BaseSampler]
    startup: int
    conditions: bool = True
    again: bool = False
    only: bool = False


SAMPLERS: Mapping[str, SamplerEntry] = {
    "tpe": SamplerEntry(lambda seed: TPESampler(seed=seed), 10),
    "gp": SamplerEntry(
        lambda seed: GPSampler(seed=seed, warn_independent_sampling=False), 10, conditions=False, again=True
    ),
    "nsga2": SamplerEntry(lambda seed: NSGAIISampler(seed=seed), 50, conditions=False),
    "nsga3": SamplerEntry(lambda seed: NSGAIIISampler(seed=seed), 50, conditions=False),
    "cmaes": SamplerEntry(
        lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
        1,
        conditions=False,
        again=True,
        only=True,
    ),
}
"""By name, each with its own defaults."""


def optuna_strategy(space: SearchSpace, rng: np.random.Generator, *, sampler: str = "tpe") -> Strategy:
    """A sampler of Optuna as a strategy.

    Args:
        space: what to search.
        rng: the strategy's own generator; the sampler's seed is drawn from it.
        sampler: a name in `SAMPLERS`.

    The first architectures are uniform samples. Where the sampler takes constraints, it is told which proposals break how many rules
    of the space, with the mean of the losses told so far.

    Reference: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019, arXiv:1907.10902.
    Differs: random trials at first are architectures, none twice, instead of values of choices. TPE, NSGA-II and NSGA-III are told of
    the same parameters once. All but TPE have values of choices that do not exist, too, as they model no conditions; CMA-ES has a
    number for each value of a choice without order, and the value of the largest is taken.
    """
    entry = SAMPLERS[sampler]
    with quiet_optuna(errors_only=True):
        proposer = _Sampled(space, entry, entry.make(int(rng.integers(2**31))))
    return Adapted(space, rng, proposer, startup=entry.startup, many=not entry.only)


class _Sampled:
    """A study of Optuna in memory, made when the number of objectives is known."""

    def __init__(self, space: SearchSpace, entry: SamplerEntry, sampler: BaseSampler) -> None:
        self._parameters = Parameters(space, flat=not entry.conditions, keyed=entry.only)
        self._entry, self._sampler, self._ruled = entry, sampler, bool(space.constraints) and not entry.only
        self._study: optuna.Study | None = None
        self._described: set[frozenset[tuple[str, object]]] = set()
        self._sum, self._told = np.zeros(1), 0

    def propose(self) -> Proposal | None:
        if self._study is None:
            return None
        with quiet_optuna(errors_only=True):
            trial = self._study.ask()
            return Proposal(self._parameters.read(_suggesting(trial)), trial)

    def tell(self, token: Trial, losses: Floats) -> None:
        self._sum, self._told = self._sum + losses, self._told + 1
        self._finish(token, losses, -1)

    def drop(self, token: Trial, broken: int) -> None:
        self._finish(token, self._sum / self._told if broken and self._ruled else None, broken)

    def learn(self, arch: Architecture, losses: Floats) -> None:
        with quiet_optuna(errors_only=True):
            if self._study is None:
                self._study = optuna.create_study(directions=["minimize"] * len(losses), sampler=self._sampler)
            self._study.enqueue_trial(self._parameters.written(arch))
            trial = self._study.ask()
            self._parameters.read(_suggesting(trial))
            if isinstance(self._sampler, BaseGASampler):
                _ = trial.relative_params  # makes the trial one of the generation
        self.tell(trial, losses)

    def _finish(self, trial: Trial, losses: Floats | None, broken: int) -> None:
        assert self._study is not None
        description = frozenset(trial.params.items())
        repeated = description in self._described and not self._entry.again
        with quiet_optuna(errors_only=True):
            if losses is None or repeated:
                self._study.tell(trial, state=TrialState.FAIL)
                return
            self._described.add(description)
            if self._ruled:
                trial.set_constraint(RULES, float(broken))
            self._study.tell(trial, losses.tolist())


def suggest(trial: Trial, space: SearchSpace) -> Architecture:
    """The architecture that a trial of Optuna, with any sampler, is to try: its parameters are suggested, and stand in the study.

    Args:
        trial: what the objective is given.
        space: the space; only choices that exist are suggested.

    Raises:
        ValueError: the parameters break a constraint of the space. `StrategySampler` never does.
    """
    return space.architecture(Parameters(space).read(_suggesting(trial)))


def _suggesting(trial: Trial) -> Answer:
    def answer(parameter: Parameter) -> object:
        if parameter.ordered:
            return trial.suggest_int(parameter.name, 0, len(parameter.values) - 1)
        if parameter.values:
            return trial.suggest_categorical(parameter.name, parameter.values)  # type: ignore[arg-type]
        return trial.suggest_float(parameter.name, 0, 1)

    return answer
