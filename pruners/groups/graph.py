"""Axes of tensors as a graph, and the groups of indices that go together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from pruners.groups.cuts import Keep
from pruners.operators import Axis, Dims, number
from pruners.tracing import Trace


@dataclass
class AxisGraph:
    """A trace with the axes of everything in it.

    Attributes:
        trace: the traced model.
        tensors: parameter, buffer or constant name to one axis per dimension.
        unknown: operators without a rule, and how often each occurs; what they touch is frozen.
        hosts: ragged axis to the axis for each index of which it may lose indices of its own (see `pruners.groups.ragged`).
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
