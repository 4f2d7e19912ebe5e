"""A trial's outcome: figures, or failed with a reason; and what strategies are told of either."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from nas.engines import Late
from nas.objectives import Floats, Objective, losses, worst_if_nan
from nas.scoring.costs import Figures, Scorer
from nas.scoring.rungs import STOPPED, at_rung
from nas.study import SEARCH, New, Study, Trial, whole
from pruners.progress import Progress
from search_spaces import Architecture
from search_spaces.core import first_line

WORST = 1e30
"""What strategies are told of an architecture without a value of an objective: finite, and worse than any."""


def score(archs: Sequence[Architecture], scorers: Sequence[Scorer], progress: Progress) -> list[Figures]:
    """Figures of each architecture, or the `reason` why it has none, with the seconds that they took, shared evenly.

    Raises:
        Late: it takes longer than it may.
    """
    if not archs:
        return []
    started = time.perf_counter()
    merged: list[Figures] = [{} for _ in archs]
    try:
        for scorer in scorers:
            for figures, more in zip(merged, scorer(archs, progress), strict=True):
                figures |= more
    except Late:
        raise
    except Exception as error:
        if len(archs) > 1:  # which of them it was
            return [outcome for arch in archs for outcome in score([arch], scorers, progress)]
        merged = [{"reason": reason(error)}]
    seconds = round((time.perf_counter() - started) / len(archs), 4)
    return [{**figures, "seconds": seconds} for figures in merged]


def reason(why: str | BaseException) -> str:
    """Why a trial failed, in a line that no terminal takes for anything else."""
    said = why if isinstance(why, str) else f"{type(why).__name__}: {first_line(why)}"
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def add(study: Study, archs: Sequence[Architecture], outcomes: Sequence[Figures]) -> list[Trial]:
    """Write down trials: failed if its outcome has a `reason`. A figure that is missing or NaN counts as worse than any."""
    return study.add_all(SEARCH, [new_trial(study, *each) for each in zip(archs, outcomes, strict=True)])


def new_trial(study: Study, arch: Architecture, outcome: Figures) -> New:
    """What is written down of an architecture's outcome."""
    if "reason" in outcome:
        return New(arch, None, outcome)
    names = [objective.name for objective in study.objectives]
    values = [worst_if_nan(outcome[objective.name], objective) for objective in study.objectives]
    return New(arch, values, {name: value for name, value in outcome.items() if name not in names})


def tried(study: Study) -> dict[str, Trial]:
    """Trials by architecture, finished or failed."""
    with whole(study.journal_path):
        trials = [*study.journal.trials(SEARCH), *study.journal.trials(SEARCH, failed=True)]
        return {study.architecture(trial).key: trial for trial in trials}


def losses_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Floats:
    """What a strategy is told of trials, shape (trials, objectives).

    A trial that was stopped early counts as what it had reached. It was stopped for having less there than others, and with more
    epochs it would have had no less, so to strategies, which need an order, that is a fair lower bound; no table or front has it.
    """
    worst = [-WORST if objective.higher_is_better else WORST for objective in objectives]
    return losses(np.clip([_reached(trial, objectives) or worst for trial in trials], -WORST, WORST), objectives)


def _reached(trial: Trial, objectives: Sequence[Objective]) -> list[float] | None:
    notes = trial.user_attrs
    if trial.values is None or STOPPED not in notes:
        return trial.values
    found = [notes.get(at_rung(objective.name, notes[STOPPED]), math.nan) for objective in objectives]
    return [now if math.isfinite(now) else value for now, value in zip(found, trial.values, strict=True)]


def tell_missing(study: Study) -> None:
    """Warn of failed trials, and of architectures without a value of an objective, which no front has; an error where all are such."""
    trials, failed = study.trials, study.failed
    if len(failed):
        first = failed.iloc[0]
        text = (
            f"{len(failed)} of {len(failed) + len(trials)} trials failed, such as {first['label']}: {first['reason']}"
        )
        if trials.empty:
            raise ValueError(f"{text}; mend what fails, and search in another folder")
        warnings.warn(f"{text}; failed.csv names them", stacklevel=3)
    whole = trials[trials[STOPPED].isna()] if STOPPED in trials else trials
    for objective in study.objectives:
        missing = int(whole[objective.name].isna().sum())
        text = f"{missing} of {len(whole)} architectures have no {objective.name}"
        if missing == len(whole):
            raise ValueError(f"{text}; search for another objective in another folder")
        if missing:
            warnings.warn(f"{text}; they are left out of the front", stacklevel=3)


def numbers(found: object, wanted: Sequence[str], source: str) -> Figures:
    """Figures by name of what a user's code gave: numbers by name, or one number where one is wanted; NaN for what is missing.

    Raises:
        ValueError: they are no numbers; `source` names who gave them.
    """
    if not isinstance(found, Mapping):
        if len(wanted) != 1:
            raise ValueError(f"{source} must give figures by name, {', '.join(wanted)}, got {found!r}")
        found = {wanted[0]: found}
    return {name: math.nan for name in wanted} | {
        str(name): _number(name, value, source) for name, value in found.items()
    }


def _number(name: object, value: object, source: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{source} must give numbers by name, got {name}={value!r}") from None
