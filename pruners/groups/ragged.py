"""Axes that may lose other indices per index of another axis: the channels inside each group, the dimensions of each head.

An axis A is ragged under a host axis G if A occurs nowhere without G, and no operator lets one index of G meet another
while A is there. Each index of G may then lose other indices of A, but equally many, so that tensors stay rectangular.
G occurs either beside A in a product (channels G x A) or in another dimension of the same tensor (a grouped
convolution's weight (G x O, A)). What is not known to be ragged is not: its indices go alike everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from pruners.groups.graph import AxisGraph
from pruners.operators import (
    ALONG,
    CONCAT,
    ELEMENTARY,
    LOOKUPS,
    NORMS,
    Axis,
    Dims,
    along_dims,
    arguments,
    factor,
    find,
    leaves,
)

Axes = frozenset[Axis]
NONE: Axes = frozenset()
RESHAPES = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "reshape_as", "pixel_shuffle", "pixel_unshuffle")


@dataclass(frozen=True)
class Layout:
    """Where the hosts of each axis are in one tensor.

    Attributes:
        beside: axis to the axes that say, in the same dimension, which of their indices an index belongs to.
        across: the same for axes in exactly one other dimension.
        repeated: axes that occur in several dimensions.
    """

    beside: dict[Axis, Axes]
    across: dict[Axis, Axes]
    repeated: Axes


class _Layouts:
    """Layouts of tensors, each worked out once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Axis, ...], Layout] = {}
        self._totals: dict[Axis, tuple[Axes, Axes]] = {}
        self._beside: dict[Axis, dict[Axis, Axes]] = {}

    def of(self, dims: Dims) -> Layout:
        """The layout of a tensor."""
        key = tuple(map(find, dims))
        if key not in self._known:
            self._known[key] = self._layout(key)
        return self._known[key]

    def seen(self) -> Iterable[tuple[Axis, ...]]:
        """The dimensions of all tensors asked for."""
        return self._known

    def present(self, axis: Axis) -> Axes:
        """The elementary axes of a dimension."""
        return self._total(axis)[0]

    def _layout(self, dims: tuple[Axis, ...]) -> Layout:
        repeated = _repeated(dims)
        everywhere = {dim: frozenset(leaf for leaf in self._total(dim)[1] if leaf not in repeated) for dim in set(dims)}
        beside: dict[Axis, Axes] = {}
        across: dict[Axis, Axes] = {}
        for at, dim in enumerate(dims):
            others = NONE.union(*(everywhere[other] for d, other in enumerate(dims) if d != at))
            for leaf, inside in self._hosts_beside(dim).items():
                hosts = inside | others
                if leaf in beside:  # in several dimensions: a host must serve all of them
                    hosts &= beside[leaf] | across[leaf]
                    inside &= beside[leaf]
                beside[leaf], across[leaf] = inside & hosts, hosts - inside
        return Layout(beside, across, repeated)

    def _total(self, axis: Axis) -> tuple[Axes, Axes]:
        """The elementary axes of a dimension, and those among them that every index belongs to exactly one index of."""
        axis = find(axis)
        if axis.kind == ELEMENTARY:
            return frozenset((axis,)), frozenset((axis,))
        if axis not in self._totals:
            parts = [self._total(part) for part in axis.parts]
            present = NONE.union(*(leaves for leaves, _ in parts))
            if axis.kind == CONCAT:
                whole = frozenset.intersection(*(total for _, total in parts))
            else:
                often = Counter(leaf for leaves, _ in parts for leaf in leaves)
                whole = frozenset(leaf for _, total in parts for leaf in total if often[leaf] == 1)
            self._totals[axis] = present, whole
        return self._totals[axis]

    def _hosts_beside(self, axis: Axis) -> dict[Axis, Axes]:
        """For each removable axis in a dimension, the axes that are factors beside it wherever it occurs."""
        if axis not in self._beside:
            found: dict[Axis, Axes] = {}
            for leaf, hosts in self._walk(axis, NONE):
                if not leaf.frozen:
                    found[leaf] = found.get(leaf, hosts) & hosts
            self._beside[axis] = found
        return self._beside[axis]

    def _walk(self, axis: Axis, around: Axes) -> Iterator[tuple[Axis, Axes]]:
        axis = find(axis)
        if axis.kind == ELEMENTARY:
            yield axis, around
        elif axis.kind == CONCAT:
            for term in axis.parts:
                yield from self._walk(term, around)
        else:
            often = Counter(leaf for part in axis.parts for leaf in self._total(part)[0])
            outside = frozenset(leaf for leaf in around if leaf not in often)
            for at, part in enumerate(axis.parts):
                siblings = (self._total(other)[1] for i, other in enumerate(axis.parts) if i != at)
                yield from self._walk(part, outside | {leaf for s in siblings for leaf in s if often[leaf] == 1})


def find_hosts(graph: AxisGraph) -> dict[Axis, Axis]:
    """Which axes of a graph are ragged, and under which host each.

    A host is not itself ragged. Where several axes could be the host, the largest is, which leaves the most choice.
    """
    layouts = _Layouts()
    possible: dict[Axis, set[Axis]] = {}
    for dims in graph.tensors.values():
        _narrow(possible, layouts.of(dims))
    for node in graph.trace.nodes:
        for dims in graph.results(node):
            _narrow(possible, layouts.of(dims))
    for node in graph.trace.nodes if any(possible.values()) else ():
        if node.op == "call_function":
            _narrow_by_operator(possible, graph, node, layouts)
    return _unchained(_chosen(possible), layouts)


