"""What the unpruned model computes on samples, which a pruned one is trained towards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.pruning.examples import Samples
from nas.pruning.states import States, Watched
from pruners.tracing import Batch

CACHED = 2**30
"""Bytes of the unpruned model's outputs and states that are remembered."""
SAFE_HALF = 6e4  # half precision ends a little above


class Aims:
    """What the unpruned model computes on samples; each once, as far as memory goes."""

    def __init__(self, leader: Watched, examples: Samples, device: torch.device) -> None:
        self.leader, self.examples, self.device = leader, examples, device
        self.names: list[str] = []
        self.positional = names_along_texts(leader, examples, device)
        self.left = CACHED
        self.known: dict[int, States] = {}

    def __call__(self, indices: Sequence[int], batch: Batch) -> States:
        if all(index in self.known for index in indices):
            rows = [self.known[index] for index in indices]
            return {n: self.examples.joined([row[n] for row in rows]).to(self.device).float() for n in self.names}
        with torch.no_grad():
            found = self.leader(batch)
        aims = {name: found[name].detach() for name in self.names}
        for at, index in enumerate(indices):
            sample = {name: self._row(name, x, at, index) for name, x in aims.items()}
            size = sum(row.numel() * row.element_size() for row in sample.values())
            if index not in self.known and size <= self.left:
                self.left -= size
                self.known[index] = sample
        return aims

    def _row(self, name: str, x: Tensor, at: int, index: int) -> Tensor:
        """One sample of a state, without padding, on the CPU in half precision where that is enough."""
        if self.examples.kept != "whole":
            x = x[at, : self.examples.length(index)] if name in self.positional else x[at]
        fits = x.numel() == 0 or x.abs().max() < SAFE_HALF
        return (x.half() if fits else x.clone()).cpu()


def names_along_texts(leader: Watched, examples: Samples, device: torch.device) -> frozenset[str]:
    """Names of outputs and states whose second dimension is that of the mask: it grows with the text."""
    if examples.mask is None:
        return frozenset()
    order = sorted(range(len(examples)), key=examples.length)
    told, shapes = [], []
    for index in (order[0], order[-1]):
        batch = examples.batch([index], device)
        with torch.no_grad():
            told.append(leader(batch))
        shapes.append(batch.inputs[examples.mask].shape)
    least = (
        2 if shapes[0] != shapes[1] else 3
    )  # where all texts are equally long, a number for each class looks like one for each token
    return frozenset(
        name
        for name, x in told[0].items()
        if x.dim() >= least and x.shape[:2] == shapes[0] and told[1][name].shape[:2] == shapes[1]
    )
