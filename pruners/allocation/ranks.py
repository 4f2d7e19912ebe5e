"""Ranks of layers as what is chosen: which there are, and what a layer of low rank costs at any widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.fx import Node

from pruners.allocation.costs import Counts
from pruners.groups import AxisGraph, Group, Member
from pruners.operators import Axis, count, leaves
from pruners.surgery import Dense, saving_rank


@dataclass(frozen=True)
class RankedLayer:
    """A layer with a choice of its rank, as a group whose indices are directions of its outputs.

    The choice is of the rank that the whole layer would have. One that has lost inputs or outputs has a rank in proportion to the one
    at which two layers take as much as one, so that a choice saves about the same share at all widths.

    Attributes:
        layer: the layer.
        group: of as many indices as its full rank, at which it stays one layer.
        ranks: what may stay of them, ascending, the full rank last.
        outputs, inputs: dimensions of its weight.
        applied: dimensions of what it returns, but for its outputs.
        multiple: of ranks, if they are not smaller.
    """

    layer: Dense
    group: Group
    ranks: tuple[int, ...]
    outputs: Axis
    inputs: Axis
    applied: tuple[Axis, ...]
    multiple: int

    @property
    def node(self) -> Node:
        """Its operator."""
        return self.layer.node

    @property
    def tensor(self) -> str:
        """Its weight."""
        return f"{self.layer.name}.weight"

    @property
    def axes(self) -> frozenset[Axis]:
        """The elementary axes that decide what it costs."""
        dims = (self.outputs, self.inputs, *self.applied)
        return frozenset(leaf for dim in dims for leaf in leaves(dim)) | {self.group.axis}

    def rank(self, counts: Counts) -> Any:
        """Its rank where each axis keeps `counts[axis]` indices, which may be arrays; 0 where it stays one layer."""
        chosen = np.asarray(count(self.group.axis, counts))
        outputs, inputs = (np.asarray(count(axis, counts)) for axis in (self.outputs, self.inputs))
        whole = self.outputs.size * self.inputs.size
        rank = chosen * outputs * inputs * (self.outputs.size + self.inputs.size) // ((outputs + inputs) * whole)
        rank = np.maximum(np.where(rank >= self.multiple, rank // self.multiple * self.multiple, rank), 1)
        saves = (chosen < self.group.size) & (rank * (outputs + inputs) < outputs * inputs)
        return np.where(saves, rank, 0)

    def factors(self, counts: Counts) -> Any:
        """How many multiply-accumulates for each position, and parameters, it takes more than whole; below 0."""
        rank, outputs, inputs = self.rank(counts), count(self.outputs, counts), count(self.inputs, counts)
        more = np.where(rank > 0, rank * (outputs + inputs) - np.asarray(outputs) * inputs, 0)
        return more if more.ndim else int(more)

    def positions(self, counts: Counts) -> Any:
        """How many times it is applied."""
        return math.prod(count(axis, counts) for axis in self.applied)


def ranked_layer(graph: AxisGraph, layer: Dense, steps: int, multiple: int) -> RankedLayer | None:
    """The choice of a layer's rank, in equal steps of what it saves; None where none saves anything.

    Args:
        graph: the traced model with its axes.
        layer: the layer.
        steps: ranks are 1, 2, ... of so many parts of the one at which two layers take as much as one.
        multiple: of all ranks.
    """
    outputs, inputs = graph.dims(layer.weight)[:2]
    whole, both = outputs.size * inputs.size, outputs.size + inputs.size
    every = {whole * step // (both * steps) // multiple * multiple for step in range(1, steps)}
    ranks = sorted(rank for rank in every if 0 < rank <= saving_rank(outputs.size, inputs.size))
    if not ranks:
        return None
    dims, tensor = graph.dims(layer.node), f"{layer.name}.weight"
    channel = len(dims) - 1 if len(graph.dims(layer.weight)) == 2 else 1
    full = min(outputs.size, inputs.size)
    group = Group(f"{layer.name}.rank", full, axis := Axis(full), (Member(tensor, 0, axis),))
    applied = tuple(dim for place, dim in enumerate(dims) if place != channel)
    return RankedLayer(layer, group, (*ranks, full), outputs, inputs, applied, multiple)
