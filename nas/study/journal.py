"""Trials on disk: an Optuna journal, one appended line per event, so that optuna-dashboard and Optuna itself can read it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import optuna
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas.objectives import Objective
from nas.runtime import quiet_optuna
from nas.study.chain import AFTER, CREATE_STUDY, DIGEST, Chain, End
from search_spaces import Architecture, SearchSpace
from search_spaces.core import first_line

CREATE_TRIAL = 4
OVER = (TrialState.COMPLETE, TrialState.FAIL)
NO_TRIALS = (2, 3, 10)
"""What Optuna writes that changes no trial: attributes of studies, and marks of its own."""


class Trial(NamedTuple):
    """A trial that is over.

    Attributes:
        values: of the objectives, in their order; None of a trial that failed.
        user_attrs: `architecture` as `Architecture.to_json` gives it, `label`, and notes.
        ended: when it was written down, as ISO 8601; None where the journal does not say.
    """

    values: list[float] | None
    user_attrs: dict[str, Any]
    ended: str | None = None


class New(NamedTuple):
    """A trial to write down; one that failed has no values."""

    arch: Architecture
    values: Sequence[float] | None
    notes: Mapping[str, Any]


@dataclass
class _Trials:
    """The trials of one study, in the order they were added."""

    number: int
    finished: list[Trial] = field(default_factory=list)
    failed: list[Trial] = field(default_factory=list)

    def take(self, trial: Trial) -> None:
        (self.failed if trial.values is None else self.finished).append(trial)


class Journal:
    """Finished trials by study name. Each line of the file is read once; what another process appends is seen by the next call.

    Args:
        path: the journal file; made if it is not there.
        end: what a session left in it; reading less is a ValueError, as is a trial whose seal does not hold.
    """

    def __init__(self, path: Path, end: End | None = None) -> None:
        self.path = path
        self._chain = Chain(path, end)
        self._file = JournalFileBackend(str(path))
        self._worker = str(uuid4())
        self._studies: dict[str, _Trials] = {}
        self._at = 0
        self._replayed: JournalStorage | None = None

    def create(self, name: str, objectives: Sequence[Objective]) -> None:
        """Make the study of that name, unless it is there."""
        if name in self._studies or name in self._read():
            return
        directions = [
            StudyDirection.MAXIMIZE if objective.higher_is_better else StudyDirection.MINIMIZE
            for objective in objectives
        ]
        with quiet_optuna():
            study = optuna.create_study(study_name=name, storage=self._replay(), directions=directions)
            study.set_metric_names([objective.name for objective in objectives])
        self._read()

    def add(self, name: str, space: SearchSpace, new: Sequence[New]) -> list[Trial]:
        """Append trials to a study that is there; all are on disk when this returns, by one write.

        Raises:
            KeyError: there is no such study.
        """
        number = (self._studies if name in self._studies else self._read())[name].number
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        trials = [
            Trial(
                None if values is None else list(values),
                {"architecture": arch.to_json(), "label": space.label(arch), **notes},
                now,
            )
            for arch, values, notes in new
        ]
        events = [self._event(number, space, each.arch, trial) for each, trial in zip(new, trials, strict=True)]
        if events:
            sealed = self._chain.sealed(name, events)
            self._file.append_logs(sealed)
            self._chain.last = sealed[-1][DIGEST]
        return trials

    def trials(self, name: str, *, failed: bool = False) -> list[Trial]:
        """Every finished or every failed trial of a study, in the order they were added; none if there is no such study."""
        found = self._read().get(name)
        return [] if found is None else list(found.failed if failed else found.finished)

    def end(self) -> End | None:
        """What it holds now; None without a trial that has a seal."""
        self._read()
        return self._chain.reached

    def _event(self, number: int, space: SearchSpace, arch: Architecture, trial: Trial) -> dict[str, Any]:
        """What Optuna writes of a trial that is added to its study of that number when it is over; it started its seconds before."""
        assert trial.ended is not None
        started = datetime.fromisoformat(trial.ended) - timedelta(seconds=trial.user_attrs.get("seconds", 0))
        chosen = {column: code for column, code in zip(space.columns, space.codes(arch), strict=True) if code >= 0}
        single = trial.values[0] if trial.values is not None and len(trial.values) == 1 else None
        return {
            "op_code": CREATE_TRIAL,
            "worker_id": self._worker,
            "study_id": number,
            "datetime_start": started.isoformat(timespec="microseconds"),
            "state": TrialState.FAIL if trial.values is None else TrialState.COMPLETE,
            "value": single,
            "values": trial.values if single is None else None,
            "datetime_complete": trial.ended,
            "distributions": {column.name: _distribution(column.values) for column in chosen},
            "params": {column.name: code for column, code in chosen.items()},
            "user_attrs": trial.user_attrs,
            "system_attrs": {},
            "intermediate_values": {},
        }

    def _read(self) -> Mapping[str, _Trials]:
        """The studies, with what was appended since the last call; a last line that is still being written waits."""
        with open(self.path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                event = self._chain.read(line)
                self._at += len(line)
                if self._replayed is None and not self._take(event):
                    self._replayed = self._replay()
        self._chain.check_end()
        if self._replayed is not None:
            self._studies = _studies_of(self._replayed)
        return self._studies

    def _take(self, event: Mapping[str, Any]) -> bool:
        """Whether an event was understood: what ends or changes trials that were not over, or deletes them, is left to Optuna."""
        kind = event["op_code"]
        if kind == CREATE_STUDY:
            self._studies.setdefault(event["study_name"], _Trials(len(self._studies)))
        elif kind == CREATE_TRIAL and event.get("state") in OVER:
            single = event["value"]
            values = event["values"] if single is None else [single]
            trial = Trial(values, event["user_attrs"], event.get("datetime_complete"))
            for study in self._studies.values():
                if study.number == event["study_id"]:
                    study.take(trial)
        return kind in (CREATE_STUDY, CREATE_TRIAL, *NO_TRIALS)

    def _replay(self) -> JournalStorage:
        return JournalStorage(JournalFileBackend(str(self.path)))


@lru_cache
def _distribution(values: tuple[Any, ...]) -> str:
    """A column's values as Optuna writes them, which numbers them as the column does."""
    return distribution_to_json(CategoricalDistribution(values))


def _studies_of(storage: JournalStorage) -> dict[str, _Trials]:
    """The studies of a journal that others wrote to as well, as Optuna replays it."""
    studies = {}
    for study in storage.get_all_studies():
        studies[study.study_name] = found = _Trials(study._study_id)
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=OVER):
            ended = None if trial.datetime_complete is None else trial.datetime_complete.isoformat()
            found.take(Trial(trial.values, trial.user_attrs, ended))
    return studies


def repair(path: Path) -> bool:
    """Drop a last line and a lock that a killed process left behind. Only for whoever holds the run folder's own lock.

    Returns:
        Whether a line was dropped.

    Raises:
        ValueError: another line is damaged, which no interruption explains.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return False
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if _whole(line):
            continue
        if number < len(lines):
            raise ValueError(
                f"line {number} of {path} is damaged; restore the file, or delete that line, and `{AFTER}` from the next, to lose its "
                "trial"
            )
        warnings.warn(f"the last line of {path} was cut short and is dropped; its trial will be repeated", stacklevel=2)
        with open(path, "rb+") as file:
            file.truncate(sum(map(len, lines[:-1])))
        return True
    return False


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn whatever a damaged line of a journal leads to, in Optuna or behind it, into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # Optuna replays lines as they come, and raises whatever they lead to
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {first_line(error)}); bring it back, or delete the line to lose its trial"
        ) from error


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
