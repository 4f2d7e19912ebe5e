"""What strategies themselves take: CPU time of a trial at 1,000 and at 10,000 trials, asked one by one.

The space is too large to list. Both losses are made up of what each choice is worth, the first of pairs of choices too; the second is a
signal that is known exactly. Building no network and counting nothing, a trial is what `ask` and `tell` take. Time is that of this
process, on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.strategy_overhead --out results/strategy_overhead_cpu_202612
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nas.runtime import environment, write_json
from nas.strategies import STRATEGIES, Knowledge, make_strategy
from search_spaces import Architecture, make_space

THOUSAND = 1000


def main() -> None:
    options = parse()
    command, results = shlex.join(["python", "-m", "benchmarks.strategy_overhead", *sys.argv[1:]]), []
    for name in options.strategy:
        thousands = milliseconds(name, options.space, options.trials, options.seed)
        found = {
            "strategy": name,
            "ms_of_each_thousand": [round(each, 3) for each in thousands],
            "ms_at_1000": round(thousands[0], 3),
            f"ms_at_{options.trials}": round(float(np.mean(thousands)), 3),
            "ratio": round(float(np.mean(thousands)) / thousands[0], 3),
        }
        results.append(found)
        print(f"{name}: {found}", flush=True)
        if options.out:
            made = {"command": command, "space": options.space, "trials": options.trials, "seed": options.seed}
            write_json(options.out / "strategy_overhead.json", {**made, **environment(), "results": results})


def milliseconds(name: str, space_name: str, trials: int, seed: int) -> list[float]:
    """CPU milliseconds of a trial, on average over each thousand of them."""
    space = make_space(space_name)
    rng = np.random.default_rng(seed)
    prices = [np.arange(len(column.values) + 1) * rng.random() for column in space.columns]
    effects = [rng.normal(size=len(column.values) + 1) for column in space.columns]
    pairs = rng.normal(size=(len(space.columns), 3, 3))

    def signals(archs: Sequence[Architecture]) -> np.ndarray:
        codes = space.encode(archs)
        return np.sum([price[code] for price, code in zip(prices, codes.T, strict=True)], axis=0)[:, None]

    def losses(archs: Sequence[Architecture]) -> np.ndarray:
        codes = space.encode(archs)
        main = sum(effect[code] for effect, code in zip(effects, codes.T, strict=True))
        both = sum(pair[a % 3, b % 3] for pair, a, b in zip(pairs, codes.T, np.roll(codes, 1, axis=1).T, strict=True))
        return np.column_stack([main + both, signals(archs)[:, 0]])

    knowledge = Knowledge(signals, {1: 0})
    strategy = make_strategy(name, space, np.random.default_rng(seed), knowledge)
    found: list[float] = []
    for _ in range(trials // THOUSAND):
        spent = 0.0
        for _ in range(THOUSAND):
            begun = time.process_time()
            archs = strategy.ask(1)
            spent += time.process_time() - begun
            told = losses(archs)
            begun = time.process_time()
            strategy.tell(archs, told)
            spent += time.process_time() - begun
        found.append(1000 * spent / THOUSAND)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, entry in STRATEGIES.items() if not entry.ranked]
    parser.add_argument("--strategy", nargs="+", default=names)
    parser.add_argument("--space", default="mobilenet-elastic")
    parser.add_argument("--trials", type=int, default=10 * THOUSAND)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
