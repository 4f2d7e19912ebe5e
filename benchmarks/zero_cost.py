"""How well scores of untrained networks order NAS-Bench-201, alone, together, and with a few labels; run again to go on.

    python -m benchmarks.zero_cost --data ../shared/data/cifar10 --tables ../shared/data --out results/zero_cost_nasbench201_cpu_202611

Cells are a seeded sample of the table's rows. Every score sees one batch of CIFAR-10 training images, or the first of them
(`SAMPLES`), and one set of initial weights. `scores.csv` gets a line per cell with each score and its CPU seconds.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from estimators.zero_cost import score
from nas.batches import batches
from nas.data import load_data
from nas.seeding import stream
from search_spaces import SearchSpace, make_space

TABLE = "nas_bench_201_cifar10.csv"
SAMPLES = {
    "grad_norm": 32, "snip": 32, "grasp": 16, "fisher": 16, "fisher_fan_in": 16, "jacob_cov": 32, "naswot": 64, "zen": 16,
    "gradsign": 32, "ntk_condition": 8, "synflow": 1, "max_entropy": 1, "deepmad": 1, "as_vit": 1, "l2_norm": 1,
}  # fmt: skip
COLUMNS = ["cellstr", *SAMPLES, *(f"{name}_s" for name in SAMPLES)]


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    space = make_space("nas-bench-201")
    table = pd.read_csv(options.tables / TABLE)
    chosen = stream(options.seed, "cells").choice(len(table), options.cells, replace=False)
    options.out.mkdir(parents=True, exist_ok=True)
    write_scores(options.out / "scores.csv", space, table["cellstr"][chosen].tolist(), batch(options))


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
    model = space.net.build(space.locals(space.parse(cell)))
    row: dict[str, str] = {}
    for name, samples in SAMPLES.items():
        started = time.process_time()
        value = score(name, model, (images[0][:samples], images[1][:samples]), F.cross_entropy)
        row |= {name: repr(value), f"{name}_s": f"{time.process_time() - started:.4f}"}
    return row


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as for `nas search --data`")
    parser.add_argument("--tables", type=Path, required=True, help=f"folder of {TABLE}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--cells", type=int, default=1000, help="how many to score")
    parser.add_argument("--seed", type=int, default=0, help="draws the cells and the images")
    return parser.parse_args()


if __name__ == "__main__":
    main()
