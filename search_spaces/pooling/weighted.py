"""Pooling by weights that come from the values of the window.

Shapes: as in `search_spaces.pooling.windows`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces.pooling.windows import WindowPool


def exponential_mean(windows: Tensor) -> Tensor:
    """The mean weighted by the softmax of the values themselves: (K, ...) -> (...)."""
    return (windows.softmax(0) * windows).sum(0)


def similarity_mean(windows: Tensor) -> Tensor:
    """The mean weighted by the softmax of each value's Dice-Sorensen similarity to the plain mean: (K, ...) -> (...).

    The similarity of a and m is 2 |a m| / (a^2 + m^2), and 0 where both are 0.
    """
    mean = windows.mean(0)
    squares = windows.square() + mean.square()
    similarity = 2 * (windows * mean).abs() / squares.where(squares > 0, 1)
    return (similarity.softmax(0) * windows).sum(0)


class SoftPool2d(WindowPool):
    """The softmax-weighted mean of a window; adding c to every pixel adds c to the result.

    Args:
        kernel, stride: of the window, see `WindowPool`.

    Reference: Stergiou, Poppe, Kalliatakis, "Refining Activation Downsampling with SoftPool", ICCV 2021, arXiv:2101.00440.
    Differs: the formula itself; the released code also sets negative results to 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        return exponential_mean(self.windows(x))


class AdaPool2d(WindowPool):
    """b similarity mean + (1 - b) exponential mean, with learned b = sigmoid(logit), at first 0.5.

    Args:
        kernel, stride: of the window, see `WindowPool`.
        size: (H', W'), to learn a b for each place; this ties the module to one image size. By default one b serves all places.

    Raises:
        ValueError: in `forward`, for images that pool to another size than `size`.

    Reference: Stergiou, Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", IEEE TIP 2023,
    arXiv:2111.00772.
    Differs: b is the sigmoid of a parameter instead of a clamped one, and one for all places unless `size` is given. Negative results
    are kept, and 0 / 0 of the similarity is 0.
    """

    def __init__(self, kernel: int = 2, stride: int | None = None, *, size: tuple[int, int] | None = None) -> None:
        super().__init__(kernel, stride)
        self.logit = nn.Parameter(torch.zeros(size or 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        windows = self.windows(x)
        size = tuple(self.logit.shape)
        if size != (1,) and size != tuple(windows.shape[-2:]):
            raise ValueError(
                f"`size` must be the size after pooling, got size={size} for {tuple(windows.shape[-2:])}; "
                "leave it out to use one weight at any size"
            )
        share = self.logit.sigmoid()
        return share * similarity_mean(windows) + (1 - share) * exponential_mean(windows)
