"""The loop of a search: ask the strategy, let workers score, write down, tell the strategy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from math import ceil, inf
from typing import Any

from nas.engines import Workers
from nas.runtime import stream
from nas.scoring import (
    Budget,
    Halving,
    Race,
    Races,
    Scored,
    Scorer,
    SharedStrategy,
    Trials,
    add,
    allowed,
    contract,
    inherit,
    inherited,
    known,
    losses_of,
    tell_missing,
    tried,
)
from nas.strategies import SMALL, STRATEGIES, Strategy, make_strategy
from nas.study import SharedStudy, Study
from pruners.progress import Progress
from search_spaces import Architecture, SearchSpace

Callback = Callable[[Study, Mapping[str, Any]], object]
"""Called with the study and what `Study.trials` says of a trial that was just written down, or `Study.failed` of a failed one.

The search ends where it returns True; what is being scored is finished first. Trials that a journal already holds are not told again.
"""
AT_ONCE = 64
"""Trials at most that are asked for together, where no supernet scores them."""
SHARES = 4
"""Jobs for each of several workers that trials are cut into which a supernet scores together."""


def propose(
    study: Study,
    space: SearchSpace,
    costs: Sequence[Scorer],
    workers: Workers | None,
    progress: Progress,
    shared: SharedStudy | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Ask the strategy, score, tell, until the budget is spent or nothing is left to propose.

    The journal is a memory of scores: a search that goes on asks the strategy from the start, and only what the journal does not
    know is scored. So the strategy ends in the same state, and no trial is lost or doubled. Of a trained model the strategy is told
    of the uniformly pruned ones first, and before of the trials of another run that it starts with, which no budget counts.

    Of a study that others search as well, architectures are claimed before they are scored, and theirs are told as they are found.

    What a trial raises, and what takes longer than it may, makes it a failed one, which the strategy is told of as worse than any; it
    is not tried again.

    Args:
        study: the run.
        space: the part of its space that is searched, before limits.
        costs: scorers of this process, which give what limits are set on.
        workers: give the rest, by `score` of their state; None where costs are all.
        progress: told about trials.
        shared: the study that others search as well, if any.
        callbacks: called after each trial that this run scores; see `Callback`.

    Raises:
        ValueError: no architecture is found to keep the limits, or too many trials failed in a row.
    """
    config, kept = study.config, contract(study.space)
    space = allowed(study, space, costs)
    strategy = make_strategy(config.strategy, space, stream(config.seed, "strategy"), known(study, costs))
    inherit(study, space, kept.costs)
    budget, first = Budget(study), inherited(study)
    budget.start(first)
    there = {study.architecture(trial) for trial in first}
    if first:
        strategy.tell([study.architecture(trial) for trial in first], losses_of(first, study.objectives))
    start = [arch for arch in kept.start() if space.keeps(arch) and arch not in there]
    expected = min(config.budget.trials or space.raw_size, space.raw_size - len(first))
    among = None if shared is None else SharedStrategy(study, shared, strategy, start, expected, budget)
    halving = None if config.halving.way == "none" else Halving(study)
    if halving is not None:
        halving.tell([study.architecture(trial) for trial in first], first)
    trials = Trials(costs, workers, config.engine.trial_seconds, halving)
    search = Search(study, among or strategy, start, expected, trials, progress, budget, callbacks)
    progress("ranking", 0, expected)
    if config.engine.asynchronous:
        search.as_they_come(there)
    else:
        search.in_generations()
    progress("ranking", expected, expected)
    study.ended = budget.why or _left(study, space, search.told)
    study.log.write("search ended", {"trials": search.told}, reason=study.ended)
    tell_missing(study)


def _left(study: Study, space: SearchSpace, told: int) -> str:
    """Why a search ended whose budget of anything but trials is not spent."""
    trials = study.config.budget.trials
    if trials is not None and told >= trials:
        return f"{trials} trials were made"
    which = "that keeps the limits " if space.limited else ""
    found = "was tried" if space.raw_size <= SMALL else "was found that had not been tried"
    every = "every" if space.raw_size <= SMALL else "no other"
    return f"{every} architecture {which}{found}, {told} in all" + (
        "" if trials is None else f", fewer than {trials} trials"
    )


