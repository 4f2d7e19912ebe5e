"""Seals of a journal: lines that are lost, doubled, moved or altered are told from what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nas
from nas.objectives.objective import parse_objectives
from nas.study.journal import Journal, New
from search_spaces import Architecture, make_space

SPACE = make_space("resnet20-pooling", operators=["max", "avg"])
OBJECTIVES = parse_objectives(["accuracy", "macs"])
TRIALS = 8
Lines = list[bytes]


def filled(path: Path, journals: int = 1) -> Journal:
    """A journal that several processes wrote to by turns, each without looking at what the others wrote."""
    writers = [Journal(path) for _ in range(journals)]
    rng = np.random.default_rng(0)
    for number in range(TRIALS):
        writer = writers[number % journals]
        writer.create("search", OBJECTIVES)
        writer.add("search", SPACE, [New(SPACE.sample(rng), [0.5 + number / 100, 1e6], {"digest": "a note"})])
    return writers[0]


def read(path: Path, lines: Lines, **known: object) -> int:
    path.write_bytes(b"".join(lines))
    return len(Journal(path, **known).trials("search"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lines]:
    path = tmp_path_factory.mktemp("chain") / "journal.log"
    filled(path)
    return path, path.read_bytes().splitlines(keepends=True)


def flipped(lines: Lines, at: int) -> Lines:
    line = lines[at]
    return [*lines[:at], line.replace(b"0.5", b"0.6", 1), *lines[at + 1 :]]


DAMAGE: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "lost": (lambda lines: lines[:5] + lines[6:], "line 6 must come after a trial .*delete `after` from the line"),
    "doubled": (lambda lines: lines[:6] + lines[5:], "line 7 stands there twice"),
    "swapped": (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "line 6 must come after a trial"),
    "altered": (lambda lines: flipped(lines, 5), "line 6 was altered"),
    "no event": (lambda lines: [*lines[:5], b"7\n", *lines[6:]], "line 6 is no event"),
    "the link's name": (
        lambda lines: [*lines[:4], lines[4].replace(b'"after":', b'"bfter":'), *lines[5:]],
        r"line \d was altered, or its study was",
    ),
    "no study": (lambda lines: lines[1:], r"line \d was altered, or its study was"),
    "another study": (
        lambda lines: [lines[0].replace(b"search", b"seasch"), *lines[1:]],
        r"line \d was altered, or its study was",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_by_its_line(written: tuple[Path, Lines], what: str) -> None:
    path, lines = written
    change, message = DAMAGE[what]
    with pytest.raises(ValueError, match=message) as refused:
        read(path, change(lines))
    assert str(refused.value).startswith(f"{path}: line ") and "; bring it back, or " in str(refused.value)


def test_the_way_out_of_a_loss_leads_on(written: tuple[Path, Lines]) -> None:
    path, lines = written
    follower = json.loads(lines[6])
    del follower["after"]
    assert read(path, [*lines[:5], json.dumps(follower, separators=(",", ":")).encode() + b"\n", *lines[7:]]) == 7


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_in_a_trial_that_others_follow_is_refused(
    written: tuple[Path, Lines], data: st.DataObject
) -> None:
    path, lines = written
    at = data.draw(st.integers(len(lines) - TRIALS, len(lines) - 2))
    place = data.draw(st.integers(0, len(lines[at]) - 2))
    line = bytearray(lines[at])
    line[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"journal\.log: line"):
        read(path, [*lines[:at], bytes(line), *lines[at + 1 :]])


def test_a_lost_end_is_refused_where_a_session_left_it(written: tuple[Path, Lines]) -> None:
    path, lines = written
    path.write_bytes(b"".join(lines))
    end = Journal(path).end()
    assert end is not None and end.trials == TRIALS and read(path, lines, end=end) == TRIALS
    assert read(path, lines[:-2]) == TRIALS - 2, "which a search that was stopped looks like"
    with pytest.raises(ValueError, match=f"{path} must hold the 8 trials that record.json says .*got 6"):
        read(path, lines[:-2], end=end)


def test_writers_that_know_nothing_of_each_other_share_a_journal(tmp_path: Path) -> None:
    filled(tmp_path / "journal.log", journals=3)
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    assert read(tmp_path / "again.log", lines) == TRIALS
    with pytest.raises(ValueError, match="must come after a trial"):
        read(tmp_path / "again.log", lines[:-5] + lines[-4:])


def test_lines_of_others_break_nothing(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal.log")
    theirs = optuna.load_study(study_name="search", storage=storage(tmp_path / "journal.log"))
    theirs.set_user_attr("note", "from a dashboard")
    rng = np.random.default_rng(1)
    journal.add("search", SPACE, [New(SPACE.sample(rng), [0.9, 1e6], {})])
    theirs.add_trial(optuna.trial.create_trial(values=[0.1, 2.0], user_attrs={"label": "theirs"}))
    asked = theirs.ask()
    journal.add("search", SPACE, [New(SPACE.sample(rng), [0.8, 1e6], {})])
    theirs.tell(asked, [0.2, 3.0])
    assert len(Journal(tmp_path / "journal.log").trials("search")) == TRIALS + 4
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    with pytest.raises(ValueError, match="must come after a trial"):
        read(tmp_path / "again.log", lines[:5] + lines[6:])


def storage(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def test_a_journal_without_seals_goes_on_with_them(written: tuple[Path, Lines], tmp_path: Path) -> None:
    path, lines = tmp_path / "journal.log", written[1]
    old = [
        {name: value for name, value in json.loads(line).items() if name not in ("digest", "after")} for line in lines
    ]
    assert read(path, [json.dumps(event).encode() + b"\n" for event in old]) == TRIALS
    journal, arch = Journal(path), next(SPACE.enumerate())
    assert journal.end() is None
    for _ in range(2):
        journal.add("search", SPACE, [New(arch, [0.9, 1e6], {})])
    found = Journal(path).end()
    assert found is not None and found.trials == 2 and len(Journal(path).trials("search")) == TRIALS + 2


def test_a_run_whose_study_has_lost_its_name_does_not_go_on(tmp_path: Path) -> None:
    """Such a line has no seal, and leads to whatever error comes first."""
    study = nas.search("resnet20-pooling", evaluate=plain, objectives=["score:max"], trials=2, out=tmp_path / "run")
    path = study.journal_path
    path.write_bytes(path.read_bytes().replace(b'"study_name"', b'"study_game"', 1))
    with (
        pytest.raises(ValueError, match="journal.log is damaged.*bring it back"),
        nas.Study.open(study.folder).locked(),
    ):
        pass


def plain(arch: Architecture) -> float:
    return 1.0
