"""Whether a repaired model's outputs are nearer to the full model's, on examples held out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pruners.operators import tensors_in
from pruners.repair.lanes import LEAST, Lane, outputs
from pruners.surgery import GraphModel, Removal
from pruners.tracing import only_real

PIECE = 8  # samples that run at a time: outputs may be by far the largest values, as logits over a vocabulary are


@torch.no_grad()
def is_closer(removal: Removal, repaired: GraphModel, before: GraphModel, lanes: Sequence[Lane]) -> bool:
    """Whether squared differences of all outputs, relative to their squares, are not above those before the repair.

    Args:
        removal: of the full model.
        repaired: the smaller graph with its new weights.
        before: the same with those it had.
        lanes: examples, of which those held out are judged by.
    """
    found = removal.graph.trace
    users = [name for name in found.values() if name not in found.tensors]
    apart = _Apart(), _Apart()
    for lane in _held(lanes, sorted(found.free)):
        aims = outputs(found.graph_module, {**found.values(), **dict(zip(users, lane.inputs, strict=True))})
        for graph, total in zip((before, repaired), apart, strict=True):
            names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
            now = outputs(graph, dict(zip(names, lane.inputs, strict=True)))
            total.add(tensors_in(now), tensors_in(found.returned(aims)), lane.real)
    return apart[1].value() <= apart[0].value()


class _Apart:
    """Squared differences of outputs and squares of their aims, summed over lanes."""

    def __init__(self) -> None:
        self.sums: dict[int, tuple[float, float]] = {}

    def add(self, found: Sequence[Tensor], aims: Sequence[Tensor], real: Tensor | None) -> None:
        """One lane more."""
        for place, (x, y) in enumerate(zip(found, aims, strict=True)):
            if y.is_floating_point() and x.shape == y.shape:
                x, y = only_real(x, real), only_real(y, real)
                error, energy = self.sums.get(place, (0.0, 0.0))
                self.sums[place] = error + _squares(x - y), energy + _squares(y)

    def value(self) -> float:
        """Relative to the squares of each output, summed over outputs; infinite where one is no number."""
        total = sum(error / max(energy, 1e-30) for error, energy in self.sums.values())
        return total if math.isfinite(total) else math.inf


def _squares(x: Tensor) -> float:
    return float(x.square().sum(dtype=torch.float64))


def _held(lanes: Sequence[Lane], free: Sequence[int]) -> Iterator[Lane]:
    """The lanes held out, some samples at a time; of one sample in all, all of it."""
    for lane in lanes:
        if lane.held is False:
            continue
        size = max((len(lane.inputs[place]) for place in free), default=1)
        for start in range(0, size, PIECE):
            start = min(start, max(0, size - LEAST))  # a sample alone would look like a dimension that broadcasts
            part = slice(start, start + PIECE)
            inputs = [x[part] if place in free else x for place, x in enumerate(lane.inputs)]
            yield replace(lane, inputs=inputs, real=None if lane.real is None else lane.real[part])
