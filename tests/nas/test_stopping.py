"""Commands that are ended: one line, nothing half-written, and no work lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import nas
import pruners
from nas import Study
from nas.cli import main
from nas.data.dataset import ImageData
from nas.runtime import checkpoint, locked
from nas.runtime.files import replacing, write_text
from nas.stopping import Stopped, held, raised
from tests.commands import ROOT, run

TARGET = "tests.nas.test_stopping:small"
STEPS = ["--steps", "3", "--importance", "l2", "--allocation", "global", "--no-milliseconds"]
TRAINED = ["--data", "digits", "--limit", "120", "--test-limit", "40", "--recover", "calibrate,finetune:6,match:9"]
PRUNE = ["prune", TARGET, "--input", "1x1x8x8", "--target", "macs=0.5", *STEPS, *TRAINED, "--batch-size", "16"]


def small() -> nn.Module:
    """With dropout, which draws as it trains."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(12 * 16, 10),
    )


def prune_often_kept(out: Path) -> None:
    """The command in a process of its own, with a checkpoint after every step of what has no epochs."""
    checkpoint.SECONDS, checkpoint.SHARE = 0.0, float("inf")
    _heed_interrupts()
    sys.argv = ["nas", *PRUNE, "--out", str(out)]
    os.chdir(ROOT)
    torch.set_num_threads(1)
    main()


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    slow = ["torch._dynamo", "torch.export._trace", "torchmetrics", "sklearn.datasets", "sklearn.model_selection"]
    context.set_forkserver_preload([*slow, "nas.cli", "tests.nas.test_stopping"])
    return context


