"""A study that several workers search together: who computes which architecture, and what the others found."""

from __future__ import annotations

import platform
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from os import getpid
from types import TracebackType
from typing import Any, NamedTuple
from uuid import uuid4

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.objectives import Objective
from nas.runtime import quiet_optuna
from nas.study.journal import Trial
from nas.study.storage import Storage
from search_spaces import Architecture, SearchSpace

MEANING = "nas"
"""The attribute of a study that says what its figures mean."""
NOTES, WORKER, RELEASED = "notes", "worker", "released"
"""Attributes of a trial: its figures and seconds once it is over, who has it, and whether that one gave it back."""
ATTEMPTS = 3
"""Workers that may die of an architecture before it counts as failed."""


class _Unfinished(NamedTuple):
    """A trial that is not over, of another worker; it waits until it has its first sign of life."""

    arch: Architecture
    worker: str
    waits: bool


class SharedStudy:
    """The trials of one study in a storage, for one worker. Used in a `with` statement, which gives signs of life.

    A trial is claimed under the storage's lock before it is computed, so each architecture is computed once. Claims of a worker that
    died fail, and its architectures go to whoever asks next.

    Args:
        storage: where the trials stand.
        name: of the study; made if it is not there.
        space: what its architectures are of.
        objectives: of its trials.
        meaning: what figures mean, by what decides it, such as the data.
        grace: seconds without a sign of life after which a worker counts as dead.

    Attributes:
        worker: the name of this one.
        seconds: of all trials that are over.

    Raises:
        ValueError: the study's figures mean something else.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        space: SearchSpace,
        objectives: Sequence[Objective],
        meaning: Mapping[str, Any],
        grace: int,
    ) -> None:
        self.name, self.worker = name, f"{platform.node()}-{getpid()}-{uuid4().hex[:6]}"
        self._storage, self._optuna, self._space, self._grace = storage, storage.optuna, space, grace
        self._over: dict[str, Trial] = {}
        self.seconds = 0.0
        self._unfinished: dict[int, _Unfinished] = {}  # of others
        self._given_up: dict[str, Architecture] = {}
        self._deaths: defaultdict[str, list[int]] = defaultdict(list)  # numbers of trials
        self._mine: dict[str, int] = {}
        self._found: list[Trial] = []
        self._looked = -float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        with storage.locked():
            self._id = self._made(objectives)
        self.agree(meaning)

    def _made(self, objectives: Sequence[Objective]) -> int:
        directions = [
            StudyDirection.MAXIMIZE if each.higher_is_better else StudyDirection.MINIMIZE for each in objectives
        ]
        with quiet_optuna():
            try:
                study = self._optuna.create_new_study(directions, self.name)
            except DuplicatedStudyError:
                return self._optuna.get_study_id_from_name(self.name)
            optuna.load_study(study_name=self.name, storage=self._optuna).set_metric_names(
                [each.name for each in objectives]
            )
        return study

    def agree(self, meaning: Mapping[str, Any]) -> None:
        """Write down what decides what figures mean, and what others did not.

        Raises:
            ValueError: others wrote down something else.
        """
        with self._storage.locked():
            theirs = self._optuna.get_study_user_attrs(self._id).get(MEANING)
            if theirs is None and self._optuna.get_n_trials(self._id):
                raise ValueError(f"study {self.name!r} of `storage` was made by something else; give another `study`")
            theirs = theirs or {}
            different = [name for name, value in meaning.items() if theirs.get(name, value) != value]
            if different:
                raise ValueError(
                    f"figures of study {self.name!r} do not compare with those of this search, got other {' and '.join(different)}; "
                    "use the same, for supernets by `supernet`, or give another `study`"
                )
            self._optuna.set_study_user_attr(self._id, MEANING, {**theirs, **meaning})

    def __enter__(self) -> SharedStudy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what was claimed and not finished."""
        self._stop.set()
        self._thread.join()
        for trial in self._mine.values():
            with suppress(UpdateFinishedTrialError):
                self._optuna.set_trial_user_attr(trial, RELEASED, True)
                self._optuna.set_trial_state_values(trial, TrialState.FAIL)
        self._storage.close()

    @property
    def over(self) -> Mapping[str, Trial]:
        """The trials that are finished, or failed for a reason of their own, by architecture."""
        return self._over

    @property
    def computing(self) -> bool:
        """Whether this worker has trials that are claimed and not finished."""
        return bool(self._mine)

    @property
    def pending(self) -> bool:
        """Whether trials of others are not over, or wait to be computed again."""
        return bool(self._unfinished or self._to_retry)

    def fetch(self) -> list[Trial]:
        """The trials of others that were over since the last call."""
        self._read()
        found, self._found = self._found, []
        return found

    def claim(self, asked: deque[Architecture], most: int, total: int) -> list[Architecture]:
        """Architectures for this worker to compute, which no other does: those of dead workers, then the first that are new.

        Args:
            asked: what to choose from; what is claimed or known is taken off its left.
            most: how many.
            total: trials of the whole study that there may be.
        """
        claimed: list[Architecture] = []
        with self._storage.locked():
            self._give_up_dead()
            for key, arch in self._to_retry.items():
                if len(self._deaths[key]) >= ATTEMPTS:
                    self._fail(arch)
                elif len(claimed) < most:
                    claimed.append(self._take(arch))
            known = {*self._to_retry, *self._mine, *(trial.arch.key for trial in self._unfinished.values())}
            left = total - len(self._over) - len(known)
            while asked and len(claimed) < most:
                if asked[0].key in self._over or asked[0].key in known:
                    asked.popleft()
                elif left > 0:
                    claimed.append(self._take(asked.popleft()))
                    left -= 1
                else:
                    break
        return claimed

    def finish(self, arch: Architecture, trial: Trial) -> Trial | None:
        """Write down a trial that was claimed; None if others took it over, because this worker seemed to be dead."""
        claimed = self._mine.pop(arch.key)
        notes = {name: value for name, value in trial.user_attrs.items() if name not in ("architecture", "label")}
        try:
            self._optuna.set_trial_user_attr(claimed, NOTES, notes)
            state = TrialState.FAIL if trial.values is None else TrialState.COMPLETE
            self._optuna.set_trial_state_values(claimed, state, trial.values)
        except UpdateFinishedTrialError:
            self._unfinished[claimed] = _Unfinished(arch, self.worker, False)
            return None
        return self._end(arch, Trial(trial.values, {**trial.user_attrs, WORKER: self.worker}))

    def _end(self, arch: Architecture, trial: Trial) -> Trial:
        self._over[arch.key] = trial
        self._given_up.pop(arch.key, None)
        self.seconds += trial.user_attrs["seconds"]
        return trial

    @property
    def _to_retry(self) -> dict[str, Architecture]:
        """What dead workers left, and no other took."""
        if not self._given_up:
            return {}
        taken = {*self._mine, *(trial.arch.key for trial in self._unfinished.values())}
        return {key: arch for key, arch in self._given_up.items() if key not in taken}

    def _take(self, arch: Architecture) -> Architecture:
        """Start a trial: it waits until it has its first sign of life, so that none runs without."""
        deaths = self._deaths.get(arch.key)
        retried = (
            {"failed_trial": deaths[0], "retry_history": deaths} if deaths else {}
        )  # as Optuna's own callback says it
        trial = self._optuna.create_new_trial(self._id, self._template(arch, TrialState.WAITING, {}, retried))
        self._storage.beat(self._id, self.worker, [trial])
        self._optuna.set_trial_state_values(trial, TrialState.RUNNING)
        self._mine[arch.key] = trial
        return arch

    def _fail(self, arch: Architecture) -> None:
        reason = f"{len(self._deaths[arch.key])} workers died while they computed it"
        notes = {NOTES: {"reason": reason, "seconds": 0.0}}
        self._optuna.create_new_trial(self._id, self._template(arch, TrialState.FAIL, notes, {}))
        self._read()

    def _template(
        self, arch: Architecture, state: TrialState, more: Mapping[str, Any], system: Mapping[str, Any]
    ) -> FrozenTrial:
        codes = zip(self._space.columns, self._space.codes(arch), strict=True)
        chosen = {column: code for column, code in codes if code >= 0}
        trial = optuna.trial.create_trial(
            state=state,
            params={column.name: column.values[code] for column, code in chosen.items()},
            distributions={column.name: _distribution(column.values) for column in chosen},
            user_attrs={
                "architecture": arch.to_json(),
                "label": self._space.label(arch),
                WORKER: self.worker,
                **more,
            },
            system_attrs=dict(system),
        )
        if state.is_finished():
            trial.datetime_start = trial.datetime_complete = datetime.now()
        return trial

    def _read(self) -> None:
        for trial in self._storage.changed(self._id, self._unfinished):
            self._see(trial)

    def _see(self, trial: FrozenTrial) -> None:
        """Sort a trial in, unless it is this worker's own or was made by something else."""
        attributes = dict(trial.user_attrs)
        self._unfinished.pop(trial._trial_id, None)
        if "architecture" not in attributes or trial._trial_id in self._mine.values():
            return
        arch = self._space.from_json(attributes["architecture"])
        notes, worker = attributes.pop(NOTES, {}), attributes.pop(WORKER, "")
        if not trial.state.is_finished():
            self._unfinished[trial._trial_id] = _Unfinished(arch, worker, trial.state is TrialState.WAITING)
        elif arch.key in self._over:
            return
        elif trial.state is TrialState.COMPLETE or "reason" in notes:
            labels = {name: attributes[name] for name in ("architecture", "label")}
            self._found.append(self._end(arch, Trial(trial.values, {**labels, **notes, WORKER: worker})))
        else:
            self._given_up[arch.key] = arch
            if RELEASED not in attributes:
                self._deaths[arch.key].append(trial.number)

    def _give_up_dead(self) -> None:
        """Under the lock: fail the trials of workers that died, those at once that wait, because whoever made them had the lock."""
        if time.monotonic() - self._looked > self._grace / 8:
            self._looked = time.monotonic()
            running = {number: trial.worker for number, trial in self._unfinished.items()}
            self._storage.fail_stale(self._id, self.name, running)
        self._read()
        if waiting := [number for number, trial in self._unfinished.items() if trial.waits]:
            for number in waiting:
                self._optuna.set_trial_state_values(number, TrialState.FAIL)
            self._read()

    def _live(self) -> None:
        """Give signs of life."""
        while not self._stop.wait(self._grace / 4):
            with suppress(Exception):  # what hinders writing hinders the worker's own, which says so
                self._storage.beat(self._id, self.worker, list(self._mine.values()))


@lru_cache
def _distribution(values: tuple[Any, ...]) -> CategoricalDistribution:
    """A column's values, which Optuna numbers as the column does."""
    return CategoricalDistribution(values)
