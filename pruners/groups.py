"""Dependency groups: the indices of parameters that can only be removed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.fx import Node

from pruners import axes
from pruners.axes import Axis, Misaligned, freeze
from pruners.cuts import Keep
from pruners.ragged import find_hosts
from pruners.routing import is_chosen
from pruners.rules import Dims, frozen, rule
from pruners.tracing import Trace, arguments, number, operator, owner, several


@dataclass
class AxisGraph:
    """A trace with the axes of everything in it.

    Attributes:
        trace: the traced model.
        tensors: parameter, buffer or constant name to one axis per dimension.
        unknown: operators without a rule, and how often each occurs; what they touch is frozen.
        hosts: ragged axis to the axis for each index of which it may lose indices of its own (see `pruners.ragged`).
    """

    trace: Trace
    tensors: dict[str, Dims] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    hosts: dict[Axis, Axis] = field(default_factory=dict)
    _of: dict[Node, Any] = field(default_factory=dict)
    _statistics: set[Node] = field(default_factory=set)

    def dims(self, value: Any) -> Dims:
        """Axes of a node whose value is one tensor; an empty list for numbers."""
        return self._of.get(value) or [] if isinstance(value, Node) else []

    def results(self, node: Node) -> list[Dims]:
        """Axes of every tensor that a node returns."""
        found = self._of.get(node) or []
        return found if found and isinstance(found[0], list) else [found]

    def shape(self, node: Node) -> list[Any]:
        """Shape of a node's value in the example, or the list of shapes of its values."""
        value = node.meta["val"]
        if isinstance(value, (tuple, list)):
            return [[number(n) for n in v.shape] if isinstance(v, torch.Tensor) else [] for v in value]
        return [number(n) for n in value.shape]

    def statistic(self, node: Node) -> None:
        """Note that a node's result depends on how many indices an axis has."""
        self._statistics.add(node)

    def is_statistic(self, node: Node) -> bool:
        """Whether a node normalises or averages over an axis."""
        return node in self._statistics


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that a group takes part in.

    Attributes:
        tensor: name of the parameter, buffer or constant.
        dim: dimension of it.
        axis: layout of that dimension, as products and concatenations of elementary axes.
        readers: the operators that read the tensor, by name.
    """

    tensor: str
    dim: int
    axis: Axis
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Indices 0..size-1, each of which is removed from all members at once.

    The indices of a ragged group are chosen anew for each index of another group, as many each time: the channels inside
    each group of a convolution, the dimensions of each head.

    Attributes:
        name: first member, as "layer1.0.conv1.weight:0"; with "[i]" where that dimension has several groups.
        size: number of indices.
        axis: the elementary axis that the group is.
        members: where it occurs.
        protected: why nothing may be removed, or None.
        host: the axis for each index of which there is a choice of its own, or None.
        per: name of the group of that axis, or None.
    """

    name: str
    size: int
    axis: Axis
    members: tuple[Member, ...]
    protected: str | None = None
    host: Axis | None = None
    per: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the group's scores and choices: (size,), or (size of the host, size) if it is ragged."""
        return (self.size,) if self.host is None else (self.host.size, self.size)

    def kept(self, keep: Keep) -> torch.Tensor:
        """Which of its indices stay, of its shape, where `keep` says so for some axes."""
        return keep.get(self.axis, torch.ones(self.size, dtype=torch.bool)).expand(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for listings."""
        members = [f"{member.tensor}:{member.dim} = {member.axis}" for member in self.members]
        return {
            "name": self.name,
            "size": self.size,
            "protected": self.protected,
            "per": self.per,
            "members": members,
        }


def tie_axes(trace: Trace) -> AxisGraph:
    """Walk a traced graph once and tie the axes of every tensor in it.

    The axes of the model's inputs and outputs, those that an operator without a rule touches, and those of tensors that
    the trace does not read are frozen.
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
    """What has a size that depends on values has no places that could be removed."""
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
