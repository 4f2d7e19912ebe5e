"""What the ways to examples cost: a training step on streamed images, on those in memory, and written out by hand; and memory.

    python -m benchmarks.streaming --out results/streaming_cpu_202611

Steps: ResNet-20 on batches of 128 images of 3 x 32 x 32, written as PNG; so many steps on streamed images, as many on those in
memory, and as many of a loop written out by hand on those in memory, which knows no tasks, in turns. A repeat's ratios are those of
its medians, and starting the readers is not among the steps. At most 1.15 for streamed images with two workers over those in memory
is asked for, and 1.02 for those over the loop by hand; on a machine whose cores all train, readers take theirs from the training.

Memory: one pass with batches of 128 over folders of 20,000 and 200,000 images, each in a process of its own, without a network. The
largest that a process held, and the largest of its readers; they should differ by at most 10 %, and stay below 1 GB.

Rows of `steps.jsonl` and `memory.jsonl` that are there are not measured again.
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
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.resumable import note
from examples.cifar_resnet import resnet20
from nas import load_data
from nas.data import DataConfig, batches
from nas.tasks import Task, image_task, streamed_task
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
    """Seconds of training steps of each kind, in turns."""
    device, data = torch.device("cpu"), load_data(folder, seed=0)
    tasks = {"memory": image_task(data), "streamed": streamed(folder, workers)}
    learner = Alone(resnet20(), tasks["memory"], TrainingConfig(epochs=1, batch_size=BATCH), device)
    model = resnet20()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    learner.begin(0)
    model.train()

    def by_hand(batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images).float(), labels)
        loss.item()
        loss.backward()
        optimizer.step()

    seconds: dict[str, list[float]] = {name: [] for name in ("by hand", *tasks)}
    for repeat in range(repeats):
        how: dict[str, Any] = {"rng": np.random.default_rng(repeat), "augment": True, "drop_last": True}
        drawn = batches(data.train, data, BATCH, **how)
        seconds["by hand"].append(statistics.median(timed(by_hand, drawn, count)))
        for name, task in tasks.items():
            found = task.train.batches(BATCH, **how)
            seconds[name].append(statistics.median(timed(lambda batch: learner.step(batch, 0.01), found, count)))
    return {
        "workers": workers,
        "seconds": seconds,
        "streamed_over_memory": ratio(seconds["streamed"], seconds["memory"]),
        "memory_over_by_hand": ratio(seconds["memory"], seconds["by hand"]),
    }


def ratio(a: list[float], b: list[float]) -> float:
    """The median of the repeats' ratios."""
    return round(statistics.median(x / y for x, y in zip(a, b, strict=True)), 3)


def timed(step: Callable[[Any], None], drawn: Iterable[Any], count: int) -> list[float]:
    """Seconds of each step with getting its batch, but for the first two."""
    found = []
    started = time.perf_counter()
    for batch in islice(drawn, count + 2):
        step(batch)
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
