"""What a search has spent of its budget, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import inf

from nas.objectives import Growth
from nas.scoring.contract import contract
from nas.scoring.outcome import WORST, losses_of
from nas.scoring.race import EXAMPLES
from nas.scoring.rungs import STOPPED
from nas.scoring.weights import JUDGED
from nas.study import Study, Trial

OF_TRAINING = 3
"""Macs of a step of training as a multiple of those of a prediction: the gradients of inputs and of weights take as many each."""


class Budget:
    """What told trials have spent.

    Args:
        study: of the run.

    Attributes:
        seconds: of evaluating, added up over workers.
        macs: of the networks that were tried, times the examples that they computed with.
        stopped: whether a callback asked for the end.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.config = study, study.config.budget
        self.seconds, self.macs, self.stopped = 0.0, 0.0, False
        self._growth = Growth()

    def start(self, trials: Sequence[Trial]) -> None:
        """Trials of another run, which no budget counts; growth is beyond what they found."""
        self._take(trials)
        self._growth.since = 0

    def tell(self, trials: Sequence[Trial]) -> None:
        """Trials that are over, in the order that the strategy is told of them."""
        self.seconds += sum(trial.user_attrs["seconds"] for trial in trials)
        if self.config.macs is not None:
            self.macs += sum(map(self.spent_by, trials))
        self._take(trials)

    @property
    def why(self) -> str | None:
        """Why the search ends; None where it goes on."""
        config = self.config
        if self.stopped:
            return "a callback stopped it"
        if self.seconds >= (config.seconds or inf):
            return f"{config.seconds:g} seconds were spent"
        if self.macs >= (config.macs or inf):
            return f"{config.macs:g} macs were spent"
        if self._growth.since >= (config.patience or inf):
            return f"the hypervolume has not grown in {config.patience} trials"
        return None

    @property
    def ahead(self) -> float:
        """Trials that may be asked for before growth can end the search."""
        return inf if self.config.patience is None else max(1, self.config.patience - self._growth.since)

    def spent_by(self, trial: Trial) -> float:
        """Macs that a trial took: those of its network times its examples, or what a function that evaluates gives as `macs_spent`."""
        notes = trial.user_attrs
        if "macs_spent" in notes:
            return float(notes["macs_spent"])
        objectives = [objective.name for objective in self.study.objectives]
        macs = dict(zip(objectives, trial.values or (), strict=False)).get("macs", notes.get("macs", 0))
        judged = notes.get(EXAMPLES, self._judging)  # fewer of one that was given up in a race
        return macs * (judged + OF_TRAINING * self._training * notes.get(STOPPED, self._epochs))

    def _take(self, trials: Sequence[Trial]) -> None:
        if self.config.patience is not None and trials:
            for trial, row in zip(trials, losses_of(trials, self.study.objectives).tolist(), strict=True):
                whole = max(map(abs, row)) < WORST and STOPPED not in trial.user_attrs
                self._growth.take(row if whole else None)

    @property
    def _epochs(self) -> int:
        return self.study.config.supernets.training.epochs

    @cached_property
    def _judging(self) -> int:
        """Examples that a network is judged by; 1 where that is a function's affair."""
        if not self.study.config.measured:
            return 1
        examples = int(self.study.record["data"]["validation"])
        return min(examples, JUDGED) if self._trained else examples

    @cached_property
    def _training(self) -> int:
        """Examples of an epoch of a trial's own training; 0 where it has none."""
        own = self.study.config.measured and not self.study.config.supernets.count and not self._trained
        return int(self.study.record["data"]["train"]) if own else 0

    @property
    def _trained(self) -> bool:
        return not contract(self.study.space).trains
