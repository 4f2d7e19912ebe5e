"""Skip connections in a chain of blocks: what a block puts out is kept, and a later block sees it beside what comes in.

What is kept waits in the flow, the last one on top. A block that joins takes it off and sees one tensor, the channels of what was
kept before those of what comes in; a block that keeps passes its output on, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OnSkip:
    """The local choice of a block at an end of a skip connection.

    Attributes:
        local: what the block itself is told.
        keeps: the output is kept for a later block, and passed on.
        joins: the block sees what was kept last, concatenated with what comes in. What comes in is cropped to the sides of
            what was kept, so that sides which halve with a remainder meet again.
    """

    local: Hashable
    keeps: bool = False
    joins: bool = False


class Skips(nn.Sequential):
    """A network with skip connections: modules that run in order.

    Args:
        modules: by name.
        keeps, joins: names of those whose output is kept, and of those that see what was kept last, see `OnSkip`.
    """

    def __init__(self, modules: OrderedDict[str, nn.Module], keeps: Collection[str], joins: Collection[str]) -> None:
        super().__init__(modules)
        self.keeps, self.joins = frozenset(keeps), frozenset(joins)

    def __getitem__(self, index: Any) -> Any:
        """A module; ValueError for several, which may be one end of a skip without the other."""
        if isinstance(index, slice):
            raise ValueError(
                f"a network with skip connections cannot be cut into chains, got {index}; take its modules one by one"
            )
        return super().__getitem__(index)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ...) -> what the last module puts out."""
        kept: list[Tensor] = []
        for name, module in self.named_children():
            x = module(joined(kept.pop(), x) if name in self.joins else x)
            if name in self.keeps:
                kept.append(x)
        return x


def joined(kept: Tensor, x: Tensor) -> Tensor:
    """The channels of both, of the sides of what was kept."""
    for dim in range(2, kept.ndim):
        x = x.narrow(dim, 0, kept.shape[dim])
    return torch.cat((kept, x), dim=1)


def joined_shape(kept: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of `joined` (without the batch); ValueError where a side is smaller than that of what was kept."""
    if len(kept) != len(shape) or any(own < side for own, side in zip(shape[1:], kept[1:], strict=True)):
        raise ValueError(
            f"what comes to a skip connection must be at least as large as what was kept, got {shape} for {kept} (channels, sides); "
            "upsample it first"
        )
    return (kept[0] + shape[0], *kept[1:])
