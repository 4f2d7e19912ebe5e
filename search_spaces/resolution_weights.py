"""Weights of their own for each resolution that a block computes at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from search_spaces.network import Local, Shape, SharedBlock


class ByResolution(nn.Module):
    """A shared block with weights of their own for each side of its output; subnets share those of one resolution only.

    A convolution that runs at 32x32 in one subnet and at 8x8 in another sees features of other sizes, so that a gradient of the one
    is little help to the other.

    Args:
        make: a freshly initialised block.
        sides: heights (and widths) of the block's output, in pixels.
        side_after: (side of the input, local choice) -> side of the output.
    """

    def __init__(
        self, make: Callable[[], nn.Module], sides: Sequence[int], side_after: Callable[[int, Local], int]
    ) -> None:
        super().__init__()
        self.sides = nn.ModuleDict({str(side): make() for side in sides})
        self.side_after = side_after

    def forward(self, x: Tensor, local: Local) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        return self._block(x.shape[-1], local)(x, local)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        return self._block(in_shape[-1], local).extract(local, in_shape)

    def _block(self, side: int, local: Local) -> SharedBlock:
        return cast(SharedBlock, self.sides[str(self.side_after(side, local))])
