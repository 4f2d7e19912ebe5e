"""What a model's outputs lose when one group loses indices: the curves of rate-distortion allocation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.groups import AxisGraph, Group, keep_highest
from pruners.importance.reconstruction import Moments, made_up_for
from pruners.operators import Axis, leaves
from pruners.surgery import Keep, Masked, Removal
from pruners.tracing import Trace, like_example

AMOUNTS = 10  # measured points of a curve, evenly spaced
SAMPLES = 128  # samples that curves are measured on at most
Report = Callable[[float, float], None]  # what is done, and of how much


def distortion_curves(
    graph: AxisGraph,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    levels: Mapping[str, Sequence[int]],
    batches: Iterable[Any],
    keep: Keep,
    report: Report,
    moments: Mapping[Node, Moments] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Mean squared change of the outputs when one group loses its lowest-scored indices and all others keep theirs.

    Args:
        graph: the traced model with its axes.
        groups: groups to measure.
        scores: group name to one score per index, of a ragged group to a row of them per index of its host.
        levels: group name to the numbers of indices that it may lose, ascending; the first is what it has lost already.
        batches: iterable of inputs, or of (inputs, targets), inputs in the model's order; 128 samples are used.
        keep: what stays of the model that is measured.
        report: told how many runs are done.
        moments: of layers that make up for what they can no longer read.

    Returns:
        Group name to the distortion of losing 0, 1, ... indices, shape (n + 1,), rising, interpolated between measured amounts.

    Reference: Xu et al., Efficient joint optimization of layer-adaptive weight pruning in deep neural networks, ICCV 2023.
    Differs: indices of dependency groups go rather than single weights, the layers that read them make up for it by least
        squares, and any budgets are met, not a number of weights.

    Raises:
        ValueError: if there is no batch, one that the traced model does not take, or outputs that are not finite.
    """
    grid = {group.name: _evenly(levels[group.name]) for group in groups}
    removals: dict[Axis, list[Removal]] = {}
    for group in groups:
        removals[group.axis] = [
            Removal(graph, {**keep, group.axis: keep_highest(scores[group.name], amount)})
            for amount in grid[group.name][1:]
        ]
    total = {group.axis: np.zeros(len(grid[group.name])) for group in groups}
    parts = list(placeholder_values(graph.trace, batches, SAMPLES))
    runs, done = len(parts) * sum(map(len, removals.values())), 0
    with torch.no_grad():
        for inputs in parts:
            for axis, point, change in _changes(Removal(graph, keep), removals, inputs, moments or {}):
                total[axis][point + 1] += change / len(parts)
                done += 1
                report(done, runs)
    if not all(np.isfinite(curve).all() for curve in total.values()):
        raise ValueError("outputs on `batches` must be finite, got NaN or infinity; look for them in the data.")
    return {
        group.name: np.interp(
            np.arange(group.size + 1), grid[group.name], np.maximum.accumulate(total[group.axis]), right=np.inf
        )
        for group in groups
    }


def _changes(
    base: Removal, removals: Mapping[Axis, Sequence[Removal]], inputs: Sequence[Any], moments: Mapping[Node, Moments]
) -> Iterator[tuple[Axis, int, float]]:
    """The axis, the position and the mean squared change of the outputs of each removal.

    The model runs up to the first operator that a group takes part in; from there on it runs again for each of its removals.
    """
    trace = base.graph.trace
    *_, (_, outputs) = Masked(base).steps(list(inputs))
    starts = _first_uses(base.graph, removals)
    nodes = trace.nodes
    whole = Masked(base)
    for position, _ in enumerate(whole.steps(list(inputs)), 1):
        for axis in starts.get(position, ()):
            for point, removal in enumerate(removals[axis]):
                run = Masked(removal)
                made_up = made_up_for(Removal(base.graph, {axis: removal.keep[axis]}), axis, moments)
                values = {**whole.env, **{node: made_up[node] for node in made_up if node in whole.env}}
                run.env = {node: _silenced(removal, node, value) for node, value in values.items()}
                *_, (_, changed) = run.onward(nodes[position:])
                yield axis, point, _mean_square(outputs, changed)


def _first_uses(graph: AxisGraph, axes: Iterable[Axis]) -> dict[int, list[Axis]]:
    """Position of an operator to the axes that first occur in it."""
    found: dict[int, list[Axis]] = defaultdict(list)
    waiting = set(axes)
    for position, node in enumerate(graph.trace.nodes):
        if node.op == "call_function":
            sources = (node, *node.all_input_nodes)
            occurring = {leaf for s in sources for dims in graph.results(s) for axis in dims for leaf in leaves(axis)}
            found[position] += [axis for axis in axes if axis in waiting & occurring]
            waiting -= occurring
    return found


def _silenced(removal: Removal, node: Node, value: Any) -> Any:
    """Parameters without what goes; what operators have computed so far does not depend on it."""
    return removal.silence(value, removal.graph.dims(node)) if node.op == "placeholder" and value is not None else value


def _mean_square(outputs: Any, changed: Any) -> float:
    pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(changed), strict=True)
    return sum(float((x - y).square().mean()) for x, y in pairs if isinstance(x, Tensor) and x.is_floating_point())


def _evenly(levels: Sequence[int]) -> list[int]:
    """The first and the last of some numbers, and evenly spaced ones between them."""
    places = np.linspace(0, len(levels) - 1, min(AMOUNTS + 1, len(levels))).round().astype(int)
    return [levels[place] for place in dict.fromkeys(places.tolist())]


def placeholder_values(trace: Trace, batches: Iterable[Any], samples: float) -> Iterator[list[Any]]:
    """Values of all placeholders, parameters among them, for batch after batch, up to a number of samples."""
    names = [name for name in trace.values() if name not in trace.tensors]
    seen = 0
    for batch in like_example(batches, trace):
        size = next((len(x) for x in batch.inputs if isinstance(x, Tensor) and x.dim()), 1)
        part = batch.part(0, int(min(samples - seen, size))) if trace.batched else batch
        values = dict(zip(names, part.inputs, strict=True))
        yield [values.get(name, value) for name, value in trace.values().items()]
        seen += size
        if seen >= samples:
            return
