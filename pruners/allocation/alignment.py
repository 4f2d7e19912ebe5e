"""What widths are multiples of, where nobody says: those that this machine computes channels in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from estimators.latency import alignment
from pruners.allocation.allocate import Limits, fewest_kept
from pruners.allocation.costs import CostModel, operator_macs
from pruners.groups import AxisGraph, Group
from pruners.operators import CONCAT, Axis, find, leaves

SMALL = 4  # times a multiple: smaller groups would have no choice left


class Aligned(NamedTuple):
    """Limits without "auto", what was chosen in its place, and what a reader should know of it; empty where nothing was."""

    limits: Limits
    chosen: str = ""
    note: str = ""


class AlignedLimits(Limits):
    """Limits whose multiple was measured, not asked for: it yields in small groups, and counts channels, not indices."""

    def step(self, group: Group) -> int:
        """What kept indices of a group are a multiple of."""
        assert self.round_to != "auto"
        step = self.round_to // math.gcd(self.round_to, channels(group))
        while group.size < SMALL * step and step > 1:
            step //= 2
        return step


def aligned(
    limits: Limits,
    graph: AxisGraph,
    groups: Sequence[Group],
    cost: CostModel,
    budgets: Mapping[str, float],
    wanted: bool,
) -> Aligned:
    """Limits whose `round_to` is a number: "auto" is measured where milliseconds of this machine are wanted, else 1.

    Args:
        limits: as they were asked for.
        graph: the traced model with its axes; measured is the kind of layer that most of its macs are in, where its tensors are.
        groups: groups that may lose indices.
        cost: cost model of the traced model.
        budgets: counted ones; where they cannot be met in multiples, there are none.
        wanted: whether milliseconds of this machine are a target or are shown.
    """
    if limits.round_to != "auto":
        return Aligned(limits)
    free = Limits(**{**limits.model_dump(), "round_to": 1})
    kind = most_macs(graph)
    if not wanted or not kind:
        return Aligned(free)
    device = next((graph.trace.tensor(name).device for name in graph.tensors), torch.device("cpu"))
    found = {"PyTorch": alignment(kind, device)}
    note = ""
    if device.type == "cpu":
        try:
            found["ONNX Runtime"] = alignment(kind, device, "onnxruntime")
        except ValueError as error:
            note = f"widths are aligned for PyTorch alone: {error}"
    most = max(found.values())
    measured = f"{kind} layers on {device}, {', '.join(f'{number} in {name}' for name, number in found.items())}"
    multiples = AlignedLimits(**{**limits.model_dump(), "round_to": most})
    fewest = fewest_kept(groups, multiples)
    if any(cost.of(name)(fewest) > budget for name, budget in budgets.items()):
        return Aligned(free, f"1: the targets cannot be met in multiples of {most} ({measured})", note)
    return Aligned(multiples, f"{most}: {measured}", note)


def most_macs(graph: AxisGraph) -> str:
    """The kind of layer that most macs are in: conv, linear (any other product), or "" without any."""
    macs: Counter[str] = Counter()
    for node in graph.trace.nodes:
        kind = "conv" if "conv" in str(node.target) else "linear"
        macs[kind] += sum(times * math.prod(axis.size for axis in dims) for times, dims in operator_macs(graph, node))
    found, most = macs.most_common(1)[0]
    return found if most else ""


def channels(group: Group) -> int:
    """How many neighbouring channels an index of a group stands for where layers put them out: as many as a head has, or 1."""
    return min((inside(member.axis, group.axis) for member in group.members if member.dim == 0), default=1)


def inside(axis: Axis, leaf: Axis) -> int:
    """How many neighbours an index of an elementary axis stands for in a dimension; the fewest where it occurs several times."""
    axis = find(axis)
    if axis is find(leaf):
        return 1
    found = []
    for place, part in enumerate(axis.parts):
        if any(each is find(leaf) for each in leaves(part)):
            rest = 1 if axis.kind == CONCAT else math.prod(find(other).size for other in axis.parts[place + 1 :])
            found.append(rest * inside(part, leaf))
    return min(found, default=1)
