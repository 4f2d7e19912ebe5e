"""Studies that several workers search together: each architecture once, whoever dies, and none where figures do not compare."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import nas
from nas.objectives import parse_objectives
from nas.study import Trial, storage
from nas.study.shared import ATTEMPTS, SharedStudy
from nas.study.storage import JournalFile, open_storage, without_password
from search_spaces import Architecture, SearchSpace, make_space
from tests.commands import run

ROOT = Path(__file__).parents[3]
SPACE = "resnet20-pooling"
OBJECTIVES = parse_objectives(["accuracy", "macs"])
GRACE = 10


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space(SPACE, operators=["max", "avg"])


class Clock:
    """A monotonic clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(storage, "time", found)
    monkeypatch.setattr("nas.study.shared.time", found)
    return found


def worker(path: Path, space: SearchSpace) -> SharedStudy:
    """One that gives signs of life only when it claims and when it is told to."""
    return SharedStudy(JournalFile(path, GRACE), "shared", space, OBJECTIVES, {"data": "digits"}, GRACE)


def finish(study: SharedStudy, space: SearchSpace, arch: Architecture) -> Trial | None:
    described = {"architecture": arch.to_json(), "label": space.label(arch), "seconds": 1.0}
    return study.finish(arch, Trial([0.5, float(len(arch.key))], described))


def in_optuna(place: str) -> list[optuna.trial.FrozenTrial]:
    found = open_storage(place, GRACE)
    (name,) = [study.study_name for study in found.optuna.get_all_studies()]
    trials = optuna.load_study(study_name=name, storage=found.optuna).trials
    found.close()
    return trials


def outlive(study: SharedStudy, asked: deque[Architecture], total: int, space: SearchSpace, clock: Clock) -> None:
    """Finish what is left, until nothing is pending."""
    while len(study.over) < total:
        for arch in study.claim(asked, 3, total):
            finish(study, space, arch)
        study.fetch()
        clock.now += GRACE / 4


@pytest.mark.parametrize("seed", range(8))
def test_every_architecture_is_over_once_whoever_dies(
    tmp_path: Path, space: SearchSpace, clock: Clock, seed: int
) -> None:
    """Workers claim, finish, live on and die in any order; no two that live compute the same."""
    rng, path, archs, total = np.random.default_rng(seed), tmp_path / "shared.log", list(space.enumerate()), 12
    workers = {number: (worker(path, space), deque(archs)) for number in range(4)}
    held: dict[int, list[Architecture]] = {number: [] for number in workers}
    for step in range(60):
        number = int(rng.choice(list(workers)))
        study, asked = workers[number]
        match rng.integers(10):
            case 0 if len(workers) > 1:
                del workers[number], held[number]
            case 1 | 2:
                clock.now += GRACE / 4
                for each, _ in workers.values() if step % 2 else ():
                    each._storage.beat(each._id, each.worker, [])
            case 3 | 4 | 5:
                held[number] += study.claim(asked, int(rng.integers(1, 4)), total)
            case _ if held[number]:
                assert finish(study, space, held[number].pop()) is not None
            case _:
                assert study.worker not in {trial.user_attrs["worker"] for trial in study.fetch()}
        computed = Counter(arch.key for those in held.values() for arch in those)
        assert max(computed.values(), default=1) == 1
        assert not computed.keys() & study.over.keys()
    last = min(workers)
    for arch in held[last]:
        finish(workers[last][0], space, arch)
    outlive(*workers[last], total, space, clock)
    trials = in_optuna(str(path))
    over = [t for t in trials if t.state is TrialState.COMPLETE or "reason" in t.user_attrs.get("notes", {})]
    assert len(over) == len({t.user_attrs["label"] for t in over}) == total
    assert all(trial.state.is_finished() for trial in trials)


def test_a_worker_that_only_seemed_dead_does_not_count_twice(tmp_path: Path, space: SearchSpace, clock: Clock) -> None:
    path, archs = tmp_path / "shared.log", deque(space.enumerate())
    slow, quick = worker(path, space), worker(path, space)
    (arch,) = slow.claim(archs.copy(), 1, 1)
    quick.fetch()
    outlive(quick, archs, 1, space, clock)
    assert finish(slow, space, arch) is None
    assert [trial.user_attrs["worker"] for trial in slow.fetch()] == [quick.worker]
    assert [trial.state.name for trial in in_optuna(str(path))] == ["FAIL", "COMPLETE"]
    assert in_optuna(str(path))[1].system_attrs == {"failed_trial": 0, "retry_history": [0]}


def test_a_worker_that_only_seemed_dead_may_try_again(tmp_path: Path, space: SearchSpace, clock: Clock) -> None:
    slow, quick = worker(tmp_path / "shared.log", space), worker(tmp_path / "shared.log", space)
    archs = slow.claim(deque(space.enumerate()), 1, 1)
    for _ in range(8):
        quick.claim(deque(), 0, 1)
        assert clock.now > GRACE or in_optuna(str(tmp_path / "shared.log"))[0].state is TrialState.RUNNING
        clock.now += GRACE / 4
    assert finish(slow, space, archs[0]) is None and not slow.over
    assert slow.claim(deque(), 1, 1) == archs and finish(slow, space, archs[0])


def test_what_kills_its_workers_fails_in_the_end(tmp_path: Path, space: SearchSpace, clock: Clock) -> None:
    path, archs = tmp_path / "shared.log", list(space.enumerate())
    for _ in range(ATTEMPTS):
        study = worker(path, space)
        while not study.claim(deque(archs), 1, 1):
            clock.now += GRACE / 4
    last = worker(path, space)
    outlive(last, deque(archs), 1, space, clock)
    (trial,) = last.over.values()
    assert trial.values is None and "3 workers died" in trial.user_attrs["reason"]


