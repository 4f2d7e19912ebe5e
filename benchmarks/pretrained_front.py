"""A front from a pretrained ResNet-56 by one search or one nested training, and by pruning once per budget. Run again to go on.

    NAS_DATA=../shared/data python -m benchmarks.pretrained_front --out results/pretrained_front_cpu_202612

Methods, one set of rows for each seed:
    search         `nas search` of the model's own space by NSGA-II, accuracy of validation images against macs; its front
    estimated      the front that the search starts from, which no trial has touched
    prune          `prune` with defaults, once per budget
    torch-pruning  Torch-Pruning 1.6.1 once per budget, on the shortcuts as convolutions that preserve the function
    nested         the estimated front with the weights of one training of `--steps` steps that all share, towards the unpruned model
    prune-trained, torch-pruning-trained  as above, then as many steps of the same training for each budget

The front's members are repaired as `prune` does, on the same 1,000 unlabelled images as those of the others have. Accuracy is of test
images; validation images are of those that the weights were trained on. A row's `times` says how many times fewer macs there are than
in the whole model; `seconds` are those of the row (of `estimated` before 2 December: of the whole front). `searches.jsonl` has those of
searches, with trials in a minute and the share of their time in which no model ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.fronts import (
    Figures,
    Method,
    Step,
    carry_out,
    first_members,
    found_members,
    nested_members,
    searched,
    study_options,
)
from benchmarks.real_controls import torch_pruning
from benchmarks.real_images import WEIGHTS, cifar, data_folder, images, resnet, test_accuracy
from estimators import count
from nas.pruning import match_
from pruners import prune

TIMES = (1.2, 1.5, 2.0, 2.5, 3.0, 4.0)
EXAMPLES = 1000
TRAINED, BATCH = 8000, 64
"""Images that trainings see, and of a step."""
EXAMPLE = torch.zeros(1, 3, 32, 32)


def by_search(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    study = searched(
        "pruned:examples.cifar_resnet:resnet56", cifar(), seed, options, ("accuracy", "macs"), input="1x3x32x32",
        weights=str(data_folder().parent / "weights" / WEIGHTS["resnet56"]),
    )  # fmt: skip
    yield from found_members(study, images(EXAMPLES, seed), "accuracy", options)


def estimated(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    return first_members(resnet("resnet56"), EXAMPLE, images(EXAMPLES, seed), seed, options)


def pruned(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    def make(times: float) -> tuple[nn.Module, Figures]:
        found = prune(resnet("resnet56"), EXAMPLE, {"macs": 1 / times}, batches=images(EXAMPLES, seed), seed=seed)
        return found.model, {}

    for times in TIMES:
        yield Step({"asked": times}, partial(make, times))


def by_torch_pruning(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    model, batches = resnet("resnet56"), images(EXAMPLES, seed)
    whole = macs(model)

    def make(times: float) -> tuple[nn.Module, Figures]:
        return torch_pruning(model, EXAMPLE, batches, lambda found: macs(found) <= whole / times, True), {}

    for times in TIMES:
        yield Step({"asked": times}, partial(make, times))


def nested(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    return nested_members(resnet("resnet56"), EXAMPLE, images(TRAINED, seed), seed, options)


def trained_after(method: Method) -> Method:
    """The same budgets, each trained for `options.steps` towards the unpruned model, as the nested training is."""

    def trained(seed: int, options: argparse.Namespace) -> Iterator[Step]:
        seen = images(TRAINED, seed)

        def make(step: Step) -> tuple[nn.Module, Figures]:
            model, found = step.make()
            done = match_(model, resnet("resnet56"), seen, steps=options.steps, batch_size=BATCH, seed=seed)
            return model, {**found, "gap_before": done.before, "gap_after": done.after}

        for step in method(seed, options):
            yield Step({**step.key, "steps": options.steps}, partial(make, step))

    return trained


METHODS = {
    "estimated": estimated, "search": by_search, "prune": pruned, "torch-pruning": by_torch_pruning, "nested": nested,
    "prune-trained": trained_after(pruned), "torch-pruning-trained": trained_after(by_torch_pruning),
}  # fmt: skip


def macs(model: nn.Module) -> float:
    return float(count(model, (3, 32, 32)).total.macs)


def main() -> None:
    options = study_options(__doc__, METHODS, trials=60, left=(1 / 4.5, 1)).parse_args()
    whole = macs(resnet("resnet56"))

    def measure(model: nn.Module) -> dict[str, Any]:
        return {"macs": macs(model), "times": whole / macs(model), **test_accuracy(model)}

    carry_out("pretrained_front", options, METHODS, measure, ("torch-pruning",))


if __name__ == "__main__":
    main()
