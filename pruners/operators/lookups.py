"""Operators that look up, write or choose what data addresses: by indices, by masks."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from pruners.operators.axes import Axis, freeze, tie
from pruners.operators.pointwise import elementwise
from pruners.operators.rule import Arguments, Dims, Rule, Walk, broadcast, frozen

ADDRESSED = "addressed by data"
ADDRESSES = "addresses of data"


def index(walk: Walk, node: Node, a: Arguments) -> Dims:
    """x[i, j, :]: indexed dimensions stay; the index's own dimensions take their place (or come first, if apart)."""
    x = walk.dims(a["self"])
    where = _addressed(walk, a["indices"])
    for d in where:
        freeze(x[d], ADDRESSED)
    first = where[0] if where == list(range(where[0], where[-1] + 1)) else 0
    rest = [axis for d, axis in enumerate(x) if d not in where]
    masks = [i for i in a["indices"] if _is_mask(i)]
    if masks:  # as many as the masks say
        shape = walk.shape(node)
        return [*rest[:first], *frozen(shape[first : first + len(shape) - len(rest)], ADDRESSES), *rest[first:]]
    picked = broadcast(*(walk.dims(i) for i in a["indices"] if i is not None))
    for axis in picked:
        freeze(axis, ADDRESSES)
    return [*rest[:first], *picked, *rest[first:]]


def index_select(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = list(walk.dims(a["self"]))
    d = a["dim"] % len(x)
    freeze(x[d], ADDRESSED)
    x[d] = (walk.dims(a["index"]) or [Axis(1)])[0]
    freeze(x[d], ADDRESSES)
    return x


def index_put(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = walk.dims(a["self"])
    where = _addressed(walk, a["indices"])
    for d in where:
        freeze(x[d], ADDRESSED)
    rest = [axis for d, axis in enumerate(x) if d not in where]
    values = walk.dims(a["values"])
    for axis in values[: len(values) - len(rest)]:
        freeze(axis, ADDRESSED)
    if rest and where == list(range(len(where))):
        broadcast(rest, values[len(values) - len(rest) :] if len(values) >= len(rest) else values)
    elif rest:
        for axis in (*rest, *values):
            freeze(axis, ADDRESSED)
    return x


def index_add(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Rows of the source are added to, or put in place of, rows of x that the index names."""
    x, source = walk.dims(a["self"]), walk.dims(a["source"])
    d = a["dim"] % len(x)
    for axis in (x[d], source[d], *walk.dims(a["index"])):
        freeze(axis, ADDRESSED)
    for ours, theirs in zip((*x[:d], *x[d + 1 :]), (*source[:d], *source[d + 1 :]), strict=True):
        tie(ours, theirs)
    return x


def scatter(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Every entry is read from, or written to, an index of its own along one dimension; other dimensions go along."""
    x, at = walk.dims(a["self"]), walk.dims(a["index"])
    d = a["dim"] % len(x)
    others = [at, *(walk.dims(a[name]) for name in ("src",) if isinstance(a.get(name), Node))]
    for other in others:
        for place, (ours, theirs) in enumerate(zip(x, other, strict=True)):
            if place == d or ours.size != theirs.size:
                freeze(ours, ADDRESSED)
                freeze(theirs, ADDRESSES)
            else:
                tie(ours, theirs)
    return at if "gather" in str(node.target) else x


def where(walk: Walk, node: Node, a: Arguments) -> Any:
    """One of two values, entry by entry; or, of a condition alone, where it holds."""
    return elementwise(walk, node, a) if "self" in a else places(walk, node, a)


def places(walk: Walk, node: Node, a: Arguments) -> Any:
    """Where entries are not zero: as many as there are."""
    for source in node.all_input_nodes:
        for axis in walk.dims(source):
            freeze(axis, ADDRESSED)
    if isinstance(node.meta["val"], (tuple, list)):
        return [frozen(shape, ADDRESSES) for shape in walk.shape(node)]
    return frozen(walk.shape(node), ADDRESSES)


def embedding(walk: Walk, node: Node, a: Arguments) -> Dims:
    """weight (vocabulary, E) looked up by data."""
    weight = walk.dims(a["weight"])
    freeze(weight[0], "vocabulary")
    return [*walk.dims(a["indices"]), weight[1]]


def _addressed(walk: Walk, indices: list[Node | None]) -> list[int]:
    """The dimensions that indices address; a mask addresses as many as it has."""
    found: list[int] = []
    d = 0
    for i in indices:
        rank = len(walk.dims(i)) if _is_mask(i) else 1
        found += range(d, d + rank) if i is not None else ()
        d += rank
    return found


def _is_mask(index: Node | None) -> bool:
    return index is not None and index.meta["val"].dtype in (torch.bool, torch.uint8)


LOOKUPS: dict[str, Rule] = {
    "index": index, "index_select": index_select, "index_put": index_put, "embedding": embedding,
    "index_add": index_add, "index_copy": index_add,
    **dict.fromkeys(("gather", "scatter", "scatter_add", "scatter_reduce"), scatter),
}  # fmt: skip

CHOICES: dict[str, Rule] = {"where": where, **dict.fromkeys(("nonzero", "nonzero_numpy", "masked_select"), places)}
