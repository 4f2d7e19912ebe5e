"""Prune the pretrained CIFAR-10 ResNets without any training and write one row per setting; run again to go on.

    NAS_DATA=../shared/data python -m benchmarks.prune_resnet56 --out results/prune_resnet56.csv

Accuracy (%) on the test images: with no data, after BN recalibration, and after least squares on 1,000 unlabelled
training images drawn by the seed. `channels`: "all" groups, or "inner" only, the channels inside blocks. Fine-tuning and
other tools are not part of this table.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from examples.cifar_resnet import pretrained
from pruners import groups, least_squares_, prune, recalibrate_

DATA = Path(os.environ.get("NAS_DATA", "../shared/data"))
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
COLUMNS = (
    "model", "speedup_asked", "channels", "allocation", "importance", "seed", "macs_speedup", "form", "test_images",
    "dense", "no_data", "recalibrated", "least_squares", "seconds_least_squares",
)  # fmt: skip


def images(split: str, rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, 32, 32) and labels (N,) of some rows of a split."""
    table = pq.read_table(DATA / "cifar10" / f"{split}.parquet")
    table = table if rows is None else table.take(rows)
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"].to_pylist()]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None], torch.tensor(table["label"].to_pylist())


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percent of labels that come first."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250), strict=True))
    return 100 * right / len(y)


def shared_channels(model: nn.Module, x: Tensor) -> list[str]:
    """Groups that reach a shortcut: those that the first convolution or a block's last norm takes part in."""
    found = [group for group in groups(model, x) if not group.protected]
    return [g.name for g in found if any("bn2" in m.tensor or m.tensor.startswith("conv1") for m in g.members)]


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("results/prune_resnet56.csv"), help="table to write or go on with"
    )
    parser.add_argument("--models", nargs="+", default=list(WEIGHTS), choices=list(WEIGHTS))
    parser.add_argument("--speedups", nargs="+", type=float, default=[1.5, 2.0, 3.0], help="dense macs / pruned macs")
    parser.add_argument("--channels", nargs="+", default=["inner", "all"], choices=["inner", "all"])
    parser.add_argument("--allocations", nargs="+", default=["uniform", "global"])
    parser.add_argument("--importances", nargs="+", default=["l2", "random"], help="criteria that need no data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--test-images", type=int, default=10_000)
    options = parser.parse_args()
    rows = list(csv.DictReader(options.out.open())) if options.out.exists() else []
    done = {tuple(row[c] for c in COLUMNS[:6]) for row in rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    x_test, y_test = images("test", np.arange(options.test_images))
    settings = product(
        options.models, options.speedups, options.channels, options.allocations, options.importances, options.seeds
    )
    for name, speedup, channels, allocation, importance, seed in settings:
        key = (name, speedup, channels, allocation, importance, seed)
        if tuple(map(str, key)) in done:
            continue
        model = pretrained(DATA / ".." / "weights" / WEIGHTS[name])
        chosen = np.random.default_rng(seed).choice(50_000, 1000, replace=False)
        x, _ = images("train", chosen)
        ignore = shared_channels(model, x[:2]) if channels == "inner" else []
        result = prune(
            model, x[:2], {"macs": 1 / speedup}, importance=importance, allocation=allocation, ignore=ignore, seed=seed
        )
        recalibrated, repaired = copy.deepcopy(result.model), copy.deepcopy(result.model)
        recalibrate_(recalibrated, x.split(250))
        start = time.perf_counter()
        least_squares_(repaired, model, result.plan, [x])
        seconds = round(time.perf_counter() - start, 1)
        accuracies = [accuracy(m, x_test, y_test) for m in (model, result.model, recalibrated, repaired)]
        ratio = result.summary.before["macs"] / result.summary.after["macs"]
        shown = [f"{a:.2f}" for a in accuracies]
        values = (*key, f"{ratio:.3f}", result.summary.form, len(y_test), *shown, seconds)
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
