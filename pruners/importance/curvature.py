"""What the outputs lose with an index: second moments of what operators read, and of how the outputs react to it, from one pass.

Where an operator adds up over an axis (a linear layer over its input features), x stands for the values that it reads there, of shape
(P, Q) with P positions of all samples, and g for the gradient of the outputs with respect to them. Indices M that go are made up for by
those that stay, as far as a linear map can; what is left has the covariance E = ((XᵀX / P)⁻¹_MM)⁻¹, and changes the outputs by
tr(S E) with S = GᵀG per sample: Gauss and Newton's quadratic form, its two factors taken as independent. How far the errors of a
sample's positions push the outputs the same way is measured for each reading, and S is multiplied by it.

Gradients are those of random projections of the outputs, see `pruners.importance.outputs`.

Reference: Hassibi and Stork, Second order derivatives for network pruning: optimal brain surgeon, NeurIPS 1992; Martens and Grosse,
    Optimizing neural networks with Kronecker-factored approximate curvature, ICML 2015; van der Ouderaa et al., The LLM surgeon,
    ICLR 2024.
Differs: of what operators read rather than of their weights, so that one formula serves every operator that adds up over an axis;
    without labels or a loss; positions of a sample are not taken as independent of each other; the errors of all readers of a
    group add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruners.groups import Group
from pruners.importance.coherence import Coherence
from pruners.importance.damped import damped_inverse, damped_solve
from pruners.importance.not_finite import refuse_not_finite
from pruners.importance.order import ROUNDS, rising_costs
from pruners.importance.outputs import Measure
from pruners.importance.readings import Reading, index_of
from pruners.surgery import GraphModel, Removal, traced_name
from pruners.tracing import Runner, real_positions

MOST_PER_INDEX = 256  # columns of one index that are looked at
ENOUGH = 32  # positions per column that second moments are taken from in a batch, at most
WIDE = 512  # indices of a group from which on it is ordered in fewer rounds, each of which costs their square
FEW_ROUNDS = 16


@dataclass(frozen=True)
class Curvature:
    """Second moments of some columns of a reading.

    Attributes:
        reading: where.
        columns: which, shape (q,).
        gram: XᵀX / P, with a last row of ones for the mean, (q + 1, q + 1); float32, as of a large model there are gigabytes.
        sensitivity: GᵀG per sample, times how positions add up, zero in the last row, (q + 1, q + 1); float32.
    """

    reading: Reading
    columns: Tensor
    gram: Tensor
    sensitivity: Tensor


def curvatures(
    model: GraphModel, found: Sequence[Reading], inputs: Iterable[Sequence[Any]], measure: Measure, seed: int = 0
) -> list[Curvature]:
    """Second moments of what is read, and of how the outputs react to it, over batches.

    Args:
        model: the rewritten graph.
        found: where it is read.
        inputs: of the graph, for batch after batch.
        measure: of a change of the outputs.
        seed: of the random projections.

    Raises:
        ValueError: what is read, or its gradient, is not finite; it names the first layer.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[tuple[Reading, int], tuple[Tensor, ...]] = {}
    coherent: dict[Reading, Coherence] = {}
    positions: dict[Reading, int] = {}
    samples = 0
    for values in inputs:
        with torch.enable_grad():
            run = _Reacting(model, found)
            *_, (_, returned) = run.steps(list(values))
            real = real_positions(values, measure.trace)
            projected = measure.projected(returned, generator, real)
            read = list(run.read.items())
            gradients: Sequence[Tensor | None] = [None] * len(read)
            if projected.requires_grad:
                gradients = torch.autograd.grad(projected, [x for _, x in read], allow_unused=True)
        here = measure.samples(returned)
        samples += here
        for (reading, x), g in zip(read, gradients, strict=True):
            sample = _samples(x, reading.dims, real, here)
            x, g = _features(x.detach(), reading.dims, real), None if g is None else _features(g, reading.dims, real)
            if g is not None and sample is not None:
                coherent.setdefault(reading, Coherence()).add(x, g, sample, here)
            positions[reading] = positions.get(reading, 0) + len(x)
            for at, columns in enumerate(reading.blocks):
                if (reading, at) not in sums:
                    shape = (len(columns) + 1, len(columns) + 1)
                    sums[reading, at] = tuple(x.new_zeros(shape, dtype=torch.float32) for _ in range(2))
                totals = sums[reading, at]
                _add(x, g, columns, *totals)
                if not all(total.diagonal().isfinite().all() for total in totals):
                    refuse_not_finite(model, values, reading.source.name)
    ratios = {reading: found.ratio() for reading, found in coherent.items()}
    return [
        Curvature(
            reading,
            reading.blocks[at],
            gram.div_(max(positions[reading], 1)),
            sensitivity.mul_(ratios.get(reading, 1.0) / max(samples, 1)),
        )
        for (reading, at), (gram, sensitivity) in sums.items()
    ]


