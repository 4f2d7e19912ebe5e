"""Sums of which a term can be left out: which arguments are computed from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from pruners.groups import AxisGraph
from pruners.operators import operator

aten = torch.ops.aten
COPIES = ("alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "to", "_to_copy")
Edge = tuple[Node, int]  # a sum, and which of its arguments stays where the other is left out
ADDED: dict[Any, int] = {
    aten.index_add.default: 3,
    aten.index_put.default: 2,
}  # which argument is added to rows of the first


def is_copy(node: Node) -> bool:
    """Whether an operator returns what it is given, in the same type."""
    if operator(node).removeprefix("aten.").split(".")[0] not in COPIES:
        return False
    return bool(node.meta["val"].dtype == node.all_input_nodes[0].meta["val"].dtype)


def argument(add: Node, side: int) -> Node:
    """What a sum adds: its first argument, 0, or the other one, 1; of rows that are added to others, these."""
    place = ADDED.get(add.target, side) if side else 0
    found = add.args[place]
    assert isinstance(found, Node)
    return found


def terms_to_lose(graph: AxisGraph) -> list[Edge]:
    """Sums, and which of their arguments stays where the other is computed from another term of the same sum.

    A sum that only another sum reads is part of that one. Of such parts only the largest can be left out, and single terms.
    """
    place = {node: i for i, node in enumerate(graph.trace.nodes)}
    sums = {node: sides for node in place if (sides := _sides(graph, node))}
    parts: dict[Node, set[Node]] = {}  # of each sum: the terms that it is made of, and the sums
    whole: dict[Node, Node] = {}  # of each sum: the last that it is part of
    for add in sums:
        operands = add.all_input_nodes
        parts[add] = {add}.union(*(parts[x] if _joins(x, sums) else {x} for x in operands))
    for add in reversed(sums):
        (user,) = add.users if _joins(add, sums) else (add,)
        whole[add] = whole.get(user, user)
    found, within = [], set()
    for add, sides in reversed(sums.items()):
        for side in sides:
            term = argument(add, 1 - side)
            several = _joins(term, sums)
            own = parts[term] if several else {term}
            others = {x for x in parts[whole[add]] - own if not _joins(x, sums) and x is not whole[add]}
            if not (several and add in within) and _is_computed_from(term, others, place):
                found.append((add, side))
                within |= own if several else set()
    return found[::-1]


def _sides(graph: AxisGraph, node: Node) -> tuple[int, ...]:
    """Which arguments of a sum of equal shapes can stand for it when the other is zero; none where it is no sum."""
    if node.target not in (aten.add.Tensor, aten.sub.Tensor):
        return ()
    operands = node.all_input_nodes
    shape, dtype = graph.shape(node), node.meta["val"].dtype
    if len(operands) != 2 or any(graph.shape(x) != shape or x.meta["val"].dtype != dtype for x in operands):
        return ()
    return (0,) if node.kwargs or node.target is aten.sub.Tensor else (1, 0)


def _joins(node: Node, sums: Mapping[Node, tuple[int, ...]]) -> bool:
    """Whether a node is a sum that only another sum reads, so that the two are one."""
    return len(sums.get(node, ())) == 2 and len(node.users) == 1 and len(sums.get(next(iter(node.users)), ())) == 2


def _is_computed_from(node: Node, sources: set[Node], place: Mapping[Node, int]) -> bool:
    """Whether any of some nodes is among what a node is computed from; nothing before the first of them is looked at."""
    for source in list(sources):
        while is_copy(source):
            source = source.all_input_nodes[0]
            sources.add(source)
    first = min(map(place.__getitem__, sources))
    left, seen = [node], {node}
    while left:
        for source in left.pop().all_input_nodes:
            if source in sources:
                return True
            if source not in seen and place[source] > first:
                seen.add(source)
                left.append(source)
    return False
