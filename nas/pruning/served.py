"""Samples cut as small as two models allow: without the padding of others, or as they came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nas.pruning.examples import Kept, Samples, moved
from nas.pruning.states import OUTPUT, Watched, mean_square
from pruners.errors import fitting
from pruners.tracing import Batch, as_batch

SAME = 1e-3  # relative difference of what a model computes on a text with and without padding


def cut_examples(given: list[Any], follower: Watched, leader: Watched, device: torch.device) -> Samples:
    """The samples of batches, cut as small as both models allow.

    Raises:
        ValueError: a model does not take a batch.
    """
    ways: tuple[Kept, ...] = ("trimmed", "padded")
    for kept in ways:
        examples = Samples(given, kept)
        if _served(examples, as_batch(given[0]), follower, leader, device):
            return examples
    examples = Samples(given, "whole")
    batch = examples.batch([0], device)
    with torch.no_grad(), fitting(batch.args, batch.kwargs, "batches"):
        follower(batch), leader(batch)
    return examples


def _served(examples: Samples, first: Batch, follower: Watched, leader: Watched, device: torch.device) -> bool:
    """Whether both models take samples by themselves and return something for each: the same as with its padding."""
    count = min(len(examples), len(first.inputs[min(examples.free)]))
    shortest = min(range(count), key=examples.length)
    return all(
        _same_alone(examples, part, first, follower, leader, device)
        for part in (range(shortest, shortest + 1), range(min(3, count)))
    )


def _same_alone(
    examples: Samples, part: range, first: Batch, follower: Watched, leader: Watched, device: torch.device
) -> bool:
    batch = examples.batch(part, device)
    padded = moved(replace(first, free=examples.free).part(part.start, part.stop), device)
    try:
        with torch.no_grad():
            outputs = {name: x for name, x in leader(batch).items() if name.startswith(OUTPUT)}
            wanted = leader(padded)
            follower(batch)
    except Exception:  # sizes that a graph, or the model's own forward, does not take
        return False
    counts = examples.counts(batch)
    for name, x in outputs.items():
        along = counts is not None and x.shape[:2] == counts.shape
        want = wanted[name][:, : x.shape[1]] if along else wanted[name]
        if x.dim() == 0 or len(x) != len(part) or want.shape != x.shape:
            return False
        where = counts if along else None
        if mean_square(x - want, where).sqrt() > SAME * mean_square(want, where).sqrt():
            return False
    return True