def lost_with(base: Removal, group: Group, found: Sequence[Curvature]) -> Tensor | None:
    """The change of the outputs that losing an index adds, when indices go in the order in which they add least.

    Args:
        base: the traced model with its axes, and what stays of it.
        group: the group whose indices go.
        found: second moments of what is read.

    Returns:
        Of the group's shape, on the CPU, rising in the order in which the indices go, zero for what does not stay; None if nothing
        reads the group.
    """
    layers = [layer for curvature in found if (layer := _Losing.of(curvature, base, group)) is not None]
    if not layers:
        return None
    stays = group.kept(base.keep).flatten()
    every = torch.zeros(stays.shape, dtype=torch.float64)
    number = int(stays.sum())
    every[stays] = rising_costs(layers, number, ROUNDS if number <= WIDE else FEW_ROUNDS)
    return every.float().view(group.shape)


class _Reacting(Runner):
    """Runs a graph and keeps what is read, so that gradients reach it from its readers alone."""

    def __init__(self, model: GraphModel, found: Sequence[Reading]) -> None:
        super().__init__(model)
        self.named = {traced_name(node): node for node in model.graph.nodes}
        self.of: dict[str, list[Reading]] = {}
        for reading in found:
            for node in reading.readers:
                self.of.setdefault(node.name, []).append(reading)
        self.read: dict[Reading, Tensor] = {}

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A tensor of the model, of which no gradient is wanted."""
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, Tensor) else value

    def run_node(self, node: Node) -> Any:
        """Run one operator; what it reads is a view of its own."""
        own = {}
        for reading in self.of.get(node.name, ()):
            source = self.named.get(reading.source.name)
            if source is None or not self.env[source].is_floating_point():
                continue
            if reading not in self.read:
                value = self.env[source]
                self.read[reading] = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            own[source] = self.read[reading]
        whole = {source: self.env[source] for source in own}
        self.env.update(own)
        result = super().run_node(node)
        self.env.update(whole)
        return result


@dataclass
class _Losing:
    """Columns that go one index after another, those that stay making up for them."""

    gram: Tensor
    sensitivity: Tensor
    inverse: Tensor
    columns: Tensor  # (m, c), of the m indices that are here
    row: Tensor  # (n,), which of the m an index is, -1 for one in another block
    scale: float

    @classmethod
    def of(cls, found: Curvature, base: Removal, group: Group) -> _Losing | None:
        index = index_of(base, found.reading, group)
        if index is None:
            return None
        index = index[found.columns]
        where = (index >= 0).nonzero().flatten()
        if not len(where):
            return None
        ordered = where[index[where].argsort(stable=True)]
        here = index[ordered].unique()
        columns = ordered.view(len(here), -1)
        scale = max(1, columns.shape[1] // MOST_PER_INDEX)
        columns = columns[:, ::scale]
        stays = group.kept(base.keep).flatten()
        row = torch.full((len(stays),), -1)
        row[here] = torch.arange(len(here))
        used = torch.cat([torch.arange(len(found.columns)), torch.tensor([len(found.columns)])])
        if scale > 1:  # of indices of very many columns some stand for all
            others = (index < 0).nonzero().flatten()
            used = torch.cat([columns.flatten(), others, torch.tensor([len(found.columns)])])
            columns = torch.arange(columns.numel()).view(columns.shape)
        gram, sensitivity = (moments[used][:, used].double() for moments in (found.gram, found.sensitivity))
        return cls(gram, sensitivity, damped_inverse(gram), columns, row[stays], columns.shape[1] and scale)

    def costs(self, left: Tensor) -> Tensor:
        """What the outputs lose more if each of some indices goes next."""
        rows = self.row[left]
        columns = self.columns[rows[rows >= 0]]
        inverse = self.inverse[columns[:, :, None], columns[:, None, :]]
        sensitivity = self.sensitivity[columns[:, :, None], columns[:, None, :]]
        lost = damped_solve(inverse, sensitivity).diagonal(dim1=1, dim2=2).sum(-1).clamp_min(0)
        return torch.zeros(len(left), dtype=torch.float64).masked_scatter(rows >= 0, self.scale * lost.cpu())

    def remove(self, gone: Tensor) -> None:
        """Indices go: x_M = B x from now on, so that S becomes (1 + B)ᵀ S (1 + B)."""
        rows = self.row[gone]
        columns = self.columns[rows[rows >= 0]].flatten()
        if not len(columns):
            return
        stays = torch.ones(len(self.inverse), dtype=torch.bool)
        stays[columns] = False
        rest = stays.nonzero().flatten()
        step = damped_solve(self.inverse[columns][:, columns], self.inverse[columns][:, rest])
        half = self.sensitivity[rest][:, columns] - step.t() @ self.sensitivity[columns][:, columns] / 2
        moved = half @ step
        self.sensitivity = self.sensitivity[rest][:, rest].sub_(moved).sub_(moved.t())
        self.inverse = self.inverse[rest][:, rest].sub_(self.inverse[rest][:, columns] @ step)
        place = torch.full((len(stays),), -1)
        place[rest] = torch.arange(len(rest))
        self.columns = place[self.columns]  # of what is gone nothing is asked again


def _features(value: Tensor, dims: tuple[int, ...], real: Tensor | None) -> Tensor:
    """Values with some dimensions as columns, (P, Q), at real positions where the first two dimensions are those of texts."""
    size = math.prod(value.shape[dim] for dim in dims)
    if real is not None and value.shape[:2] == real.shape and value.dim() + min(dims) >= 2:
        value = value[real]
    return value.movedim(dims, tuple(range(-len(dims), 0))).reshape(-1, size)


def _samples(value: Tensor, dims: tuple[int, ...], real: Tensor | None, samples: int) -> Tensor | None:
    """Which sample each row of `_features` belongs to, (P,); None if neither of the first two dimensions holds the samples."""
    free = [place for place in range(min(2, value.dim())) if place - value.dim() not in dims]
    at = next((place for place in free if value.shape[place] == samples), None)
    if at is None:
        return None
    shape = [1 if place - value.dim() in dims else size for place, size in enumerate(value.shape)]
    index = torch.arange(samples, device=value.device).view(-1, *[1] * (value.dim() - at - 1)).expand(shape)
    return _features(index, dims, real).flatten()


def _add(x: Tensor, g: Tensor | None, columns: Tensor, gram: Tensor, sensitivity: Tensor) -> None:
    """Add XᵀX with a row of ones and GᵀG with one of zeros, of some columns, as if of all positions where some are left out."""
    size = len(columns)
    step = max(1, len(x) // (ENOUGH * size + 1024))
    while step > 1 and len(x) % step == 0:  # would see the same places of every sample
        step += 1
    for total, values, last in ((gram, x, 1.0), (sensitivity, g, 0.0)):
        if values is not None:
            some = values[::step] if size == values.shape[1] else values[::step, columns.to(values.device)]
            some = torch.nn.functional.pad(some.float(), (0, 1), value=last)
            total.addmm_(some.t(), some, alpha=step)
