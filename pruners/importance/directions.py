"""What the model's outputs lose with directions of a layer's outputs, from second moments of these and of how the outputs react."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from pruners.groups import AxisGraph
from pruners.importance.curvature import curvatures
from pruners.importance.damped import damped_root
from pruners.importance.outputs import Measure
from pruners.importance.passes import Bounds, Tell, held_samples, pieces
from pruners.importance.readings import Reading
from pruners.importance.reconstruction import Moments
from pruners.operators import arguments
from pruners.progress import Batches, Progress
from pruners.surgery import Dense, Known, Removal, rewrite
from pruners.tracing import like_example

STEP = "ranks of layers"


@dataclass(frozen=True)
class Directions:
    """What is known of the outputs of a layer.

    Attributes:
        damages: what the model's outputs lose with each of the principal directions of the layer's, the largest direction first; (k,)
            of the layer's full rank k. These add up.
        sensitivity: how the model's outputs react to the layer's, (O, O); float32.
    """

    damages: Tensor
    sensitivity: Tensor


def direction_damages(
    graph: AxisGraph,
    layers: Sequence[Dense],
    batches: Batches,
    *,
    seed: int,
    bounds: Bounds,
    samples: float,
    progress: Progress,
    tell: Tell,
) -> dict[str, Directions]:
    """Run the traced model forward and backward over data, and see what it loses with directions of the outputs of layers.

    It is the same second-order measure that the criterion curvature gives indices of groups: a direction u of outputs that vary by v
    along it is worth v uᵀ H u, with H the second moments of the gradients.

    Args:
        graph: the traced model with its axes.
        layers: of it.
        batches: examples.
        seed: of random projections of the outputs.
        bounds: what the pass may take.
        samples: how many it takes at most.
        progress: told about it.
        tell: told if examples are left out.

    Returns:
        By the name of a layer; layers that no example reached are left out.
    """
    trace, by_node = graph.trace, {layer.node: layer for layer in layers}
    every = [_reading(layer.node) for layer in layers]
    parts = pieces(like_example(batches, trace), trace, bounds, STEP, progress, samples, held_samples(batches), tell)
    runs = rewrite(Removal(graph, {}))
    found = {}
    for measured in curvatures(runs, every, (part.inputs for part in parts), Measure(trace), seed):
        layer = by_node[measured.reading.source]
        outputs, inputs = (axis.size for axis in graph.dims(layer.weight)[:2])
        spread, mean = measured.gram[:-1, :-1].double(), measured.gram[:-1, -1].double()
        if arguments(layer.node)["bias"] is not None:
            spread = spread - torch.outer(mean, mean)
        sensitivity = measured.sensitivity[:-1, :-1]
        values, vectors = torch.linalg.eigh(spread)
        kept = slice(outputs - min(outputs, inputs), None)
        values, vectors = values[kept].flip(0).clamp_min(0), vectors[:, kept].flip(1)
        along = ((sensitivity.double() @ vectors) * vectors).sum(0).clamp_min(0)
        found[layer.name] = Directions((values * along).float().cpu(), sensitivity.cpu())
    return found


def known_of(removal: Removal, layer: Dense, moments: Moments, sensitivity: Tensor | None = None) -> Known:
    """What data say of what stays of a layer.

    Args:
        removal: what stays.
        layer: of the full model.
        moments: of its inputs in the full model.
        sensitivity: of its outputs there.
    """
    outputs, inputs = removal.graph.dims(layer.weight)[:2]
    reads, puts_out = removal.stays(inputs), removal.stays(outputs)
    spread, mean = moments.gram[:-1, :-1][reads][:, reads], moments.gram[:-1, -1][reads]
    if arguments(layer.node)["bias"] is not None:
        spread = spread - torch.outer(mean, mean)
    else:
        mean = torch.zeros_like(mean)
    some = None if sensitivity is None else sensitivity[puts_out][:, puts_out].double()
    return Known(damped_root(spread), mean, some)


def _reading(node: Node) -> Reading:
    """The outputs of a layer, read by whatever reads them."""
    value = node.meta["val"]
    channel = -1 if len(arguments(node)["weight"].meta["val"].shape) == 2 else 1 - value.dim()
    return Reading(node, (channel,), frozenset(node.users), (torch.arange(int(value.shape[channel])),))
