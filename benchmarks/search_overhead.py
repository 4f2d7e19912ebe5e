"""What a search takes that only asks, prices and writes down: no training and no evaluation, objectives macs and params, one seed.

Each search runs in a process of its own. Printed and written are the seconds of each thousand trials, the last thousand over the first,
the most memory that the process held, and the seconds of `nas front` on the finished run, with the start of Python. A space that has
fewer architectures than trials are asked for is searched to its end.

    python -m benchmarks.search_overhead --out results/search_overhead_cpu_202611
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import nas
from nas.runtime import environment, write_json

STRATEGIES = ("random", "nsga2")
THOUSAND = 1000


def main() -> None:
    options = parse()
    results = []
    for space in options.space:
        for strategy in STRATEGIES:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "run"
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    found = process.submit(searched, space, strategy, options.trials, options.seed, folder).result()
                found["front_seconds"] = [front_seconds(folder) for _ in range(options.repeats)]
            results.append(found)
            ratio = found["last_over_first_thousand"]
            print(
                f"{space}, {strategy}: {found['trials']:,} trials in {found['seconds']:.1f} s, the last thousand "
                f"{'–' if ratio is None else f'{ratio:.2f}'} times the first, at most {found['peak_mib']:.0f} MiB; `nas front` "
                f"{min(found['front_seconds']):.1f} s",
                flush=True,
            )
            if options.out:
                command = shlex.join(["python", "-m", "benchmarks.search_overhead", *sys.argv[1:]])
                made = {"command": command, "seed": options.seed, **environment()}
                write_json(options.out / "search_overhead.json", {**made, "results": results})


def searched(space: str, strategy: str, trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """Search in this process, from the first trial asked for to the last one written; tables, plots and the page are timed apart."""
    told: list[tuple[float, float]] = []

    def listen(step: str, done: float, total: float) -> None:
        if step == "ranking":
            told.append((done, time.perf_counter()))

    settings: dict[str, Any] = {"objectives": ("macs", "params"), "strategy": strategy, "trials": trials, "seed": seed}
    study = nas.search(space, "digits", retrain="none", supernets=0, out=folder, progress=listen, **settings)
    ended, count = time.perf_counter(), len(study.trials)
    done, at = np.array([(done, at) for done, at in told if done <= count]).T
    ends = np.interp(np.arange(0, count + 1, THOUSAND), done, at)
    thousands = np.diff(ends).tolist()
    return {
        "space": space,
        "strategy": strategy,
        "trials": count,
        "seconds": float(at[-1] - at[0]),
        "seconds_of_each_thousand": thousands,
        "last_over_first_thousand": thousands[-1] / thousands[0] if len(thousands) > 1 else None,
        "tables_and_page_seconds": ended - at[-1],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def front_seconds(folder: Path) -> float:
    """Wall time of `nas front`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nas", "front", str(folder)], check=True, capture_output=True)
    return time.perf_counter() - started


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000, help="of each search")
    parser.add_argument("--space", nargs="+", default=["nas-bench-201", "resnet-elastic"], help="built-in spaces")
    parser.add_argument("--seed", type=int, default=0, help="of each search")
    parser.add_argument("--repeats", type=int, default=3, help="times that `nas front` is timed")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
