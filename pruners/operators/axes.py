"""Dimensions as products and concatenations of elementary axes.

Every dimension of every tensor has an `Axis`. An axis is elementary, a product of axes (channels seen as heads x head
dimension, outermost first) or a concatenation (cat, split, padding with zeros). Operators that compute tie axes together
with `tie`; operators that move data take axes apart (`factor`, `cut`) and put them together (`product`, `concat`). What
remains tied in the end is a dependency group: indices that can only be removed together.

Tying is unification: an elementary axis takes on whatever structure it is tied to, and two structures are refined until
they have the same pieces. Where no common refinement exists, all the pieces are frozen, which is always safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

ELEMENTARY = "elementary"
PRODUCT = "product"
CONCAT = "concat"


class Misaligned(Exception):
    """Two structures of one dimension have no common refinement."""


class Axis:
    """The index set of a dimension.

    Attributes:
        size: number of indices.
        kind: ELEMENTARY, PRODUCT or CONCAT.
        parts: factors (outermost first) or terms, empty for an elementary axis.
        frozen: why no index may be removed, or None.
    """

    __slots__ = ("_same_as", "frozen", "kind", "parts", "size")

    def __init__(self, size: int, frozen: str | None = None) -> None:
        self.size = size
        self.kind = ELEMENTARY
        self.parts: tuple[Axis, ...] = ()
        self.frozen = "size 1" if size == 1 else frozen
        self._same_as: Axis | None = None

    def __repr__(self) -> str:
        axis = find(self)
        if axis.kind == ELEMENTARY:
            return f"{axis.size}" + ("!" if axis.frozen else "")
        return "(" + {PRODUCT: " x ", CONCAT: " + "}[axis.kind].join(map(repr, axis.parts)) + ")"


def find(axis: Axis) -> Axis:
    """The representative of everything that `axis` is tied to."""
    root = axis
    while root._same_as is not None:
        root = root._same_as
    while axis is not root:  # path compression
        assert axis._same_as is not None
        axis._same_as, axis = root, axis._same_as
    return root


def leaves(axis: Axis) -> list[Axis]:
    """The elementary axes of a dimension, in order, repeated where they occur repeatedly."""
    axis = find(axis)
    if axis.kind == ELEMENTARY:
        return [axis]
    return [leaf for part in axis.parts for leaf in leaves(part)]


def freeze(axis: Axis, reason: str) -> None:
    """Forbid removal from every elementary axis of a dimension; the first reason given is kept."""
    for leaf in leaves(axis):
        leaf.frozen = leaf.frozen or reason


def product(axes: Iterable[Axis]) -> Axis:
    """The dimension that merges `axes`, outermost first, as reshape does."""
    factors = [factor for axis in axes for factor in _pieces(axis, PRODUCT) if factor.size != 1]
    return _compound(PRODUCT, factors)


def concat(axes: Iterable[Axis]) -> Axis:
    """The dimension that lays `axes` one after the other, as cat does."""
    return _compound(CONCAT, [term for axis in axes for term in _pieces(axis, CONCAT) if term.size != 0])


def factor(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Take a dimension apart into factors of the given sizes, outermost first.

    Raises:
        Misaligned: if the structure that the dimension already has does not allow it.
    """
    axis = find(axis)
    rest = _pieces(axis, PRODUCT)
    result: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        need = size
        while need > 1:
            if not rest:
                raise Misaligned(f"{axis} does not split into {tuple(sizes)}")
            first = _pop(rest, PRODUCT)
            if need % first.size == 0:
                taken.append(first)
                need //= first.size
            elif first.size % need == 0:
                outer, inner = _factor_in_two(first, need)
                taken.append(outer)
                rest.insert(0, inner)
                need = 1
            else:
                raise Misaligned(f"{axis} does not split into {tuple(sizes)}")
        result.append(product(taken))
    return result


