"""A front from MiniLM by one search without training, and by leaving out layers. Run again to go on.

    NAS_REAL=PACKAGES python -m benchmarks.encoder_front --out results/encoder_front_cpu_202612

`benchmarks.real_models` says what PACKAGES has to hold. Methods, one set of rows for each seed:
    search         `nas search` of the model's own space by NSGA-II: cosine to the full model's embeddings of docstrings, against macs
    estimated      the front that the search starts from, which no trial has touched
    layers         1 to 5 of the 6 layers; those stay whose absence, alone, does most harm to the hidden states
    layers-even    the same at equal distances, the first and the last among them
    nested         the first front with the weights of one training of `--steps` steps that all share, towards the full model
    layers-trained layers left out as above, then as many steps of the same training each

Examples are 1,000 docstrings without labels, padded to 128 tokens; the search chooses by 200 others. Members are repaired on the
examples as `prune` does by default. Cosine and overlap of the 10 nearest are of 400 docstrings of modules that are held out, towards
the full model. `left` is the share of the macs that is left; the table of tokens has none. `seconds` are those of the row;
`searches.jsonl` has those of searches, with trials in a minute and the share of their time in which no model ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fronts import (
    Figures,
    Step,
    carry_out,
    first_members,
    found_members,
    nested_members,
    searched,
    study_options,
)
from benchmarks.real_controls import by_damage, evenly, layers, without
from benchmarks.real_language import drawn, encoded, likeness, minilm, pooled, sentences
from benchmarks.real_models import MODELS
from estimators import count
from nas.pruning import match_
from nas.tasks import Task, task

EXAMPLES, CHOSEN = 1000, 200
TRAINED = 4000
"""Docstrings that trainings see."""
EXAMPLE = MODELS["minilm"].example


def docstrings_alike(seed: int) -> Task:
    """Docstrings, whose embeddings are to be those of the full model: 1,000 to see, 200 to choose by."""
    full = minilm()

    def part(texts: list[str]) -> Any:
        batches = encoded(texts, similar=False)
        inputs = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        with torch.no_grad():
            embedded = torch.cat([pooled(full(**batch)[0], batch["attention_mask"]) for batch in batches])
        return inputs, (embedded, inputs["attention_mask"])

    def cosine(outputs: Any, target: tuple[Tensor, Tensor]) -> Tensor:
        embedded, mask = target
        return (pooled(outputs[0], mask) * embedded).sum(-1).mean()

    seen = drawn(EXAMPLES, seed)
    others = [text for text in drawn(EXAMPLES + 2 * CHOSEN, seed) if text not in set(seen)]
    return task(
        part(seen), validation=part(others[:CHOSEN]), test=part(others[CHOSEN : 2 * CHOSEN]), name=f"docstrings-{seed}",
        loss=lambda outputs, target: 1 - cosine(outputs, target), metrics={"cosine": (cosine, "max")},
    )  # fmt: skip


def by_search(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    space = "pruned:benchmarks.real_language:minilm"
    study = searched(space, docstrings_alike(seed), seed, options, ("cosine", "macs"))
    yield from found_members(study, sentences(EXAMPLES, seed), "cosine", options)


def estimated(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    return first_members(minilm(), EXAMPLE(), sentences(EXAMPLES, seed), seed, options)


def left_out(even: bool) -> Callable[[int, argparse.Namespace], Iterator[Step]]:
    def method(seed: int, options: argparse.Namespace) -> Iterator[Step]:
        model = minilm()
        names = layers(model)
        order = [] if even else by_damage(model, sentences(EXAMPLES, seed))

        def make(kept: int) -> tuple[nn.Module, Figures]:
            return evenly(model, kept) if even else without(model, order[: len(names) - kept]), {}

        for kept in range(len(names) - 1, 0, -1):
            yield Step({"layers": kept}, partial(make, kept))

    return method


def nested(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    return nested_members(minilm(), EXAMPLE(), sentences(TRAINED, seed), seed, options, every_size=True)


def layers_trained(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    full, texts = minilm(), sentences(TRAINED, seed)

    def trained(make: Callable[[], tuple[nn.Module, Figures]]) -> tuple[nn.Module, Figures]:
        model, found = make()
        done = match_(model, full, texts, steps=options.steps, seed=seed)
        return model, {**found, "gap_before": done.before, "gap_after": done.after}

    for step in left_out(False)(seed, options):
        yield Step({**step.key, "steps": options.steps}, partial(trained, step.make))


METHODS = {
    "layers-even": left_out(True), "layers": left_out(False), "search": by_search, "estimated": estimated, "nested": nested,
    "layers-trained": layers_trained,
}  # fmt: skip


def macs(model: nn.Module) -> int:
    return count(model, EXAMPLE()).total.macs


def main() -> None:
    options = study_options(__doc__, METHODS, trials=40, left=(0.15, 1)).parse_args()
    whole = macs(minilm())

    def measure(model: nn.Module) -> Figures:
        return {"macs": macs(model), "left": round(macs(model) / whole, 4), **likeness(model)}

    carry_out("encoder_front", options, METHODS, measure, ("transformers",))


if __name__ == "__main__":
    main()
