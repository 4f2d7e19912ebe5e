"""Prune every definition of the zoo list and write one row per model; run again to go on where it stopped.

    NAS_DATA=../shared/data python -m benchmarks.prune_zoo --out results/prune_zoo.csv

Columns: macs of the model; per target (50 % and 25 % of the macs remaining) the macs left, the largest difference of an
output and of any tensor from the masked model, and the form of the result; whether a backward step runs, the saved and
reloaded model returns the same to the last bit, and a second prune works; seconds for one prune call to 50 % (tracing,
check and surgery included); peak memory of the process. One process per model, so that peaks are its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pruners import load, prune
from pruners.check import difference
from tests.zoo import build, definitions

COLUMNS = (
    "name", "passed", "macs", "macs_50", "difference_50", "inside_50", "form_50", "macs_25", "difference_25", "inside_25",
    "form_25", "backward", "reloaded_equal", "second_prune", "seconds", "peak_mib", "error",
)  # fmt: skip


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a model's output."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def measure(index: int) -> dict[str, Any]:
    """One row: prune the definition at `index` of the list."""
    torch.set_num_threads(1)
    definition = definitions()[index]
    row: dict[str, Any] = {"name": definition.name, "passed": False, "error": ""}
    try:
        model, example = build(definition)
        start = time.perf_counter()
        half = prune(model, example, {"macs": 0.5})
        row["seconds"] = round(time.perf_counter() - start, 2)
        quarter = prune(model, example, {"macs": 0.25})
        row["macs"] = half.summary.before["macs"]
        for percent, result in ((50, half), (25, quarter)):
            row[f"macs_{percent}"] = result.summary.after["macs"]
            row[f"difference_{percent}"] = f"{result.summary.difference:.1e}"
            row[f"inside_{percent}"] = f"{result.summary.difference_inside:.1e}"
            row[f"form_{percent}"] = result.summary.form
            assert result.summary.after["macs"] <= percent / 100 * row["macs"], f"{percent} % of macs not met"
        with tempfile.TemporaryDirectory() as folder:
            half.save(folder)
            again = load(folder, build(definition)[0])
            with torch.no_grad():
                row["reloaded_equal"] = difference(tensors(again(*example)), tensors(half.model(*example))) == 0
        sum(x.float().mean() for x in tensors(half.model(*example)) if x.is_floating_point()).backward()
        row["backward"] = any(p.grad is not None for p in half.model.parameters())
        second = prune(half.model, example, {"macs": 0.8})
        row["second_prune"] = second.summary.after["macs"] <= 0.8 * row["macs_50"]
        row["passed"] = row["reloaded_equal"] and row["backward"] and row["second_prune"]
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("results/prune_zoo.csv"), help="table to write or to go on with"
    )
    parser.add_argument("--only", nargs="*", default=None, help="names to measure")
    parser.add_argument("--index", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index is not None:
        print(json.dumps(measure(options.index)))
        return
    rows = {row["name"]: row for row in csv.DictReader(options.out.open())} if options.out.exists() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for index, definition in enumerate(definitions()):
        if definition.name in rows if options.only is None else definition.name not in options.only:
            continue
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.prune_zoo", "--index", str(index)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            rows[definition.name] = {"name": definition.name, "passed": False, "error": done.stderr.strip()[-300:]}
        else:
            rows[definition.name] = json.loads(done.stdout.strip().splitlines()[-1])
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows.values())
        print(rows[definition.name])


if __name__ == "__main__":
    main()
