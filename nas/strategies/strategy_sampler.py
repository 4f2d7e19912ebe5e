"""Our strategies for those whose loop is Optuna's."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.runtime import stream
from nas.strategies.named import make_strategy
from nas.strategies.parameters import Parameters
from search_spaces import Architecture, SearchSpace
from search_spaces.core import unknown_name


class _Asked(NamedTuple):
    """An architecture that a trial is to try, and what it says by the names of choices and of parameters."""

    arch: Architecture
    known: Mapping[str, object]


class StrategySampler(BaseSampler):
    """A sampler of Optuna that takes its trials from a strategy of ours.

    Each trial has an architecture of its own, none twice. The objective takes it by `suggest(trial, space)`, or suggests each choice
    that exists by its own name, as with any sampler; distributions have to hold the values. Other parameters, of training for one,
    are left to `others`. When every architecture was tried, `Study.optimize` ends.

    The strategy learns from all trials of the study that say an architecture, whoever made them: those of other processes, those
    enqueued, and those there were before. Trials that fail, are pruned or have infinite values tell it nothing, and are not tried
    again. Processes that share a study propose each on its own.

    Args:
        space: what to search.
        strategy: one of `STRATEGIES`.
        seed: decides what the strategy draws.
        others: draws parameters that are not of the space; without it they are refused.

    Raises:
        ValueError: no strategy has that name, or it needs a package that is missing.

    Example:
        >>> sampler = StrategySampler(space, "nsga2", seed=1)
        >>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        >>> study.optimize(lambda trial: accuracy_and_macs(suggest(trial, space)), n_trials=100)
    """

    def __init__(
        self, space: SearchSpace, strategy: str = "nsga2", *, seed: int = 0, others: BaseSampler | None = None
    ) -> None:
        self.space, self._others = space, others
        self._strategy = make_strategy(strategy, space, stream(seed, "strategy"))
        self._parameters = Parameters(space)
        self._lock = threading.RLock()
        self._asked: dict[int, _Asked] = {}  # by the number of the trial, until it ends
        self._next: Architecture | None = None
        self._told: set[Architecture] = set()
        self._over: set[int] = set()  # trials that ended and stand at or behind the first that had not
        self._first = 0  # all trials before this one ended

    def reseed_rng(self) -> None:
        """Nothing of the strategy's, which threads share."""
        if self._others is not None:
            self._others.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: which choices exist depends on the architecture."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """None, as none are inferred."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What the trial's architecture says.

        Raises:
            ValueError: every architecture was proposed, the space has no such choice, the architecture does not have it, or the
                distribution does not hold its value.
        """
        if param_name not in self._parameters.names:
            if self._others is None:
                raise unknown_name(f"choice of {self.space.name!r}", param_name, self._parameters.names)
            return self._others.sample_independent(study, trial, param_name, param_distribution)
        with self._lock:
            asked = self._asked_for(trial)
        if param_name not in asked.known:
            raise ValueError(
                f"{param_name!r} does not exist in the architecture of trial {trial.number}, {self.space.label(asked.arch)}; suggest "
                "only choices that exist, as `suggest(trial, space)` does"
            )
        value = asked.known[param_name]
        if not _holds(param_distribution, value):
            raise ValueError(
                f"the distribution of {param_name!r} must hold all values of the choice, got {param_distribution}, and "
                f"trial {trial.number} has {value!r}; use the values of the space, as `suggest(trial, space)` does"
            )
        return value

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the strategy of what ended meanwhile."""
        if self._others is not None:
            self._others.before_trial(study, trial)
        with self._lock:
            trials = study.get_trials(deepcopy=False)
            for other in trials[self._first :]:
                if other.state.is_finished() and other.number not in self._over:
                    self._learn(study, other, other.state, other.values)
            while self._first in self._over:
                self._over.remove(self._first)
                self._first += 1

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the strategy, and end `Study.optimize` where nothing is left to propose."""
        if self._others is not None:
            self._others.after_trial(study, trial, state, values)
        with self._lock:
            self._learn(study, trial, state, values)
            self._next = self._next or self._ask()
            if self._next is None:
                with suppress(RuntimeError):  # the loop is one's own
                    study.stop()

    def _asked_for(self, trial: FrozenTrial) -> _Asked:
        """What a trial that runs is to try; it is asked for when it is first needed, as an enqueued trial may need none."""
        if trial.number not in self._asked:
            arch, self._next = self._next or self._ask(), None
            if arch is None:
                raise ValueError(
                    f"every architecture of {self.space.name!r} was proposed; end the study, or widen the space"
                )
            self._asked[trial.number] = _Asked(arch, self._parameters.written(arch) | dict(arch))
        return self._asked[trial.number]

    def _ask(self) -> Architecture | None:
        return next(iter(self._strategy.ask(1)), None)

    def _learn(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._over.add(trial.number)
        arch = self._tried(trial.params, self._asked.pop(trial.number, None))
        if arch is None or arch in self._told or state != TrialState.COMPLETE or values is None:
            return
        losses = [
            -value if direction == StudyDirection.MAXIMIZE else value
            for value, direction in zip(values, study.directions, strict=True)
        ]
        if np.isfinite(losses).all():
            self._told.add(arch)
            self._strategy.tell([arch], [losses])

    def _tried(self, params: Mapping[str, object], asked: _Asked | None) -> Architecture | None:
        """The architecture that parameters say; where they say no whole one, what was asked for the trial, if they agree."""
        try:
            values = self._parameters.found(params)
            if values is not None:
                return self.space.architecture(values)
        except ValueError:
            return None
        agree = asked is not None and all(asked.known.get(name, value) == value for name, value in params.items())
        return asked.arch if asked is not None and agree else None


def _holds(distribution: BaseDistribution, value: object) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    if not isinstance(value, (int, float)) or not distribution.low <= value <= distribution.high:
        return False
    return not distribution.step or (value - distribution.low) % distribution.step == 0
