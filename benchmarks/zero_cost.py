"""How well scores of untrained networks order NAS-Bench-201, alone, together, and with a few labels; run again to go on.

    python -m benchmarks.zero_cost --data ../shared/data/cifar10 --tables ../shared/data --out results/zero_cost_nasbench201_cpu_202611

Cells are a seeded sample of the table's rows. Every score sees one batch of CIFAR-10 training images, or the first of them
(`SAMPLES`), and one set of initial weights. `scores.csv` gets a line per cell with each score and its CPU seconds.

`zero_cost.json` compares with accuracy after 200 epochs (`cifar10-val-200`): each score, the costs as baselines, the aggregate without
labels (`UNLABELLED`), and the mean of a Gaussian process and gradient boosting that learned from 100 of the cells, on those of the
others that are other architectures. A score's NaN is left out of its figures.

`UNLABELLED` holds two views of each of three things: samples told apart (naswot, jacob_cov), learning (gradsign, ntk_condition) and
size (synflow, macs). Scores that measure how large the gradient is at the start are left out: that depends on initialisation, and
on NAS-Bench-101 they order least (published: grad_norm 0.20, snip 0.16, fisher 0.26). The choice was not blind: it is the best of five
sets that were compared on the first cells of the sample. So the aggregate's figure is that of the cells after `LOOKED_AT`.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from estimators.accuracy import aggregate, aggregate_learned, one_hot
from estimators.counting import CostModel
from estimators.zero_cost import ZERO_COST, score
from nas.data import batches, load_data
from nas.runtime import environment, stream, write_json
from search_spaces import Architecture, SearchSpace, make_space

TABLE = "nas_bench_201_cifar10.csv"
ACCURACY = "cifar10-val-200"
SAMPLES = {
    "grad_norm": 32, "snip": 32, "grasp": 16, "fisher": 16, "fisher_fan_in": 16, "jacob_cov": 32, "naswot": 64, "zen": 16,
    "gradsign": 32, "ntk_condition": 8, "synflow": 1, "max_entropy": 1, "deepmad": 1, "as_vit": 1, "l2_norm": 1,
}  # fmt: skip
COLUMNS = ["cellstr", *SAMPLES, *(f"{name}_s" for name in SAMPLES)]
UNLABELLED = ("naswot", "jacob_cov", "gradsign", "ntk_condition", "synflow", "macs")
LOOKED_AT = 129
PATHS = (("edge03",), ("edge01", "edge13"), ("edge02", "edge23"), ("edge01", "edge12", "edge23"))


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    space = make_space("nas-bench-201")
    table = pd.read_csv(options.tables / TABLE)
    chosen = stream(options.seed, "cells").choice(len(table), options.cells, replace=False)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "scores.csv"
    if not options.compare_only:
        write_scores(path, space, table["cellstr"][chosen].tolist(), batch(options))
    scored = pd.read_csv(path)
    results = compare(space, scored.merge(table, on="cellstr"), options)
    command = shlex.join(["python", "-m", "benchmarks.zero_cost", *sys.argv[1:]])
    write_json(
        options.out / "zero_cost.json", {"command": command, "cells": len(scored), **environment(), "results": results}
    )


def batch(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Normalised training images and their labels."""
    data = load_data(options.data, seed=0, limit=2000, test_limit=10)
    return next(batches(data.train, data, max(SAMPLES.values()), rng=stream(options.seed, "batch")))


def write_scores(path: Path, space: SearchSpace, cells: list[str], images: tuple[Tensor, Tensor]) -> None:
    """Score the cells that have no line yet."""
    drop_cut_line(path)
    done = set(pd.read_csv(path)["cellstr"]) if path.exists() and path.stat().st_size else set()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for number, cell in enumerate(cells, start=1):
            if cell in done:
                continue
            writer.writerow({"cellstr": cell, **scores(space, cell, images)})
            file.flush()
            print(f"{number}/{len(cells)}", cell, flush=True)


def drop_cut_line(path: Path) -> None:
    """Forget a last line that a stopped run did not finish."""
    if path.exists():
        text = path.read_text()
        path.write_text(text[: text.rfind("\n") + 1])


def scores(space: SearchSpace, cell: str, images: tuple[Tensor, Tensor]) -> dict[str, str]:
    """Each score of a cell's network, and its CPU seconds."""
    model = space.build(space.parse(cell))
    row: dict[str, str] = {}
    for name, samples in SAMPLES.items():
        started = time.process_time()
        value = score(name, model, (images[0][:samples], images[1][:samples]), F.cross_entropy)
        row |= {name: repr(value), f"{name}_s": f"{time.process_time() - started:.4f}"}
    return row