class Search:
    """A search at work.

    Args:
        study: the run.
        strategy: proposes, and is told.
        start: what comes before the strategy is asked.
        expected: trials at most.
        trials: scores them.
        progress: told about them.
        budget: told of them; says when to end.
        callbacks: called after each.
    """

    def __init__(
        self,
        study: Study,
        strategy: Strategy | SharedStrategy,
        start: Sequence[Architecture],
        expected: int,
        trials: Trials,
        progress: Progress,
        budget: Budget,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.study, self.strategy, self.expected = study, strategy, expected
        self.trials, self.progress = trials, progress
        self.among = strategy if isinstance(strategy, SharedStrategy) else None
        self.start = [] if self.among else list(start)  # among others it is claimed as the rest is
        self.known = tried(study)
        self.budget, self.callbacks = budget, callbacks
        self.failures, self._told, self._idle = 0, 0, False
        metrics = [metric.name for metric in study.config.measured]
        self._race: Race | None = None
        self._window = 0
        self.races = Races(study.objectives, metrics) if contract(study.space).races and metrics else None

    @property
    def told(self) -> int:
        """Trials that the strategy was told of, those of others too."""
        return self.among.told if self.among else self._told

    def in_generations(self) -> None:
        """Ask for what the strategy knows without being told, score it, tell. So trials are the same whoever scores them."""
        while self._goes_on(self.told) and (archs := self._generation()):
            self._warn_of_idle()
            new = [arch for arch in archs if arch.key not in self.known]
            over = len(archs) - len(new) + self._write(self.trials.start(new, self._share(len(new)), self._race))
            while self.trials.running:
                over += self._write(self.trials.next(self._telling(self.told + over)))
            self._tell(archs)

    def _warn_of_idle(self) -> None:
        """Say once that workers wait for a strategy which has to be told before it is asked again."""
        few = self._workers == 1 or self.expected - self.told < self._workers
        if few or self._idle or self.among or self.strategy.ahead > 1:
            return
        self._idle = True
        warnings.warn(
            f"`strategy` {self.study.config.strategy} asks for one trial at a time, so 1 of {self._workers} workers computes; give "
            "`asynchronous`, with which trials depend on who is first, or take linas or nsga2",
            stacklevel=2,
        )

    def as_they_come(self, first: Container[Architecture]) -> None:
        """Ask for the next trial as soon as a worker is free; a search that goes on tells what it knows first, but for the `first`."""
        known = [self.study.architecture(trial) for trial in self.known.values()]
        before = [] if self.among else [arch for arch in known if arch not in first]
        if before:
            self._tell(before)
        while True:
            while len(self.trials.running) < self._workers:
                asked = self.told + sum(map(len, self.trials.running.values()))
                self._race = None if self.races is None else self.races.now
                if not self._goes_on(asked) or not (archs := self._ask(self._share(self._together()), asked)):
                    break
                self._write_and_tell(self.trials.start(archs, len(archs), self._race))
            if not self.trials.running:
                return
            self._write_and_tell(self.trials.next(self._telling(self.told)))

    @property
    def _workers(self) -> int:
        return 1 if self.trials.workers is None else self.trials.workers.count

    @property
    def _by_supernet(self) -> bool:
        """Whether supernets share work between trials."""
        return self.study.config.supernets.count > 0 and self.trials.workers is not None

    def _together(self) -> int:
        """How many trials make a generation. It changes none of them, as long as it is no more than the strategy says."""
        config = self.study.config
        if self._by_supernet:
            return STRATEGIES[config.strategy].together
        if self.trials.workers is None:  # exact costs alone take less than writing them down
            at_once = AT_ONCE if len(self.trials.costs) == 1 else 1
        elif (
            self._workers == 1 or config.budget.seconds or config.budget.macs or self.among
        ):  # others go on with what is not claimed
            at_once = self._workers
        else:
            at_once = AT_ONCE
        return min(self.strategy.ahead, at_once)

    def _share(self, trials: int) -> int:
        """How many of some trials make a job."""
        if not self._by_supernet:
            return 1
        return max(trials if self._workers == 1 else ceil(trials / (SHARES * self._workers)), 1)

    def _goes_on(self, asked: int) -> bool:
        return asked < self.expected and asked - self.told < self.budget.ahead and self.budget.why is None

    def _generation(self) -> list[Architecture]:
        """What is asked for at once. In a race the trials that it is run against are the same whoever scores them."""
        if self.races is None:
            return self._ask(self._together(), self.told)
        if not self._window:
            self._race = self.races.now
            self._window = 1 if self.start else min(self.strategy.ahead, AT_ONCE)
        archs = self._ask(min(self._together(), self._window), self.told)
        self._window -= len(archs)
        return archs

    def _ask(self, n: int, asked: int) -> list[Architecture]:
        halving = self.trials.halving
        if self.start:
            archs = [self.start.pop(0)]
        else:
            ahead = inf if halving is None else halving.ahead
            archs = self.strategy.ask(
                int(min(n, self.expected - asked, self.budget.ahead - (asked - self.told), ahead))
            )
        if halving is not None:
            halving.ask(archs)
        return archs

    def _write(self, scored: Scored) -> int:
        """Write down trials; gives their number."""
        archs, outcomes = [arch for arch, _ in scored], [outcome for _, outcome in scored]
        added = self.among.add(archs, outcomes) if self.among else add(self.study, archs, outcomes)
        self.known |= zip((arch.key for arch in archs), added, strict=True)
        for row in map(self.study.row, added if self.callbacks else ()):
            self.budget.stopped |= any([callback(self.study, row) is True for callback in self.callbacks])
        most = self.study.config.budget.max_failures
        for outcome in outcomes:
            self.failures = self.failures + 1 if "reason" in outcome else 0
            if self.failures == most:
                raise ValueError(
                    f"{most} trials in a row failed, the last of them with {outcome['reason']}; mend what fails, or allow more by "
                    f"`max_failures`; {self.study.folder} keeps what was tried"
                )
        return len(scored)

    def _tell(self, archs: Sequence[Architecture]) -> None:
        trials = [self.known[arch.key] for arch in archs]
        self.strategy.tell(archs, losses_of(trials, self.study.objectives))
        if self.races is not None:
            self.races.add(trials)
        self._told += len(archs)
        self.budget.tell(trials)
        if self.trials.halving is not None:
            self.trials.halving.tell(archs, trials)
        self.progress("ranking", self.told, self.expected)

    def _write_and_tell(self, scored: Scored) -> None:
        if scored:
            self._write(scored)
            self._tell([arch for arch, _ in scored])

    def _telling(self, over: int) -> Callable[[float], None]:
        return lambda parts: self.progress("ranking", over + parts, self.expected)
