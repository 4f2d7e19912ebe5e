"""NNI's tuners as strategies."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from nas.objectives import Floats
from nas.strategies.adapted import Adapted, Proposal
from nas.strategies.parameters import Parameter, Parameters
from nas.strategies.strategy import Strategy
from search_spaces import Architecture, SearchSpace
from search_spaces.core import quoted

Document = dict[str, Any]
MakeTuner = Callable[[Document, int], Any]


class TunerEntry(NamedTuple):
    """A tuner of NNI.

    Attributes:
        make: from a search space of NNI and a seed, ready to generate parameters.
        listens: whether it learns from results.
    """

    make: MakeTuner
    listens: bool = True


def _tpe(document: Document, seed: int) -> Any:
    from nni.algorithms.hpo.tpe_tuner import TpeTuner

    return _repeating(_given(TpeTuner(optimize_mode="minimize", seed=seed), document))


def _evolution(document: Document, seed: int) -> Any:
    """It draws its first population from a generator that takes no seed, so it draws again from one that has."""
    from nni.algorithms.hpo.evolution_tuner import EvolutionTuner

    tuner = _given(EvolutionTuner(optimize_mode="minimize"), document)
    tuner.random_state, tuner.population = np.random.RandomState(seed), []
    for _ in range(tuner.population_size):
        tuner._random_generate_individual()
    return tuner


def _random(document: Document, seed: int) -> Any:
    from nni.algorithms.hpo.random_tuner import RandomTuner

    return _repeating(_given(RandomTuner(seed=seed), document))


def _grid(document: Document, seed: int) -> Any:
    from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner

    return _given(GridSearchTuner(), document)


class _NoWalk:
    """Takes the place of what makes a tuner walk a grid from its first corner wherever it repeats itself."""

    def __call__(self, proposal: Any) -> Any:
        return proposal

    def add_history(self, proposal: Any) -> None:
        pass


def _repeating(tuner: Any) -> Any:
    tuner.dedup = _NoWalk()
    return tuner


def _given(tuner: Any, document: Document) -> Any:
    tuner.update_search_space(document)
    return tuner


TUNERS: Mapping[str, TunerEntry] = {
    "tpe": TunerEntry(_tpe),
    "evolution": TunerEntry(_evolution),
    "random": TunerEntry(_random, listens=False),
    "grid": TunerEntry(_grid, listens=False),
}
"""By name, each with its own defaults."""

UNUSABLE: Mapping[str, str] = {
    "gp": "NNI's GP tuner hands scipy a starting point of two dimensions, which scipy refuses since 1.11",
    "metis": "NNI's Metis tuner hands scipy a starting point of two dimensions, which scipy refuses since 1.11",
    "anneal": "NNI's Anneal tuner needs hyperopt 0.1.2, which does not run beside today's networkx and numpy",
}
"""Tuners that are asked for and do not run, and why."""


def nni_strategy(space: SearchSpace, rng: np.random.Generator, *, tuner: str = "tpe") -> Strategy:
    """A tuner of NNI 3.0 as a strategy.

    Args:
        space: what to search.
        rng: the strategy's own generator; the tuner's seed is drawn from it.
        tuner: a name in `TUNERS`.

    Reference: Microsoft, Neural Network Intelligence 3.0, 2023; its TPE is that of Bergstra et al., "Algorithms for Hyper-Parameter
    Optimization", NeurIPS 2011, its Evolution that of Real et al., "Large-Scale Evolution of Image Classifiers", ICML 2017.
    Differs: architectures come once, and what breaks a rule of the space is no trial; where TPE and Random repeat themselves they draw
    again, and walk no grid. Tuners see all choices, also those that do not
    exist. They take one objective; of several they are told the share of architectures told before that dominate.
    """
    entry = TUNERS[tuner]
    proposer = _Tuned(space, entry, int(rng.integers(2**31)))
    return Adapted(space, rng, proposer, many=False, listens=entry.listens)


class _Tuned:
    """A tuner that is asked and told in this process, without an experiment of NNI's."""

    def __init__(self, space: SearchSpace, entry: TunerEntry, seed: int) -> None:
        from nni import NoMoreTrialError  # before `_alone`, as importing it sets up its log

        self._none_left = NoMoreTrialError
        self._parameters = Parameters(space, flat=True)
        self._asked = 0
        self._random = random.Random(seed).getstate()
        document = {parameter.name: _specification(parameter) for parameter in self._parameters.all}
        with self._alone():
            self._tuner: Any = entry.make(document, seed) if document else None

    def propose(self) -> Proposal | None:
        if self._tuner is None:
            return None
        number, self._asked = self._asked, self._asked + 1
        with self._alone():
            try:
                given = self._tuner.generate_parameters(number)
            except self._none_left:
                return None
            except RuntimeError as error:
                if "population is empty" not in str(error):  # of NNI's Evolution, when all of it is tried at once
                    raise
                return None
        return None if given is None else Proposal(self._parameters.read(self._checked(given)), (number, given))

    def tell(self, token: Any, losses: Floats) -> None:
        assert self._tuner is not None
        with self._alone():
            self._tuner.receive_trial_result(*token, float(losses[0]))

    def drop(self, token: Any, broken: int) -> None:
        assert self._tuner is not None
        with self._alone():
            self._tuner.trial_end(token[0], False)

    def learn(self, arch: Architecture, losses: Floats) -> None:
        if self._tuner is not None:
            with self._alone():
                self._tuner.import_data([{"parameter": self._parameters.written(arch), "value": float(losses[0])}])

    def _checked(self, given: object) -> Callable[[Parameter], object]:
        def answer(parameter: Parameter) -> object:
            value = given.get(parameter.name) if isinstance(given, Mapping) else None
            if parameter.values:
                inside = any(value == known and type(value) is type(known) for known in parameter.values)
            else:
                inside = isinstance(value, (int, float)) and 0 <= value <= 1
            if not inside:
                allowed = f"one of {quoted(list(parameter.values))}" if parameter.values else "a number from 0 to 1"
                raise ValueError(
                    f"{type(self._tuner).__name__} of NNI must propose {allowed} for {parameter.name!r}, got {quoted(value)}, which is "
                    "outside the search space; take another strategy"
                )
            return value

        return answer

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Random numbers of its own, as NNI's Evolution draws from those of the whole process; and no lines of its log."""
        before, log = random.getstate(), logging.getLogger("nni")
        level = log.level
        random.setstate(self._random)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(before)
            log.setLevel(level)


def _specification(parameter: Parameter) -> Document:
    if parameter.values:
        return {"_type": "choice", "_value": list(parameter.values)}
    return {"_type": "uniform", "_value": [0.0, 1.0]}
