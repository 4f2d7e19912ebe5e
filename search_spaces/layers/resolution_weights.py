"""Weights of their own for each resolution that a block computes at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from search_spaces.core import Local, Shape, SharedBlock


class ByResolution(nn.Module):
    """A shared block with weights of their own for each width of its output; subnets share those of one resolution only.

    A convolution may run at 32x32 in one subnet and at 8x8 in another. It sees features of other sizes there, so the
    gradients of one subnet help the other little.

    Args:
        make: a freshly initialised block.
        sides: widths of the block's output, in pixels; heights shrink with them.
        side_after: (width of the input, local choice) -> width of the output.
        parting: let the weights of all sides start equal, and part in the course of a training that calls `spread_gradients_`.

    Reference: none known for `parting`; it lies between one set of weights and one for each part of a split supernet (Zhao et al.,
    "Few-shot Neural Architecture Search", ICML 2021, arXiv:2006.06863).
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        sides: Sequence[int],
        side_after: Callable[[int, Local], int],
        parting: bool = False,
    ) -> None:
        super().__init__()
        self.sides = nn.ModuleDict({str(side): make() for side in sides})
        self.side_after, self.parting = side_after, parting
        if parting:
            first, *others = self.sides.values()
            for other in others:
                other.load_state_dict(first.state_dict())

    def forward(self, x: Tensor, local: Local) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        return self._block(x.shape[-1], local)(x, local)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        return self._block(in_shape[-1], local).extract(local, in_shape)

    def spread_gradients_(self, done: float) -> None:
        """If the weights of the sides are parting, give each a share of the others' gradients.

        A weight of gradient g, where those of all sides add up to G, gets g + share (G - g). The share falls from 1, which is one
        set of weights, to 0 along half a cosine.

        Args:
            done: fraction of the training, 0 at its start.
        """
        if not self.parting:
            return
        share = (1 + math.cos(math.pi * done)) / 2
        for alike in zip(*(block.parameters() for block in self.sides.values()), strict=True):
            own = [weight.grad for weight in alike if weight.grad is not None]
            if not own:
                continue
            total = torch.stack(own).sum(0)
            for weight in alike:
                weight.grad = share * total if weight.grad is None else weight.grad.lerp(total, share)

    def _block(self, side: int, local: Local) -> SharedBlock:
        return cast(SharedBlock, self.sides[str(self.side_after(side, local))])
