"""The run folder: what was asked, what came out, and whether the two belong together.

run.yaml       the full configuration
events.jsonl   what happens while it computes, see `nas.events`
record.json    commands, versions, hardware, seed, commit, what the space and the data were, and digests of other files
journal.log    an Optuna journal: study `search` holds the trials, study `alone` the networks trained alone
supernets/     checkpoint of the shared weights, and history.csv with the losses of each epoch
alone/         weights of each network trained alone
exports/       the front's subnets
*.csv, plots/, report.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nas.events import SILENT, Log, check_logs, logged
from nas.objectives import OBJECTIVES, Objective, losses, pareto
from nas.pruning import PREFIX, functions_of, own_classes, own_image_size, own_normalisation
from nas.runtime import (
    as_yaml,
    check_trust,
    command_line,
    environment,
    flat,
    locked,
    sweep,
    write_json,
)
from nas.study.config import RunConfig, differences
from nas.study.journal import Journal, New, Trial, repair, whole
from nas.study.lock import LOCK
from nas.study.naming import folder_name, old_folder_name
from nas.study.records import journal_of, read_latency, read_record, recorded_config, write_recorded
from nas.study.spaces import build_space, make_task
from nas.study.storage import without_password
from nas.tasks import Task, configured_task
from search_spaces import Architecture, SearchSpace
from search_spaces.core import key_of, load_json, of_file

SEARCH = "search"
ALONE = "alone"
LATENCY = ["latency_ms", "latency_p25_ms", "latency_p75_ms"]


class Study:
    """A run folder and its tables. Made by `nas.search` and `Study.open`.

    Attributes:
        folder: where everything is.
        config: what was asked.
        space: the search space.
        trusted: whether the functions that `run.yaml` names may be imported.
        log: of the session that goes on; outside of one it writes nothing.
        ended: why the search of this session proposed no more, in words; empty before.
    """

    def __init__(self, folder: Path, config: RunConfig, space: SearchSpace, *, trusted: bool = True) -> None:
        self.folder, self.config, self.space, self.trusted = folder, config, space, trusted
        self.log: Log = SILENT
        self.ended = ""
        self._table: tuple[list[Trial], pd.DataFrame] = [], pd.DataFrame()  # of `trials`, and what it was made from
        self._task: Task | None = None  # where the space was made with it

    # --- opening ---

    @classmethod
    def create(
        cls,
        folder: Path,
        config: RunConfig,
        space: SearchSpace,
        task: Task | None,
        options: Mapping[str, Any],
        adjustable: Sequence[str] = (),
    ) -> Study:
        """Start a run folder, or go on with one that was started with the same configuration, space and task.

        Args:
            folder: made if it is not there.
            config: what is asked.
            space: the search space.
            task: what its networks are for; None where a function evaluates.
            options: what the space's factory was called with, so that `open` can build the space without the data.
            adjustable: settings that may differ from those that the run was started with; `run.yaml` keeps the latest.

        Raises:
            ValueError: the folder holds another run, or files that are no run's, or a package of the log is missing.
        """
        check_logs(config.log)
        study = cls(folder, config, space)
        ours = {
            "space": {"name": config.space.name, "options": dict(options), "fingerprint": space.fingerprint},
            "data": None if task is None else _described(task),
        }
        if (folder / "run.yaml").exists():
            study._check_same(config, ours, adjustable)
            write_recorded(folder, "run.yaml", without_password(as_yaml(config)))
            return study
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no run; give another folder, or empty it")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "record.json", {"seed": config.seed, **ours, "sessions": []})
        write_recorded(folder, "run.yaml", without_password(as_yaml(config)))
        return study

    @classmethod
    def open(
        cls,
        folder: str | Path,
        space: str | SearchSpace | None = None,
        *,
        task: Task | None = None,
        trust: bool = False,
    ) -> Study:
        """Read a run folder, finished or not.

        Args:
            folder: a run's folder.
            space: needed for a space that was given as an object and has no name to find it by, and for one of `module:function`,
                whose name says that it may be imported.
            task: of the run, if it is loaded already; needed for one that was given as an object where the space is of a trained model,
                which is made with it.
            trust: import whatever function the folder names; see docs/trust.md.

        Raises:
            ValueError: no run is there, or one of a function that is not trusted.
        """
        folder = Path(folder)
        if not (folder / "run.yaml").exists():
            raise ValueError(f"{folder} is not a run folder: it has no run.yaml; give the --out of `nas search`")
        config = recorded_config(folder)
        recorded = read_record(folder)["space"]
        if not isinstance(space, SearchSpace):
            name = config.space.name
            check_trust(name, folder / "run.yaml", named=space, trust=trust)
            for what, function in functions_of(name, recorded["options"]):
                if what != "space":
                    check_trust(function, folder / "record.json", trust=trust)
            if name.startswith(PREFIX):
                task = task or _task_of(folder, config, trusted=trust)
            with of_file(folder / "record.json", "bring it and run.yaml back, or use the version that made them"):
                space = build_space(name, recorded["options"], task)
        if space.fingerprint != recorded["fingerprint"]:
            raise ValueError(
                f"{folder} was made with another definition of space {space.name!r}, say its run.yaml and record.json; "
                "use the version that made it"
            )
        study = cls(folder, config, space, trusted=trust)
        study._task = task
        return study

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to the folder, and clean up behind one that was killed."""
        with locked(self.folder / LOCK, self.folder):
            sweep(self.folder)
            if repair(self.journal_path):
                self._forget_last()
            if self.journal_path.exists():
                with whole(self.journal_path):
                    self.journal.end()  # what is damaged is refused before anything is computed
            yield

    @contextmanager
    def tidied(self) -> Iterator[bool]:
        """Clean up behind a process that was killed, before more is written from what the run holds; tell whether that was done.

        It is not where another process is running in the folder, or where that may only be read; neither is an error.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK, self.folder))
            except (ValueError, OSError):
                yield False
            else:
                sweep(self.folder)
                yield True

    @contextmanager
    def session(self, command: str | None = None) -> Iterator[None]:
        """Write down who ran what, from when to when, and how it ended; meanwhile, what happens goes to `log`."""
        command = without_password(command or command_line())
        entry: dict[str, Any] = {
            "command": command,
            "started": _now(),
            **environment(),
            "ended": None,
        }
        record = self.record
        record["sessions"].append(entry)
        write_json(self.folder / "record.json", record)
        with self._logged(command) as self.log:
            try:
                yield
            finally:
                self.log = SILENT
        record = self.record  # with digests of what was written meanwhile
        end = self.journal.end() if self.journal_path.exists() else None
        record["sessions"][-1] |= {"ended": _now(), "journal": end and end._asdict()}
        write_json(self.folder / "record.json", record)

    # --- what is in it ---

    @property
    def record(self) -> dict[str, Any]:
        """What `record.json` says: commands, versions, hardware, seed, commit, space and data."""
        return read_record(self.folder)

    @property
    def journal_path(self) -> Path:
        return self.folder / "journal.log"

    @cached_property
    def journal(self) -> Journal:
        """The trials on disk."""
        return journal_of(self.folder)

    def add(self, name: str, arch: Architecture, values: Sequence[float] | None, notes: Mapping[str, Any]) -> Trial:
        """Write down a trial of study `search`, or a network of study `alone`; it is on disk when this returns.

        One without values has failed; its notes hold the `reason`.
        """
        return self.add_all(name, [New(arch, values, notes)])[0]

    def add_all(self, name: str, new: Sequence[New]) -> list[Trial]:
        """Write down several as `add` does, at once: they wait for the disk together."""
        self.journal.create(name, self.objectives if name == SEARCH else self.metrics)
        trials = self.journal.add(name, self.space, new)
        if name == SEARCH:
            self.log.trials(trials)
        else:
            self.log.alone(trials, self.metrics)
        return trials

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What the front is made of, with the units that the run's task gives them."""
        return self._with_units(self.config.wanted)

    @cached_property
    def metrics(self) -> tuple[Objective, ...]:
        """What networks that are trained alone are measured by: objectives that are metrics of the task, or else its first metric."""
        if self.config.measured:
            return self._with_units(self.config.measured)
        data = self.record["data"] or {}
        main = data.get("main")
        return (OBJECTIVES["accuracy"],) if main is None else (Objective(**main),)

    @property
    def worth(self) -> Objective:
        """The first of `metrics`, which supernets are compared by."""
        return self.metrics[0]

    def _with_units(self, objectives: Sequence[Objective]) -> tuple[Objective, ...]:
        units = (self.record["data"] or {}).get("units", {})
        return tuple(replace(known, unit=units.get(known.name, known.unit)) for known in objectives)

    def task(self) -> Task:
        """Make the run's task again.

        Raises:
            ValueError: its data are not those of the run any more, or the run has none.
            Untrusted: it is a function's, and the run was opened without `trust`.
        """
        if not self.has_examples:
            by = self.config.evaluate or ", ".join(self.config.objectives)
            raise ValueError(
                f"{self.folder} was searched by {by}, without data or weights of its own; build a network by "
                "`study.space.build(study.find(label))` and train it as you do"
            )
        self._task = self._task or _task_of(self.folder, self.config, trusted=self.trusted)
        assert self._task is not None
        _check_data(self._task, self.folder)
        return self._task

    @property
    def has_examples(self) -> bool:
        """Whether the run has a task, or data."""
        return self.config.data is not None or self.config.task is not None

    def architecture(self, trial: Trial) -> Architecture:
        return self.space.from_json(trial.user_attrs["architecture"])

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, in the order of the search.

        Columns: `label`, `architecture` (its key), the objectives (NaN where it has no value) and costs, `accuracy_supernet0`… (by
        the task's metric) where several supernets ranked it, `seconds`. Accuracies are fractions in [0, 1].
        """
        with whole(self.journal_path):
            trials = self.journal.trials(SEARCH)
            if trials != self._table[0]:
                self._table = trials, pd.DataFrame([self.row(trial) for trial in trials])
            return self._table[1].copy()

    def row(self, trial: Trial) -> dict[str, Any]:
        """What `trials` says of a trial, or `failed` of one that failed, which has no objectives."""
        names = [objective.name for objective in self.objectives]
        return {
            "label": trial.user_attrs["label"],
            "architecture": _key(trial),
            **({} if trial.values is None else _finite(names, trial.values)),
            **_notes(trial),
        }

    @property
    def failed(self) -> pd.DataFrame:
        """One row per trial that failed: `label`, `architecture` (its key), `reason`, `seconds`."""
        return self._failures(SEARCH, ["label", "architecture", "reason", "seconds"])

    @property
    def failed_alone(self) -> pd.DataFrame:
        """One row per network that failed as it was trained alone: `label`, `architecture` (its key), `seed`, `reason`, `seconds`."""
        return self._failures(ALONE, ["label", "architecture", "seed", "reason", "seconds"])

    @property
    def alone(self) -> pd.DataFrame:
        """One row per network trained alone: `label`, `architecture`, `seed`, `metrics` on the test part, `seconds`.

        Of one whose weights were lost, and that was trained again, it is the last.
        """
        names = [metric.name for metric in self.metrics]
        with whole(self.journal_path):
            rows = [
                {
                    "label": trial.user_attrs["label"],
                    "architecture": _key(trial),
                    **_notes(trial),
                    **_finite(names, trial.values),
                }
                for trial in self.journal.trials(ALONE)
            ]
        table = pd.DataFrame(rows, columns=["label", "architecture", "seed", *names, "seconds"])
        return table.drop_duplicates(["architecture", "seed"], keep="last", ignore_index=True)

    @property
    def ranked(self) -> pd.DataFrame:
        """`trials` with `accuracy_alone` (or other metrics; means over seeds) of networks trained alone, and `on_front` of it."""
        table = self.trials
        if table.empty:
            return table
        names = [objective.name for objective in self.objectives]
        known = table[names].notna().all(axis=1)
        table["on_front"] = False
        values = table.loc[known, names].to_numpy(float)
        table.loc[known, "on_front"] = pareto.non_dominated(losses(values, self.objectives))
        trained = self.alone.groupby("architecture")
        for metric in self.metrics:
            table[f"{metric.name}_alone"] = table["architecture"].map(trained[metric.name].mean())
            if self.config.alone.seeds > 1:
                table[f"{metric.name}_alone_std"] = table["architecture"].map(trained[metric.name].std())
        return table

    @property
    def searched_front(self) -> pd.DataFrame:
        """The trials that no other dominates by what the search saw, cheapest first, with figures alone and latency where known."""
        table = self.ranked
        return table if table.empty else self._as_front(table[table["on_front"]])

    @property
    def front(self) -> pd.DataFrame:
        """The front of the final figures: once all of `searched_front` are trained alone, or failed there, the best of what is trained.

        Until then, and without a metric of the task among the objectives, it is `searched_front`.
        """
        searched, names = self.searched_front, [objective.name for objective in self.objectives]
        alone = {metric.name: f"{metric.name}_alone" for metric in self.config.measured}
        if searched.empty or not alone:
            return searched
        sound = searched[~searched["architecture"].isin(self.failed_alone["architecture"])]
        if sound[list(alone.values())].isna().any(axis=None):
            return searched
        table = self.ranked
        trained = table[table[list(alone.values())].notna().all(axis=1) & table[names].notna().all(axis=1)]
        values = trained[names].assign(**{name: trained[column] for name, column in alone.items()})
        return self._as_front(trained[pareto.non_dominated(losses(values.to_numpy(float), self.objectives))])

    def _as_front(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of `ranked`, cheapest first, with measured latency where it is known."""
        front = rows.drop(columns="on_front").sort_values(["macs", "params"]).reset_index(drop=True)
        latency = pd.DataFrame(self.latency).T
        if latency.empty:
            return front
        return front.drop(columns=LATENCY, errors="ignore").join(latency[LATENCY].astype(float), on="architecture")

    @property
    def latency(self) -> dict[str, dict[str, Any]]:
        """Measured latency by architecture key: median and quartiles in milliseconds, and the conditions of the measurement."""
        return read_latency(self.folder)

    def find(self, text: str) -> Architecture:
        """The architecture that a user names by label or JSON."""
        return self.space.parse(text)

    def place(self, group: str, arch: Architecture) -> Path:
        """Where the files of an architecture stand: a folder named after its label, or by the old naming if that is surely its own."""
        label = self.space.label(arch)
        place, old = self.folder / group / folder_name(label), self.folder / group / old_folder_name(label)
        return old if not place.exists() and old.is_dir() and self._is_its_own(old, label) else place

    # --- inside ---

    def _failures(self, name: str, columns: list[str]) -> pd.DataFrame:
        with whole(self.journal_path):
            rows = [
                {"label": trial.user_attrs["label"], "architecture": _key(trial), **_notes(trial)}
                for trial in self.journal.trials(name, failed=True)
            ]
        return pd.DataFrame(rows, columns=columns)

    def _forget_last(self) -> None:
        """Where a session's journal ends with a trial whose line was dropped, so that it is tried again."""
        record = self.record
        ends = [session["journal"] for session in record["sessions"] if session.get("journal")]
        most = max((end["trials"] for end in ends), default=0)
        for end in ends:
            if end["trials"] == most:
                end |= {"trials": most - 1, "last": None}
        if ends:
            write_json(self.folder / "record.json", record)

    def _logged(self, command: str) -> AbstractContextManager[Log]:
        known: list[Trial] = []
        alone = 0
        if self.journal_path.exists():
            with whole(self.journal_path):
                known = [*self.journal.trials(SEARCH), *self.journal.trials(SEARCH, failed=True)]
                alone = len(self.journal.trials(ALONE))
        settings = flat(self.config.model_dump(mode="json"))
        settings = {
            name: without_password(value) if isinstance(value, str) else value for name, value in settings.items()
        }
        return logged(
            self.folder, self.config.log, settings, command, objectives=self.objectives, known=known, alone=alone
        )

    def _is_its_own(self, old: Path, label: str) -> bool:
        """Whether a folder by the old naming holds the files of this label alone.

        No other label that was tried may have had the same folder: its weights may be in there. An export says whose it is; weights
        alone do not, and are taken for those of a label that was tried.
        """
        with whole(self.journal_path):
            tried = {trial.user_attrs["label"] for trial in self.journal.trials(SEARCH)}
        if any(other != label and old_folder_name(other).lower() == old.name.lower() for other in tried):
            return False
        described = old / "architecture.json"
        return load_json(described, "remove its folder").get("label") == label if described.exists() else label in tried

    def _check_same(self, config: RunConfig, ours: Mapping[str, Any], adjustable: Sequence[str]) -> None:
        theirs = self.record
        found = differences(recorded_config(self.folder), config)
        different = [text for text in found if text.partition(":")[0] not in adjustable]
        if different:
            raise ValueError(f"{self.folder} holds another run ({'; '.join(different)}); give another folder")
        for part in ("space", "data"):
            if ours[part] is not None and theirs[part]["fingerprint"] != ours[part]["fingerprint"]:
                raise ValueError(
                    f"{self.folder} was made with another {part} than {ours[part]['name']!r} is now; give another folder"
                )


def _task_of(folder: Path, config: RunConfig, *, trusted: bool) -> Task | None:
    """The task of a run, made again, if it has one.

    Raises:
        ValueError: its data are not those of the run any more.
        Untrusted: it is a function's that is not trusted.
    """
    if config.task is not None:
        check_trust(config.task, folder / "run.yaml", trust=trusted)
    task = load_task(config)
    if task is not None:
        _check_data(task, folder)
    return task


def _check_data(task: Task, folder: Path) -> None:
    if task.fingerprint != read_record(folder)["data"]["fingerprint"]:
        raise ValueError(f"{task.name} no longer holds the data that {folder} was made from")


def load_task(config: RunConfig) -> Task | None:
    """The task of a configuration; None if it has none.

    Where a library's model is searched, images are normalised, and without an input of its own resized, as it was trained.

    Raises:
        ValueError: see `make_task`.
    """
    if config.task is not None:
        return make_task(config.task)
    if config.data is None:
        return None
    data, space = config.data, config.space
    trained = space.name.removeprefix(PREFIX) if space.name.startswith(PREFIX) else ""
    if "input" not in space.options and data.image_size is None and (size := own_image_size(trained)):
        data = data.model_copy(update={"image_size": size})
    return configured_task(data, config.seed, own_normalisation(trained), own_classes(trained))


def _described(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "fingerprint": task.fingerprint,
        "train": len(task.train),
        "validation": len(task.validation),
        "test": len(task.test),
        "main": asdict(task.main),
        "units": {name: metric.objective.unit for name, metric in task.metrics.items()},
    }


def _finite(names: Sequence[str], values: Sequence[float] | None) -> dict[str, float]:
    """Values by name; NaN for those that the journal holds as worse than any."""
    return {name: value if math.isfinite(value) else math.nan for name, value in zip(names, values or (), strict=True)}


def _key(trial: Trial) -> str:
    """The key of a trial's architecture as the journal holds it; it is checked against the space where the architecture is taken."""
    return key_of(trial.user_attrs["architecture"]["choices"])


def _notes(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.user_attrs.items() if name not in ("architecture", "label")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
