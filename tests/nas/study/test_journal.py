"""The journal: what was appended is there, whatever happened to its last line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.objectives.objective import parse_objectives
from nas.study.journal import Journal, repair
from search_spaces import SearchSpace, make_space

OBJECTIVES = parse_objectives(["accuracy", "macs"])


@pytest.fixture
def space() -> SearchSpace:
    return make_space("resnet20-pooling", operators=["max", "avg"])


def filled(path: Path, space: SearchSpace, trials: int) -> list[str]:
    journal = Journal(path)
    journal.create("search", OBJECTIVES)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(trials)]
    for number, arch in enumerate(archs):
        journal.add("search", space, arch, [0.5 + number / 100, 1e6], {"seconds": 1.5})
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
    Journal(path).add("search", space, space.parse("4-3-3/avg"), [0.9, 1e6], {})
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
