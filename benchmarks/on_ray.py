"""A search on a Ray cluster that loses a node in the middle, beside undisturbed ones; and what a job costs there.

    python -m benchmarks.on_ray --out results/on_ray_cpu_202612

A head and two nodes with as many actors in all as `--workers`, all of them on this machine. A function that takes 0.3 s gives each
trial its figure. Searches: in this process, in processes, on the cluster, and on the cluster with one of the nodes ended by SIGKILL
while the trial after the first third is at work. `runs.jsonl` says of each whether its trials are complete, without doubles, and equal
in all figures to those of the search in this process; for how many the function was called again; and how many each worker did. Seconds
include the start of workers.

`overhead.jsonl`: seconds of each of many jobs that do nothing, one after another on one worker that is there already, in turns.

Ray gives its workers the least priority of the system; here they have that of other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import nas
from benchmarks.resumable import note
from nas.engines import EngineConfig, Job, Place, Workers, open_engine
from pruners.progress import Progress
from search_spaces import Architecture

SPACE = "resnet-elastic"
SECONDS = 0.3


class Slow:
    """Figures of architectures that take their time; each call is written down in a folder.

    Args:
        folder: that all workers see.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, arch: Architecture) -> float:
        with open(Path(self.folder) / str(os.getpid()), "a") as file:
            file.write(arch.key + "\n")
        time.sleep(SECONDS)
        return float(sum(arch.key.encode()) % 1009)


class Idle:
    """A state whose jobs do nothing."""

    def __init__(self, place: Place) -> None:
        pass

    def nothing(self, *, progress: Progress) -> None:
        pass


def search(trials: int, killed: int | None = None, **engine: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The trials of a search, and what it took; a process may be killed after a third of them."""
    with tempfile.TemporaryDirectory() as calls, tempfile.TemporaryDirectory() as out:
        if killed is not None:
            threading.Thread(target=kill, args=(killed, Path(calls), trials / 3), daemon=True).start()
        started = time.perf_counter()
        study = nas.search(
            SPACE,
            evaluate=Slow(calls),
            objectives=["score:max", "macs"],
            strategy="nsga2",
            trials=trials,
            out=Path(out) / "run",
            **engine,
        )
        seconds = time.perf_counter() - started
        done = Counter(begun(Path(calls)))
        found = study.trials
    again = sum(done.values()) - len(done)
    each = found["worker"].value_counts().sort_index().to_dict() if "worker" in found else {0: len(found)}
    return found, {"seconds": round(seconds, 1), "run_again": again, "trials_of_workers": each}


def begun(calls: Path) -> list[str]:
    """Architectures that workers have begun with, also twice."""
    return [key for file in calls.iterdir() for key in file.read_text().splitlines()]


def kill(pid: int, calls: Path, after: float) -> None:
    """End a node by the process that its others are children of, and those, once more calls than that have begun."""
    while len(begun(calls)) <= after:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.split()
    for each in (pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)


def figures(trials: pd.DataFrame) -> pd.DataFrame:
    """What must not depend on who scores, in a common order."""
    kept = trials.drop(columns=["seconds", "worker", "started"], errors="ignore")
    return kept.sort_values("architecture", ignore_index=True)


def jobs(workers: Workers, count: int) -> float:
    """Median seconds of jobs that do nothing, one after another."""
    found = []
    for _ in range(count):
        started = time.perf_counter()
        workers.submit(Job("nothing"))
        workers.next()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def add(path: Path, row: dict[str, Any]) -> None:
    """Append a row, and show it."""
    print(row, flush=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; rows are added")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=300, help="jobs that do nothing in a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    note(options.out / "on_ray.json", "benchmarks.on_ray", options, ["ray"])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=options.workers // 2) for _ in range(2)]
    raylet = nodes[1].all_processes["raylet"][0].process.pid
    here: dict[str, Any] = {"engine": "this-process"}
    there: dict[str, Any] = {"engine": "ray", "address": cluster.address, "parallel": options.workers}
    plain, expected = {"engine": "processes", "parallel": options.workers}, pd.DataFrame()
    overhead(options, {"processes": {}, "ray": {"address": cluster.address}})
    for engine, killed in ((here, None), (plain, None), (there, None), (there, raylet)):
        trials, row = search(options.trials, killed, **engine)
        expected = figures(trials) if engine is here else expected
        about = {
            "engine": engine["engine"],
            "node_killed": killed is not None,
            "trials": len(trials),
            "unique": trials["architecture"].nunique(),
            "as_in_this_process": figures(trials).equals(expected),
        }
        add(options.out / "runs.jsonl", about | row)
    cluster.shutdown()


def overhead(options: argparse.Namespace, engines: dict[str, dict[str, Any]]) -> None:
    """Measure jobs that do nothing under engines, in turns."""
    at: dict[str, Callable[[], Any]] = {
        name: lambda name=name, how=how: open_engine(EngineConfig(name=name, parallel=1, **how), Idle)  # type: ignore[misc]
        for name, how in engines.items()
    }
    for repeat in range(options.repeats):
        for name, opened in at.items():
            with opened() as workers:
                jobs(workers, 20)
                milliseconds = round(1e3 * jobs(workers, options.jobs), 3)
            add(options.out / "overhead.jsonl", {"engine": name, "repeat": repeat, "median_ms": milliseconds})


if __name__ == "__main__":
    main()
