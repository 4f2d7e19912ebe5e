"""`nas watch`: what it shows of runs in every state, and of event files that hold anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Study
from nas.cli import watch
from nas.events import Session, logged, parse
from nas.study import is_held
from tests.commands import run
from tests.nas.events.test_log import TWO, trial

STARTED = {
    "time": "2026-01-01T00:00:00.000+00:00",
    "seconds": 0,
    "kind": "session started",
    "worker": "main",
    "command": "nas search",
    "objectives": [],
    "figures": {},
}


def put(folder: Path, *events: object) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "events.jsonl", "a") as file:
        file.writelines((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)


def test_a_finished_run_is_summed_up(finished: Study) -> None:
    done = run("watch", finished.folder)
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.startswith(f"{finished.folder}: finished after ")
    assert {"supernets: 2 done", "ranking: 36 done", f"{len(finished.front)} exported"} <= set(lines)
    assert any(line.startswith(f"36 trials; front of {len(finished.searched_front)}, hypervolume ") for line in lines)
    best = f"best: accuracy {100 * finished.trials['accuracy'].max():.2f} %"
    assert any(line.startswith(best) for line in lines)
    assert run("watch", finished.folder, "--once").stdout == done.stdout


def test_json_passes_the_lines_on(finished: Study) -> None:
    for more in ([], ["--once"]):
        done = run("watch", finished.folder, "--json", *more)
        assert done.stdout == (finished.folder / "events.jsonl").read_text()


def test_whether_a_process_lives_is_told_by_the_lock(start: object) -> None:
    study: Study = start()  # type: ignore[operator]
    assert is_held(study.folder) is None
    with study.locked():
        put(study.folder, STARTED)
        assert is_held(study.folder) is True
        said = run("watch", study.folder, "--once").stdout
        assert "running: nas search\n" in said and "last heard of" in said
    (study.folder / ".lock").touch()  # as a killed process leaves it
    assert is_held(study.folder) is False
    assert "its process is gone without a word" in run("watch", study.folder).stdout


def test_it_waits_for_a_run_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"

    def sleep(seconds: float) -> None:
        with logged(folder, (), {}, "nas search", objectives=TWO) as log:
            log.listening(lambda *told: None)("ranking", 1, 4)
            log.trials([trial(1), trial(2, failed=True)])

    monkeypatch.setattr(watch.time, "sleep", sleep)
    lines = run("watch", folder).stdout.splitlines()
    assert lines[0] == f"{folder}: no events yet"
    assert lines[1].startswith(f"{folder}: finished after")
    assert {"ranking: 1 of 4", "2 trials, 1 failed; front of 1", "failed 2: no luck"} <= set(lines)


def test_stopping_to_watch_says_so_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", sleep)
    done = run("watch", tmp_path)
    assert done.returncode == 130
    assert done.stderr == f"Stopped watching; the run does not mind. Again with: nas watch {tmp_path}\n"


def test_a_folder_that_is_not_there_can_only_be_waited_for(tmp_path: Path) -> None:
    done = run("watch", tmp_path / "no", "--once")
    assert done.returncode == 2 and "is not there; give the --out of a run" in done.stderr
    assert "no events yet" in run("watch", tmp_path, "--once").stdout


def test_labels_do_not_command_the_terminal_and_odd_lines_do_not_matter(tmp_path: Path) -> None:
    bad = {**STARTED, "kind": "trial failed", "label": "\x1b[31mred", "reason": "\x07", "figures": {"number": 1}}
    ended = {**STARTED, "kind": "session ended", "how": "failed", "reason": "[bold]no", "figures": {}}
    put(tmp_path, STARTED, "not json", {"kind": "unheard of"}, {**STARTED, "kind": "trial"}, bad, ended, '{"half')
    done = run("watch", tmp_path)
    assert "failed ?[31mred: ?" in done.stdout and ": failed after 0 s: [bold]no" in done.stdout
    assert "\x1b" not in done.stdout


VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda x: st.lists(x, max_size=2))
KINDS = st.sampled_from(
    ["session started", "progress", "epoch", "trial", "trial failed", "front", "alone", "session ended"]
)
FIELDS = ["command", "objectives", "label", "reason", "how", "step", "time"]
FIGURES = ["done", "total", "number", "trials", "failed", "supernet", "loss", "epoch", "learning_rate", "size"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda kind, about, figures: {"kind": kind, "seconds": 1.0, "figures": figures, **about},
            KINDS,
            st.dictionaries(st.sampled_from(FIELDS), VALUES),
            st.dictionaries(st.sampled_from(FIGURES), VALUES),
        ),
        max_size=8,
    )
)
def test_no_event_breaks_what_is_shown(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, object]]
) -> None:
    seen = watch.Watched(tmp_path_factory.getbasetemp() / "none")
    for event in events:
        parsed = parse(json.dumps(event))
        assert parsed is not None
        seen.session.take(parsed)
    assert watch._lines(seen)
    watch._picture(seen)


def test_time_left_counts_from_where_a_session_began() -> None:
    session = Session()
    for seconds, done in ((0, 90), (10, 95)):
        session.take(
            {
                **STARTED,
                "kind": "progress",
                "step": "supernets",
                "seconds": seconds,
                "figures": {"done": done, "total": 100},
            }
        )
    assert session.phases["supernets"].left == 10
