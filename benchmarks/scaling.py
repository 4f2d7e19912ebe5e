"""Trials a second by one and by several workers, beside bare processes that share nothing; and what an engine costs per job.

    python -m benchmarks.scaling --out results/scaling_cpu_202612

Kinds of trials: `alone`, each a small ResNet that is trained from scratch, and `candidates`, each a part of a given ResNet-20 whose
batch statistics are gathered again. Every worker has one thread. The control starts as many processes as there are workers, each of
which scores its part of the same architectures in a plain loop; all begin together once they are ready, and the last one ends the
clock. The engines' clocks start when all workers have scored one trial. Engine and control take turns; a row is one turn. At least 0.95
of the control is asked for, and less than 10 ms per job, of which jobs that do nothing tell.

Rows of `trials.jsonl` and `jobs.jsonl` that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.resumable import note
from benchmarks.streaming import write
from examples.cifar_resnet import resnet20
from nas.engines import ENGINES, EngineConfig, Job, Place, open_engine, results
from nas.runtime import stream
from nas.study import RunConfig, Study, configure
from nas.train import open_run
from nas.worker import Recruit
from pruners.progress import Progress
from search_spaces import Architecture

IMAGES = 600
KINDS: dict[str, dict[str, Any]] = {
    "alone": {"space": "resnet20-pooling", "epochs": 1, "strategy": "random", "supernets": 0},
    "candidates": {"space": "pruned:benchmarks.scaling:network", "strategy": "random"},
}


def network() -> nn.Module:
    """A model whose parts are searched: every process makes the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resnet20()


class Idle:
    """A state with nothing to do."""

    def __init__(self, place: Place) -> None:
        pass

    def nothing(self, *, progress: Progress) -> None:
        pass


def made(kind: str, data: Path, folder: Path) -> Study:
    """A run folder with nothing in it."""
    config: RunConfig = configure(data=str(data), retrain="none", limit=IMAGES, **KINDS[kind])
    return open_run(config, folder)[0]


def drawn(study: Study, count: int) -> list[Architecture]:
    """Different architectures, the same each time."""
    rng, found = stream(0, "scaling"), dict[Architecture, None]()
    while len(found) < count:
        found[study.space.sample(rng)] = None
    return list(found)


def bare(folder: Path, archs: Sequence[Architecture], count: int) -> float:
    """Trials a second of processes that are given their parts at the start."""
    context = get_context("spawn")
    ready, pipes, processes = context.Barrier(count + 1), [], []
    for number in range(count):
        ours, theirs = context.Pipe()
        arguments = (folder, archs[number::count], ready, theirs, Place(number, count, 1))
        processes.append(context.Process(target=by_itself, args=arguments))
        processes[-1].start()
        pipes.append(ours)
    ready.wait()
    started = time.perf_counter()
    for pipe in pipes:
        pipe.recv()
    seconds = time.perf_counter() - started
    for process in processes:
        process.join()
    return (len(archs) - count) / seconds


def by_itself(folder: Path, archs: Sequence[Architecture], ready: Barrier, pipe: Connection, place: Place) -> None:
    torch.set_num_threads(place.threads)
    worker = Recruit(folder)(place)
    worker.score(archs[:1])
    ready.wait()
    for arch in archs[1:]:
        worker.score([arch])
    pipe.send(None)


def by_engine(engine: EngineConfig, folder: Path, archs: Sequence[Architecture]) -> float:
    """Trials a second of an engine's workers."""
    torch.set_num_threads(engine.workers)  # shared among them: one each
    with open_engine(engine, Recruit(folder)) as workers:
        warm = list(results(workers, [Job("score", ([arch],)) for arch in archs[: workers.count]]))
        while len({result.worker for _, result in warm}) < workers.count:  # one may be slow to start
            warm += results(workers, [Job("score", ([arch],)) for arch in archs[: workers.count]])
        started = time.perf_counter()
        for _, result in results(workers, [Job("score", ([arch],)) for arch in archs[workers.count :]]):
            assert result.error is None and "reason" not in result.value[0]
        return (len(archs) - workers.count) / (time.perf_counter() - started)


def per_job(engine: EngineConfig, jobs: int) -> float:
    """Milliseconds of a job that does nothing."""
    with open_engine(engine, Idle) as workers:
        list(results(workers, [Job("nothing") for _ in range(10 * workers.count)]))
        started = time.perf_counter()
        list(results(workers, [Job("nothing") for _ in range(jobs)]))
        return (time.perf_counter() - started) / jobs * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["processes"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16, help="of a turn, beside one of each worker that is not timed")
    parser.add_argument("--jobs", type=int, default=2_000, help="that do nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "scaling.json"
    trials, jobs = options.out / "trials.jsonl", options.out / "jobs.jsonl"
    rows = [json.loads(line) for path in (trials, jobs) if path.exists() for line in path.read_text().splitlines()]
    known = {(row.get("kind"), row["engine"], row["workers"], row.get("repeat")) for row in rows}
    with tempfile.TemporaryDirectory() as base:
        data = write(Path(base) / "images", IMAGES)
        for repeat in range(options.repeats):
            for kind in options.kinds:
                folder = Path(base) / f"{kind}{repeat}"
                for name in options.engines:
                    for count in options.workers:
                        if (kind, name, count, repeat) in known:
                            continue
                        study = made(kind, data, folder)
                        archs = drawn(study, options.trials + count)
                        control = bare(folder, archs, count)
                        engine = EngineConfig(name=name, parallel=count)
                        found = by_engine(engine, folder, archs)
                        row = {"kind": kind, "engine": name, "workers": count, "repeat": repeat}
                        more = {"bare": round(control, 4), "found": round(found, 4), "ratio": round(found / control, 3)}
                        _add(trials, row | more)
        for name in options.engines:
            for count in options.workers:
                if (None, name, count, None) not in known:
                    took = [
                        per_job(EngineConfig(name=name, parallel=count), options.jobs) for _ in range(options.repeats)
                    ]
                    _add(jobs, {"engine": name, "workers": count, "milliseconds": round(statistics.median(took), 4)})
    note(record, "benchmarks.scaling", options, ["ray"])


def _add(path: Path, row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
