"""A front from SmolLM2-135M by one search without training, and by leaving out layers. Run again to go on. Takes 6 to 10 GB.

    NAS_REAL=PACKAGES python -m benchmarks.language_front --out results/language_front_cpu_202612

`benchmarks.real_models` says what PACKAGES has to hold. Methods, one set of rows for each seed:
    search         `nas search` of the model's own space by NSGA-II, perplexity against macs; its front from 0.95 to 0.45 of the macs
    estimated      the front that the search starts from, which no trial has touched
    layers         layers left out until 0.8 and 0.5 of the macs are left, those whose absence, alone, does least harm
    layers-even    the same with layers at equal distances kept

Examples are 400 sequences of 128 tokens of docstrings; the search chooses by 16 others. Members are repaired on the examples as `prune`
does by default. Perplexity is on 24 sequences of modules that are held out, `perplexity_ratio` over that of the full model. `left` is
the share of the macs of 128 tokens; the language model's head is counted, the table of tokens is not. `tokens_a_second` are of one
sequence of 128 tokens, eager, both models in turns. `seconds` are those of the row; `searches.jsonl` has those of searches, with trials
in a minute and the share of their time in which no model ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.fronts import Figures, Step, carry_out, first_members, found_members, searched, study_options
from benchmarks.prune_real import in_turns, macs, rounded, size, within
from benchmarks.real_controls import drop_by_damage, drop_evenly, run
from benchmarks.real_language import TOKENS, sequences
from benchmarks.real_models import MODELS
from nas.tasks import Task, language_modelling

REAL = MODELS["smollm2"]
EXAMPLES, CHOSEN = 400, 16
KEPT = (0.8, 0.5)


def docstrings_to_go_on(seed: int) -> Task:
    """Rows of 128 tokens: 400 to see, 16 to choose by, 8 that nothing is measured on."""
    seen, others = (torch.cat([x["input_ids"] for x in sequences(EXAMPLES, draw)]) for draw in (seed, seed + 1000))
    known = {tuple(row) for row in seen.tolist()}
    rest = torch.tensor([row for row in others.tolist() if tuple(row) not in known])
    parts = [{"input_ids": rows} for rows in (seen, rest[:CHOSEN], rest[CHOSEN : CHOSEN + 8])]
    return language_modelling(parts[0], validation=parts[1], test=parts[2], name=f"docstrings-{seed}")


def by_search(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    space = "pruned:benchmarks.real_language:smollm2"
    study = searched(space, docstrings_to_go_on(seed), seed, options, ("perplexity", "macs"))
    yield from found_members(study, sequences(EXAMPLES, seed), "perplexity", options)


def estimated(seed: int, options: argparse.Namespace) -> Iterator[Step]:
    return first_members(REAL.load(), REAL.example(), sequences(EXAMPLES, seed), seed, options)


def left_out(way: Callable[..., nn.Module]) -> Callable[[int, argparse.Namespace], Iterator[Step]]:
    def method(seed: int, options: argparse.Namespace) -> Iterator[Step]:
        def make(part: float) -> tuple[nn.Module, Figures]:
            model = REAL.load()
            return way(model, sequences(EXAMPLES, seed), within({"macs": part}, model, REAL.example())), {}

        for part in KEPT:
            yield Step({"asked": part}, partial(make, part))

    return method


METHODS = {
    "layers-even": left_out(drop_evenly), "layers": left_out(drop_by_damage), "search": by_search, "estimated": estimated,
}  # fmt: skip


def main() -> None:
    options = study_options(__doc__, METHODS, trials=24, left=(0.45, 0.95)).parse_args()
    model, example = REAL.load(), REAL.example()

    def measure(smaller: nn.Module) -> Figures:
        with torch.no_grad():
            before, after = in_turns([lambda net=net: run(net, example) for net in (model, smaller)])
        return {
            "macs": macs(smaller, example), "left": round(macs(smaller, example) / macs(model, example), 4),
            "params": size(smaller), "tokens_a_second": round(1000 * TOKENS / after, 1),
            "times_as_many_tokens": round(before / after, 3), **rounded(REAL.measure(smaller)),
        }  # fmt: skip

    carry_out("language_front", options, METHODS, measure, ("transformers", "gguf"))


if __name__ == "__main__":
    main()
