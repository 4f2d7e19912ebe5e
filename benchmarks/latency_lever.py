"""Prune the pretrained CIFAR-10 ResNet-56 to a part of its measured latency, with latency or macs in the knapsack; run again to go on.

    python -m benchmarks.latency_lever --data ../shared/data/cifar10 --weights ../shared/weights --out results/latency_lever

Both levers keep the most importance (`obs`) and end on the same measured latency: `latency` within the milliseconds that operators
take by themselves, `macs` within a budget of macs that is searched. Test accuracy (%) after least squares on 1,000 unlabelled
training images, without training. In the end the smaller model and the full one are timed once more, in turns, as medians and
quartiles of a batch of 32. `aligned` is the share of groups that lost channels and keep a multiple of 16. Keep the machine idle.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.on_images import accuracy
from benchmarks.prune_resnet56 import SHAPE, WEIGHTS
from benchmarks.resumable import append, known, note
from estimators import compare_latency
from examples.cifar_resnet import pretrained
from nas.data import ImageData, batches, load_data, with_normalisation
from nas.runtime import stream
from pruners import least_squares_, prune

KEY = ["target", "lever", "round_to", "seed"]
BATCH = 32


def part_of(full: nn.Module, x: Tensor) -> Any:
    """An estimator: a model's latency as a part of the full model's, measured in turns."""

    def ratio(model: nn.Module, inputs: Any) -> float:
        found = compare_latency(
            {"full": full, "smaller": model}, x.shape[1:], batch_size=len(x), warmup_s=1.0, runs=25, max_seconds=5.0
        )
        return found["smaller"].median_ms / found["full"].median_ms

    return ratio


def measure(
    model: nn.Module, target: float, lever: str, round_to: int, seed: int, data: ImageData, x: Tensor
) -> dict[str, object]:
    """One row."""
    sample = [images for images, _ in islice(batches(data.training, data, 100, rng=stream(seed, "calibration")), 10)]
    how: dict[str, Any] = {
        "importance": "obs",
        "allocation": "optimal",
        "batches": sample,
        "recover": "none",
        "round_to": round_to,
        "seed": seed,
    }
    start = time.perf_counter()
    if lever == "latency":
        result = prune(model, x, {"latency_ms": target}, **how)
    else:
        result = prune(model, x, {"part": target}, estimators={"part": part_of(model, x)}, **how)
    seconds = time.perf_counter() - start
    before, after = result.summary.before, result.summary.after
    cut = accuracy(result.model, data, data.test)
    least_squares_(result.model, model, result.plan, sample)
    timed = compare_latency({"full": model, "smaller": result.model}, SHAPE, batch_size=BATCH, runs=50)
    widths = [kept for _, kept in result.summary.groups.values()]
    return {
        "target": target, "lever": lever, "round_to": round_to, "seed": seed,
        "latency_part": f"{timed['smaller'].median_ms / timed['full'].median_ms:.3f}",
        **{f"{name}_{q}": f"{getattr(timed[name], q):.2f}" for name in timed for q in ("median_ms", "p25_ms", "p75_ms")},
        "macs_part": f"{after['macs'] / before['macs']:.3f}", "params_part": f"{after['params'] / before['params']:.3f}",
        "aligned": f"{sum(width % 16 == 0 for width in widths) / len(widths):.2f}", "form": result.summary.form,
        "cut": f"{100 * cut:.2f}", "least_squares": f"{100 * accuracy(result.model, data, data.test):.2f}",
        "seconds_prune": f"{seconds:.0f}", "threads": torch.get_num_threads(),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as for `nas search --data`")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pretrained files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument(
        "--targets", type=float, nargs="+", default=[0.5, 0.333], help="parts of the latency that may remain"
    )
    parser.add_argument("--levers", nargs="+", default=["latency", "macs"], choices=["latency", "macs"])
    parser.add_argument("--round-to", type=int, nargs="+", default=[1], help="alignments of kept channels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the calibration images")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_data(options.data, seed=0, validation_fraction=0.1)
    data = with_normalisation(data, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = next(images for images, _ in batches(data.training, data, BATCH, rng=stream(0, "example")))
    table = options.out / "latency_lever.csv"
    for seed, target, round_to, lever in product(options.seeds, options.targets, options.round_to, options.levers):
        if (target, lever, round_to, seed) in known(table, KEY):
            continue
        row = measure(pretrained(options.weights / WEIGHTS["resnet56"]), target, lever, round_to, seed, data, x)
        append(table, [row])
        note(options.out / "run_latency_lever.json", "benchmarks.latency_lever", options)
        print(row, flush=True)


if __name__ == "__main__":
    main()
