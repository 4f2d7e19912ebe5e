"""A front from a recogniser of words, a CRNN, by one search without training, and by pruning once per budget. Run again to go on.

    NAS_REAL=PACKAGES python -m benchmarks.recogniser_front --out results/recogniser_front_cpu_202612

`benchmarks.real_models` says what PACKAGES has to hold. Methods, one set of rows for each seed:
    search     `nas search` of the model's own space by NSGA-II, words right against macs; its front
    estimated  the front that the search starts from, which no trial has touched
    prune      `prune` with defaults, once per budget of macs or of ONNX Runtime's milliseconds

Examples are 400 pictures of words; `prune` and the repair see no labels, the search chooses by 300 others with theirs. Members are
repaired on the examples as `prune` does by default. `words_read` is the share of 500 words read exactly, none of which is among the
examples' words. Milliseconds are of one picture; both models take turns, eager and in ONNX Runtime (the best of three rounds), and
`milliseconds_left` is the share of the full model's in ONNX Runtime. `left` is the share of the macs. `seconds` are those of the row;
`searches.jsonl` has those of searches, with trials in a minute and the share of their time in which no model ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fronts import Figures, Step, carry_out, first_members, found_members, searched, study_options
from benchmarks.prune_real import macs, milliseconds, rounded, size
from benchmarks.real_models import MODELS
from benchmarks.real_pictures import characters, pictures
from nas.tasks import Task, ctc
from pruners import prune

REAL = MODELS["crnn"]
EXAMPLES, CHOSEN = 400, 300
TARGETS: tuple[dict[str, float], ...] = (
    {"macs": 0.75}, {"macs": 0.5}, {"macs": 0.35}, {"macs": 0.25}, {"onnxruntime_ms": 0.75}, {"onnxruntime_ms": 0.5},
)  # fmt: skip


def words_to_read(seed: int) -> Task:
    """Pictures of words: 400 to see, 300 to choose by, 100 that nothing is measured on."""

    def part(n: int, draw: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, words = pictures(n, draw, measured=False)
        known = characters()
        numbers = [torch.tensor([1 + known.index(letter) for letter in word]) for word in words]
        padded = nn.utils.rnn.pad_sequence(numbers, batch_first=True)
        return x, (padded, torch.tensor([len(word) for word in words]))

    return ctc(
        part(EXAMPLES, seed), validation=part(CHOSEN, seed + 1000), test=part(100, seed + 2000), name=f"words-{seed}",
        alphabet=["", *characters()],
    )  # fmt: skip


def by_search(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    space = "pruned:benchmarks.real_pictures:crnn"
    study = searched(space, words_to_read(seed), seed, options, ("exact", "macs"))
    yield from found_members(study, REAL.examples(EXAMPLES, seed), "exact", options)


def estimated(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    return first_members(REAL.load(), REAL.example(), REAL.examples(EXAMPLES, seed), seed, options)


def pruned(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    def make(target: dict[str, float]) -> tuple[nn.Module, Figures]:
        result = prune(REAL.load(), REAL.example(), target, batches=REAL.examples(EXAMPLES, seed), seed=seed)
        return result.model, {"form": result.summary.form}

    for target in TARGETS:
        yield Step({"target": target}, partial(make, target))


METHODS = {"search": by_search, "prune": pruned, "estimated": estimated}


def main() -> None:
    options = study_options(__doc__, METHODS, trials=40, left=(0.15, 1)).parse_args()
    model, example = REAL.load(), REAL.example()

    def measure(smaller: nn.Module) -> Figures:
        own: dict[str, Any] = milliseconds(model, smaller, example)
        if "onnxruntime_after_ms" in own:
            own["milliseconds_left"] = round(own["onnxruntime_after_ms"] / own["onnxruntime_before_ms"], 4)
        return {
            "macs": macs(smaller, example), "left": round(macs(smaller, example) / macs(model, example), 4),
            "params": size(smaller), **own, **rounded(REAL.measure(smaller)),
        }  # fmt: skip

    carry_out("recogniser_front", options, METHODS, measure, ("easyocr",))


if __name__ == "__main__":
    main()
