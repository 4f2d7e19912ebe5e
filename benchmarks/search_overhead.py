"""What a search takes that only asks, prices and writes down: no training and no evaluation, objectives macs and params, one seed.

Each search runs in a process of its own. Printed and written are the seconds of each thousand trials, the last thousand over the first
(which also lists the space and counts its blocks) and over the second, the most memory that the process held, and the seconds of
`nas front` on the finished run beside those of `nas --version`, which only starts, and of `import torch` alone. A space that has fewer
architectures than trials are asked for is searched to its end.

    python -m benchmarks.search_overhead --out results/search_overhead_cpu_202612

With `--storage sqlite` the trials stand in a shared study as well, of one worker:

    python -m benchmarks.search_overhead --storage sqlite --space nas-bench-201 --strategy random --trials 2000 --out FOLDER
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shlex
import statistics
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
    command = shlex.join(["python", "-m", "benchmarks.search_overhead", *sys.argv[1:]])
    made, results = {"command": command, "seed": options.seed, **environment()}, []
    for space in options.space:
        for strategy in options.strategy:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "run"
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    url = f"sqlite:///{temporary}/shared.db" if options.storage else None
                    found = process.submit(
                        searched, space, strategy, options.trials, options.seed, folder, url
                    ).result()
                timed = {
                    "front": ["-m", "nas", "front", str(folder)],
                    "version": ["-m", "nas", "--version"],
                    "torch": ["-c", "import torch"],
                }
                for turn in range(options.repeats + 1):  # the first writes bytecode, as an installation does
                    for name, words in timed.items():
                        found.setdefault(f"{name}_seconds", []).extend([seconds(words)] * (turn > 0))
            results.append(found)
            thousands = ", ".join(f"{each:.2f}" for each in found["seconds_of_each_thousand"])
            front, version, torch = (statistics.median(found[f"{name}_seconds"]) for name in timed)
            print(
                f"{space}, {strategy}: {found['trials']:,} trials in {found['seconds']:.1f} s (each thousand: {thousands}), at most "
                f"{found['peak_mib']:.0f} MiB; `nas front` {front:.1f} s, `nas --version` {version:.1f} s, "
                f"`import torch` {torch:.1f} s",
                flush=True,
            )
            if options.out:
                write_json(options.out / "search_overhead.json", {**made, "results": results})


def searched(space: str, strategy: str, trials: int, seed: int, folder: Path, url: str | None) -> dict[str, Any]:
    """Search in this process, from the first trial asked for to the last one written; tables, plots and the page are timed apart."""
    told: list[tuple[float, float]] = []

    def listen(step: str, done: float, total: float) -> None:
        if step == "ranking":
            told.append((done, time.perf_counter()))

    settings: dict[str, Any] = {
        "objectives": ("macs", "params"),
        "strategy": strategy,
        "trials": trials,
        "seed": seed,
        "storage": url,
    }
    study = nas.search(space, "digits", retrain="none", supernets=0, out=folder, progress=listen, **settings)
    ended, count = time.perf_counter(), len(study.trials)
    done, at = np.array([(done, at) for done, at in told if done <= count]).T
    ends = np.interp(np.arange(0, count + 1, THOUSAND), done, at)
    thousands = np.diff(ends).tolist()
    return {
        "space": space,
        "strategy": strategy,
        **({} if url is None else {"storage": "sqlite"}),
        "trials": count,
        "seconds": float(at[-1] - at[0]),
        "seconds_of_each_thousand": thousands,
        "last_over_first_thousand": thousands[-1] / thousands[0] if len(thousands) > 1 else None,
        "last_over_second_thousand": thousands[-1] / thousands[1] if len(thousands) > 2 else None,
        "tables_and_page_seconds": ended - at[-1],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def seconds(words: list[str]) -> float:
    """Wall time of Python with these arguments, in a process of its own that keeps bytecode."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=kept)
    return time.perf_counter() - started


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000, help="of each search")
    parser.add_argument("--space", nargs="+", default=["nas-bench-201", "resnet-elastic"], help="built-in spaces")
    parser.add_argument("--strategy", nargs="+", default=STRATEGIES)
    parser.add_argument("--storage", choices=["sqlite"], help="of a shared study [default: none]")
    parser.add_argument("--seed", type=int, default=0, help="of each search")
    parser.add_argument("--repeats", type=int, default=3, help="times that commands are timed")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
