"""What a supernet costs beside networks of its own: one step of training, and evaluating many subnets with shared prefixes.

Training: a step on one subnet of a supernet and a step of the same network built alone, in turns in one process; the ratio of each
repeat, and their median. At most 1.05 is asked for.

Mixture: a step of a balanced mixture of 2, 4 and 8 supernets and one of a mixture of one, on the same architecture, in turns. Each step
trains one member and asks it about one validation batch, so the ratio is 1 if members cost nothing but memory.

Evaluation, on subnets of one NAS-Bench-Macro supernet, calibrated on as many images as are predicted: the ratio of macs, which is
what sharing saves in arithmetic, and the ratio of seconds, one by one over shared; a prediction that differs on a single image is an
error. Three sets of subnets: 200 random ones; 100 children, ten of each of 10 random parents, one edit away; and the whole space: its
6,561 strings are 3,969 distinct networks, which count once on both sides. Where a set has more than --sample subnets, the time one
by one is that of as many of them, drawn anew in each repeat, scaled up. Seconds can save more than macs: prefixes share the early
blocks, whose depthwise convolutions of large images take longer than their macs suggest.

Each part writes a file of its own.

    python -m benchmarks.supernet_step --images 250 --repeats 5 --out results/supernet_step_cpu_202611
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.on_images import predicted
from benchmarks.supernet_evaluation import images, macs_ratio
from nas.data import ImageData
from nas.runtime import environment, memory_format, resolve_device, write_json
from nas.samplers import Draw, Sampler, Uniform
from nas.supernets import Labels, Mixture, MixtureConfig, Team
from nas.tasks import Batch, Classes, Images, image_task
from nas.training import Alone, TrainingConfig
from search_spaces import Architecture, SearchSpace, Supernet, make_space
from search_spaces.core import Local

LIMIT = 1.05
RATE = 0.01
STEPS: list[tuple[str, dict[str, object], str]] = [
    ("nas-bench-macro", {}, "11111111"),
    ("nas-bench-macro", {}, "22212220"),
    ("resnet20-pooling", {"bn": "affine"}, "4-3-3"),
    ("resnet20-pooling", {"bn": "affine", "operators": ["max", "gated"]}, "4-3-3/gated"),
]
MEMBERS = (1, 2, 4, 8)
SETS = ("random", "children", "all")


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    record: dict[str, object] = {
        "command": shlex.join(["python", "-m", "benchmarks.supernet_step", *sys.argv[1:]]),
        "settings": {name: value for name, value in vars(arguments).items() if name != "out"},
        **environment(),
    }
    for part in arguments.parts:
        result = PARTS[part](arguments, device)
        if arguments.out:
            write_json(arguments.out / f"{part}.json", {**record, **result})


# --- a step of training ---


def training(arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Time steps of several subnets."""
    return {"training": [step(*case, arguments, device) for case in STEPS]}