def test_a_worker_that_ends_gives_its_claims_back(tmp_path: Path, space: SearchSpace, clock: Clock) -> None:
    path, archs = tmp_path / "shared.log", list(space.enumerate())
    for _ in range(ATTEMPTS + 1):
        with worker(path, space) as study:
            assert study.claim(deque(archs), 1, 1) == archs[:1]


def test_a_line_that_a_dead_worker_left_unfinished_is_dropped(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "shared.log"
    study = worker(path, space)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    (arch,) = study.claim(deque(space.enumerate()), 1, 1)
    assert finish(study, space, arch) and len(in_optuna(str(path))) == 1


def test_figures_that_do_not_compare_are_refused(tmp_path: Path, space: SearchSpace) -> None:
    study = worker(tmp_path / "shared.log", space)
    study.agree({"data": "digits", "supernets": "a"})
    with pytest.raises(ValueError, match="other data and supernets; use the same, for supernets by `supernet`"):
        study.agree({"data": "other", "supernets": "b"})


# --- whole searches ---


def slow(arch: Architecture) -> float:
    """Found by commands. Its first trial in a process of its own takes forever."""
    with open(os.environ["EVALUATED"], "a") as file:
        file.write(arch.key + "\n")
    if os.environ.get("HANG") and Path(os.environ["EVALUATED"]).read_text().count("\n") > 2:
        time.sleep(60)
    return float(sum(arch.key.encode()) % 17)


def settings(place: str, **more: object) -> dict:
    return {
        "objectives": ("score:max", "macs"),
        "strategy": "random",
        "trials": 8,
        "grace": 2,
        "storage": place,
        **more,
    }


def options(place: str) -> Iterator[str]:
    for name, value in settings(place).items():
        yield from (f"--{name}", ",".join(value) if isinstance(value, tuple) else str(value))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_the_trial_of_a_killed_worker_is_done_by_another(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "shared.log") if kind == "journal" else f"sqlite:///{tmp_path}/shared.db"
    evaluated = tmp_path / "evaluated"
    monkeypatch.setenv("EVALUATED", str(evaluated))
    command = ["search", "--space", SPACE, "--evaluate", "tests.nas.study.test_shared:slow", *options(place)]
    first = subprocess.Popen(
        [sys.executable, "-m", "nas", *command, "--out", str(tmp_path / "first")],
        cwd=ROOT,
        env={**os.environ, "HANG": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    while not evaluated.exists() or evaluated.read_text().count("\n") < 3:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = run(*command, "--out", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    times = Counter(evaluated.read_text().split())
    assert len(times) == 8 and sorted(times.values()) == [1] * 7 + [2]
    table = nas.Study.open(tmp_path / "second").trials
    assert len(table) == table["architecture"].nunique() == 8
    assert sorted(table["worker"].value_counts()) == [2, 6]
    trials = in_optuna(place)
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 8, "FAIL": 1}
    assert all(trial.duration and trial.duration.total_seconds() >= 0 for trial in trials)
    (died,) = [trial for trial in trials if trial.state is TrialState.FAIL]
    assert died.duration is not None and died.duration.total_seconds() >= 2


def test_a_search_on_another_study_is_refused_and_told_what_differs(tmp_path: Path, space: SearchSpace) -> None:
    def search(out: str, **more: object) -> nas.Study:
        given = {"space": space, "evaluate": lambda arch: 1.0, **settings(str(tmp_path / "s.log"), study="a"), **more}
        return nas.search(**given, out=tmp_path / out)

    first = search("one")
    assert run("front", first.folder).returncode == run("report", first.folder).returncode == 0
    late = search("late")
    assert sorted(late.trials["label"]) == sorted(first.trials["label"]) and set(late.trials["worker"]) == set(
        first.trials["worker"]
    )
    with pytest.raises(ValueError, match="other space"):
        search("two", space=make_space(SPACE, operators=["max"]))
    with pytest.raises(ValueError, match="other objectives"):
        search("three", objectives=("score:min", "macs"))
    with pytest.raises(ValueError, match="holds 8 trials that study 'a' of `storage` lacks"):
        search("one", storage=str(tmp_path / "t.log"), trials=9)
    assert len(search("one", trials=9).trials) == 9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"study": "a"}, "needs the `storage`"),
        ({"storage": "s.log", "start_from": "runs/other"}, "leave out one"),
        ({"storage": "mysql://host/database"}, "kind must be sqlite or postgresql"),
        ({"storage": "sqlite://"}, "in memory"),
        ({"storage": "postgresql+none://u:secret@localhost/none"}, "give a journal file"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_a_line(
    tmp_path: Path, space: SearchSpace, given: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        nas.search(space, evaluate=lambda arch: 1.0, objectives=("score:max",), trials=2, out=tmp_path / "run", **given)
    assert "secret" not in str(refused.value)


def test_passwords_are_not_written_down() -> None:
    text = "nas search --storage postgresql://me:se/cret@host:5432/db?password=secret&sslmode=require --seed 3"
    assert without_password(text) == "nas search --storage postgresql://me@host:5432/db?&sslmode=require --seed 3"
    for url in ("sqlite:////tmp/a:b@c.db", "postgresql://me@host/db", "runs/a@b.log"):
        assert without_password(url) == url
