"""How many trials search strategies need, on tables of networks that were all trained.

Three parts, over the published tables of NAS-Bench-Macro, Channel-Bench-Macro (ResNet) and NAS-Bench-201. `relabelled`: a plain
space of the same choices, each of whose values are permuted at random by seed and position, so that neither "all alike" nor "larger
is better" helps; every string of the table is an architecture. `published`: the space as it is, in canonical form, with exact costs
as free signals; strings of one network are one architecture, with the mean of their values. `front`: the same, accuracy against macs,
by the hypervolume of what was found in percent of that of the table's own front. Every evaluation is of a new architecture.

Methods are the names of `nas list strategies`, and two controls: `gaussian-process` is the plainest one, of 10 random starts, the
kernel exp(-Hamming distance / length), normal scores, and expected improvement over the whole table; `random (exact)` is what random
draws without repetition have on average, computed and not drawn.

    python -m benchmarks.search_tabular --tables ../shared/data --seeds 50 --out results/search_tabular_cpu_202612

Rows are added as they are found, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import gammaln, ndtr, ndtri
from scipy.stats import rankdata

from benchmarks.resumable import append, note
from estimators.accuracy import published_table
from estimators.counting import CostModel
from nas.objectives import hypervolume, non_dominated
from nas.strategies import Knowledge, Strategy, make_strategy
from search_spaces import Architecture, Categorical, SearchSpace, make_space

PARTS = ("relabelled", "published", "front")
LEAST = {"nas-bench-macro": 85.0, "channel-bench-macro-resnet": 91.5, "nas-bench-201": 80.0}
"""The tables, with the accuracy that hypervolume is measured from."""
RAW = {
    "nas-bench-macro": ("nas_bench_macro_cifar10.csv", "arch", "acc_mean"),
    "channel-bench-macro-resnet": ("channel_bench_macro_resnet.csv", "arch", "acc_mean"),
    "nas-bench-201": ("nas_bench_201_cifar10.csv", "cellstr", "cifar10-val-200"),
}
"""Their files, with the columns of architectures and of accuracy."""
COSTS = ("macs", "params", "activations")
TRIALS = 100
POINTS = range(10, TRIALS + 1, 10)
CONTROL, EXACT = "gaussian-process", "random (exact)"
DEFAULT = ("random", "evolution", "coarse-to-fine", "nsga2", "linas", "bayesian", CONTROL)


class Problem(NamedTuple):
    """A space, the losses of all of its architectures in the order of `enumerate`, and what is known of them for free."""

    space: SearchSpace
    losses: np.ndarray
    knowledge: Knowledge | None


def main() -> None:
    options = parse()
    path = options.out / "search_tabular.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "search_tabular.json", "benchmarks.search_tabular", options)
    there = (
        set(map(tuple, pd.read_csv(path)[["part", "table", "method", "seed"]].to_numpy())) if path.exists() else set()
    )
    for seed in range(options.seeds):
        for method in options.method:
            for part in options.part:
                for table in options.table:
                    if (part, table, method, seed) in there or (
                        method in (CONTROL, "coarse-to-fine") and part == "front"
                    ):
                        continue
                    problem = PROBLEMS[part](options.tables, table, seed)
                    begun = time.process_time()
                    losses = found(problem, method, seed)
                    seconds = time.process_time() - begun
                    row = {
                        "part": part,
                        "table": table,
                        "method": method,
                        "seed": seed,
                        **figures(part, table, problem, losses),
                    }
                    append(path, [{**row, "cpu_seconds": round(seconds, 2)}])
        print(f"seed {seed} done", flush=True)
    summary = summarised(pd.read_csv(path), options.tables)
    summary.to_csv(options.out / "summary.csv", index=False, float_format="%.4f")
    print(summary.to_string(index=False))


def found(problem: Problem, method: str, seed: int) -> np.ndarray:
    """Losses of the first trials of a method, shape (trials, k), asked one by one where it does not know before what comes."""
    rng = np.random.default_rng(seed)
    strategy: Strategy | Control = (
        Control(problem.space, rng)
        if method == CONTROL
        else make_strategy(method, problem.space, rng, problem.knowledge)
    )
    places = _places(problem.space)
    rows: list[int] = []
    while len(rows) < TRIALS:
        archs = strategy.ask(min(strategy.ahead, TRIALS - len(rows)))
        new = [places[arch] for arch in archs]
        strategy.tell(archs, problem.losses[new])
        rows += new
    assert len(set(rows)) == TRIALS
    return problem.losses[rows]


def figures(part: str, table: str, problem: Problem, losses: np.ndarray) -> dict[str, float]:
    """Best accuracy, its rank in the table, or the share of the front's hypervolume, after so many trials."""
    if part == "front":
        reference = [-LEAST[table], problem.losses[:, 1].max()]
        whole = hypervolume(problem.losses[non_dominated(problem.losses)], reference)
        return {f"after_{n}": round(100 * hypervolume(losses[:n], reference) / whole, 4) for n in POINTS} | {
            f"rank_{n}": 0 for n in (30, 50, 100)
        }
    best = np.minimum.accumulate(losses[:, 0])
    return {f"after_{n}": round(-best[n - 1], 5) for n in POINTS} | {
        f"rank_{n}": 1 + int((problem.losses[:, 0] < best[n - 1]).sum()) for n in (30, 50, 100)
    }


