"""How well few measurements on a device rank architectures, with and without other devices' tables.

NAS-Bench-201's latencies on five devices; each in turn is the new one and the others are known. Spearman between predicted and
measured latency over all cells that were not measured, for samples drawn at random and for samples that `choose_samples` designs,
beside ridge regression on the counts of operators (the control). Two bounds are reported with them: the control trained on four
fifths of the whole table, and what the devices' own noise leaves, from cells that are the same graph and were measured twice.

    python benchmarks/latency_transfer.py --tables ../shared/data --out results/latency_transfer_nasbench201_202611
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from estimators.latency import KnownDevice, choose_samples, fit_latency
from nas.runtime import environment, write_json, write_text

OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
TABLE = "nas_bench_201_latency_ms.csv"
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


def main() -> None:
    arguments = parse()
    table = read(arguments.tables / TABLE)
    features = np.array([counts(cell) for cell in table["cellstr"]], dtype=float)
    latencies = {str(device): table[device].to_numpy(dtype=float) for device in table.columns[2:]}
    rows = []
    for samples in arguments.samples:
        draws = {
            "random": [
                np.random.default_rng(seed).permutation(len(table))[:samples] for seed in range(arguments.seeds)
            ],
            "designed": [
                choose_samples(features, samples, np.random.default_rng(seed)) for seed in range(arguments.seeds)
            ],
        }
        for device in latencies:
            for design, chosen in draws.items():
                for method, fit in methods(features, latencies, device).items():
                    found = [spearman(fit, features, latencies[device], each) for each in chosen]
                    rows += [
                        {
                            "device": device,
                            "samples": samples,
                            "design": design,
                            "method": method,
                            "seed": seed,
                            "spearman": rho,
                        }
                        for seed, rho in enumerate(found)
                    ]
    means = summary(pd.DataFrame(rows))
    bounds = {"control on 4/5 of the table": {}, "noise": {}}
    for device, measured in latencies.items():
        folds = KFold(5, shuffle=True, random_state=0)
        predicted = cross_val_predict(make_pipeline(StandardScaler(), Ridge()), features, measured, cv=folds)
        bounds["control on 4/5 of the table"][device] = float(spearmanr(predicted, measured)[0])
        bounds["noise"][device] = noise_bound(table["cellstr"].tolist(), measured)
    for found in bounds.values():
        found["mean"] = float(np.mean(list(found.values())))
    print(pd.DataFrame(means).round(4).to_string(index=False))
    print(pd.DataFrame(bounds).T.round(4).to_string())
    if arguments.out:
        write_json(
            arguments.out / "latency_transfer.json",
            {"command": shlex.join(["python", *sys.argv]), **environment(), "means": means, "bounds": bounds},
        )
        write_text(arguments.out / "latency_transfer.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6f"))


def methods(features: np.ndarray, latencies: dict[str, np.ndarray], device: str) -> dict[str, Fit]:
    known = [KnownDevice(features, found) for name, found in latencies.items() if name != device]
    return {
        "transfer": lambda x, y: fit_latency(x, y, known).predict,
        "from scratch": lambda x, y: fit_latency(x, y).predict,
        "ridge": lambda x, y: make_pipeline(StandardScaler(), Ridge(0.1)).fit(x, y).predict,
    }


def spearman(fit: Fit, features: np.ndarray, measured: np.ndarray, chosen: np.ndarray) -> float:
    """Over the cells that were not chosen."""
    rest = np.delete(np.arange(len(measured)), chosen)
    return float(spearmanr(fit(features[chosen], measured[chosen])(features[rest]), measured[rest])[0])


def summary(rows: pd.DataFrame) -> list[dict[str, object]]:
    """The mean over seeds of each device, and the mean and the spread over draws of the mean over devices."""
    found = []
    for (samples, design, method), group in rows.groupby(["samples", "design", "method"]):
        by_seed = group.pivot(index="seed", columns="device", values="spearman")
        each = by_seed.mean(axis=1)
        found.append(
            {
                "samples": int(samples),
                "design": design,
                "method": method,
                "mean": float(each.mean()),
                "worst_draw": float(each.min()),
                **by_seed.mean().to_dict(),
            }
        )
    return found


def noise_bound(cells: list[str], measured: np.ndarray) -> float:
    """The correlation that a perfect predictor would reach: the root of that between two measurements of the same graph.

    The inner nodes of a cell can change places where no operation joins them. It holds for errors that are alike everywhere.
    """
    twins = defaultdict(list)
    for row, cell in enumerate(cells):
        operations = re.findall(r"(\w+)~", cell)
        first, second, between, straight, after_first, after_second = operations
        if between == "none":
            operations = min(operations, [second, first, between, straight, after_second, after_first])
        twins[tuple(operations)].append(row)
    pairs = np.array([rows for rows in twins.values() if len(rows) == 2])
    both_ways = np.concatenate([pairs, pairs[:, ::-1]])
    return float(np.sqrt(spearmanr(measured[both_ways[:, 0]], measured[both_ways[:, 1]])[0]))


def counts(cell: str) -> list[int]:
    """How often each operation but `none` occurs in a cell."""
    found = Counter(re.findall(r"(\w+)~", cell))
    return [found[operation] for operation in OPERATIONS]


def read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise SystemExit(f"no table at {path}; give the folder that holds {TABLE} with --tables")
    return pd.read_csv(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path("../shared/data"), help=f"folder that holds {TABLE}")
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 20, 50, 100], help="measured architectures")
    parser.add_argument("--seeds", type=int, default=40, help="draws of each")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
