"""Trials of another run that a search starts with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estimators import METRICS
from nas.scoring.costs import Scorer
from nas.scoring.outcome import tried
from nas.study import SEARCH, RunConfig, Study, Trial, journal_of, read_record, recorded_config, whole
from pruners.progress import silent
from search_spaces import Architecture, SearchSpace

ORIGIN = "origin"
"""The note of an inherited trial: the folder that it comes from."""


def inherit(study: Study, allowed: SearchSpace, costs: Scorer) -> None:
    """Write down the trials of the run in `start_from`, failed ones too, that are architectures of this run; once.

    Those of another space, of other exact costs here, or beyond the limits are left out, with a warning that counts them.

    Args:
        study: of this run.
        allowed: the part of its space that is searched.
        costs: gives exact costs.

    Raises:
        ValueError: figures of that run do not compare with those of this one.
    """
    if study.config.start_from is None:
        return
    folder = Path(study.config.start_from)
    check_compares(study.config, study.record["data"])
    known, path = tried(study), folder / "journal.log"
    journal = journal_of(folder)
    with whole(path):
        theirs = [*journal.trials(SEARCH), *journal.trials(SEARCH, failed=True)]
    left_out = 0
    for trial in theirs:
        arch = _same(trial, allowed, costs, study)
        if arch is None:
            left_out += 1
        elif arch.key not in known:
            notes = {name: v for name, v in trial.user_attrs.items() if name not in ("architecture", "label")}
            study.add(SEARCH, arch, trial.values, {ORIGIN: str(folder), **notes})
    if left_out:
        warnings.warn(
            f"{left_out} of {len(theirs)} trials of {folder} are no architectures of {study.space.name!r} as it is searched here, and "
            "are left out",
            stacklevel=3,
        )


def inherited(study: Study) -> list[Trial]:
    """The trials that a run started with."""
    return [trial for trial in tried(study).values() if ORIGIN in trial.user_attrs]


def check_compares(ours: RunConfig, data: Mapping[str, Any] | None) -> None:
    """Raise ValueError unless figures of the run in `start_from` mean what those of this run do; `data` has its `fingerprint`."""
    assert ours.start_from is not None
    folder = Path(ours.start_from)
    if not (folder / "run.yaml").exists():
        raise ValueError(f"`start_from` must be a run folder, got {folder}, which has no run.yaml")
    theirs = recorded_config(folder)
    different = [name for name in ("objectives", "evaluate", "task") if getattr(theirs, name) != getattr(ours, name)]
    recorded = read_record(folder)["data"]
    if (data or {}).get("fingerprint") != (recorded or {}).get("fingerprint"):
        different.append("data")
    if ours.measured and not _same_training(theirs, ours, folder):
        different.append("supernets" if ours.supernets.count else "training")
    if different:
        raise ValueError(
            f"`start_from` must be a run whose figures compare with those of this one, got {folder} with other "
            f"{' and '.join(different)}; use the same, for supernets by `supernet`"
        )


def _same_training(theirs: RunConfig, ours: RunConfig, folder: Path) -> bool:
    """Whether accuracies come from the same supernets, or each from the same training."""
    if ours.worth != theirs.worth:
        return False
    if not ours.supernets.count:
        return not theirs.supernets.count and theirs.supernets.training == ours.supernets.training
    source = ours.supernets.source
    return source is not None and (Path(source).resolve() == folder.resolve() or source == theirs.supernets.source)


def _same(trial: Trial, allowed: SearchSpace, costs: Scorer, study: Study) -> Architecture | None:
    """The architecture of another run's trial here, if it is one and costs the same."""
    try:
        choices = trial.user_attrs["architecture"]["choices"]
        arch = allowed.from_json(choices)
        if arch.to_json()["choices"] != choices or not allowed.keeps(arch):
            return None
        (found,) = costs([arch], silent)
    except (ValueError, KeyError, TypeError):
        return None
    told = dict(trial.user_attrs)
    if trial.values:
        told |= dict(zip((objective.name for objective in study.objectives), trial.values, strict=True))
    return arch if all(told.get(name, found[name]) == found[name] for name in METRICS if name in found) else None
