"""What a session writes: enough to follow it, little enough to cost nothing, and never worth the session itself."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import nas
from nas import Study
from nas.events import LOGS, Log, logged
from nas.events.file import FILE
from nas.events.front import FIRST, FrontSoFar
from nas.events.log import BURST, RATE
from nas.objectives import OBJECTIVES, hypervolume, losses, non_dominated
from nas.study import Trial
from tests.conftest import QUICK

TWO = (OBJECTIVES["accuracy"], OBJECTIVES["macs"])


def events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    return [event for event in found if kind in (None, event["kind"])]


def trial(number: int, failed: bool = False) -> Trial:
    notes = {"label": str(number), "seconds": 0.1, **({"reason": "no luck"} if failed else {})}
    return Trial(None if failed else [0.5 + 0.001 * number, float(number)], notes)


def test_a_run_tells_everything_in_order(finished: Study) -> None:
    found = events(finished.folder)
    assert [found[0]["kind"], found[-1]["kind"], found[-1]["how"]] == ["session started", "session ended", "finished"]
    assert [event["seconds"] for event in found] == sorted(event["seconds"] for event in found)
    assert all(event["worker"] == "main" and event["time"].endswith("+00:00") for event in found)
    told = events(finished.folder, "trial")
    assert [event["label"] for event in told] == list(finished.trials["label"])
    assert [event["figures"]["accuracy"] for event in told] == list(finished.trials["accuracy"])
    rows = [(event["figures"]["epoch"], event["figures"]["supernet"]) for event in events(finished.folder, "epoch")]
    assert rows == [(epoch, supernet) for epoch in range(2) for supernet in range(2)]
    assert [event["label"] for event in events(finished.folder, "alone")] == list(finished.alone["label"])
    assert {event["label"] for event in events(finished.folder, "export")} == set(finished.front["label"])
    last = events(finished.folder, "front")[-1]["figures"]
    assert (last["trials"], last["size"]) == (36, len(finished.searched_front))
    assert last["best_accuracy"] == finished.trials["accuracy"].max()
    assert last["best_macs"] == finished.trials["macs"].min()


@given(arrays(float, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.integers(0, 9)), st.integers(1, 60))
def test_the_front_so_far_is_that_of_all_trials(values: np.ndarray, cut: int) -> None:
    objectives = (*TWO, OBJECTIVES["params"])[: values.shape[1]]
    front = FrontSoFar(objectives)
    earlier = 0.0
    for part in (values[:cut], values[cut:]):
        for row in part:
            front.add(row.tolist())
        front.add([math.inf] * len(objectives))
        figures = front.figures()
        assert figures.get("hypervolume", earlier) >= earlier - 1e-9
        earlier = figures.get("hypervolume", earlier)
    points = losses(values, objectives)
    assert figures["size"] == len(np.unique(points[non_dominated(points)], axis=0))
    assert figures["best_accuracy"] == values[:, 0].max()
    if len(values) >= FIRST and len(objectives) > 1:
        box = points[:FIRST]
        span = np.ptp(box, axis=0)
        scale = np.where(span > 0, span, 1).prod()
        assert figures["hypervolume"] == pytest.approx(hypervolume(points, box.max(axis=0)) / scale)


def test_of_fast_trials_few_are_written_but_all_counted_and_every_failure_named(tmp_path: Path) -> None:
    with logged(tmp_path, (), {}, "nas search", objectives=TWO) as log:
        for first in range(0, 6400, 64):
            log.trials([trial(number, failed=number % 1000 == 999) for number in range(first, first + 64)])
    seconds = events(tmp_path)[-1]["seconds"]
    told = events(tmp_path, "trial")
    assert BURST <= len(told) <= BURST + RATE * seconds + 1
    assert [event["label"] for event in events(tmp_path, "trial failed")] == [
        f"{number}999" for number in ["", *range(1, 6)]
    ]
    assert events(tmp_path, "front")[-1]["figures"] == {
        "trials": 6400, "failed": 6, "size": 6394, "best_accuracy": 6.899, "best_macs": 0.0,
        "hypervolume": events(tmp_path, "front")[-1]["figures"]["hypervolume"],
    }  # fmt: skip


def test_progress_is_told_at_the_ends_of_a_step_and_now_and_then(tmp_path: Path) -> None:
    heard: list[float] = []
    with logged(tmp_path, (), {}, "nas search") as log:
        listen = log.listening(lambda step, done, total: heard.append(done))
        for done in range(10_001):
            listen("ranking", done, 10_000)
    told = [event["figures"]["done"] for event in events(tmp_path, "progress")]
    assert (told[0], told[-1], len(heard)) == (0, 10_000, 10_001)
    assert len(told) <= 3 + events(tmp_path)[-1]["seconds"]


@pytest.mark.parametrize(("error", "how"), [(KeyboardInterrupt(), "stopped"), (ValueError("no\nluck"), "failed")])
def test_a_session_says_how_it_ended(tmp_path: Path, error: BaseException, how: str) -> None:
    with pytest.raises(type(error)), logged(tmp_path, (), {}, "nas search"):
        raise error
    last = events(tmp_path)[-1]
    assert (last["how"], last.get("reason")) == (how, "ValueError: no" if how == "failed" else None)


def test_a_session_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError), logged(tmp_path / "new", (), {}, "nas prune"):
        raise ValueError
    assert not (tmp_path / "new").exists()


class Full:
    """A writer whose disk is full."""

    def write(self, events: object) -> None:
        raise OSError(28, "No space left on device")

    def close(self, how: str) -> None:
        raise AssertionError("it was left out")


def test_a_writer_that_fails_is_left_out_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGS, "mlflow", LOGS["mlflow"]._replace(make=lambda folder, settings: Full()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with logged(tmp_path, ("mlflow",), {}, "nas search", objectives=TWO) as log:
            log.trials([trial(1)])
            log.trials([trial(2)])
    (warning,) = caught
    assert "log mlflow is left out from here on (OSError: [Errno 28] No space left" in str(warning.message)
    assert len(events(tmp_path, "trial")) == 2


def test_a_run_that_goes_on_counts_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "strategy": "random", "supernets": 0, "objectives": ("macs", "params"), "retrain": "none", "limit": 100, "test_limit": 20,
    }  # fmt: skip
    for trials in (3, 5):
        nas.search("resnet20-pooling", "digits", out=tmp_path, trials=trials, **settings)
    assert [event["figures"]["number"] for event in events(tmp_path, "trial")] == [1, 2, 3, 4, 5]
    assert [event["figures"]["trials"] for event in events(tmp_path, "session started")] == [0, 3]


def test_nothing_is_written_outside_of_a_session(tmp_path: Path) -> None:
    log = Log(None)
    log.trials([trial(1)])
    log.write("export", label="1")
    assert not list(tmp_path.iterdir())


def test_a_log_that_is_not_installed_is_refused_before_there_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGS, "tensorboard", LOGS["tensorboard"]._replace(needs="no_such_package"))
    with pytest.raises(ValueError, match=r"log tensorboard needs more packages: pip install \"nas-toolkit\[no_such"):
        nas.search("resnet20-pooling", "digits", out=tmp_path / "run", log=("tensorboard",), **QUICK)
    assert not (tmp_path / "run").exists()
