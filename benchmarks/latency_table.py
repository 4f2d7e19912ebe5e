"""How well a table of blocks predicts the latency of whole networks on this machine.

Every block of a space is measured alone, a line is fitted to a few measured networks, and the others are predicted. The control is a
line through the macs of the same few networks. Run it on a quiet machine.

    python benchmarks/latency_table.py --space resnet20-pooling --out results/latency_table_cpu_202611
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from estimators import CostModel, compare_latency, measure_table
from nas.runtime import environment, stream, write_json, write_text
from search_spaces import Architecture, SearchSpace, make_space


def main() -> None:
    arguments = parse()
    space = make_space(arguments.space)
    settings = {
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "runs": arguments.runs,
        "runtime": arguments.runtime,
    }
    archs = choose(space, arguments.fit + arguments.networks, arguments.seed)
    table = measure_table(space, archs, **settings)
    networks = {arch: space.build(arch) for arch in archs}
    measured = compare_latency(networks, space.net.input_shape, **settings)
    fit, rest = archs[: arguments.fit], archs[arguments.fit :]
    table = table.fitted(space, {arch: measured[arch] for arch in fit})
    costs = CostModel(space)
    macs = {arch: costs.cost(arch).macs for arch in archs}
    line = np.polyfit([macs[arch] for arch in fit], [measured[arch].median_ms for arch in fit], 1)
    rows = [
        {
            "architecture": space.label(arch),
            "measured_ms": measured[arch].median_ms,
            "p25_ms": measured[arch].p25_ms,
            "p75_ms": measured[arch].p75_ms,
            "table_ms": table.predict(space, arch),
            "macs_line_ms": float(np.polyval(line, macs[arch])),
        }
        for arch in rest
    ]
    summary = {
        name: {
            "median_error": statistics.median(errors(rows, name)),
            "worst_error": max(errors(rows, name)),
            "spearman": float(pd.DataFrame(rows)[["measured_ms", name]].corr("spearman").iloc[0, 1]),
        }
        for name in ("table_ms", "macs_line_ms")
    }
    for name, found in summary.items():
        print(f"{name}: " + ", ".join(f"{figure} {value:.4f}" for figure, value in found.items()))
    print(
        f"overhead {table.overhead_ms:.3g} ms, scale {table.scale:.3g}, {len(table.blocks)} blocks, {len(rest)} networks"
    )
    if arguments.out:
        record = {"command": shlex.join(["python", *sys.argv]), **environment(), "conditions": table.conditions}
        fitted = {"overhead_ms": table.overhead_ms, "scale": table.scale, "blocks": len(table.blocks)}
        write_json(arguments.out / "latency_table.json", {**record, **fitted, "summary": summary})
        write_text(arguments.out / "latency_table.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.5f"))
        table.save(arguments.out / "table.json")


def choose(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Different architectures in random order; all of a small space."""
    rng = stream(seed, "architectures")
    if space.raw_size <= count:
        archs = list(space.enumerate())
        rng.shuffle(archs)
        return archs
    found = dict.fromkeys(space.sample(rng) for _ in range(20 * count))
    return list(found)[:count]


def errors(rows: list[dict[str, object]], name: str) -> list[float]:
    """Relative to what was measured."""
    return [abs(float(row[name]) / float(row["measured_ms"]) - 1) for row in rows]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="resnet20-pooling", help="a built-in search space")
    parser.add_argument("--fit", type=int, default=6, help="networks that overhead and scale are fitted to")
    parser.add_argument("--networks", type=int, default=30, help="networks to predict")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each block and network")
    parser.add_argument("--runtime", default="eager", help="eager, compile or onnxruntime")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
