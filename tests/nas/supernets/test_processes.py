"""Several processes train the supernet that one does: the same losses, weights and running statistics, by each sampler."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nas
from nas.runtime import checkpoint, ranks, resolve_device
from tests.elastic_toy import elastic_space
from tests.nas.supernets.in_processes import CASES

SETTINGS = {"limit": 80, "epochs": 3, "batch_size": 16, "learning_rate": 0.02}
REPOSITORY = Path(__file__).parents[3]


def together(*command: str) -> None:
    """Run a module in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    joined = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **joined, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(ended)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, list[float]]]]:
    out = tmp_path_factory.mktemp("processes") / "found.json"
    together("tests.nas.supernets.in_processes", str(out))
    return json.loads(out.read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]} on {case[0]}")
def test_two_processes_train_what_one_does(case: tuple[str, str, int], trained: dict[str, list]) -> None:
    alone, both = trained[" ".join(map(str, case))]
    assert len(alone["losses"]) >= 4 * case[2]
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["tensors"] == pytest.approx(alone["tensors"], rel=1e-5)


def back(folder: Path) -> None:
    """Let a run be as it was an epoch earlier."""
    path = folder / "supernets" / "checkpoint.safetensors"
    path.with_name(path.name + ".previous").replace(path)


def test_one_process_goes_on_with_what_two_trained_and_two_with_what_one_did(tmp_path: Path) -> None:
    def weights(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
        found = checkpoint.load(folder / "supernets" / "checkpoint.safetensors")
        assert found is not None
        return found.tensors, found.state["epochs"]

    one, two = tmp_path / "one", tmp_path / "two"
    nas.train("resnet20-pooling", "digits", out=one, **SETTINGS)
    expected, _ = weights(one)
    shutil.copytree(one, two)
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nas"]
    back(two)
    done = subprocess.run(
        [sys.executable, "-m", *launch, "train", "resnet20-pooling", "--data", "digits", *settings, "--out", str(two)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("history.csv") == 1 and done.stderr.count("epoch 3") == 1 and "epoch 1" not in done.stderr
    torch.testing.assert_close(weights(two), (expected, 3), rtol=1e-4, atol=1e-5)
    back(two)
    nas.train("resnet20-pooling", "digits", out=two, **SETTINGS)
    torch.testing.assert_close(weights(two), (expected, 3), rtol=1e-4, atol=1e-5)


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of three processes, which are not joined."""
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "nowhere"}.items():
        monkeypatch.setenv(name, value)


def test_what_processes_cannot_share_is_refused_before_there_is_a_folder(
    third: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not ranks.first() and ranks.share() == ranks.WHOLE
    with pytest.raises(ValueError, match="this search has none to train, got 3 processes"):
        nas.search("resnet20-pooling", "digits", objectives=["macs", "params"], strategy="random", out=tmp_path / "a")
    with pytest.raises(ValueError, match="a GPU of its own"):
        resolve_device("cuda:1")
    monkeypatch.setenv("RANK", "0")
    for sampler, size in (("uniform", 31), ("groups", 30)):
        with pytest.raises(ValueError, match=rf"divide evenly among 3 processes.*got {size} .* `batch_size` \d+"):
            nas.train(elastic_space(), "digits", sampler=sampler, batch_size=size, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