def summarised(rows: pd.DataFrame, tables: Path) -> pd.DataFrame:
    """Mean, standard error and median rank over seeds, with the exact expectation of random draws."""
    out = []
    for (part, table, method), group in rows.groupby(["part", "table", "method"], sort=False):
        found = {"part": part, "table": table, "method": method, "seeds": len(group)}
        for n in (30, 50, 100):
            values = group[f"after_{n}"]
            found |= {f"mean_{n}": values.mean(), f"error_{n}": values.std() / max(len(values), 1) ** 0.5}
            found[f"median_rank_{n}"] = group[f"rank_{n}"].median()
        out.append({**found, "cpu_seconds": group["cpu_seconds"].mean()})
    for part in ("relabelled", "published"):
        for table in LEAST:
            losses = PROBLEMS[part](tables, table, 0).losses[:, 0]
            exact = {f"mean_{n}": -expected_least(losses, n) for n in (30, 50, 100)}
            out.append({"part": part, "table": table, "method": EXACT, **exact})
    return pd.DataFrame(out).sort_values(["part", "table"], kind="stable")


def expected_least(losses: np.ndarray, draws: int) -> float:
    """The least of so many draws without repetition, on average."""
    size = len(losses)
    left = np.arange(size, draws - 1, -1)  # how many are at least as large as each of the sorted ones
    chance = np.exp(
        np.log(draws) - np.log(left) + _log_choose(left, draws) - _log_choose(np.array([size]), draws)
    )  # that it is drawn, and none below it
    return float(chance @ np.sort(losses)[: len(left)])


def _log_choose(size: np.ndarray, draws: int) -> np.ndarray:
    return gammaln(size + 1) - gammaln(draws + 1) - gammaln(size - draws + 1)


# --- problems ---


