"""What a removal saves in milliseconds: tables of the operators that it changes, each measured alone at a few widths.

An operator's time is a function of the sizes of its dimensions. It is measured at few of them, operators that are alike once, and
interpolated between. Kernels work on whole blocks of channels, so that time is a staircase; how much of one is told by widths
just past a whole number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from pruners.allocation.costs import Counts, Part, operator_macs
from pruners.allocation.timing import Call, call_at
from pruners.groups import AxisGraph
from pruners.operators import Axis, count, find, leaves, several
from pruners.progress import Progress, silent
from pruners.surgery import Block

Measure = Callable[[Sequence[Call], torch.device], Sequence[float]]
BLOCK = 16  # channels that kernels take together, on a CPU as many as fit a vector
WIDTHS = {1: 5, 2: 5, 3: 3}  # number of an operator's sizes that vary -> widths at which each is measured
FEWER_WIDTHS = 4  # of operators that only pass over their entries


@dataclass(frozen=True)
class Size:
    """A size that an operator's time depends on: the product of some dimensions.

    Attributes:
        axes: the dimensions.
        widths: what the elementary axes in them keep where the time is measured, ascending.
        past: the same just past whole numbers of blocks.
    """

    axes: tuple[Axis, ...]
    widths: tuple[Counts, ...]
    past: tuple[Counts, ...] = ()

    def at(self, counts: Counts) -> Any:
        """The size when elementary axes keep `counts[axis]`, which may be arrays."""
        return math.prod(count(axis, counts) for axis in self.axes)


@dataclass(frozen=True, eq=False)
class Table:
    """Milliseconds as a function of a few sizes, multilinear between the measured ones and never rising as sizes fall.

    Attributes:
        sizes: the dimensions that each size is the product of.
        widths: each size where it was measured, ascending.
        stairs: of each size, how much of a staircase time is: 0 if a block begun takes its share, 1 if it takes a whole block's.
        ms: at all combinations of widths.
        present: axes of size 1 of the blocks that it is in, of which 0 indices stay where a block is left out.
    """

    sizes: tuple[tuple[Axis, ...], ...]
    widths: tuple[tuple[int, ...], ...]
    stairs: tuple[float, ...]
    ms: NDArray[np.float64]
    present: tuple[Axis, ...] = ()
    _known: dict[tuple[int, ...], float] = field(default_factory=dict, init=False)

    def __call__(self, counts: Counts) -> Any:
        """Milliseconds when elementary axes keep `counts[axis]`, which may be arrays."""
        there = math.prod(counts.get(axis, 1) for axis in self.present)
        return there * self._whole(counts)

    def _whole(self, counts: Counts) -> Any:
        at = tuple(math.prod(count(axis, counts) for axis in axes) for axes in self.sizes)
        if any(isinstance(size, np.ndarray) for size in at):
            return self.interpolated(at)
        if at not in self._known:
            self._known[at] = float(self.interpolated(at))
        return self._known[at]

    def interpolated(self, at: Sequence[Any]) -> Any:
        """Milliseconds at some sizes, numbers or arrays that broadcast."""
        corners = []
        for size, widths, stairs in zip(at, self.widths, self.stairs, strict=True):
            size = _climbed(size, widths[-1], stairs)
            left = np.clip(np.searchsorted(widths, size, "right") - 1, 0, max(len(widths) - 2, 0))
            right = np.minimum(left + 1, len(widths) - 1)
            low, high = np.take(widths, left), np.take(widths, right)
            part = (size - low) / np.maximum(high - low, 1)
            corners.append(((left, 1 - part), (right, part)))
        return sum(
            self.ms[tuple(place for place, _ in corner)] * math.prod(weight for _, weight in corner)
            for corner in product(*corners)
        )


class OperatorLatency:
    """Predicted milliseconds of the operators that a removal changes, on the example inputs.

    Args:
        graph: the traced model with its axes.
        fewest: the axes that may lose indices, and how many at least stay of each.
        measure: milliseconds of calls of one operator on a device; ValueError if it does not run by itself.
        progress: called as ("operators", measured, all).
        blocks: those that may be left out, by their axis.

    Attributes:
        tables: their sum is the prediction; operators over the same sizes have one.
        left_out: operators that do not run by themselves, which count nothing.

    Reference: Shen et al., Structural pruning via latency-saliency knapsack (HALP), NeurIPS 2022.
    Differs: operators of any kind rather than convolutions, measured when they are needed at few widths, in contiguous memory and with
        their tensors in the cache; what no removal changes is left out, so a prediction is good up to a factor and a constant.
    """

    def __init__(
        self,
        graph: AxisGraph,
        fewest: Counts,
        measure: Measure,
        progress: Progress = silent,
        blocks: Mapping[Axis, Block] | None = None,
    ) -> None:
        self.left_out: list[str] = []
        device = next((graph.trace.tensor(name).device for name in graph.tensors), torch.device("cpu"))
        grids = [grid for node in graph.trace.nodes if (grid := Grid.of(graph, node, fewest, blocks or {}))]
        known: dict[str, Sequence[float]] = {}
        waiting = {grid.key: grid for grid in grids}
        for done, (key, grid) in enumerate(waiting.items()):
            progress("operators", done, len(waiting))
            try:
                known[key] = measure(grid.calls, device)
            except ValueError:
                self.left_out.append(str(grid.calls[-1]))
        progress("operators", len(waiting), len(waiting))
        found: dict[Any, Table] = {}
        for grid in grids:
            if grid.key in known:
                table = replace(grid.table(known[grid.key]), present=grid.present)
                alike = (table.sizes, table.widths, table.stairs, table.present)
                found[alike] = replace(table, ms=table.ms + found[alike].ms) if alike in found else table
        self.tables = list(found.values())

    def __call__(self, counts: Counts) -> Any:
        """Milliseconds when each axis keeps `counts[axis]` indices, which may be arrays."""
        return sum(table(counts) for table in self.tables)

    def about(self, axis: Axis) -> Part:
        """The milliseconds of the operators whose sizes an elementary axis is in."""
        tables = [
            table
            for table in self.tables
            if axis in table.present or any(axis in leaves(dim) for axes in table.sizes for dim in axes)
        ]
        sizes = (leaf for table in tables for axes in table.sizes for dim in axes for leaf in leaves(dim))
        present = (axis for table in tables for axis in table.present)
        return Part(lambda counts: sum(table(counts) for table in tables), frozenset([*sizes, *present]))


@dataclass(frozen=True)
class Grid:
    """Where an operator is measured.

    Attributes:
        sizes: what its time depends on.
        calls: at all combinations of widths, then past whole blocks of each size with the others whole.
        key: the same for operators whose times are the same.
        present: axes of the blocks that the operator is in.
    """

    sizes: tuple[Size, ...]
    calls: tuple[Call, ...]
    key: str
    present: tuple[Axis, ...] = ()

    @classmethod
    def of(
        cls, graph: AxisGraph, node: Node, fewest: Counts, blocks: Mapping[Axis, Block] | None = None
    ) -> Grid | None:
        """The grid of an operator; None if no removal changes it, or it only looks at memory in another way."""
        if not isinstance(node.target, torch._ops.OpOverload) or node.target.is_view:
            return None
        tensors = [dims for n in (node, *node.all_input_nodes) if _is_tensor(n) for dims in graph.results(n)]
        free = dict.fromkeys(leaf for dims in tensors for axis in dims for leaf in leaves(axis) if leaf in fewest)
        if not free:
            return None
        sizes = _sizes(graph, node, tensors, list(free), fewest)
        points = [_merged(point) for point in product(*(size.widths for size in sizes))]
        points += [past for size in sizes for past in size.past]
        calls = tuple(call_at(graph, node, point) for point in points)
        present = tuple(axis for axis, block in (blocks or {}).items() if node in block.nodes)
        return cls(sizes, calls, "\n".join(map(str, calls)), present)

    def table(self, ms: Sequence[float]) -> Table:
        """The table of what was measured at `calls`."""
        shape = [len(size.widths) for size in self.sizes]
        values = np.asarray(ms[: math.prod(shape)], dtype=np.float64).reshape(shape)
        for dim in range(values.ndim):  # nothing is faster for being larger: noise, or a kernel that one may pad to
            values = np.flip(np.minimum.accumulate(np.flip(values, dim), dim), dim)
        widths = tuple(tuple(size.at(width) for width in size.widths) for size in self.sizes)
        rest = iter(ms[math.prod(shape) :])
        stairs = []
        for dim, size in enumerate(self.sizes):
            line = np.moveaxis(values, dim, -1).reshape(-1, shape[dim])[-1]
            stairs.append(_stairs(widths[dim], line, {size.at(past): next(rest) for past in size.past}))
        return Table(tuple(size.axes for size in self.sizes), widths, tuple(stairs), values)


def _sizes(
    graph: AxisGraph, node: Node, tensors: Sequence[Sequence[Axis]], free: Sequence[Axis], fewest: Counts
) -> tuple[Size, ...]:
    """The sizes that decide an operator's time: those of a contraction, or the entries of the largest tensor of an
    elementwise operator.
    """
    bundles = _bundles(tensors, free)
    if operator_macs(graph, node) and len(bundles) in WIDTHS:
        number = WIDTHS[len(bundles)]
        return tuple(
            Size((axis,), tuple(_widths(bundle, fewest, number)), tuple(_past(bundle, fewest, number)))
            for axis, bundle in bundles
        )
    largest = max(tensors, key=lambda dims: (any(leaf in fewest for a in dims for leaf in leaves(a)), _entries(dims)))
    varying = tuple(find(axis) for axis in largest if any(leaf in fewest for leaf in leaves(axis)))
    return (Size(varying, tuple(_widths(free, fewest, FEWER_WIDTHS))),)


def _bundles(tensors: Sequence[Sequence[Axis]], free: Sequence[Axis]) -> list[tuple[Axis, list[Axis]]]:
    """Elementary axes that occur in the same dimensions, with the dimension that they make up together."""
    dims = dict.fromkeys(find(axis) for tensor in tensors for axis in tensor)
    inside = {axis: [leaf for leaf in dict.fromkeys(leaves(axis)) if leaf in set(free)] for axis in dims}
    found: dict[frozenset[Axis], list[Axis]] = {}
    for leaf in free:
        found.setdefault(frozenset(axis for axis in dims if leaf in inside[axis]), []).append(leaf)
    result: list[tuple[Axis, list[Axis]]] = []
    for bundle in found.values():
        whole = next((axis for axis in dims if inside[axis] == bundle), None)
        result += [(leaf, [leaf]) for leaf in bundle] if whole is None else [(whole, bundle)]
    return result


def _widths(bundle: Sequence[Axis], fewest: Counts, number: int) -> list[Counts]:
    """What some axes keep together, evenly from the fewest to all; in whole blocks where it is one of several blocks."""
    found: list[Counts] = []
    for part in np.linspace(0, 1, number):
        kept = {axis: round(fewest[axis] + part * (axis.size - fewest[axis])) for axis in bundle}
        if 0 < part < 1 and _has_blocks(bundle):
            (axis,) = bundle
            kept = {axis: min(max(round(kept[axis] / BLOCK) * BLOCK, fewest[axis]), axis.size)}
        if kept not in found:
            found.append(kept)
    return found


def _past(bundle: Sequence[Axis], fewest: Counts, number: int) -> list[Counts]:
    if not _has_blocks(bundle):
        return []
    (axis,) = bundle
    inner = [width[axis] for width in _widths(bundle, fewest, number) if width[axis] % BLOCK == 0]
    return [{axis: width + 1} for width in inner if width + 1 < axis.size]


def _has_blocks(bundle: Sequence[Axis]) -> bool:
    return len(bundle) == 1 and bundle[0].size >= 2 * BLOCK


def _stairs(widths: Sequence[int], line: NDArray[np.float64], past: Mapping[int, float]) -> float:
    """How far times just past whole blocks are from a straight line, towards those at the next block."""
    if not past:
        return 0.0
    at = np.array(list(past))
    even, climbed = (np.interp(_climbed(at, widths[-1], stairs), widths, line) for stairs in (0.0, 1.0))
    rise = float((climbed - even).sum())
    return float(np.clip((np.array(list(past.values())) - even).sum() / rise, 0, 1)) if rise > 0 else 0.0


def _climbed(size: Any, largest: int, stairs: float) -> Any:
    """The size that takes as long on a straight line."""
    if not stairs:
        return size
    top = np.minimum(-(-size // BLOCK) * BLOCK, largest)
    return np.where(size > BLOCK, size + stairs * (top - size), size)


def _merged(parts: Sequence[Counts]) -> Counts:
    return {axis: kept for part in parts for axis, kept in part.items()}


def _entries(dims: Sequence[Axis]) -> int:
    return math.prod(axis.size for axis in dims)


def _is_tensor(node: Node) -> bool:
    return any(isinstance(value, torch.Tensor) for value in several(node.meta.get("val")))
