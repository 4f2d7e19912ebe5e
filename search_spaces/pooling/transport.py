"""Generalised sum pooling: an average that can leave out a part of the image, chosen by transport to learned prototypes.

Shapes: B images, N positions, C channels, M prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.pooling.windows import tokens

HALVINGS = 60
LEAST_SQUARED_COST = 1e-12


class Transport(NamedTuple):
    """The weight of each position (B, N), with mean 1, and the share of each prototype in what is kept (B, M), with sum 1."""

    weights: Tensor
    attributes: Tensor


def transport(cost: Tensor, mass: float, sharpness: float) -> Transport:
    """The cheapest way to bring a part of the positions' mass to prototypes, smoothed by entropy.

    Each position holds 1/N; pi says how much of it goes to each prototype and rho how much stays. They minimise
    sum c pi + (1/g) [sum pi (log pi - 1) + sum rho (log rho - 1)] with sum pi = `mass`.

    Args:
        cost: c, from each position to each prototype, (B, N, M).
        mass: how much is moved in all, between 0 and 1.
        sharpness: g.

    The optimum is pi_ij = t rho_j exp(-g c_ij), so N rho_j = sigmoid(-(log t + s_j)) with s_j = logsumexp_i(-g c_ij). All that is
    unknown is log t, the only root of mean_j sigmoid(log t + s_j) = mass.
    """
    scores = -sharpness * cost
    kept = scores.logsumexp(2)
    with torch.no_grad():
        shift = torch.logit(torch.full_like(kept[:, :1], mass))
        low, high = shift - kept.amax(1, keepdim=True), shift - kept.amin(1, keepdim=True)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = (middle + kept).sigmoid().mean(1, keepdim=True) > mass
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    root = (low + high) / 2
    # A step of Newton's method minus its own value: it moves the root no more, but carries its derivative.
    share = (root + kept).sigmoid()
    slope = (share * (1 - share)).mean(1, keepdim=True).detach().clamp_min(torch.finfo(cost.dtype).eps)
    step = share.mean(1, keepdim=True) / slope
    root = root - (step - step.detach())
    weights = (root + kept).sigmoid() / mass
    return Transport(weights, (weights.unsqueeze(1) @ scores.softmax(2)).squeeze(1) / cost.shape[1])


class GeneralisedSumPool(nn.Module):
    """The average of the image's positions, weighted by how much of each is moved to the prototypes.

    The cost from a position to a prototype is the distance between the two after both are scaled to length 1.

    Args:
        channels: of the images or tokens.
        prototypes: how many; 64 is published, 128 for 1,000 classes and more.
        mass: how much of the image is kept, between 0 and 1.
        sharpness: of the transport; a larger one decides more clearly.

    Raises:
        ValueError: no prototype, `mass` outside (0, 1), or `sharpness` not positive.

    Reference: Gurbuz, Sener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023, arXiv:2308.09228.
    Differs: the root is bisected instead of 100 rounds of a fixed point; prototypes start at random instead of from a classifier's
    weights. The auxiliary loss on `attributes` (zero-shot regression) is left to the training.
    """

    def __init__(self, channels: int, *, prototypes: int = 64, mass: float = 0.3, sharpness: float = 5.0) -> None:
        super().__init__()
        if prototypes < 1:
            raise ValueError(f"`prototypes` must be at least 1, got {prototypes}; 64 is usual")
        if not 0 < mass < 1:
            raise ValueError(f"`mass` must be between 0 and 1, got {mass}; 0.3 is usual, and 1 would be the average")
        if sharpness <= 0:
            raise ValueError(f"`sharpness` must be positive, got {sharpness}; 5 is usual")
        self.mass, self.sharpness = mass, sharpness
        self.prototypes = nn.Parameter(torch.randn(prototypes, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or tokens (B, N, C) -> (B, C)."""
        x = tokens(x)
        return (self.transport(x).weights.unsqueeze(1) @ x).squeeze(1) / x.shape[1]

    def transport(self, x: Tensor) -> Transport:
        """How images (B, C, H, W) or tokens (B, N, C) are weighted."""
        likeness = F.normalize(tokens(x), dim=2) @ F.normalize(self.prototypes, dim=1).T
        cost = (2 - 2 * likeness).clamp_min(LEAST_SQUARED_COST).sqrt()
        return transport(cost, self.mass, self.sharpness)

    def extra_repr(self) -> str:
        return f"prototypes={len(self.prototypes)}, mass={self.mass}, sharpness={self.sharpness}"
