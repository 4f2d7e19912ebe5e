"""Generalised-mean pooling: the power mean of a window or of the whole image, with a learned exponent.

y = mean(max(x, 1e-6)^p)^(1/p): p = 1 is the average of positive values, and a larger p comes nearer to the maximum. Values below
1e-6 count as 1e-6 and get no gradient, so the operator belongs behind a ReLU.

Reference: GeM: Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, arXiv:1711.02512.
GGeM: Ko et al., "Group Generalized Mean Pooling for Vision Transformer", 2022, arXiv:2212.04114.
Differs: the parameter is log p, which keeps p positive; p may be learned to lie below 1, between the average and the geometric mean.
Computed in logarithms, so that large p do not overflow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from search_spaces.pooling.windows import WindowPool, tokens

LEAST = 1e-6
PUBLISHED_P = 3.0


def power_mean(x: Tensor, p: Tensor, dim: int) -> Tensor:
    """The power mean of `x` along `dim`; `p` broadcasts to `x`, and to `x` without `dim`."""
    total = (p * x.clamp_min(LEAST).log()).logsumexp(dim)
    return ((total - math.log(x.shape[dim])) / p).exp()


def exponents(channels: int, groups: int, p: float) -> nn.Parameter:
    """log p for each group of channels, shape (groups,).

    Raises:
        ValueError: `groups` does not divide `channels`, or `p` is not positive.
    """
    if groups < 1 or channels % groups:
        divisors = [str(n) for n in range(1, channels + 1) if channels % n == 0]
        raise ValueError(
            f"`groups` must divide `channels`, got groups={groups}, channels={channels}; use {', '.join(divisors)}"
        )
    if not 0 < p < math.inf:
        raise ValueError(
            f"`p` of generalised-mean pooling must be positive and finite, got {p}; 1 is the average, 3 is usual"
        )
    return nn.Parameter(torch.full((groups,), math.log(p)))


class GeMPool2d(WindowPool):
    """The power mean of each window, with an exponent for each group of channels (one group: GeM; several: GGeM).

    Args:
        channels: of the images.
        kernel, stride: of the window, see `WindowPool`.
        groups: groups of neighbouring channels; `channels` groups give each channel its own exponent.
        p: exponent at first.

    Raises:
        ValueError: `groups` does not divide `channels`, or `p` is not positive.
    """

    def __init__(
        self, channels: int, kernel: int = 2, stride: int | None = None, *, groups: int = 1, p: float = PUBLISHED_P
    ) -> None:
        super().__init__(kernel, stride)
        self.log_p = exponents(channels, groups, p)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        p = self.log_p.exp().repeat_interleave(x.shape[1] // len(self.log_p))
        return power_mean(self.windows(x), p.view(-1, 1, 1), 0)


class GlobalGeMPool(nn.Module):
    """The power mean over the whole image, with an exponent for each group of channels (one group: GeM; several: GGeM).

    Args:
        channels: of the images or tokens.
        groups: groups of neighbouring channels; for transformers, the attention heads are the natural choice.
        p: exponent at first.

    Raises:
        ValueError: `groups` does not divide `channels`, or `p` is not positive.
    """

    def __init__(self, channels: int, *, groups: int = 1, p: float = PUBLISHED_P) -> None:
        super().__init__()
        self.log_p = exponents(channels, groups, p)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or tokens (B, N, C) -> (B, C)."""
        x = tokens(x)
        p = self.log_p.exp().repeat_interleave(x.shape[2] // len(self.log_p))
        return power_mean(x, p, 1)