@pytest.fixture(scope="module")
def undisturbed(processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    process = processes.Process(target=prune_often_kept, args=(out,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return out


def written(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


MOMENTS = [
    ("ranking.safetensors", signal.SIGKILL),
    ("pruned/done.json", signal.SIGTERM),
    ("step1.safetensors", signal.SIGKILL),
    ("step2.safetensors", signal.SIGKILL),
    ("step2.safetensors", signal.SIGINT),
]


def test_a_pruning_that_is_ended_again_and_again_ends_as_one_that_was_not(
    processes: ForkServerContext, undisturbed: Path, tmp_path: Path
) -> None:
    """At moments of every stage, and a random while later."""
    out, rng = tmp_path / "out", random.Random(0)
    for name, number in MOMENTS:
        path = out / ".unfinished" / name
        before = written(path)
        process = processes.Process(target=prune_often_kept, args=(out,))
        process.start()
        while process.is_alive() and written(path) in (0, before):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        os.kill(process.pid, number)  # type: ignore[arg-type]
        process.join()
        assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number), name
    last = processes.Process(target=prune_often_kept, args=(out,))
    last.start()
    last.join()
    assert last.exitcode == 0
    for name in ("weights.safetensors", "plan.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (out, undisturbed))
    assert ours["test"] == theirs["test"]
    assert _without_seconds(ours["recovery"]) == _without_seconds(theirs["recovery"])
    assert {path.name for path in out.iterdir()} == {path.name for path in undisturbed.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _without_seconds(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in note.items() if name != "seconds"} for note in notes]


@pytest.fixture
def stopped(tmp_path: Path, digits: ImageData) -> Path:
    """A folder whose pruning was stopped in its fine-tuning."""
    with pytest.raises(Stopped):
        prune(digits, tmp_path / "out", stop_at="fine-tuning")
    return tmp_path / "out"


def prune(
    digits: ImageData, out: Path | None, stop_at: str = "", stop_after: int = 0, **settings: Any
) -> dict[str, Any]:
    seen: list[str] = []

    def progress(step: str, done: float, total: float) -> None:
        seen.append(step)
        if step == stop_at and max(0.0, stop_after - 1) < done < total:
            raise Stopped(signal.SIGTERM)

    given = {"importance": "l2", "milliseconds": False, "recover": ["calibrate", "finetune:2"], "learning_rate": 0.01}
    _, summary = nas.prune(
        small(), torch.ones(1, 1, 8, 8), {"macs": 0.5}, data=digits, out=out, progress=progress, **{**given, **settings}
    )
    return {**summary, "seen": seen}


def test_another_pruning_does_not_go_on(stopped: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"unfinished work of another pruning \(recovery.learning_rate: 0.01, not 0.02\)"
    ):
        prune(digits, stopped, learning_rate=0.02)
    assert (stopped / ".unfinished" / "pruned").exists()
    with (
        locked(stopped / ".unfinished" / ".lock", stopped),
        pytest.raises(ValueError, match="another process is running"),
    ):
        prune(digits, stopped)
    with monkeypatch.context() as patch:
        patch.setattr("pruners.prune", None)  # it was cut
        summary = prune(digits, stopped)
    assert not (stopped / ".unfinished").exists() and "fine-tuning" in summary["seen"]
    assert prune(digits, stopped, learning_rate=0.02)["settings"]["recovery"]["learning_rate"] == 0.02  # anew


def test_a_pruning_that_fails_before_it_keeps_anything_leaves_nothing(tmp_path: Path, digits: ImageData) -> None:
    with pytest.raises(ValueError):
        prune(digits, tmp_path / "out", min_kept=1000)
    with pytest.raises(Stopped):
        prune(digits, None, stop_at="fine-tuning")
    assert not list(tmp_path.iterdir())


def test_steps_of_a_cut_are_not_taken_again(tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    given = {"steps": 5, "recover": ["none"]}
    with pytest.raises(Stopped):
        prune(digits, tmp_path / "out", stop_at="pruning steps", stop_after=2, **given)
    again, whole = prune(digits, tmp_path / "out", **given), prune(digits, None, **given)
    assert (again["seen"].count("pruning steps"), whole["seen"].count("pruning steps")) == (3, 4)
    assert again["groups"] == whole["groups"] and again["test"] == whole["test"]


def test_paths_that_were_tried_are_not_tried_again(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[int] = []
    plain = pruners.prune
    monkeypatch.setattr(
        "pruners.prune", lambda *args, **named: cuts.append(named["config"].steps) or plain(*args, **named)
    )
    auto = {"importance": "auto", "recover": ["auto", "finetune:1"]}
    monkeypatch.setattr("nas.pruning.paths.STEPS", 4)
    with pytest.raises(Stopped):
        prune(digits, tmp_path / "out", stop_at="pruning steps", **auto)
    assert cuts == [1, 4]
    cuts.clear()
    chosen = prune(digits, tmp_path / "out", **auto)["chosen"]["paths"]
    assert cuts[:-1] == [4]
    assert chosen == prune(digits, None, **auto)["chosen"]["paths"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a file that was just opened
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_half_written_stays_whenever_a_signal_comes(kind: str, tmp_path: Path) -> None:
    """It comes before the first line that runs while a file or folder is written, then before the second, and so on."""

    def write(text: str) -> None:
        if kind == "file":
            write_text(path, text)
            return
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "inner").write_text(text)

    def lines(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(os.path.join("runtime", "files.py")):
            return None
        if event == "line":
            left -= 1
            if not left:
                signal.raise_signal(signal.SIGTERM)
        return lines

    path, moment, ended = tmp_path / "out", 0, True
    write("old")
    while ended:
        moment += 1
        left, ended = moment, False
        with raised():
            try:
                sys.settrace(lines)
                write("new")
            except Stopped:
                ended = True
            finally:
                sys.settrace(None)
        assert [found.name for found in tmp_path.iterdir()] == ["out"], moment
        text = (path if kind == "file" else path / "inner").read_text()
        assert text in ("old", "new"), moment
        write("old")
    assert moment > 10


def test_a_signal_waits_for_what_must_not_be_cut_in_two() -> None:
    done = []
    with raised(), pytest.raises(Stopped) as stop:
        with held():
            with held():
                signal.raise_signal(signal.SIGTERM)
            done.append("inside")
        done.append("outside")
    assert done == ["inside"] and stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_imports_says_one_line(number: int, tmp_path: Path) -> None:
    """In the middle of `import torch`."""
    (tmp_path / "torch.py").write_text(
        f"import signal; signal.raise_signal({number:d})\nraise SystemExit('imported on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "nas", "list", "spaces"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "Stopped.\n")


def _heed_interrupts() -> None:
    """A test run in the background ignores them, and its children would too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def folder(finished: Study, tmp_path: Path) -> Iterator[Path]:
    """A finished run, with what a process left that was killed as it drew a plot."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "plots" / ".front.png.12345678.tmp").touch()
    yield folder


def test_a_report_that_is_stopped_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nas.report.plots.png

    def stop(figure: Any) -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(figure)

    with monkeypatch.context() as patch:
        patch.setattr("nas.report.plots.png", stop)
        ended = run("report", folder)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "Stopped.\n")
    assert not list(folder.rglob("*.tmp"))


def test_the_next_command_sweeps_what_a_killed_one_left(folder: Path, tmp_path: Path) -> None:
    label = Study.open(folder).searched_front["label"][0]
    out = tmp_path / "exported"
    place = Study.open(folder).place("exports", Study.open(folder).find(label)).name
    (out / f".{place}.12345678.tmp").mkdir(parents=True)
    (out / ".another.tmp").touch()
    with locked(folder / ".lock", folder):
        assert run("report", folder).returncode == 0
        assert list(folder.rglob(".*.tmp"))  # of a process that runs
    assert run("export", folder, "--pick", label, "--out", out).returncode == 0
    assert not list(folder.rglob(".*.tmp"))
    assert {path.name for path in out.iterdir()} == {place, ".another.tmp"}
