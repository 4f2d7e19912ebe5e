"""What a study that several workers share loses and doubles when one of them is killed, and what sharing costs each trial.

    python -m benchmarks.shared_study --storage postgresql --out results/shared_study_cpu_202612
    python -m benchmarks.shared_study --storage sqlite --out results/shared_study_cpu_202612
    python -m benchmarks.shared_study --storage journal --out results/shared_study_cpu_202612
    python -m benchmarks.shared_study --storage none --out results/shared_study_cpu_202612

Workers are `nas search` commands on one study, whose evaluation writes down that it began and sleeps. Once each of them has begun a few
trials, one is killed by SIGKILL in the middle of a trial. Written are the trials that the study holds in the end, how many
architectures are among them, which evaluations began twice (of the trial of the killed worker), how many trials each worker finished,
seconds, and the overhead: the seconds of a worker between a trial's evaluation and the next, at the median over workers that stayed.
`none` is the control: as many searches at once, each for itself with its part of the trials, and none is killed.
`postgresql` starts a server of Debian's package in a temporary folder, on loopback and a port of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import glob
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.resumable import note
from nas import Study
from nas.study import open_storage
from search_spaces import Architecture

SPACE = "nas-bench-201"
STUDY = "shared"


def score(arch: Architecture) -> float:
    """Stands for an evaluation: notes who began and ended it when, and sleeps."""
    _log("begin", arch.key)
    time.sleep(float(os.environ["SHARED_STUDY_SECONDS"]))
    _log("end", arch.key)
    return float(sum(map(ord, arch.key)) % 97)


def _log(what: str, key: str) -> None:
    line = json.dumps([what, os.getpid(), time.monotonic(), key]) + "\n"
    descriptor = os.open(os.environ["SHARED_STUDY_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URL of a database of a server that runs meanwhile."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        raise SystemExit("no PostgreSQL server is installed; on Debian: apt-get install postgresql")
    binaries = Path(found[-1])
    port = _free_port()
    who = "postgres" if getpass.getuser() == "root" else getpass.getuser()
    if who != getpass.getuser():
        shutil.chown(folder, who)

    def call(program: str, *arguments: str) -> None:
        words = [str(binaries / program), *arguments]
        as_user = ["runuser", "-u", who, "--"] if who != getpass.getuser() else []
        subprocess.run([*as_user, *words], check=True, stdout=subprocess.DEVNULL, cwd=folder)

    data = folder / "data"
    call("initdb", "-D", str(data), "-A", "trust", "-U", "nas")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    call("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-o", settings, "start")
    try:
        yield f"postgresql://nas@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def storage(kind: str) -> Iterator[str | None]:
    """Where the trials are to stand, for `--storage`."""
    if kind == "none":
        yield None
        return
    with tempfile.TemporaryDirectory() as temporary:
        if kind == "postgresql":
            with postgresql(Path(temporary)) as url:
                yield url
        else:
            yield f"sqlite:///{temporary}/shared.db" if kind == "sqlite" else f"{temporary}/shared.log"


def measured(url: str | None, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Search with several workers, kill one, and see what is there."""
    log = folder / "evaluations.jsonl"
    environment = {
        **os.environ,
        "SHARED_STUDY_LOG": str(log),
        "SHARED_STUDY_SECONDS": str(options.seconds),
        "OMP_NUM_THREADS": "1",
    }
    started = time.monotonic()
    workers = [
        subprocess.Popen(
            [*command(url, options), "--out", str(folder / f"worker{number}")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(options.workers)
    ]
    killed = None if url is None else kill_one(workers, log, options)
    stayed = [each for each in workers if each is not killed]
    for each in stayed:
        if each.wait(600):
            raise SystemExit(f"a worker failed with exit code {each.returncode}")
    seconds = time.monotonic() - started
    events = read(log)
    overhead = {
        "seconds": round(seconds, 1),
        "overhead_ms": round(1000 * statistics.median(gaps(events, {each.pid for each in stayed})), 1),
    }
    begun = Counter(key for what, _, _, key in events if what == "begin")
    evaluations = {"evaluations": sum(begun.values()), "begun_twice": sum(count > 1 for count in begun.values())}
    if url is None:
        ended = Counter(pid for what, pid, *_ in events if what == "end")
        trials = {"trials": sum(ended.values()), "architectures": len(begun), "of_each_worker": sorted(ended.values())}
        return {**trials, **evaluations, **overhead}
    found = finished(url, options.grace)
    keys = [json.dumps(trial.user_attrs["architecture"]["choices"]) for trial in found]
    durations = [trial.duration.total_seconds() for trial in found if trial.duration]
    return {
        "trials": len(found),
        "architectures": len(set(keys)),
        "of_each_worker": sorted(Counter(trial.user_attrs["worker"] for trial in found).values()),
        "in_each_folder": [len(Study.open(folder / f"worker{number}").trials) for number in range(1, options.workers)],
        **evaluations,
        "retried": sum("failed_trial" in trial.system_attrs for trial in found),
        "shortest_s": round(min(durations), 3),
        "longest_s": round(max(durations), 3),
        **overhead,
    }


def command(url: str | None, options: argparse.Namespace) -> list[str]:
    """A worker's, but for its folder."""
    words = [sys.executable, "-m", "nas", "search", "--space", SPACE, "--evaluate", "benchmarks.shared_study:score"]
    words += ["--objectives", "score:max,macs", "--strategy", options.strategy]
    if url is None:
        return [*words, "--trials", str(options.trials // options.workers)]
    return [*words, "--trials", str(options.trials), "--storage", url, "--study", STUDY, "--grace", str(options.grace)]


def kill_one(workers: list[subprocess.Popen[bytes]], log: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Kill the first in the middle of a trial, once each has begun three."""
    while min(Counter(pid for what, pid, *_ in read(log) if what == "begin")[each.pid] for each in workers) < 3:
        if any(each.poll() is not None for each in workers):
            raise SystemExit("a worker ended before all had begun; give more trials")
        time.sleep(0.1)
    while sum({"begin": 1, "end": -1}[what] for what, pid, *_ in read(log) if pid == workers[0].pid) == 0:
        time.sleep(options.seconds / 20)
    workers[0].kill()
    workers[0].wait()
    return workers[0]


def read(log: Path) -> list[tuple[str, int, float, str]]:
    """The events that evaluations wrote down."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def finished(url: str, grace: int) -> list[FrozenTrial]:
    """The trials of the study that are complete, as Optuna reads them."""
    found = open_storage(url, grace)
    try:
        study = optuna.load_study(study_name=STUDY, storage=found.optuna)
        return study.get_trials(states=[TrialState.COMPLETE])
    finally:
        found.close()


def gaps(events: list[tuple[str, int, float, str]], workers: set[int]) -> Iterator[float]:
    """Seconds between the end of an evaluation and the begin of the next of the same worker."""
    ended: dict[int, float] = {}
    for what, pid, at, _ in events:
        if what == "end":
            ended[pid] = at
        elif pid in workers and pid in ended:
            yield at - ended[pid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True, choices=["postgresql", "sqlite", "journal", "none"])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=200, help="of the whole study")
    parser.add_argument("--seconds", type=float, default=0.5, help="that an evaluation sleeps")
    parser.add_argument("--grace", type=int, default=8, help="seconds after which a worker counts as dead")
    parser.add_argument("--strategy", default="random")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "shared_study.json", "benchmarks.shared_study", options, ["SQLAlchemy", "psycopg"])
    with storage(options.storage) as url, tempfile.TemporaryDirectory() as folder:
        row = {"storage": options.storage, "workers": options.workers, **measured(url, Path(folder), options)}
    print(row, flush=True)
    with (options.out / "shared_study.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
