"""One operator of a traced model by itself: its call at the sizes that a removal leaves, and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from estimators import compare_latency
from pruners.allocation.costs import Counts
from pruners.groups import AxisGraph
from pruners.operators import count, number
from pruners.surgery import Removal, Scaled

RUNS = 10  # timed runs of a call
WARMUP_S = 0.05
MAX_SECONDS = 1.0


@dataclass(frozen=True)
class Call:
    """An operator with its arguments by name; tensors are on the meta device, so that a call is cheap to make and to compare."""

    target: Any
    named: dict[str, Any]

    def __str__(self) -> str:
        leaves, spec = pytree.tree_flatten(self.named)
        shown = [f"{x.dtype}{tuple(x.shape)}" if isinstance(x, Tensor) else repr(x) for x in leaves]
        return f"{self.target} {shown} {spec}"


def call_at(graph: AxisGraph, node: Node, counts: Counts) -> Call:
    """The call of an operator on one example when elementary axes keep `counts[axis]` indices; others keep all."""
    removal = Removal(graph, {axis: torch.arange(axis.size) < kept for axis, kept in counts.items()})
    target, named = removal.call(node)
    return Call(target, {name: _argument(graph, value, counts) for name, value in named.items()})


def shape_at(graph: AxisGraph, node: Node, counts: Counts) -> list[int]:
    """The shape of a node's tensor on one example."""
    sizes = zip(node.meta["val"].shape, graph.dims(node), strict=True)
    return [count(axis, counts) // (graph.trace.copies if _free(size) else 1) for size, axis in sizes]


def measured_ms(calls: Sequence[Call], device: torch.device) -> list[float]:
    """Milliseconds of calls of one operator, which take turns on random numbers: lower quartiles, as other work only adds.

    Raises:
        ValueError: if the operator does not run by itself.
    """
    memory: dict[int, Tensor] = {}  # of each argument, as much as the largest call needs
    for call in calls:
        for place, value in enumerate(pytree.tree_leaves(call.named)):
            if isinstance(value, Tensor) and value.numel() > memory.get(place, value[:0]).numel():
                memory[place] = _random(value.numel(), value.dtype, device)
    alone = {place: Alone(call, memory) for place, call in enumerate(calls)}
    found = compare_latency(
        alone, (1,), device=device, warmup_s=WARMUP_S, runs=RUNS, max_seconds=MAX_SECONDS / len(calls)
    )
    return [found[place].p25_ms for place in range(len(calls))]


class Alone(nn.Module):
    """A call as a module, whatever it is given.

    Args:
        call: what is called.
        memory: numbers for each tensor among its arguments, by its place, at least as many as it has.
    """

    def __init__(self, call: Call, memory: dict[int, Tensor]) -> None:
        super().__init__()
        leaves, spec = pytree.tree_flatten(call.named)
        real = [memory[i][: x.numel()].view(x.shape) if isinstance(x, Tensor) else x for i, x in enumerate(leaves)]
        named = pytree.tree_unflatten(real, spec)
        schema = call.target._schema.arguments
        self.target = call.target
        self.args = [named[argument.name] for argument in schema if not argument.kwarg_only]
        self.kwargs = {argument.name: named[argument.name] for argument in schema if argument.kwarg_only}

    def forward(self, _: Tensor) -> Any:
        """What the operator returns."""
        return self.target(*self.args, **self.kwargs)


def _argument(graph: AxisGraph, value: Any, counts: Counts) -> Any:
    if isinstance(value, Scaled):
        return _argument(graph, value.size, counts) * value.new // value.old
    if isinstance(value, (list, tuple)):
        return [_argument(graph, item, counts) for item in value]
    if not isinstance(value, Node):
        return value
    held = value.meta["val"]
    if isinstance(held, Tensor):
        return torch.empty(shape_at(graph, value, counts), dtype=held.dtype, device="meta")
    return number(held) // (graph.trace.copies if _free(held) else 1)


def _free(size: Any) -> bool:
    """Whether a size grows with the batch."""
    return isinstance(size, torch.SymInt)


def _random(entries: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Positive numbers, so that they serve as variances too; zeros of whole numbers, which are places in any table."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.rand(entries, dtype=dtype, device=device)
    return torch.zeros(entries, dtype=dtype, device=device)
