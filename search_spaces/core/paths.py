"""Several paths through one chain of blocks: they share its first blocks, the trunk, and each goes on alone to logits of its own.

What a chain passes on is one tensor along the trunk. Behind the trunk it is a tuple: the trunk's output, the logits of
the finished paths, and the activation of the present path. The end of the last path makes one tensor of them again. A
block itself always sees one tensor; which one, its local choice says. What skip connections keep waits in the same way.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.core.skips import OnSkip, Skips, joined, joined_shape

Flow = Tensor | tuple[Tensor, ...]
FlowShape = tuple[int, ...] | tuple[tuple[int, ...], ...]
"""Without the batch."""


class Skipped(Enum):
    """The local choice of a path's block whose place the trunk takes: what comes in goes on."""

    SKIPPED = "skipped"


SKIPPED = Skipped.SKIPPED


@dataclass(frozen=True)
class OnPath:
    """The local choice of a block on a path of its own.

    Attributes:
        local: what the block itself is told.
        paths: how many there are.
        starts: the block is the first of its path, and sees what the trunk put out.
        ends: the block is the last of the last path.
    """

    local: Hashable
    paths: int
    starts: bool = False
    ends: bool = False


def seen(local: Hashable, shape: FlowShape) -> tuple[Hashable, tuple[int, ...]] | None:
    """What a block itself is told, and the shape that it sees, where `shape` comes in; None if it is skipped."""
    if local is SKIPPED:
        return None
    own = _taken(local, shape, joined_shape)[1]
    return (local.local if isinstance(local, (OnPath, OnSkip)) else local), own


def shape_after(local: Hashable, shape: FlowShape, out: tuple[int, ...]) -> FlowShape:
    """The shape that a block passes on that sees a part of `shape` and puts out `out`."""
    if isinstance(local, OnPath) and local.ends:
        return out
    return _passed_on(local, _taken(local, shape, joined_shape)[0], out)


def shape_of(x: Flow) -> FlowShape:
    """The shape of what is passed on, without the batch."""
    return tuple(tuple(part.shape[1:]) for part in x) if isinstance(x, tuple) else tuple(x.shape[1:])


def advance(block: nn.Module, x: Flow, local: Hashable) -> Flow:
    """What a shared block makes of what comes in."""
    if local is SKIPPED:
        return x
    waiting, own = _taken(local, x, joined)
    if not isinstance(local, OnPath):
        out = block(own, local.local if isinstance(local, OnSkip) else local)
        return _passed_on(local, waiting, out)
    if local.starts and block.training:
        own = divide_gradient(own, local.paths)
    out = block(own, local.local)
    return together((*waiting[1:], out), block.training) if local.ends else _passed_on(local, waiting, out)


def together(logits: Sequence[Tensor], training: bool) -> Tensor:
    """One prediction of several heads' logits (batch, classes).

    Returns:
        The logarithm of their mean probabilities (batch, classes), in float32; in training the logits (batch, heads, classes).
    """
    if training:
        return torch.stack(list(logits), dim=1)
    chances = torch.stack([head.float().log_softmax(dim=1) for head in logits])
    return chances.logsumexp(dim=0) - math.log(len(logits))


def divide_gradient(x: Tensor, by: int) -> Tensor:
    """`x` itself, whose gradient is divided."""
    return _Divided.apply(x, by)


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by: int) -> Tensor:
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.by, None


class Paths(nn.ModuleList):
    """Networks side by side, each from the same input to logits of its own; see `together` for what they say as one."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ...) -> (batch, classes), in training (batch, paths, classes)."""
        inputs = [divide_gradient(x, len(self)) if self.training else x for _ in self]
        return together([path(own) for path, own in zip(self, inputs, strict=True)], self.training)


def sequence(parts: Iterable[tuple[str, Hashable, nn.Module]]) -> nn.Sequential:
    """The network of blocks that run in this order, each with its name and local choice: the trunk and, if there are any, `paths`."""
    trunk: OrderedDict[str, nn.Module] = OrderedDict()
    paths: list[OrderedDict[str, nn.Module]] = []
    skips: dict[str, OnSkip] = {}
    for name, local, module in parts:
        if isinstance(local, OnPath):
            if local.starts:
                paths.append(OrderedDict())
            paths[-1][name.removeprefix(prefix(len(paths)))] = module
        else:
            trunk[name] = module
            if isinstance(local, OnSkip):
                skips[name] = local
    if paths:
        trunk["paths"] = Paths(nn.Sequential(path) for path in paths)
    if skips:
        keeps, joins = ([name for name, skip in skips.items() if getattr(skip, end)] for end in ("keeps", "joins"))
        return Skips(trunk, keeps, joins)
    return nn.Sequential(trunk)


def prefix(path: int) -> str:
    """What the names of a path's blocks begin with, where 1 is the first path; the first path has the trunk's blocks."""
    return f"path{path}_" if path > 1 else ""


def _taken(local: Hashable, flow: Any, join: Callable[[Any, Any], Any]) -> tuple[tuple[Any, ...], Any]:
    """What goes on waiting, and what the block sees, of tensors or of shapes; `join` makes one of two of them."""
    several = isinstance(flow, tuple) and not isinstance(flow[0], int)
    parts = flow if several else (flow,)
    if isinstance(local, OnPath) and local.starts:
        return parts, parts[0]
    waiting, own = parts[:-1], parts[-1]
    if isinstance(local, OnSkip) and local.joins:
        if not waiting:
            raise ValueError("a block that joins a skip connection needs an earlier one that keeps, got none")
        waiting, own = waiting[:-1], join(waiting[-1], own)
    return waiting, own


def _passed_on(local: Hashable, waiting: tuple[Any, ...], out: Any) -> Any:
    """What a block passes on that puts out `out`, a tensor or its shape."""
    kept = (out,) if isinstance(local, OnSkip) and local.keeps else ()
    return (*waiting, *kept, out) if waiting or kept else out
