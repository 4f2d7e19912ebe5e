"""The journal: what was appended is there, whatever happened to its last line."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from nas.objectives.objective import parse_objectives
from nas.study.journal import Journal, New, Trial, repair
from search_spaces import Architecture, SearchSpace, make_space

OBJECTIVES = parse_objectives(["accuracy", "macs"])


@pytest.fixture
def space() -> SearchSpace:
    return make_space("resnet20-pooling", operators=["max", "avg"])


def added(journal: Journal, space: SearchSpace, archs: Sequence[Architecture], at: int = 0) -> list[Trial]:
    """Trials with an accuracy of their own each, written at once."""
    new = [New(arch, [0.5 + number / 100, 1e6], {"seconds": 1.5}) for number, arch in enumerate(archs, start=at)]
    return journal.add("search", space, new)


def filled(path: Path, space: SearchSpace, trials: int) -> list[str]:
    journal = Journal(path)
    journal.create("search", OBJECTIVES)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(trials)]
    for number, arch in enumerate(archs):
        added(journal, space, [arch], number)
    return [space.label(arch) for arch in archs]


def labels(path: Path) -> list[str]:
    return [trial.user_attrs["label"] for trial in Journal(path).trials("search")]


def test_trials_come_back_in_order(tmp_path: Path, space: SearchSpace) -> None:
    written = filled(tmp_path / "journal.log", space, 5)
    assert labels(tmp_path / "journal.log") == written


def test_optuna_itself_reads_it(tmp_path: Path, space: SearchSpace) -> None:
    filled(tmp_path / "journal.log", space, 3)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.load_study(study_name="search", storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "macs"]
    assert len(study.best_trials) == 1
    assert set(study.trials[0].params) == {f"pools[{i}]" for i in range(1, 10)} | {"operator"}
    assert [trial.duration for trial in study.trials] == [timedelta(seconds=1.5)] * 3


@pytest.mark.parametrize("values", [[0.5], [0.5, 1e6], [float("inf"), 3], None])
def test_a_line_is_the_one_that_optuna_writes(tmp_path: Path, space: SearchSpace, values: list | None) -> None:
    ours, theirs = tmp_path / "ours.log", tmp_path / "theirs.log"
    arch, objectives = space.parse("4-3-3/avg"), OBJECTIVES[: 2 if values is None else len(values)]
    for path in (ours, theirs):
        Journal(path).create("search", objectives)
    Journal(ours).add("search", space, [New(arch, values, {"seconds": 1.5})])
    columns: Any = {column.name: list(column.values) for column in space.columns}
    optuna.load_study(study_name="search", storage=optuna_storage(theirs)).add_trial(
        optuna.trial.create_trial(
            params=space.column_values(arch),
            distributions={
                name: optuna.distributions.CategoricalDistribution(known) for name, known in columns.items()
            },
            values=values,
            state=optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE,
            user_attrs={"architecture": arch.to_json(), "label": "4-3-3/avg", "seconds": 1.5},
        )
    )
    assert event(ours) == event(theirs)
    (mine,), (optunas,) = (Journal(path).trials("search", failed=values is None) for path in (ours, theirs))
    assert mine[:2] == optunas[:2] and mine.ended and optunas.ended


def optuna_storage(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def event(path: Path) -> dict[str, Any]:
    """The last line, without who wrote it when and its seal, which Optuna passes over."""
    found = json.loads(path.read_bytes().splitlines()[-1])
    return {
        name: found[name]
        for name in found
        if name not in ("worker_id", "datetime_start", "datetime_complete", "digest", "after")
    }


class Counting:
    """A file that counts the bytes of the lines that are read from it."""

    def __init__(self, file: Any, read: list[int]) -> None:
        self.file, self.read = file, read

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> Any:
        for line in self.file:
            self.read.append(len(line))
            yield line

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_each_byte_is_read_once_however_often_trials_are_asked_for(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    path, opened = tmp_path / "journal.log", builtins.open

    def counting(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        found = opened(file, mode, *args, **more)
        return Counting(found, read) if str(file) == str(path) and mode == "rb" else found

    monkeypatch.setattr(builtins, "open", counting)
    journal, rng = Journal(path), np.random.default_rng(0)
    journal.create("search", OBJECTIVES)
    read.clear()
    head = path.stat().st_size
    for number in range(20):
        journal.create("search", OBJECTIVES)
        added(journal, space, [space.sample(rng)], number)
        assert len(journal.trials("search")) == number + 1
    assert sum(read) == path.stat().st_size - head


def test_several_trials_are_one_write(tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    journal, rng = Journal(tmp_path / "journal.log"), np.random.default_rng(0)
    journal.create("search", OBJECTIVES)
    monkeypatch.setattr("os.fsync", synced.append)
    trials = added(journal, space, [space.sample(rng) for _ in range(30)])
    assert len(synced) == 1 and journal.trials("search") == trials
    before = (tmp_path / "journal.log").read_bytes()
    assert added(journal, space, []) == [] and (tmp_path / "journal.log").read_bytes() == before


def test_what_another_process_appends_is_seen(tmp_path: Path, space: SearchSpace) -> None:
    path, rng = tmp_path / "journal.log", np.random.default_rng(0)
    filled(path, space, 2)
    ours, theirs = Journal(path), Journal(path)
    assert len(ours.trials("search")) == 2
    (trial,) = added(theirs, space, [space.sample(rng)])
    theirs.create("alone", OBJECTIVES[:1])
    theirs.add("alone", space, [New(space.sample(rng), [0.7], {})])
    assert ours.trials("search")[2] == trial and ours.trials("alone")[0].values == [0.7]


def test_a_line_that_is_still_being_written_waits(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "journal.log"
    filled(path, space, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    journal = Journal(path)
    assert len(journal.trials("search")) == 1
    path.write_bytes(whole)
    assert len(journal.trials("search")) == 2


def test_trials_that_optuna_wrote_by_steps_are_read(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "journal.log"
    filled(path, space, 2)
    journal = Journal(path)
    study = optuna.load_study(study_name="search", storage=optuna_storage(path))
    study.set_user_attr("note", "of a study, which changes no trial")
    stepped = study.ask()
    stepped.set_user_attr("label", "by steps")
    assert len(journal.trials("search")) == 2
    study.tell(stepped, [0.9, 2e6])
    stepped = journal.trials("search")[2]
    assert stepped[:2] == ([0.9, 2e6], {"label": "by steps"}) and stepped.ended
    added(journal, space, [space.parse("4-3-3/avg")])
    assert [trial.user_attrs["label"] for trial in journal.trials("search")][2:] == ["by steps", "4-3-3/avg"]
    optuna.delete_study(study_name="search", storage=optuna_storage(path))
    assert Journal(path).trials("search") == []


def test_a_study_that_is_not_there_has_no_trials(tmp_path: Path) -> None:
    assert Journal(tmp_path / "journal.log").trials("search") == []


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_last_line_cut_short_is_dropped(tmp_path: Path, space: SearchSpace, cut: int) -> None:
    path = tmp_path / "journal.log"
    written = filled(path, space, 4)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match="last line of .* was cut short"):
        repair(path)
    assert labels(path) == written[:-1]
    added(Journal(path), space, [space.parse("4-3-3/avg")])
    assert labels(path) == [*written[:-1], "4-3-3/avg"]


def test_damage_anywhere_else_is_refused(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "journal.log"
    filled(path, space, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]]))
    with pytest.raises(ValueError, match="line 3 of .* is damaged"):
        repair(path)


def test_a_whole_journal_is_left_alone(tmp_path: Path, space: SearchSpace, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "journal.log"
    filled(path, space, 3)
    before = path.read_bytes()
    repair(path)
    assert path.read_bytes() == before and not recwarn.list


def test_the_lock_of_a_killed_process_is_removed(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "journal.log"
    filled(path, space, 1)
    path.with_name("journal.log.lock").symlink_to(path)
    repair(path)
    assert not path.with_name("journal.log.lock").is_symlink()


def test_nothing_is_printed(tmp_path: Path, space: SearchSpace, capfd: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "journal.log", space, 2)
    assert capfd.readouterr() == ("", "")
