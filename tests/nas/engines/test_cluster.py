"""Workers on the nodes of a Ray cluster: what they lose, what they are sent, and what comes back."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pandas as pd
import pytest

import nas
from nas.engines import Died, EngineConfig, Job, Late, open_engine, results
from tests.nas.engines.conftest import ROOT
from tests.nas.engines.made_up import State, cannot_be_made, dies_at_once
from tests.nas.engines.test_engines import table

ONE, TWO = EngineConfig(name="ray", parallel=1), EngineConfig(name="ray", parallel=2)


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_dies_is_replaced_and_its_job_done_again(tmp_path: Path) -> None:
    jobs = [Job("die_once", (str(tmp_path / "mark"),)), Job("unsendable"), Job("square", (3,))]
    with open_engine(ONE, State) as workers:
        found = dict(results(workers, jobs))
    assert found[0].error is None and found[0].value == "done"
    assert "pickle" in str(found[1].error)
    assert found[2].value[0] == 9


@pytest.mark.usefixtures("cluster")
def test_workers_that_cannot_start_end_the_run() -> None:
    with pytest.raises(ValueError, match="no data there"), open_engine(ONE, cannot_be_made) as workers:
        list(results(workers, [Job("square", (1,))]))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_die_again_and_again_are_given_up() -> None:
    with open_engine(TWO, State) as workers:
        found = dict(results(workers, [Job("die"), Job("hang", (), 0.3)]))
    assert isinstance(found[0].error, Died) and "the loss of its process or node" in str(found[0].error)
    assert isinstance(found[1].error, Late)
    start = "3 workers in a row ended by the loss of its process or node"
    with pytest.raises(Died, match=start), open_engine(TWO, dies_at_once) as workers:
        list(results(workers, [Job("square", (1,))]))


@pytest.mark.usefixtures("cluster")
def test_a_run_folder_need_not_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors run in another folder, where the relative name of this run leads nowhere."""
    settings: dict[str, Any] = {"strategy": "one-shot", "epochs": 1, "alone_epochs": 1, "limit": 200, "test_limit": 50}
    monkeypatch.chdir(tmp_path)
    here = nas.search("resnet20-pooling", "digits", out="here", **settings)
    there = nas.search("resnet20-pooling", "digits", out="there", engine="ray", parallel=2, **settings)
    pd.testing.assert_frame_equal(table(here), table(there))
    columns = ["label", "seed", "accuracy"]
    pd.testing.assert_frame_equal(
        here.alone[columns].sort_values(columns, ignore_index=True),
        there.alone[columns].sort_values(columns, ignore_index=True),
    )
    weights = {path.relative_to("here"): path.read_bytes() for path in Path("here/alone").rglob("*.safetensors")}
    assert weights and weights == {
        path.relative_to("there"): path.read_bytes() for path in Path("there/alone").rglob("*.safetensors")
    }
    assert not list(Path("there").rglob("*.checkpoint*"))


def test_settings_of_a_cluster_are_refused_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="`address` is for `engine` ray, got `engine` processes; leave it out, or use ray"
    ):
        EngineConfig(parallel=2, address="auto")
    with pytest.raises(ValueError, match="`gpus` is for `engine` ray, got `engine` this-process"):
        EngineConfig(gpus=0.5)
    monkeypatch.setattr("nas.engines.config.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`engine` ray needs a package: pip install 'nas-toolkit\[ray\]'"):
        nas.search("resnet20-pooling", "digits", engine="ray", out=tmp_path)
    assert not any(tmp_path.iterdir())


SCRIPT = """
import os, sys
from nas.engines import EngineConfig, Job, open_engine
class State:
    def __init__(self, place):
        pass
    def ids(self, progress):
        return os.getpid(), os.getppid()
    def hang(self, progress):
        while True:
            pass
with open_engine(EngineConfig(name="ray", parallel=1), State) as workers:
    workers.submit(Job("ids"))
    print(*workers.next().value, flush=True)
    if sys.argv[1] == "hangs":
        workers.submit(Job("hang"))
        workers.next()
import ray
print(ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ends", "hangs"])
def test_a_cluster_of_its_own_ends_with_the_run_and_is_quiet(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    with Popen([sys.executable, "-c", SCRIPT, how], cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        ids = [int(word) for word in process.stdout.readline().split()]
        assert len(ids) == 2
        if how == "hangs":
            process.send_signal(signal.SIGINT)
        said, errors = process.communicate()
    if how == "ends":
        assert (said, errors, process.returncode) == ("False\n", "", 0)
    else:
        assert process.returncode != 0 and errors.rstrip().endswith("KeyboardInterrupt")
    until = time.monotonic() + 20
    while time.monotonic() < until and any(Path(f"/proc/{each}").exists() for each in ids):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{each}").exists() for each in ids)
