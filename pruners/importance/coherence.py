"""How what the positions of a sample do to the outputs adds up, beside positions that know nothing of each other.

Before a global average, errors at neighbouring positions push the outputs the same way: their effects add up, not their squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

CACHED = 2**19  # values that are worked on at a time: they stay near the processor
USUAL = 8  # samples that are worth as much as the belief that positions are independent


class Coherence:
    """Of one reading, over batches: values x, gradients g, and which sample each of their P positions belongs to.

    Reference: Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution layers, ICML 2016, whose
        "spatially uncorrelated derivatives" are what this measures.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.positions = self.samples = 0

    def add(self, x: Tensor, g: Tensor, sample: Tensor, samples: int) -> None:
        """Values and gradients, (P, Q) each, with the sample of each position, (P,), of how many."""
        sums = x.new_zeros(7, x.shape[1], dtype=torch.float64)
        both, alone = (x.new_zeros(samples, x.shape[1], dtype=torch.float32) for _ in range(2))
        rows = max(1, CACHED // max(x.shape[1], 1))
        for value, gradient, of in zip(x.split(rows), g.split(rows), sample.split(rows), strict=True):
            value, gradient = value.float(), gradient.float()
            product = value * gradient
            both.index_add_(0, of, product)
            alone.index_add_(0, of, gradient)
            apart = [(product * product).sum(0), (product * gradient).sum(0), (gradient * gradient).sum(0)]
            sums[3:] += torch.stack([*apart, value.sum(0)])
        sums[:3] = torch.stack([both.square().sum(0), (both * alone).sum(0), alone.square().sum(0)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.positions, self.samples = self.positions + len(x), self.samples + samples

    def ratio(self) -> float:
        """Mean square of what a sample's positions add up to, relative to the sum of their squares; near 1 for few samples.

        It is 1 at least: values that undo each other say little of the errors that stay once others make up for them.
        """
        if self.sums is None:
            return 1.0
        mean = self.sums[-1] / max(self.positions, 1)
        weights = torch.stack([torch.ones_like(mean), -2 * mean, mean.square()])  # of values about their mean
        together, apart = (
            float((part * weights).sum(0).clamp(min=0).sum()) for part in (self.sums[:3], self.sums[3:6])
        )
        return max(1.0, (self.samples * together / apart + USUAL) / (self.samples + USUAL)) if apart > 0 else 1.0
