"""A front from a pretrained ResNet-56 by one search, and by pruning once per budget; no training. Run again to go on.

    NAS_DATA=../shared/data python -m benchmarks.pretrained_front --out results/pretrained_front_cpu_202612

Methods, one set of rows for each seed:
    search         `nas search` of the model's own space by NSGA-II, accuracy of validation images against macs; its front
    estimated      the front that the search starts from, which no trial has touched
    prune          `prune` with defaults, once per budget
    torch-pruning  Torch-Pruning 1.6.1 once per budget, on the shortcuts as convolutions that preserve the function

The front's members are repaired as `prune` does, on the same 1,000 unlabelled images as those of the others have. Accuracy is of test
images; validation images are of those that the weights were trained on. `seconds` are of the whole method, `trials_a_minute` of its
trials. A row's `times` says how many times fewer macs there are than in the whole model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nas
from benchmarks.real_controls import torch_pruning
from benchmarks.real_images import cifar, images, resnet, test_accuracy
from benchmarks.resumable import note
from estimators import count
from nas.pruning.space import searchable
from pruners import PrunableSpace, prune

TIMES = (1.2, 1.5, 2.0, 2.5, 3.0, 4.0)
EXAMPLES = 1000
WIDEST = 4.5
"""Times fewer macs, beyond which members of a front are not measured."""
Rows = Iterator[tuple[nn.Module, dict[str, Any]]]


def searched(model: nn.Module, seed: int, options: argparse.Namespace) -> Rows:
    batches = images(EXAMPLES, seed)
    begun = time.monotonic()
    prunable = PrunableSpace(model, torch.zeros(1, 3, 32, 32), batches=batches, seed=seed)
    made = time.monotonic() - begun
    with tempfile.TemporaryDirectory() as folder:
        study = nas.search(
            searchable(prunable), cifar(), out=Path(folder) / "run", strategy="nsga2", trials=options.trials, seed=seed,
            objectives=("accuracy", "macs"), retrain="none",
        )  # fmt: skip
        seconds = time.monotonic() - begun
        rate = 60 * len(study.trials) / (seconds - made)
        for row in study.front.to_dict("records"):
            arch = study.find(row["architecture"])
            found = {"label": row["label"], "validation": row["accuracy"], "seconds": seconds, "trials_a_minute": rate}
            yield from members(prunable, [arch], batches, found)


def estimated(model: nn.Module, seed: int, options: argparse.Namespace) -> Rows:
    batches = images(EXAMPLES, seed)
    begun = time.monotonic()
    prunable = PrunableSpace(model, torch.zeros(1, 3, 32, 32), batches=batches, seed=seed)
    front = prunable.front()
    yield from members(prunable, front, batches, {"seconds": time.monotonic() - begun})


def members(prunable: PrunableSpace, archs: list[Any], batches: list[Any], found: dict[str, Any]) -> Rows:
    whole = prunable.costs(prunable.whole)["macs"]
    for arch in archs:
        if 1 < whole / prunable.costs(arch)["macs"] <= WIDEST:
            own = {"label": prunable.space.label(arch), "damage": prunable.damage(arch)}
            yield prunable.repaired(arch, batches).model, {**own, **found}


def pruned(model: nn.Module, seed: int, options: argparse.Namespace) -> Rows:
    for times in TIMES:
        begun = time.monotonic()
        result = prune(model, torch.zeros(1, 3, 32, 32), {"macs": 1 / times}, batches=images(EXAMPLES, seed), seed=seed)
        yield result.model, {"asked": times, "seconds": time.monotonic() - begun}


def by_torch_pruning(model: nn.Module, seed: int, options: argparse.Namespace) -> Rows:
    example, whole, batches = torch.zeros(1, 3, 32, 32), macs(model), images(EXAMPLES, seed)
    for times in TIMES:
        begun = time.monotonic()
        smaller = torch_pruning(model, example, batches, lambda found, t=times: macs(found) <= whole / t, True)
        yield smaller, {"asked": times, "seconds": time.monotonic() - begun}


METHODS: dict[str, Callable[[nn.Module, int, argparse.Namespace], Rows]] = {
    "estimated": estimated, "search": searched, "prune": pruned, "torch-pruning": by_torch_pruning,
}  # fmt: skip


def macs(model: nn.Module) -> float:
    return float(count(model, (3, 32, 32)).total.macs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the examples and of the search")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--trials", type=int, default=60, help="of each search")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "pretrained_front.json", "benchmarks.pretrained_front", options, ("torch-pruning",))
    path = options.out / "pretrained_front.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    model = resnet("resnet56")
    whole = macs(model)
    for seed in options.seeds:
        for method in options.methods:
            if any((row["seed"], row["method"]) == (seed, method) for row in done):
                continue
            rows = []
            for smaller, found in METHODS[method](model, seed, options):
                own = macs(smaller)
                rows.append(
                    {
                        "seed": seed,
                        "method": method,
                        "macs": own,
                        "times": whole / own,
                        **test_accuracy(smaller),
                        **found,
                    }
                )
                print({name: rows[-1][name] for name in ("seed", "method", "times", "accuracy")}, flush=True)
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
