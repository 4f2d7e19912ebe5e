"""What optimisers of other libraries take to propose a trial, as a search has more trials: CPU milliseconds for each ask and tell.

Trials are asked for one by one in a space of 8,000,000 architectures, and are told made-up losses of one or two objectives. A row is
the mean of the trials since the row before. Strategies with all of their rows are left out, so that a run goes on where it was.

    OMP_NUM_THREADS=1 python -m benchmarks.proposal_cost --out results/proposal_cost_cpu_202612
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.resumable import append, known, note
from nas.strategies import STRATEGIES, make_strategy
from search_spaces import Architecture, Categorical, Integer, SearchSpace

SPACE = SearchSpace(
    "seven",
    (
        *(Integer(f"width{at}", (16, 24, 32, 48, 64, 80, 96, 112, 128, 160)) for at in range(5)),
        Categorical("activation", ("relu", "gelu", "silu", "tanh")),
        Categorical("pool", tuple(f"pool{at}" for at in range(20))),
    ),
)
MARKS = (20, 50, 100, 200, 500, 1000)
SLOW = {"optuna:gp": 100}
"""Trials after which a strategy that takes seconds for each is left."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    names = [name for name in STRATEGIES if ":" in name]
    parser.add_argument("--strategy", nargs="+", default=["random", *names], choices=list(STRATEGIES), metavar="NAME")
    parser.add_argument("--objectives", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "proposal_cost.csv"
    there = known(table, ["strategy", "objectives", "trials"])
    for name in options.strategy:
        for objectives in options.objectives:
            if (name, objectives, marks(name)[-1]) in there:
                continue
            for row in rows(name, objectives, options.seed):
                if (name, objectives, row["trials"]) not in there:
                    append(table, [row])
                    record = options.out / "proposal_cost.json"
                    note(record, "benchmarks.proposal_cost", options, ["optuna", "nni", "cmaes"])


def marks(name: str) -> list[int]:
    """The numbers of trials that have a row."""
    return [mark for mark in MARKS if mark <= SLOW.get(name, mark)]


def rows(name: str, objectives: int, seed: int) -> Iterator[dict[str, object]]:
    """A row for each mark."""
    strategy = make_strategy(name, SPACE, np.random.default_rng(seed))
    trials, spent = 0, 0.0
    for mark in marks(name):
        before, begun = trials, spent
        while trials < mark:
            start = time.process_time()
            archs = strategy.ask(1)
            spent += time.process_time() - start
            losses = [[made_up(archs[0], at) for at in range(objectives)]]
            start = time.process_time()
            strategy.tell(archs, losses)
            spent += time.process_time() - start
            trials += 1
        milliseconds = round(1000 * (spent - begun) / (trials - before), 3)
        yield {"strategy": name, "objectives": objectives, "seed": seed, "trials": mark, "milliseconds": milliseconds}


def made_up(arch: Architecture, objective: int) -> float:
    """A loss with a best architecture of its own for each objective, and interactions between neighbouring choices."""
    codes = np.array(SPACE.codes(arch), dtype=float) / [len(column.values) - 1 for column in SPACE.columns]
    return float(((codes - (0.3 + 0.4 * objective)) ** 2).sum() + (codes[1:] * codes[:-1]).sum() / 5)


if __name__ == "__main__":
    main()
