"""Examples whose target is what a teacher puts out for them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from nas.runtime import WHOLE, Share
from nas.tasks.examples import Batch, Examples


class Taught(Examples):
    """Examples with a teacher's outputs in place of labels.

    Args:
        examples: their own targets are dropped.
        teacher: a copy in evaluation mode runs where batches come out.
    """

    def __init__(self, examples: Examples, teacher: nn.Module) -> None:
        self.examples, self.teacher = examples, teacher
        self.own: nn.Module | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def steps(self, size: int) -> int:
        return self.examples.steps(size)

    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        found = self.examples.batches(size, device=device, rng=rng, augment=augment, drop_last=drop_last, share=share)
        return self._taught(found, device)

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        return self._taught(self.examples.evenly(size, device), device)

    def take(self, indices: Tensor) -> Taught:
        return Taught(self.examples.take(indices), self.teacher)

    def joined(self, other: Examples) -> Taught:
        return Taught(self.examples.joined(other.examples if isinstance(other, Taught) else other), self.teacher)

    @property
    def fingerprint(self) -> str:
        return self.examples.fingerprint

    def _taught(self, batches: Iterator[Batch], device: torch.device | str) -> Iterator[Batch]:
        if self.own is None:
            self.own = copy.deepcopy(self.teacher).eval().requires_grad_(False)
        own = self.own.to(device)
        for batch in batches:
            with torch.no_grad():
                target = batch.call(own)
            yield Batch(batch.inputs, target)
