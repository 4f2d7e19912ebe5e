"""What streaming costs: a training step on streamed images beside one on the same images in memory, and the memory of large folders.

    python -m benchmarks.streaming --out results/streaming_cpu_202611

Steps: ResNet-20 on batches of 128 images of 3 x 32 x 32, written as PNG; so many steps on streamed images, as many on those in memory,
in turns. A repeat's ratio is that of its two medians, and starting the readers is not among the steps. At most 1.15 with two workers
is asked for; on a machine whose cores all train, readers take theirs from the training.

Memory: one pass with batches of 128 over folders of 20,000 and 200,000 images, each in a process of its own, without a network. The
largest that a process held, and the largest of its readers; they should differ by at most 10 %, and stay below 1 GB.

Control: the same images in memory, `load_data`. Rows of `steps.jsonl` and `memory.jsonl` that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.resumable import note
from examples.cifar_resnet import resnet20
from nas import load_data
from nas.data import DataConfig
from nas.tasks import Batch, Task, image_task, streamed_task
from nas.training import Alone, TrainingConfig

BATCH = 128
SIDE = 32
CLASSES = 10


def write(folder: Path, count: int) -> Path:
    """A folder per class with so many images of low-frequency noise, unless it is there."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % CLASSES}"
        if number < CLASSES:
            place.mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(place / f"{number:06}.png", compress_level=1)
    return folder


def streamed(folder: Path, workers: int) -> Task:
    """The task of a folder that is read by so many processes."""
    return streamed_task(DataConfig(source=str(folder), stream=True, workers=workers), 0)


def steps(folder: Path, workers: int, repeats: int, count: int) -> dict[str, Any]:
    """Seconds of training steps on both kinds, in turns."""
    device = torch.device("cpu")
    tasks = {"memory": image_task(load_data(folder, seed=0)), "streamed": streamed(folder, workers)}
    config = TrainingConfig(epochs=1, batch_size=BATCH)
    learner = Alone(resnet20(), tasks["memory"], config, device)
    learner.begin(0)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats):
        for name, task in tasks.items():
            drawn = task.train.batches(BATCH, rng=np.random.default_rng(repeat), augment=True, drop_last=True)
            seconds[name].append(statistics.median(timed(learner, drawn, count)))
    ratios = [s / m for s, m in zip(seconds["streamed"], seconds["memory"], strict=True)]
    return {"workers": workers, "seconds": seconds, "ratios": ratios, "ratio": statistics.median(ratios)}


def timed(learner: Alone, drawn: Iterator[Batch], count: int) -> list[float]:
    """Seconds of each step with getting its batch, but for the first two."""
    found = []
    started = time.perf_counter()
    for batch in islice(drawn, count + 2):
        learner.step(batch, 0.01)
        found.append(time.perf_counter() - started)
        started = time.perf_counter()
    return found[2:]


def memory(folder: Path, workers: int) -> dict[str, Any]:
    """MiB that a process and its readers held at most in one pass, and before there were data."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    task = streamed(folder, workers)
    started = time.perf_counter()
    seen = sum(batch.size for batch in task.train.batches(BATCH, rng=np.random.default_rng(0), augment=True))
    return {
        "workers": workers,
        "images": sum(len(part) for part in (task.train, task.validation, task.test)),
        "seen": seen,
        "seconds": round(time.perf_counter() - started, 1),
        "before_mib": round(before),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "reader_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--images", type=Path, help="folder for the images [default: a temporary one]")
    parser.add_argument("--sizes", nargs="+", type=int, default=[20_000, 200_000], help="images in a folder")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="steps of each kind in a repeat")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--only", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        folder, workers = options.only
        print(json.dumps(memory(Path(folder), workers)))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "streaming.json", "benchmarks.streaming", options)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.images or Path(temporary)
        for size in options.sizes:
            for workers in options.workers:
                folder = write(root / f"{size}", size)
                if not known(options.out / "memory.jsonl", images=size, workers=workers):
                    command = [sys.executable, "-m", "benchmarks.streaming", "--out", str(options.out)]
                    only = json.dumps([str(folder), workers])
                    done = subprocess.run([*command, "--only", only], check=True, capture_output=True, text=True)
                    add(options.out / "memory.jsonl", json.loads(done.stdout))
        folder = write(root / f"{options.sizes[0]}", options.sizes[0])
        for workers in options.workers:
            if not known(options.out / "steps.jsonl", workers=workers):
                add(options.out / "steps.jsonl", steps(folder, workers, options.repeats, options.steps))


def known(path: Path, **values: int) -> bool:
    """Whether a file has a row with these values."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return any(all(row[name] == value for name, value in values.items()) for row in rows)


def add(path: Path, row: dict[str, Any]) -> None:
    """Append a row, and show it."""
    print(row, flush=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
