"""How many architectures a second the cost model answers for, in batches and one by one, on each built-in search space.

Everything is measured warm, after every block has been counted (how long that took is reported as well). One by one means twice:
an architecture that the model sees for the first time, and one that it remembers. Prints medians; --out keeps every repeat with
versions, hardware and command.

    python benchmarks/cost_throughput.py --out results/cost_throughput_cpu_202611
"""

from __future__ import annotations

import argparse
import csv
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from estimators import CostModel, count
from nas.runtime import environment, write_json
from search_spaces import SPACES, Architecture, SearchSpace, make_space


def main() -> None:
    arguments = parse()
    results = [measure(make_space(name), arguments.size, arguments.repeats, arguments.lookups) for name in SPACES]
    if arguments.out:
        write_json(
            arguments.out / "cost_throughput.json",
            {"command": shlex.join(["python", *sys.argv]), **environment(), "results": results},
        )
        write_csv(arguments.out / "cost_throughput.csv", results)


def measure(space: SearchSpace, size: int, repeats: int, lookups: int) -> dict[str, object]:
    """Time one space; raise if a cost differs from the one counted on the built network."""
    rng = np.random.default_rng(0)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(lookups)))
    codes = space.encode(archs)
    many = codes[rng.integers(len(codes), size=size)]
    model = CostModel(space)
    counting_s = seconds(lambda: model.batch(codes))
    check(space, model, archs[:3])
    model.batch(many)
    batches = [size / seconds(lambda: model.batch(many)) for _ in range(repeats)]
    new, remembered = [], []
    for _ in range(repeats):
        fresh = CostModel(space)
        fresh.batch(codes)
        new.append(lookup_us(fresh, archs))
        remembered.append(lookup_us(fresh, archs))
    print(
        f"{space.name}: {spread(batches, '.3g', 1e-6)} million architectures/s in batches of {size}; one lookup "
        f"{spread(new, '.3g')} microseconds, {spread(remembered, '.2g')} when remembered; all blocks counted in {counting_s:.2f} s"
    )
    return {
        "space": space.name,
        "batch_size": size,
        "different_architectures": len(archs),
        "counting_seconds": counting_s,
        "batch_per_second_median": statistics.median(batches),
        "batch_per_second": batches,
        "lookup_us_median": statistics.median(new),
        "lookup_us": new,
        "remembered_lookup_us_median": statistics.median(remembered),
        "remembered_lookup_us": remembered,
    }


def check(space: SearchSpace, model: CostModel, archs: list[Architecture]) -> None:
    for arch in archs:
        if model.cost(arch) != count(space.build(arch), space.net.input_shape).total:
            raise AssertionError(f"the cost of {arch} is not the one counted on its network")


def lookup_us(model: CostModel, archs: list[Architecture]) -> float:
    """Microseconds for one of `archs`, asked for one after the other."""
    return 1e6 * seconds(lambda: [model.cost(arch) for arch in archs]) / len(archs)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def spread(values: list[float], digits: str, unit: float = 1.0) -> str:
    middle, low, high = statistics.median(values) * unit, min(values) * unit, max(values) * unit
    return f"{middle:{digits}} ({low:{digits}} to {high:{digits}})"


def write_csv(path: Path, results: list[dict[str, object]]) -> None:
    """One row per space, figure and repeat."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["space", "figure", "repeat", "value"])
        for result in results:
            for figure in ("batch_per_second", "lookup_us", "remembered_lookup_us"):
                values = result[figure]
                assert isinstance(values, list)
                writer.writerows([result["space"], figure, repeat, value] for repeat, value in enumerate(values))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000, help="architectures in a batch")
    parser.add_argument("--lookups", type=int, default=1000, help="samples to look up one by one (repeated ones once)")
    parser.add_argument("--repeats", type=int, default=15, help="times that everything is timed")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
