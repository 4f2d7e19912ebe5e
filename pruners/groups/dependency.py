"""Dependency groups: the indices of parameters that can only be removed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.fx import Node

from pruners.groups.graph import AxisGraph, Group, Member
from pruners.groups.ragged import find_hosts
from pruners.operators import (
    Axis,
    Dims,
    Misaligned,
    arguments,
    axes,
    freeze,
    frozen,
    is_chosen,
    operator,
    owner,
    rule,
    several,
)
from pruners.tracing import Trace

BOUNDS = "bounds the length of the inputs"
PIECES = {
    *("getitem", "slice", "narrow", "split", "split_with_sizes", "chunk"),
    *("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"),
}


def tie_axes(trace: Trace) -> AxisGraph:
    """Walk a traced graph once and tie the axes of every tensor in it.

    Axes are frozen where they belong to inputs or outputs of the model, to an operator without a rule, or to tensors
    that the trace does not read.
    """
    graph = AxisGraph(trace)
    shared: dict[Any, Dims] = {}
    for node in trace.nodes:
        if node.op == "placeholder":
            graph._of[node] = _placeholder(graph, node, shared)
        elif node.op == "call_function":
            graph._of[node] = _apply(graph, node)
            _freeze_chosen(graph, node)
        elif node.op == "output":
            for result in trace.returned(cast(Sequence[Any], node.args[0])):
                for axis in graph.dims(result):
                    freeze(axis, "model output")
    _freeze_unused(graph)
    _freeze_positions(graph)
    graph.hosts = find_hosts(graph)
    return graph


def dependency_groups(graph: AxisGraph) -> list[Group]:
    """All groups that some parameter or buffer takes part in, protected ones included, in order of first use.

    A group that occurs in no parameter has nothing to remove and is left out, as are the kernels of convolutions.
    """
    members: dict[Axis, list[Member]] = {}
    readers = _readers(graph.trace)
    for tensor, dims in graph.tensors.items():
        for dim, axis in enumerate(dims):
            for leaf in dict.fromkeys(axes.leaves(axis)):
                if leaf.size > 1 and not (leaf.frozen or "").startswith("space"):
                    members.setdefault(leaf, []).append(Member(tensor, dim, axis, readers[tensor]))
    names = {}
    for leaf, found in members.items():
        first = found[0]
        siblings = list(dict.fromkeys(other for other in axes.leaves(first.axis) if other in members))
        suffix = f"[{siblings.index(leaf)}]" if len(siblings) > 1 else ""
        names[leaf] = f"{first.tensor}:{first.dim}{suffix}"
    result = []
    for leaf, found in members.items():
        host = graph.hosts.get(leaf)
        per = None if host is None else names[host]
        result.append(Group(names[leaf], leaf.size, leaf, tuple(found), leaf.frozen, host, per))
    return result


def _readers(trace: Trace) -> dict[str, tuple[str, ...]]:
    placeholders = [node for node in trace.nodes if node.name in trace.tensors]
    return {trace.tensors[node.name]: tuple(sorted(map(operator, node.users))) for node in placeholders}


def _placeholder(graph: AxisGraph, node: Node, shared: dict[Any, Dims]) -> Dims:
    name = graph.trace.tensors.get(node.name)
    if name is None:
        value = node.meta["val"]
        return frozen(graph.shape(node), "model input") if isinstance(value, torch.Tensor) else []
    tensor = graph.trace.tensor(name)
    # One tensor under two names (tied weights) is one set of axes.
    key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else name
    dims = shared.setdefault(key, [Axis(size) for size in tensor.shape])
    graph.tensors[name] = dims
    return dims


def _freeze_chosen(graph: AxisGraph, node: Node) -> None:
    """Freeze axes whose size depends on values: they have no fixed indices to remove."""
    for value, dims in zip(several(node.meta.get("val")), graph.results(node), strict=False):
        if isinstance(value, torch.Tensor):
            for size, axis in zip(value.shape, dims, strict=True):
                if is_chosen(size):
                    freeze(axis, "chosen by data")


def _freeze_unused(graph: AxisGraph) -> None:
    """What only training reads (auxiliary heads) or what was computed before (cached biases) stays as it is."""
    names = graph.trace.tensors
    used = {id(graph.tensors[names[node.name]]) for node in graph.trace.nodes if node.users and node.name in names}
    for dims in graph.tensors.values():
        for axis in dims if id(dims) not in used else ():
            freeze(axis, "not used by the traced model")


def _freeze_positions(graph: AxisGraph) -> None:
    """What no input of the example's sizes reaches, and longer ones do, stays: rows beyond the slice of a table, and all rows of a
    table that is looked up at positions."""
    constant = _constant(graph.trace)
    reached: dict[Node, set[Axis]] = {node: set() for node in constant}
    for node in reversed(graph.trace.nodes):
        own = {leaf for dims in graph.results(node) for axis in dims for leaf in axes.leaves(axis)}
        ends = own - reached[node] if node in constant else set()  # what nobody reads from here on
        for source in constant.intersection(node.all_input_nodes):
            there = {leaf for dims in graph.results(source) for axis in dims for leaf in axes.leaves(axis)}
            reached[source] |= there & own - ends if _is_piece(node) else there - ends
    for node in constant:
        if node.name in graph.trace.tensors and reached[node]:  # else it is not used at all
            for axis in graph.dims(node):
                for leaf in axes.leaves(axis):
                    if leaf not in reached[node]:
                        freeze(leaf, BOUNDS)
    tables = [node for node in graph.trace.nodes if operator(node).startswith("aten.embedding.")]
    by_data = {axes.find(_rows(graph, node)) for node in tables if arguments(node)["indices"] not in constant}
    for rows in (axes.find(_rows(graph, node)) for node in tables):
        if rows not in by_data:
            for leaf in axes.leaves(rows):
                leaf.frozen = BOUNDS


def _constant(trace: Trace) -> set[Node]:
    """The nodes whose values follow from the model's own tensors and from sizes."""
    found: set[Node] = set()
    for node in trace.nodes:
        sources = [x for x in node.all_input_nodes if not isinstance(x.meta.get("val"), torch.SymInt)]
        given = node.op == "placeholder" and node.name not in trace.tensors
        if node.op != "output" and not given and found.issuperset(sources):
            found.add(node)
    return found


