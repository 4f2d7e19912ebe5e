"""How a run's page grows with its trials: seconds to write it, its size, and seconds to open it and to filter and sort it in Chromium.

Runs have made-up figures, several workers and the longest labels and most choices of the built-in spaces; nothing is trained. Seconds
to open are from the start of the navigation until the script is through and the page is laid out, those to act until it is laid out
again.

    python -m benchmarks.page_growth --out results/page_growth_cpu_202612
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from nas import Study, configure, load_data
from nas.report import write_report, write_tables
from nas.runtime import environment, stream, write_json
from nas.strategies import make_strategy
from nas.study import SEARCH, New
from nas.tasks import image_task
from search_spaces import make_space
from tests.browser import open_page

WORKERS, FAILS = 8, 40  # of which one in so many fails
ACT = """
const laid = () => document.body.offsetHeight, found = { open: (laid(), performance.now()) };
const timed = (name, act) => { const from = performance.now(); act(); laid(); found[name] = performance.now() - from; };
const words = document.getElementById("words");
timed("filter", () => { words.value = "expansion=6 kernel=7"; words.dispatchEvent(new Event("input")); });
timed("clear", () => { words.value = ""; words.dispatchEvent(new Event("input")); });
const sorts = [...document.querySelectorAll("#trials button.sort")];
timed("sort by name", () => sorts[0].click());
timed("sort by number", () => sorts[1].click());
timed("select", () => document.querySelector("#plot > svg .member").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" })));
return found;
"""


def main() -> None:
    options = parse()
    results = []
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as folder:
            study = made_up(Path(folder) / "run", trials)
            found = measured(Study.open(study.folder), options.repeats)
        results.append({"trials": trials, **found})
        seconds = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if name.endswith("seconds"))
        print(f"{trials:,} trials: {found['bytes'] / 2**20:.2f} MiB; {seconds}", flush=True)
    if options.out:
        command = shlex.join(["python", "-m", "benchmarks.page_growth", *sys.argv[1:]])
        write_json(options.out / "page_growth.json", {"command": command, **environment(), "results": results})


def made_up(folder: Path, trials: int) -> Study:
    """A run of that many trials, on several workers."""
    space = make_space("mobilenet-elastic", num_classes=10)
    config = configure(space.name, "digits", strategy="random", supernets=0, trials=trials, retrain="none")
    task = image_task(load_data("digits", limit=300, test_limit=100))
    study = Study.create(folder, config, space, task, {"num_classes": 10})
    archs = make_strategy("random", space, stream(0, "made up")).ask(trials)
    random, free, began = np.random.default_rng(0), np.zeros(WORKERS), datetime.now(UTC)
    new = []
    with study.session("nas search --space mobilenet-elastic"):
        for at, arch in enumerate(archs):
            macs, seconds, worker = 10 ** random.uniform(7, 8.5), random.exponential(5), int(free.argmin())
            notes = {
                "worker": f"host:cuda:{worker}",
                "started": (began + timedelta(seconds=free[worker])).isoformat(),
                "seconds": round(seconds, 4),
            }
            free[worker] += seconds
            if at % FAILS == 1:
                new.append(
                    New(
                        arch,
                        None,
                        {**notes, "reason": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"},
                    )
                )
                continue
            accuracy = 0.3 + 0.06 * np.log10(macs) + 0.02 * random.standard_normal()
            new.append(
                New(arch, [accuracy, round(macs)], {**notes, "params": round(macs / 60 * random.uniform(0.5, 1.5))})
            )
        study.add_all(SEARCH, new)
    return study


def measured(study: Study, repeats: int) -> dict[str, Any]:
    begun = time.perf_counter()
    write_tables(study)
    tables = time.perf_counter()
    page = write_report(study)
    written = time.perf_counter()
    text = page.read_text(encoding="utf-8")
    opened = [open_page(text, ACT, wait=None).result for _ in range(repeats)]
    return {
        "bytes": page.stat().st_size,
        "tables_seconds": tables - begun,
        "page_seconds": written - tables,
        **{f"{name}_seconds": statistics.median(each[name] for each in opened) / 1000 for name in opened[0]},
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 2_000, 20_000, 40_000], help="of each run")
    parser.add_argument("--repeats", type=int, default=3, help="times that each page is opened")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
