"""Pooling that learns how to combine maximum and average, or its own filters.

Reference: Lee, Gallagher, Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and Tree", AISTATS 2016,
arXiv:1509.08985.
Differs: sizes are rounded down, not up. The share of mixed pooling is the sigmoid of a parameter, so it stays in [0, 1]. One set
of weights serves all channels and places of a layer, the paper's usual choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces.pooling.windows import WindowPool

SPREAD = 0.1  # standard deviation of fresh filters, as published


class MixedPool2d(WindowPool):
    """a max + (1 - a) average, with one learned share a = sigmoid(logit), at first 0.5.

    Args:
        kernel, stride: of the window, see `WindowPool`.
    """

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__(kernel, stride)
        self.logit = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        largest, average = self.max_and_average(x)
        share = self.logit.sigmoid()
        return share * largest + (1 - share) * average


class GatedPool2d(WindowPool):
    """a max + (1 - a) average, where each window decides by itself: a = sigmoid(gate . window).

    Args:
        kernel, stride: of the window, see `WindowPool`.
    """

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__(kernel, stride)
        self.gate = nn.Parameter(SPREAD * torch.randn(1, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        largest, average = self.max_and_average(x)
        (logit,) = self.products(x, self.gate)
        share = logit.sigmoid()
        return share * largest + (1 - share) * average


class TreePool2d(WindowPool):
    """Learned pooling filters at the leaves of a binary tree, mixed on the way up by gates that look at the window.

    An inner node is s left + (1 - s) right with s = sigmoid(gate . window).

    Args:
        kernel, stride: of the window, see `WindowPool`.
        levels: 2 has two leaves and one gate, 3 has four leaves and three gates, and so on.

    Raises:
        ValueError: fewer than 2 levels.
    """

    def __init__(self, kernel: int = 2, stride: int | None = None, *, levels: int = 2) -> None:
        super().__init__(kernel, stride)
        if levels < 2:
            raise ValueError(f"`levels` of tree pooling must be at least 2, got {levels}; 2 is usual")
        leaves = 2 ** (levels - 1)
        self.leaves = nn.Parameter(SPREAD * torch.randn(leaves, kernel, kernel))
        self.gates = nn.Parameter(SPREAD * torch.randn(leaves - 1, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        # The tree as a heap: the children of node i are nodes 2i + 1 and 2i + 2, and the leaves come last.
        nodes = list(self.products(x, torch.cat([self.gates, self.leaves])))
        for at in reversed(range(len(self.gates))):
            nodes[at] = torch.lerp(nodes[2 * at + 2], nodes[2 * at + 1], nodes[at].sigmoid())
        return nodes[0]