def cut(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Cut a dimension into consecutive pieces of the given sizes (which sum to its size)."""
    assert sum(sizes) == find(axis).size, (sizes, axis)
    rest = _pieces(axis, CONCAT)
    result = []
    for size in sizes:
        taken: list[Axis] = []
        need = size
        while need > 0:
            first = _pop(rest, CONCAT)
            if first.size > need:
                first, later = _cut_in_two(first, need)
                rest.insert(0, later)
            taken.append(first)
            need -= first.size
        result.append(concat(taken))
    return result


def tie(first: Axis, second: Axis) -> None:
    """Make two dimensions of one size the same: what is removed from one is removed from the other."""
    first, second = find(first), find(second)
    assert first.size == second.size, f"tied axes differ in size: {first}, {second}"
    if first is second or first.size == 1:
        return
    if second.kind == ELEMENTARY:
        first, second = second, first
    if first.kind == ELEMENTARY:
        if any(leaf is first for leaf in leaves(second)):
            freeze(second, "tied to a part of itself")
        else:
            if first.frozen:
                freeze(second, first.frozen)
            elif second.kind == ELEMENTARY and second.frozen:
                freeze(first, second.frozen)
            first._same_as = second
        return
    try:
        if first.kind == second.kind == PRODUCT:
            _tie_products(first, second)
        else:
            _tie_concats(first, second)
    except Misaligned as error:
        freeze(first, f"no common structure: {error}")
        freeze(second, f"no common structure: {error}")


def mask(axis: Axis, keep: Mapping[Axis, torch.Tensor]) -> torch.Tensor:
    """Which indices of a dimension remain.

    Args:
        axis: a dimension of n indices.
        keep: elementary axis to a boolean vector over its indices; axes not named keep all.

    Returns:
        Boolean tensor of shape (n,).
    """
    axis = find(axis)
    if axis.kind == ELEMENTARY:
        return keep[axis] if axis in keep else torch.ones(axis.size, dtype=torch.bool)
    masks = [mask(part, keep) for part in axis.parts]
    if axis.kind == CONCAT:
        return torch.cat(masks)
    result = masks[0]
    for inner in masks[1:]:
        result = (result[:, None] & inner).flatten()
    return result


def count(axis: Axis, kept: Mapping[Axis, int]) -> int:
    """How many indices of a dimension remain when each elementary axis keeps `kept[axis]` of its own."""
    axis = find(axis)
    if axis.kind == ELEMENTARY:
        return kept.get(axis, axis.size)
    counts = [count(part, kept) for part in axis.parts]
    return sum(counts) if axis.kind == CONCAT else math.prod(counts)


def units(axis: Axis, leaf: Axis) -> torch.Tensor:
    """For each index of a dimension, the index of `leaf` that it belongs to, or -1; shape (size,), int64."""
    axis = find(axis)
    if axis.kind == ELEMENTARY:
        return torch.arange(axis.size) if axis is leaf else torch.full((axis.size,), -1)
    parts = [units(part, leaf) for part in axis.parts]
    if axis.kind == CONCAT:
        return torch.cat(parts)
    result = parts[0]
    for inner in parts[1:]:
        outer, inner = torch.broadcast_tensors(result[:, None], inner)
        result = torch.where(inner >= 0, inner, outer).flatten()
    return result


def _pieces(axis: Axis, kind: str) -> list[Axis]:
    """The factors (or terms) of an axis with nested products (or concatenations) flattened; itself if of another kind."""
    axis = find(axis)
    if axis.kind != kind:
        return [axis]
    return [piece for part in axis.parts for piece in _pieces(part, kind)]


def _pop(pieces: list[Axis], kind: str) -> Axis:
    """Take the first piece, looking again: taking apart one piece may have given structure to the next."""
    pieces[:1] = _pieces(pieces[0], kind)
    return pieces.pop(0)


def _compound(kind: str, parts: list[Axis]) -> Axis:
    if len(parts) == 1:
        return parts[0]
    sizes = [part.size for part in parts]
    axis = Axis(math.prod(sizes) if kind == PRODUCT else sum(sizes))
    if parts:
        axis.kind, axis.parts, axis.frozen = kind, tuple(parts), None
    return axis


def _become(axis: Axis, kind: str, parts: Sequence[Axis]) -> None:
    """Give an axis a structure (again); all that is tied to it sees the change."""
    if axis.kind == ELEMENTARY and axis.frozen:
        for part in parts:
            freeze(part, axis.frozen)
    parts = [part for part in parts if part.size != (1 if kind == PRODUCT else 0)]
    if len(parts) == 1:
        axis._same_as = find(parts[0])
    else:
        axis.kind, axis.parts, axis.frozen = kind, tuple(parts), None


def _factor_in_two(axis: Axis, outer_size: int) -> tuple[Axis, Axis]:
    """Take an elementary axis or a concatenation apart into (outer, inner) factors."""
    inner_size = axis.size // outer_size
    if axis.kind == ELEMENTARY:
        outer, inner = Axis(outer_size), Axis(inner_size)
        _become(axis, PRODUCT, (outer, inner))
        return outer, inner
    terms = _pieces(axis, CONCAT)
    if all(term.size % inner_size == 0 for term in terms):  # every term is some rows of the same inner axis
        pairs = [factor(term, (term.size // inner_size, inner_size)) for term in terms]
        outer = concat(row for row, _ in pairs)
        inners = [inner for _, inner in pairs]
    else:  # rows that are themselves concatenations
        outer = Axis(outer_size, "rows of a concatenation seen as a matrix")
        inners = cut(axis, [inner_size] * outer_size)
    for other in inners[1:]:
        tie(inners[0], other)
    inner = find(inners[0])
    _become(axis, PRODUCT, (outer, inner))
    return outer, inner


def _cut_in_two(axis: Axis, size: int) -> tuple[Axis, Axis]:
    """Cut an elementary axis or a product after `size` indices."""
    axis = find(axis)
    if axis.kind == ELEMENTARY:
        head, tail = Axis(size), Axis(axis.size - size)
        _become(axis, CONCAT, (head, tail))
        return head, tail
    outer, *inner_factors = _pieces(axis, PRODUCT)
    inner = product(inner_factors)
    row, offset = divmod(size, inner.size)
    # Whole rows before the cut, the row that is cut (if any), whole rows after it.
    rows = [n for n in (row, 1 if offset else 0, outer.size - row - (1 if offset else 0))]
    before, _, after = cut(outer, rows)
    pieces: list[tuple[Axis, bool]] = [(product((before, inner)), True)] if rows[0] else []
    if offset:
        head, tail = cut(inner, (offset, inner.size - offset))
        inner = find(inner)
        pieces = [(product((before, inner)), True)] if rows[0] else []
        pieces += [(head, True), (tail, False)]
    if rows[2]:
        pieces.append((product((after, inner)), False))
    first = concat(piece for piece, is_head in pieces if is_head)
    second = concat(piece for piece, is_head in pieces if not is_head)
    _become(axis, CONCAT, (*_pieces(first, CONCAT), *_pieces(second, CONCAT)))
    return first, second


def _tie_products(first: Axis, second: Axis) -> None:
    ours, theirs = _pieces(first, PRODUCT), _pieces(second, PRODUCT)
    while ours and theirs:
        a, b = _pop(ours, PRODUCT), _pop(theirs, PRODUCT)
        if a.size > b.size:
            if a.size % b.size:
                raise Misaligned(f"{first} against {second}")
            a, rest = factor(a, (b.size, a.size // b.size))
            ours.insert(0, rest)
        elif b.size > a.size:
            if b.size % a.size:
                raise Misaligned(f"{first} against {second}")
            b, rest = factor(b, (a.size, b.size // a.size))
            theirs.insert(0, rest)
        tie(a, b)
    _merge(first, second)


def _tie_concats(first: Axis, second: Axis) -> None:
    """Tie two dimensions of which at least one is a concatenation."""
    sizes = [piece.size for piece in _pieces(first if first.kind == CONCAT else second, CONCAT)]
    ours, theirs = cut(first, sizes), cut(second, sizes)
    for a, b in zip(ours, theirs, strict=True):
        tie(a, b)
    _merge(first, second)


def _merge(first: Axis, second: Axis) -> None:
    """Make one axis of two whose pieces are tied, so that the next comparison is immediate."""
    first, second = find(first), find(second)
    if first is not second and first.kind == second.kind != ELEMENTARY:
        first._same_as = second
