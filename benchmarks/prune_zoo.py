"""Prune every definition of the zoo list and write one row per model; run again to go on where it stopped.

    pip install timm torchvision transformers torch-pruning==1.6.1
    NAS_DATA=../shared/data python -m benchmarks.prune_zoo --out results/prune_zoo_cpu_202611

Columns: macs of the model; per target (50 % and 25 % of the macs remaining) the macs left, the largest difference of an
output and of any tensor from the masked model, and the form of the result; whether a backward step runs, the saved and
reloaded model returns the same to the last bit, and a second prune works; seconds for one prune call to 50 % (tracing,
check and surgery included); memory of the process before that call and its peak during it. Columns with tp are
Torch-Pruning on the same model, see `zoo_torch_pruning`; it never checks, so that there is no difference to show.

Every model has processes of its own, so that peaks are its own and one that hangs is ended after --limit seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import zoo_torch_pruning
from nas.runtime import environment, write_json
from pruners import load, prune
from pruners.surgery import difference
from tests.zoo import Definition, build, definitions, tensors

THREADS = 2
COLUMNS = (
    "source", "name", "passed", "macs", "macs_50", "difference_50", "inside_50", "form_50", "macs_25", "difference_25", "inside_25",
    "form_25", "backward", "reloaded_equal", "second_prune", "seconds", "base_mib", "peak_mib", "error",
    "tp_finished", "tp_macs", "tp_same_shapes", "tp_seconds", "tp_error",
)  # fmt: skip
PACKAGES = ("torchvision", "timm", "transformers", "torch-pruning")
PLAIN: dict[str, Any] = {"importance": "l2", "allocation": "global", "recover": "none"}
"""What is compared since the first run: surgery, and not what is chosen."""


def measure(definition: Definition) -> dict[str, Any]:
    """Prune one definition twice and put the result to use."""
    model, example = build(definition)
    row: dict[str, Any] = {"base_mib": peak_mib()}
    start = time.perf_counter()
    half = prune(model, example, {"macs": 0.5}, **PLAIN)
    row |= {"seconds": round(time.perf_counter() - start, 2), "peak_mib": peak_mib()}
    quarter = prune(model, example, {"macs": 0.25}, **PLAIN)
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
    second = prune(half.model, example, {"macs": 0.8}, **PLAIN)
    row["second_prune"] = second.summary.after["macs"] <= 0.8 * row["macs_50"]
    return row | {"passed": row["reloaded_equal"] and row["backward"] and row["second_prune"]}


def peak_mib() -> int:
    """Largest memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def attempt(function: Callable[[Definition], dict[str, Any]], definition: Definition, error: str) -> dict[str, Any]:
    """A row, or what went wrong under the column `error`."""
    try:
        return function(definition)
    except Exception as problem:
        return {error: f"{type(problem).__name__}: {problem}".splitlines()[0][:300]}


def in_own_process(index: int, what: str, error: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row that a process of its own prints, unless it takes too long or dies."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.prune_zoo", "--index", str(index), "--what", what]
    command += ["--list", str(options.list)] if options.list else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
    except subprocess.TimeoutExpired:
        return {error: f"not done after {options.limit} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {error: f"ended with {done.returncode}: {last[-300:]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the table comes to."""
    passed = [row for row in rows if str(row["passed"]) == "True"]
    differences = [f"{where}_{percent}" for where in ("difference", "inside") for percent in (50, 25)]
    return {
        "models": len(rows),
        "passed": len(passed),
        "largest_difference": max((float(row[name]) for row in passed for name in differences), default=None),
        "slowest_seconds": max((float(row["seconds"]) for row in passed), default=None),
        "torch_pruning_finished": sum(str(row.get("tp_finished")) == "True" for row in rows),
        "torch_pruning_finished_with_same_shapes": sum(
            str(row.get("tp_finished")) == str(row.get("tp_same_shapes")) == "True" for row in rows
        ),
    }


def write(folder: Path, rows: dict[str, dict[str, Any]]) -> None:
    """The table, and beside it what it was made with and comes to."""
    with (folder / "prune_zoo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows.values())
    made = environment()
    made["hardware"]["torch_threads"] = THREADS
    made["versions"] |= {name: metadata.version(name) for name in PACKAGES if installed(name)}
    header = {
        "command": shlex.join(["python", "-m", "benchmarks.prune_zoo", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        **made,
    }
    write_json(folder / "prune_zoo.json", {**header, "summary": summary(list(rows.values()))})


def installed(name: str) -> bool:
    """Whether a package can be found."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Measure what is not measured yet."""
    options = parse()
    listed = definitions(options.list)
    if options.index is not None:
        torch.set_num_threads(THREADS)
        function, error = MEASUREMENTS[options.what]
        print(json.dumps(attempt(function, listed[options.index], error)))
        return
    with_theirs = options.torch_pruning and zoo_torch_pruning.available()
    if options.torch_pruning and not with_theirs:
        print(
            "torch-pruning is not installed, its columns stay empty; pip install torch-pruning==1.6.1", file=sys.stderr
        )
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "prune_zoo.csv"
    rows: dict[str, dict[str, Any]] = {}
    if table.exists():
        with table.open(newline="") as file:
            rows = {f"{row['source']} {row['name']}": row for row in csv.DictReader(file)}
    for index, definition in enumerate(listed):
        key = f"{definition.source} {definition.name}"
        if key in rows if options.only is None else definition.name not in options.only:
            continue
        row: dict[str, Any] = {"source": definition.source, "name": definition.name, "passed": False}
        for what in ("pruners", "torch-pruning") if with_theirs else ("pruners",):
            row |= in_own_process(index, what, MEASUREMENTS[what][1], options)
        rows[key] = row
        write(options.out, rows)
        print(row, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/prune_zoo"), help="folder to write or to go on with")
    parser.add_argument("--list", type=Path, help="file of definitions, by default zoo.txt in the folder NAS_DATA")
    parser.add_argument("--only", nargs="*", help="names to measure, again where they have been")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a process is ended")
    parser.add_argument(
        "--without-torch-pruning", dest="torch_pruning", action="store_false", help="leave its columns empty"
    )
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--what", default="pruners", help=argparse.SUPPRESS)
    return parser.parse_args()


MEASUREMENTS: dict[str, tuple[Callable[[Definition], dict[str, Any]], str]] = {
    "pruners": (measure, "error"),
    "torch-pruning": (zoo_torch_pruning.measure, "tp_error"),
}

if __name__ == "__main__":
    main()
