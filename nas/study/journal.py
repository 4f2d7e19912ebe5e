"""Trials on disk: an Optuna journal, one appended line per event, so that optuna-dashboard and Optuna itself can read it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.objectives import Objective
from search_spaces import Architecture, SearchSpace
from search_spaces.core import first_line


class Journal:
    """Finished trials by study name.

    Args:
        path: the journal file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._storage = JournalStorage(JournalFileBackend(str(path)))

    def create(self, name: str, objectives: Sequence[Objective]) -> None:
        """Make the study of that name, unless it is there."""
        if name in self._names():
            return
        directions = [
            StudyDirection.MAXIMIZE if objective.higher_is_better else StudyDirection.MINIMIZE
            for objective in objectives
        ]
        with _quiet():
            study = optuna.create_study(study_name=name, storage=self._storage, directions=directions)
            study.set_metric_names([objective.name for objective in objectives])

    def add(
        self,
        name: str,
        space: SearchSpace,
        arch: Architecture,
        values: Sequence[float] | None,
        notes: Mapping[str, Any],
    ) -> FrozenTrial:
        """Append one finished trial, or one that failed, without values; it is on disk when this returns."""
        columns = {column.name: column for column in space.columns}
        params = {key: value for key, value in space.column_values(arch).items() if value is not None}
        trial = optuna.trial.create_trial(
            params=params,
            distributions={key: CategoricalDistribution(columns[key].values) for key in params},  # type: ignore[arg-type]
            values=None if values is None else list(values),
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            user_attrs={"architecture": arch.to_json(), "label": space.label(arch), **notes},
        )
        self._study(name).add_trial(trial)
        return trial

    def trials(self, name: str, *, failed: bool = False) -> list[FrozenTrial]:
        """Every finished or every failed trial of a study, in the order they were added; none if there is no such study."""
        state = TrialState.FAIL if failed else TrialState.COMPLETE
        return self._study(name).get_trials(deepcopy=False, states=(state,)) if name in self._names() else []

    def _names(self) -> list[str]:
        return optuna.get_all_study_names(self._storage)

    def _study(self, name: str) -> optuna.Study:
        return optuna.load_study(study_name=name, storage=self._storage)


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def repair(path: Path) -> None:
    """Drop a last line and a lock that a killed process left behind. Only for whoever holds the run folder's own lock.

    Raises:
        ValueError: another line is damaged, which no interruption explains.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if _whole(line):
            continue
        if number < len(lines):
            raise ValueError(
                f"line {number} of {path} is damaged; restore the file, or delete that line to lose its trial"
            )
        warnings.warn(f"the last line of {path} was cut short and is dropped; its trial will be repeated", stacklevel=2)
        with open(path, "rb+") as file:
            file.truncate(sum(map(len, lines[:-1])))


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn whatever a damaged line of a journal leads to, in Optuna or behind it, into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # Optuna replays lines as they come, and raises whatever they lead to
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {first_line(error)}); bring it back, or delete the line to lose its trial"
        ) from error


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
