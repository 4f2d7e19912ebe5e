"""How pooling operators look at an image: window by window, or as a whole.

Shapes: B images, C channels, H x W pixels, H' x W' windows of K = kernel x kernel pixels. There is no padding, and a last row or
column that fills no window is left out: H' = floor((H - kernel) / stride) + 1, as in `torch.nn.MaxPool2d`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowPool(nn.Module):
    """What local pooling operators share: the size of the window and how far it moves.

    Args:
        kernel: height and width of the window, in pixels.
        stride: pixels from one window to the next; the kernel by default.

    Raises:
        ValueError: kernel or stride below 1.
    """

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        stride = kernel if stride is None else stride
        for name, size in (("kernel", kernel), ("stride", stride)):
            if size < 1:
                raise ValueError(f"`{name}` of a pooling operator must be at least 1 pixel, got {size}; 2 is usual")
        self.kernel, self.stride = kernel, stride

    def max_and_average(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> two of (B, C, H', W')."""
        return F.max_pool2d(x, self.kernel, self.stride), F.avg_pool2d(x, self.kernel, self.stride)

    def windows(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (K, B, C, H', W'), the pixels of each window row by row."""
        height, width = ((side - self.kernel) // self.stride + 1 for side in x.shape[-2:])
        if height < 1 or width < 1:
            raise ValueError(
                f"`kernel` must fit into the image, got kernel={self.kernel} for {x.shape[-2]}x{x.shape[-1]} pixels; "
                "use larger images, a smaller kernel or fewer poolings"
            )
        pixels = [
            x[..., row :: self.stride, column :: self.stride][..., :height, :width]
            for row in range(self.kernel)
            for column in range(self.kernel)
        ]
        return torch.stack(pixels)

    def products(self, x: Tensor, filters: Tensor) -> tuple[Tensor, ...]:
        """Each window times each of the `filters` (F, kernel, kernel): (B, C, H, W) -> F of (B, C, H', W')."""
        planes = F.conv2d(x.flatten(0, 1).unsqueeze(1), filters.unsqueeze(1), stride=self.stride)
        return planes.unflatten(0, x.shape[:2]).unbind(2)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


def tokens(x: Tensor) -> Tensor:
    """What global pooling operators see: images (B, C, H, W) -> (B, H W, C); tokens (B, N, C) stay as they are."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x
