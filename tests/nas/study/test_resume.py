"""A real process, really killed: the same command ends with the same trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas import Study
from tests.commands import run

ROOT = Path(__file__).parents[3]
SEARCH = "search --data digits --supernets 2 --epochs 3 --alone-epochs 3 --batch-size 64 --limit 300 --test-limit 100".split()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *SEARCH, "--out", str(folder)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    """A test run in the background ignores them, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(folder: Path) -> None:
    done = run(*SEARCH, "--out", folder)
    assert done.returncode == 0, done.stderr


def figures(folder: Path) -> tuple[list, list]:
    study = Study.open(folder)
    trials = study.trials[["label", "accuracy", "accuracy_supernet0", "accuracy_supernet1", "macs"]]
    alone = study.alone[["label", "seed", "accuracy"]]
    return trials.values.tolist(), alone.values.tolist()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(folder)
    return folder


def in_training(folder: Path) -> bool:
    return (folder / "supernets" / "checkpoint.safetensors").exists()


def in_ranking(folder: Path) -> bool:
    journal = folder / "journal.log"
    return journal.exists() and journal.read_bytes().count(b"\n") > 8


def alone(folder: Path) -> bool:
    return any(folder.glob("alone/*/*.checkpoint"))


def exporting(folder: Path) -> bool:
    return (folder / "exports").exists()


@pytest.mark.parametrize(
    "moments",
    [
        [in_training, in_ranking, alone, exporting],
        *(pytest.param([moment], marks=pytest.mark.slow) for moment in (in_training, in_ranking, alone, exporting)),
    ],
)
def test_killed_and_started_again_it_ends_the_same(moments: list, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for moment in moments:
        process = start(folder)
        while process.poll() is None and not moment(folder):
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    finish(folder)
    assert figures(folder) == figures(undisturbed)
    assert len(Study.open(folder).record["sessions"]) == len(moments) + 1
    assert not list(folder.rglob("*.tmp"))


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    while not in_training(folder):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"nas search --resume {folder}" in errors.replace("\n", "")
    assert "Traceback" not in errors