@cache
def _rows(tables: Path, table: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes of shape (n, choices) of all strings of a table, and their accuracies."""
    file, key, column = RAW[table]
    rows = pd.read_csv(tables / file, dtype={key: str})
    space = make_space(table)
    assert space.labels is not None
    values = [space.labels.read(text) for text in rows[key]]
    codes = [[choice.codes(each[choice.name])[0] for choice in space.choices] for each in values]
    return np.array(codes), rows[column].to_numpy()


def relabelled(tables: Path, table: str, seed: int) -> Problem:
    codes, accuracies = _rows(tables, table)
    rng = np.random.default_rng([seed, 2026])
    sizes = codes.max(axis=0) + 1
    changed = np.stack([rng.permutation(size)[column] for size, column in zip(sizes, codes.T, strict=True)], axis=1)
    losses = np.empty((len(codes), 1))
    losses[np.ravel_multi_index(tuple(changed.T), tuple(sizes)), 0] = -accuracies
    return Problem(_plain(table, tuple(sizes.tolist())), losses, None)


@cache
def _plain(table: str, sizes: tuple[int, ...]) -> SearchSpace:
    choices = (Categorical(f"choice{at}", tuple(range(size))) for at, size in enumerate(sizes))
    return SearchSpace(f"relabelled-{table}", tuple(choices))


@cache
def _published(tables: Path, table: str) -> tuple[SearchSpace, np.ndarray, np.ndarray]:
    """Its space; accuracies and costs of all architectures in order."""
    space = make_space(table)
    known = published_table(table, tables, space)
    archs = list(space.enumerate())
    costs = CostModel(space).batch(space.encode(archs))
    return space, known.query(archs, ["accuracy"])["accuracy"], np.column_stack([costs[name] for name in COSTS])


def published(tables: Path, table: str, seed: int, objectives: int = 1) -> Problem:
    space, accuracies, costs = _published(tables, table)
    places = _places(space)

    def signals(archs: Sequence[Architecture]) -> np.ndarray:
        return costs[[places[arch] for arch in archs]].astype(float)

    losses = np.column_stack([-accuracies, costs[:, 0]])[:, :objectives]
    return Problem(space, losses, Knowledge(signals, {1: 0} if objectives == 2 else {}))


def front(tables: Path, table: str, seed: int) -> Problem:
    return published(tables, table, seed, objectives=2)


PROBLEMS: dict[str, Callable[[Path, str, int], Problem]] = {
    "relabelled": relabelled,
    "published": published,
    "front": front,
}


@cache
def _places(space: SearchSpace) -> dict[Architecture, int]:
    return {arch: at for at, arch in enumerate(space.enumerate())}


# --- the control ---


class Control:
    """The plainest Gaussian process: one length, one noise, over the whole table."""

    ahead = 1

    def __init__(self, space: SearchSpace, rng: np.random.Generator, start: int = 10) -> None:
        archs = list(_places(space))
        self.archs = [archs[at] for at in rng.permutation(len(archs))]
        self.codes = space.encode(self.archs)
        self.start, self.rows, self.values = start, list[int](), list[float]()

    def ask(self, n: int) -> list[Architecture]:
        at = len(self.rows) if len(self.rows) < self.start else int(self._improvement().argmax())
        self.rows.append(at)
        return [self.archs[at]]

    def tell(self, archs: Sequence[Architecture], losses: np.ndarray) -> None:
        self.values += (-losses[:, 0]).tolist()

    def _improvement(self) -> np.ndarray:
        n = len(self.rows)
        apart = np.stack([(self.codes != self.codes[row]).sum(axis=1) for row in self.rows])
        targets = ndtri((rankdata(self.values) - 0.5) / n)
        own = apart[:, self.rows]

        def factor(length: float, noise: float) -> np.ndarray:
            return cholesky(np.exp(-own / length) + (noise**2 + 1e-8) * np.eye(n), lower=True)

        def energy(logs: np.ndarray) -> float:
            root = factor(*np.exp(logs))
            solved = solve_triangular(root, targets, lower=True)
            return float(solved @ solved / 2 + np.log(np.diag(root)).sum())

        length, noise = np.exp(minimize(energy, np.log([3.0, 0.3]), method="L-BFGS-B", bounds=[(-2, 4), (-5, 1)]).x)
        root = factor(length, noise)
        solved = solve_triangular(root, np.exp(-apart / length), lower=True)
        mean = solved.T @ solve_triangular(root, targets, lower=True)
        deviation = np.sqrt(np.maximum(1 - (solved**2).sum(axis=0), 1e-12))
        over = (mean - targets.max()) / deviation
        improvement = deviation * (over * ndtr(over) + np.exp(-(over**2) / 2) / np.sqrt(2 * np.pi))
        improvement[self.rows] = -1
        return improvement


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the published tables")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--table", nargs="+", choices=list(LEAST), default=list(LEAST))
    parser.add_argument("--method", nargs="+", default=DEFAULT, help="strategies, and gaussian-process")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    return parser.parse_args()


if __name__ == "__main__":
    main()
