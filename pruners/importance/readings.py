"""What operators read: values that they add up over an axis, with the columns that belong to indices of groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruners.groups import AxisGraph, Group
from pruners.operators import arguments, leaves, operator
from pruners.surgery import Removal

WIDEST = 2_048  # columns that are solved for together
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
PRODUCTS = ("mm", "bmm", "matmul", "addmm", "baddbmm")


@dataclass(frozen=True)
class Reading:
    """Values that operators add up over an axis.

    Attributes:
        source: the node whose value they read.
        dims: the dimension that they add up over, and those that say which of its indices is which, from the end.
        readers: these operators.
        blocks: columns that are solved for together, no index of a group in two of them.
    """

    source: Node
    dims: tuple[int, ...]
    readers: frozenset[Node]
    blocks: tuple[Tensor, ...]

    def __hash__(self) -> int:
        return hash((self.source, self.dims))


def readings(base: Removal, groups: Sequence[Group]) -> list[Reading]:
    """Where the indices of groups are read, in order of execution.

    A group that no operator adds up over is read where it occurs last.

    Args:
        base: the traced model with its axes, and what stays of it.
        groups: groups that may lose indices.
    """
    graph = base.graph
    found: dict[tuple[Node, tuple[int, ...]], set[Node]] = {}
    silent = {group.axis: group for group in groups}
    for node in graph.trace.nodes:
        for source, dim in _added_up(node) if node.op == "call_function" else ():
            dims = graph.dims(source)
            inside = set(leaves(dims[dim]))
            read = [group for group in groups if group.axis in inside]
            if source.name not in graph.trace.tensors and read:
                found.setdefault((source, _places(base, source, dim, read)), set()).add(node)
                for group in read:
                    silent.pop(group.axis, None)
    last = {axis: (node, dim) for node in graph.trace.nodes for dim, axis in _occurring(graph, node, set(silent))}
    for axis, (node, dim) in last.items():
        found.setdefault((node, _places(base, node, dim, [silent[axis]])), set()).update(node.users)
    return [
        Reading(source, dims, frozenset(readers), tuple(_blocks(base, source, dims, groups)))
        for (source, dims), readers in found.items()
    ]


def _added_up(node: Node) -> Iterator[tuple[Node, int]]:
    """Sources of an operator with the dimension, from the end, that it adds up over."""
    a, name = arguments(node), operator(node).removeprefix("aten.").partition(".")[0]
    pairs: list[tuple[Any, int]] = []
    if name in ("linear", *RECURRENT):
        pairs = [(a["input"], -1)]
    elif name.startswith("conv") and isinstance(a.get("weight"), Node):
        shape = a["weight"].meta["val"].shape
        if "transpose" in name or shape[1] > 1 or a.get("groups", 1) == 1:  # not where each channel is by itself
            pairs = [(a["input"], 1 - len(shape))]
    elif name in PRODUCTS:
        first, second = [value for value in a.values() if isinstance(value, Node)][-2:]
        pairs = [(first, -1), (second, -min(2, second.meta["val"].dim()))]
    elif name == "scaled_dot_product_attention":
        pairs = [(a["query"], -1), (a["key"], -1)]
    for source, dim in pairs:
        if isinstance(source, Node) and isinstance(source.meta.get("val"), Tensor):
            yield source, dim


def _occurring(graph: AxisGraph, node: Node, axes: set[Any]) -> Iterator[tuple[int, Any]]:
    """Dimensions, from the end, of a node's value in which some axes occur, with these axes."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
        return
    dims = graph.dims(node)
    for place, axis in enumerate(dims):
        for leaf in axes.intersection(leaves(axis)):
            yield place - len(dims), leaf


def _places(base: Removal, source: Node, dim: int, groups: Sequence[Group]) -> tuple[int, ...]:
    dims = base.graph.dims(source)
    found = {place for group in groups for place in base.units(dims, len(dims) + dim, group)[0]}
    return tuple(sorted(place - len(dims) for place in found))


def index_of(base: Removal, reading: Reading, group: Group) -> Tensor | None:
    """The index of a group that each column of a reading belongs to, or -1; None if it is not read here."""
    return _index_at(base, reading.source, reading.dims, group)


def _index_at(base: Removal, source: Node, places: tuple[int, ...], group: Group) -> Tensor | None:
    dims = base.graph.dims(source)
    at = next((len(dims) + dim for dim in places if group.axis in leaves(dims[dim])), None)
    if at is None:
        return None
    within, index = base.units(dims, at, group)
    if not set(within) <= {len(dims) + dim for dim in places}:
        return None
    sizes = [base.size(dims[dim]) for dim in places]
    known = [size if len(dims) + dim in within else 1 for size, dim in zip(sizes, places, strict=True)]
    return index.reshape(known).expand(sizes).flatten()


def _blocks(base: Removal, source: Node, places: tuple[int, ...], groups: Sequence[Group]) -> Iterator[Tensor]:
    """All columns together, or as many as are solved for at once, indices of groups side by side."""
    dims = base.graph.dims(source)
    size = math.prod(base.size(dims[dim]) for dim in places)
    if size <= WIDEST:
        yield torch.arange(size)
        return
    left = torch.arange(size)
    for group in groups:
        index = _index_at(base, source, places, group)
        if index is None:
            continue
        here = left[index[left] >= 0]
        if not len(here):
            continue
        left = left[index[left] < 0]
        ordered = here[index[here].argsort(stable=True)]
        per_index = max(1, len(ordered) // len(index[ordered].unique()))
        yield from ordered.split(max(1, WIDEST // per_index) * per_index)