def _is_piece(node: Node) -> bool:
    """Whether a node returns consecutive indices of what it is given, or one of several pieces."""
    return operator(node).removeprefix("aten.").partition(".")[0] in PIECES


def _rows(graph: AxisGraph, lookup: Node) -> Axis:
    return graph.dims(arguments(lookup)["weight"])[0]


def _apply(graph: AxisGraph, node: Node) -> Any:
    value = node.meta.get("val")
    if operator(node) == "getitem":
        source, position = cast(tuple[Node, int], node.args)
        found = graph._of.get(source)
        return found[position] if found else None
    if not isinstance(value, torch.Tensor) and not (
        isinstance(value, (tuple, list)) and any(isinstance(v, torch.Tensor) for v in value)
    ):
        return None  # symbolic numbers and assertions
    tie_operator = rule(node)
    if tie_operator is None:
        graph.unknown[operator(node)] += 1
        return _freeze_all(graph, node, f"unknown operator {operator(node)} in {owner(node)!r}")
    try:
        result = tie_operator(graph, node, arguments(node))
    except Misaligned as error:
        return _freeze_all(graph, node, f"{operator(node)} in {owner(node)!r}: {error}")
    except (AssertionError, LookupError, TypeError, ValueError, StopIteration):
        result = None  # used in a form that the rule does not know
    if result is None or not _fits(result, graph.shape(node)):
        graph.unknown[operator(node)] += 1
        return _freeze_all(graph, node, f"unknown form of operator {operator(node)} in {owner(node)!r}")
    return result


def _fits(result: Any, shape: list[Any]) -> bool:
    """Whether a rule's axes have the sizes of the value."""
    if shape and isinstance(shape[0], list):
        return len(result) == len(shape) and all(map(_fits, result, shape))
    return [axis.size for axis in result] == shape


def _freeze_all(graph: AxisGraph, node: Node, reason: str) -> Any:
    for source in node.all_input_nodes:
        for dims in graph.results(source):
            for axis in dims:
                freeze(axis, reason)
    shape = graph.shape(node)
    if isinstance(node.meta["val"], (tuple, list)):
        return [frozen(sizes, reason) for sizes in shape]
    return frozen(shape, reason)