def step(
    name: str, options: dict[str, object], label: str, arguments: argparse.Namespace, device: torch.device
) -> dict[str, object]:
    """Time steps on one subnet and on the same network alone, in turns."""
    space = make_space(name, **options)
    arch = space.parse(label)
    config = TrainingConfig(epochs=1, batch_size=arguments.train_batch_size, weight_decay=5e-4)
    task = image_task(images(2 * config.batch_size)[0])
    team = Team(space, config, Uniform(space), Labels(Classes()), seed=0, device=device)
    alone = Alone(team.members[0].supernet.extract(space.locals(arch)), task, config, device)
    for learner in (team, alone):
        learner.begin(0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(config.batch_size, *space.net.input_shape, generator=generator)
    pixels = pixels.to(device, memory_format=memory_format(device))
    batch = Batch(pixels, torch.randint(space.net.num_classes, (config.batch_size,), generator=generator).to(device))

    def milliseconds(run: Callable[[], None]) -> float:
        started = now(device)
        for _ in range(arguments.steps):
            run()
        return 1e3 * (now(device) - started) / arguments.steps

    def both() -> tuple[float, float]:
        shared = milliseconds(lambda: team.step([0], [Draw(arch)], batch, RATE))
        return shared, milliseconds(lambda: alone.step(batch, RATE))

    both()
    times = [both() for _ in range(arguments.repeats)]
    ratios = [shared / single for shared, single in times]
    median = statistics.median(ratios)
    print(
        f"step on {label} of {name}: {median:.3f}x the network alone ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} repeats of "
        f"{arguments.steps} steps of {statistics.median(single for _, single in times):.1f} ms), at most {LIMIT} asked",
        flush=True,
    )
    return {
        "space": name,
        "options": options,
        "architecture": label,
        "time_ratio_median": median,
        "time_ratios": ratios,
        "ms_supernet": [shared for shared, _ in times],
        "ms_alone": [single for _, single in times],
    }


# --- a step of a mixture ---


class Only(Sampler):
    """The same architecture in every step."""

    def __init__(self, arch: Architecture) -> None:
        self.draws = [Draw(arch)]

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        return self.draws


def mixture(arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Time steps of mixtures of several sizes."""
    space = make_space("resnet20-pooling")
    arch = space.parse("4-3-3")
    data, source = images(2 * arguments.train_batch_size)
    config = TrainingConfig(epochs=1, batch_size=arguments.train_batch_size)
    task = image_task(data)
    batch = next(task.train.batches(config.batch_size, device=device))

    def learner(supernets: int) -> Mixture:
        team = Team(space, config, Only(arch), Labels(Classes()), seed=0, device=device, supernets=supernets)
        made = Mixture(team, task, MixtureConfig(), device)
        made.begin(0)
        return made

    def milliseconds(learner: Mixture) -> float:
        started = now(device)
        for _ in range(arguments.steps):
            learner.step(batch, RATE)
        return 1e3 * (now(device) - started) / arguments.steps

    learners = {supernets: learner(supernets) for supernets in MEMBERS}
    for made in learners.values():
        milliseconds(made)
    times = [{supernets: milliseconds(made) for supernets, made in learners.items()} for _ in range(arguments.repeats)]
    rows = []
    for supernets in MEMBERS[1:]:
        ratios = [time[supernets] / time[1] for time in times]
        median = statistics.median(ratios)
        print(
            f"step of a mixture of {supernets}: {median:.3f}x a mixture of one ({min(ratios):.3f} to {max(ratios):.3f})"
        )
        rows.append({"supernets": supernets, "time_ratio_median": median, "time_ratios": ratios})
    return {"images": source, "mixture": rows, "ms_of_one": [time[1] for time in times]}


# --- evaluation with shared prefixes ---


def evaluation(arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Time the three sets of subnets."""
    data, source = images(arguments.images)
    space = make_space("nas-bench-macro")
    supernet = Supernet(space.net).to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    parents = [space.sample(rng) for _ in range(10)]
    sets = {
        "random": [space.sample(rng) for _ in range(200)],
        "children": [space.mutate(parents[at % 10], rng) for at in range(100)],
        "all": list(space.enumerate()),
    }
    rows = [compare(name, sets[name], space, supernet, data, arguments, device) for name in arguments.sets]
    return {"images": source, "evaluation": rows}


def compare(
    name: str,
    archs: Sequence[Architecture],
    space: SearchSpace,
    supernet: Supernet,
    data: ImageData,
    arguments: argparse.Namespace,
    device: torch.device,
) -> dict[str, object]:
    """Time one set both ways in turns; raise if a prediction differs."""
    paths = [space.locals(arch) for arch in archs]
    rng = np.random.default_rng(1)
    taken = min(arguments.sample, len(paths))
    validation, calibration = Images(data, data.validation), Images(data, data.train)

    def run(chosen: Sequence[Sequence[Local]]) -> np.ndarray:
        return predicted(supernet, chosen, validation, batch_size=arguments.batch_size, calibration=calibration)

    run(paths[:2])
    shared, single = [], []
    for _ in range(arguments.repeats):
        started = now(device)
        together = run(paths)
        shared.append(now(device) - started)
        rows = rng.permutation(len(paths))[:taken]
        started = now(device)
        apart = np.concatenate([run([paths[row]]) for row in rows])
        single.append((now(device) - started) * len(paths) / taken)
        if not np.array_equal(together[rows], apart):
            raise AssertionError("shared prefixes changed a prediction")
    limit = macs_ratio(space, archs)
    ratios = [b / a for a, b in zip(shared, single, strict=True)]
    median = statistics.median(ratios)
    estimated = f", one by one estimated from {taken}" if taken < len(paths) else ""
    print(
        f"{name}: {len(paths)} subnets, {len(set(paths))} distinct: macs allow {limit:.2f}x, measured {median:.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} repeats{estimated}), {100 * median / limit:.0f} % of the limit, "
        "same prediction for every image",
        flush=True,
    )
    return {
        "set": name,
        "subnets": len(paths),
        "distinct": len(set(paths)),
        "macs_ratio": limit,
        "time_ratio_median": median,
        "time_ratios": ratios,
        "part_of_limit": median / limit,
        "seconds_shared": shared,
        "seconds_one_by_one": single,
        "timed_one_by_one": taken,
        "predictions_equal": True,
    }


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="subnets to evaluate")
    parser.add_argument("--steps", type=int, default=10, help="training steps timed at a time")
    parser.add_argument("--train-batch-size", type=int, default=128, help="images in a training step")
    parser.add_argument("--images", type=int, default=250, help="images to predict, and as many to calibrate on")
    parser.add_argument("--batch-size", type=int, default=250, help="images at a time in evaluation")
    parser.add_argument("--sample", type=int, default=200, help="subnets timed one by one at most")
    parser.add_argument("--repeats", type=int, default=5, help="times that both ways are run")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


PARTS = {"training": training, "mixture": mixture, "evaluation": evaluation}

if __name__ == "__main__":
    main()