def compare(space: SearchSpace, cells: pd.DataFrame, options: argparse.Namespace) -> dict[str, object]:
    """Every ranking against the accuracy."""
    archs = [space.parse(cell) for cell in cells["cellstr"]]
    accuracy = cells[ACCURACY].to_numpy()
    costs = {name: values.astype(float) for name, values in CostModel(space).batch(space.encode(archs)).items()}
    layers = np.array([sum("conv" in str(operation) for operation in arch.values()) for arch in archs], dtype=float)
    baselines = {"macs": costs["macs"], "params": costs["params"], "layers": layers}
    scores = {name: cells[name].to_numpy() for name in SAMPLES}
    up = {name: known.higher_is_better for name, known in ZERO_COST.items()} | dict.fromkeys(baselines, True)
    together = {name: values for name, values in (scores | baselines).items() if name in UNLABELLED}
    unlabelled = aggregate(together, higher_is_better=up).values
    single = dict(zip(archs, range(len(archs)), strict=True)).values()  # one row of each architecture
    found: dict[str, object] = {}
    later = np.where(np.arange(len(cells)) < LOOKED_AT, np.nan, unlabelled)
    for name, values in (scores | baselines | {"aggregate without labels": later}).items():
        parts = UNLABELLED if name == "aggregate without labels" else (name,)
        seconds = float(sum(cells[f"{part}_s"].mean() for part in parts if part in scores))
        towards = values if up.get(name, True) else -values
        figures = agreement(towards, accuracy)
        distinct = agreement(towards[list(single)], accuracy[list(single)])["spearman"]
        found[name] = {**figures, "spearman_distinct": distinct, "cpu_seconds": seconds}
        print(f"{name:30}", {key: round(value, 3) for key, value in found[name].items()})  # type: ignore[attr-defined]
    encoded = one_hot(space, archs) | cell_features(archs) | baselines | costs
    upward = {name: values if up[name] else -values for name, values in scores.items()}
    for name, columns in (
        ("labels, all columns", encoded | upward | {"aggregate": unlabelled}),
        ("labels, encoding and costs", encoded),
        ("labels, scores and costs", upward | baselines),
    ):
        draws = learned(archs, columns, accuracy, options)
        found[name] = {"labels": options.labels, "spearman_mean": statistics.mean(draws), "spearman": draws}
        print(f"{name:30} {statistics.mean(draws):.3f} ({min(draws):.3f} to {max(draws):.3f}, {len(draws)} draws)")
    return found


def agreement(values: np.ndarray, accuracy: np.ndarray) -> dict[str, float]:
    """Rank correlations where there is a value, and how many there are and are not."""
    known = ~np.isnan(values)
    return {
        "spearman": float(spearmanr(values[known], accuracy[known]).statistic),
        "kendall": float(kendalltau(values[known], accuracy[known]).statistic),
        "ranked": int(known.sum()),
        "nan": int((~known).sum()),
    }


def learned(
    archs: list[Architecture], columns: dict[str, np.ndarray], accuracy: np.ndarray, options: argparse.Namespace
) -> list[float]:
    """Spearman correlation, for each draw of labelled cells, on the cells of other architectures."""
    found, ranked = [], [name for name in columns if name in SAMPLES]
    for draw in range(options.draws):
        labelled = stream(options.seed, "labels", draw).choice(len(archs), options.labels, replace=False)
        known = {archs[at] for at in labelled}
        rest = [at for at, arch in enumerate(archs) if arch not in known]
        labels = dict(zip(labelled.tolist(), accuracy[labelled], strict=True))
        values = aggregate_learned(columns, labels, ranked=ranked, seed=draw).values
        found.append(float(spearmanr(values[rest], accuracy[rest]).statistic))
    return found


def cell_features(archs: list[Architecture]) -> dict[str, np.ndarray]:
    """How often each operation is used, and what is met on the paths from a cell's input to its output."""
    rows = []
    for arch in archs:
        paths = [[str(arch[edge]) for edge in path] for path in PATHS]
        live = [path for path in paths if "none" not in path]
        convs = [sum("conv" in operation for operation in path) for path in live]
        large = [path.count("nor_conv_3x3") for path in live]
        pools = [path.count("avg_pool_3x3") for path in live]
        row = {f"uses {o}": sum(o == used for used in arch.values()) for o in ("none", "skip_connect", "avg_pool_3x3")}
        row |= {f"uses {o}": sum(o == used for used in arch.values()) for o in ("nor_conv_1x1", "nor_conv_3x3")}
        row |= {f"paths with {count} convolutions": convs.count(count) for count in range(4)}
        row |= {"paths": len(live), "convolutions on paths": sum(convs), "3x3 on paths": sum(large)}
        for name, counts in (("convolutions", convs), ("3x3", large), ("averages", pools)):
            row |= {f"most {name}": max(counts, default=-1), f"fewest {name}": min(counts, default=-1)}
        row["skips only"] = any(set(path) == {"skip_connect"} for path in live)
        row["no convolution"] = 0 in convs
        rows.append(row)
    return {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as for `nas search --data`")
    parser.add_argument("--tables", type=Path, required=True, help=f"folder of {TABLE}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--cells", type=int, default=1000, help="how many to score")
    parser.add_argument("--seed", type=int, default=0, help="draws the cells and the images")
    parser.add_argument("--labels", type=int, default=100, help="cells whose accuracy is learned from")
    parser.add_argument("--draws", type=int, default=10, help="how often these are drawn anew")
    parser.add_argument("--compare-only", action="store_true", help="compare what was scored, score nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
