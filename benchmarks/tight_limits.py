"""How often strategies ask for a cost, and what time they take, where few architectures keep a limit of macs.

The limit is so many times the macs of the smallest architecture. `kept` is the share of 100,000 architectures drawn at random that keep
it: a strategy that drew until one does would ask 1 / kept times for each. `asked` counts distinct architectures whose cost was asked
for, by trial; `dear` is how a limit that has to be measured is kept. `near` is the median of what trials have of the limit. Losses are
made up. Run again to go on.

    python -m benchmarks.tight_limits --out results/tight_limits_cpu_202612
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.resumable import append, known, note
from nas.scoring import Figures, within
from nas.scoring.costs import CostScorer
from nas.strategies import make_strategy
from pruners.progress import Progress, silent
from search_spaces import Architecture, make_space, smallest

SPACES = ("resnet-elastic", "mobilenet-elastic")
STRATEGIES = ("random", "evolution", "nsga2", "coarse-to-fine")
DRAWN = 100_000


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "record.json", "benchmarks.tight_limits", options)
    path = options.out / "limits.csv"
    for name in SPACES:
        space = make_space(name, image_size=32)
        costs = CostScorer(space)
        least = costs([smallest(space)], silent)[0]["macs"]
        done = known(path, ["space", "times", "strategy", "dear", "seed"])
        rng = np.random.default_rng(0)
        drawn = costs.model.batch(space.encode([space.sample(rng) for _ in range(DRAWN)]))["macs"]
        for times in options.times:
            kept = float((drawn <= times * least).mean())
            for strategy in STRATEGIES:
                for dear in (False, True):
                    for seed in range(options.seeds):
                        if (name, times, strategy, dear, seed) in done:
                            continue
                        found = asked(costs, times * least, strategy, dear, options.trials, seed)
                        row = {"space": name, "times": times, "strategy": strategy, "dear": dear, "seed": seed}
                        append(path, [{**row, "kept": kept, **found}])
                        print(*row.values(), kept, *found.values(), flush=True)


def asked(costs: CostScorer, most: float, strategy: str, dear: bool, trials: int, seed: int) -> dict[str, float]:
    """Ask a strategy and tell it, one by one."""
    counted = set[Architecture]()

    def counting(archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        counted.update(archs)
        return costs(archs, progress)

    allowed = within(costs.space, {"macs": most}, [counting], dear=dear)
    started = time.process_time()
    made, rng = make_strategy(strategy, allowed, np.random.default_rng(seed)), np.random.default_rng(seed)
    found: list[Architecture] = []
    while len(found) < trials and (new := made.ask(1)):
        made.tell(new, rng.random((1, 2)))
        found += new
    took = time.process_time() - started
    macs = np.array([figures["macs"] for figures in costs(found, silent)])
    assert macs.max() <= most
    return {
        "trials": len(found),
        "asked": round(len(counted) / len(found), 2),
        "cpu_ms": round(1e3 * took / len(found), 2),
        "near": round(float(np.median(macs)) / most, 3),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, nargs="+", default=[1.2, 2, 4], help="of the least macs, the limits")
    parser.add_argument("--trials", type=int, default=100, help="of each strategy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    return parser.parse_args()


if __name__ == "__main__":
    main()
