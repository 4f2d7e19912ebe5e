"""What several processes give the training of a supernet: steps per second of N of them beside one with as many threads.

    python -m benchmarks.data_parallel --out results/data_parallel_cpu_202612

Steps of one supernet of `resnet20-pooling` on batches of 64 images of 3 x 32 x 32 in all, cropped and mirrored, of one architecture
each by the sampler `uniform`, the same in all ways: one process of one thread, one of `--processes` threads, and `--processes` of a
thread each, which average gradients and the statistics of batch norms. Every repeat starts each way anew, in turns; the first steps are
not counted. A repeat's ratio is that of its ways. With `--device cuda`, a process has a GPU, and the first way is all that is compared.

Rows of `steps.jsonl` that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.resumable import note
from nas.data import ImageData, Split
from nas.runtime import ranks, resolve_device, stream
from nas.supernets import SupernetConfig, make_learner
from nas.tasks import image_task
from nas.training import TrainingConfig
from search_spaces import make_space

RATE = 0.01
FIRST = 5


def noise(count: int) -> ImageData:
    """Images of noise in place of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(10, (count,), generator=generator))
    return ImageData(
        name="noise", train=split, validation=split, test=split, class_names=tuple("0123456789"),
        mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=4, flip=True,
    )  # fmt: skip


def measure(batch_size: int, steps: int, device: torch.device) -> float:
    """Steps per second of this process, or of all that are joined."""
    training = TrainingConfig(epochs=1, batch_size=batch_size)
    task = image_task(noise((FIRST + steps) * batch_size))
    learner = make_learner(
        SupernetConfig(training=training), make_space("resnet20-pooling"), task, seed=0, device=device, mixture=False
    )
    learner.begin(0)
    drawn = task.train.batches(
        batch_size, device=device, rng=stream(0, "batches"), augment=True, drop_last=True, share=ranks.share()
    )
    started = 0.0
    for number, batch in enumerate(drawn):
        if number == FIRST:
            learner.team.settle()
            started = time.perf_counter()
        learner.step(batch, RATE)
    learner.team.settle()
    return steps / (time.perf_counter() - started)


def one(options: argparse.Namespace) -> None:
    """Measure in this process, one of those that its variables tell of."""
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    with ranks.joined(device):
        found = measure(options.batch_size, options.steps, device)
    if ranks.first():
        print(json.dumps(found))


def run(processes: int, threads: int, options: argparse.Namespace) -> float:
    """Steps per second of so many new processes of so many threads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    asked = {"batch-size": options.batch_size, "steps": options.steps, "device": options.device, "threads": threads}
    command = [sys.executable, "-m", "benchmarks.data_parallel", "--out", str(options.out), "--one"]
    command += [f"--{name}={value}" for name, value in asked.items()]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if processes > 1:
        variables |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True
        )
        for rank in range(processes)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a process failed; its error stands above")
    return float(json.loads(said[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step, of all processes together")
    parser.add_argument("--steps", type=int, default=100, help="counted in a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "data_parallel.json", "benchmarks.data_parallel", options)
    path, count = options.out / "steps.jsonl", options.processes
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    ways = {"one": (1, 1), "threads": (1, count), "processes": (count, 1)}
    if options.device != "cpu":
        del ways["threads"]
    for repeat in range(len(rows), options.repeats):
        found = {name: round(run(*way, options), 3) for name, way in ways.items()}
        rows.append({"repeat": repeat, "processes": count, "steps_per_second": found})
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(rows[-1], flush=True)
    for beside in [name for name in ways if name != "processes"]:
        ratios = [row["steps_per_second"]["processes"] / row["steps_per_second"][beside] for row in rows]
        print(f"{count} processes beside {beside}: {statistics.median(ratios):.2f} times ({ratios})")


if __name__ == "__main__":
    main()