def curve(scores: torch.Tensor) -> torch.Tensor:
    """Scores of a group as one per index: of a ragged one (rows, n), the sum over rows of each row's k-th lowest; (n,)."""
    return scores.sort(-1).values.sum(0) if scores.dim() > 1 else scores


def keep_highest(scores: torch.Tensor, removed: int) -> torch.Tensor:
    """True for all but the `removed` lowest scores of each row; (n,) or (rows, n). Ties go by index."""
    lowest = scores.sort(dim=-1, stable=True).indices[..., :removed]
    return torch.ones_like(scores, dtype=torch.bool).scatter(-1, lowest, False)


def _narrow(possible: dict[Axis, set[Axis]], layout: Layout) -> None:
    """Keep the hosts that each axis has in a tensor too."""
    for axis, beside in layout.beside.items():
        hosts = beside | layout.across[axis]
        if axis in possible:
            possible[axis] &= hosts
        else:
            possible[axis] = {h for h in hosts if h.size > 1 and not (h.frozen or "").startswith("space")}


def _narrow_by_operator(possible: dict[Axis, set[Axis]], graph: AxisGraph, node: Node, layouts: _Layouts) -> None:
    """Drop hosts of which an operator may bring together different indices while the axis is there."""
    a = arguments(node)
    every = [*graph.results(node), *(dims for source in node.all_input_nodes for dims in graph.results(source))]
    found = [layouts.of(dims) for dims in every]
    if not any(possible.get(axis) for layout in found for axis in layout.beside):
        return
    name = node.target._schema.name.split("::")[1] if isinstance(node.target, torch._ops.OpOverload) else ""
    repeated = NONE.union(*(layout.repeated for layout in found))
    if name == "einsum":
        repeated |= _repeated(_letters(graph, a))
    elif name == "scaled_dot_product_attention":
        scores = layouts.of([*graph.dims(node)[:-1], graph.dims(a["key"])[-2]])  # a tensor inside the operator
        _narrow(possible, scores)
        repeated |= scores.repeated
    for layout in found if repeated else ():
        for axis, across in layout.across.items():
            hosts = across | layout.beside[axis] if name in RESHAPES else across
            possible.get(axis, set()).difference_update(hosts & repeated)
    mixed = {leaf for axis in _mixed(graph, node, name) for leaf in leaves(axis)}
    for layout in found if mixed else ():
        for axis in layout.beside:
            if axis not in mixed:
                possible.get(axis, set()).difference_update(mixed)


def _repeated(dims: Iterable[Axis]) -> Axes:
    """The elementary axes that occur in several of some dimensions."""
    often = Counter(leaf for dim in dims for leaf in set(leaves(dim)))
    return frozenset(leaf for leaf, n in often.items() if n > 1)


def _letters(graph: AxisGraph, a: dict[str, object]) -> Dims:
    """The axis of each letter of an einsum, and of each dimension under an ellipsis."""
    terms = str(a["equation"]).replace(" ", "").partition("->")[0].split(",")
    found: dict[object, Axis] = {}
    for term, operand in zip(terms, a["tensors"], strict=True):  # type: ignore[call-overload]
        dims = graph.dims(operand)
        before, _, after = term.partition("...")
        hidden = range(len(dims) - len(before) - len(after), 0, -1)
        names = [*before, *hidden, *after]
        found |= {name: axis for name, axis in zip(names, dims, strict=True) if axis.size > 1}
    return list(found.values())


def _mixed(graph: AxisGraph, node: Node, name: str) -> list[Axis]:
    """The axes along which an operator mixes entries: it sorts, shifts or indexes along them, or takes statistics over them."""
    if name not in ALONG and name not in NORMS and name not in LOOKUPS:
        return []
    a = arguments(node)
    x = graph.dims(next(value for value in a.values() if isinstance(value, Node)))
    if name in LOOKUPS:
        return [leaf for dim in x for leaf in leaves(dim) if leaf.frozen]
    if name in ALONG:
        return [x[d] for d in along_dims(a, len(x))]
    if name in ("layer_norm", "rms_norm"):
        return x[-len(a["normalized_shape"]) :]
    if name == "group_norm":
        return [factor(x[1], (a["num_groups"], x[1].size // a["num_groups"]))[1], *x[2:]]
    if name == "_weight_norm":
        return []  # the lengths, a tensor of their own, have every axis that is not summed over
    return [x[0], *x[2:]] if graph.is_statistic(node) else []


def _chosen(possible: dict[Axis, set[Axis]]) -> dict[Axis, Axis]:
    """One host each, larger axes first; an axis is ragged or a host, not both."""
    order = {axis: at for at, axis in enumerate(possible)}
    chosen: dict[Axis, Axis] = {}
    hosting: set[Axis] = set()
    for axis in sorted(possible, key=lambda axis: (-axis.size, order[axis])):
        hosts = [host for host in possible[axis] if host not in chosen]
        if hosts and axis not in hosting:
            chosen[axis] = max(hosts, key=lambda host: (host.size, -order.get(host, len(order))))
            hosting.add(chosen[axis])
    return chosen


def _unchained(chosen: dict[Axis, Axis], layouts: _Layouts) -> dict[Axis, Axis]:
    """Drop axes with chained hosts: the host's own dimension has a host too."""
    for dims in layouts.seen():
        present = [layouts.present(dim) for dim in dims]
        links = [
            (at, leaf, next(d for d, others in enumerate(present) if host in others))
            for at, leaves in enumerate(present)
            for leaf in leaves
            if (host := chosen.get(leaf)) is not None and host not in leaves
        ]
        hosted = {at for at, _, _ in links}
        for _, leaf, other in links:
            if other in hosted:
                chosen.pop(leaf, None)
    return chosen
