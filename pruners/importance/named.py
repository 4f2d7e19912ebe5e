"""The criteria by name: what each says of the indices of groups, and the data that it needs.

Shapes below: n indices of a group; scores of a ragged group have a row of n per index of its host, (rows, n), wherever (n,) is said.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import Node

from pruners.groups import AxisGraph, Group, Member
from pruners.importance.criteria import Loss, Tensors, activation, fisher, l1, l2, lamp, taylor
from pruners.importance.curvature import curvatures, lost_with
from pruners.importance.outputs import Measure
from pruners.importance.passes import USUAL, Bounds, Tell, held_samples, pieces, unheard
from pruners.importance.readings import readings
from pruners.importance.reconstruction import WIDEST, Moments, lost_by_group, read_too_wide
from pruners.importance.relevance import relevance
from pruners.operators import arguments, operator
from pruners.progress import Progress, silent
from pruners.surgery import GraphModel, Removal, rewrite
from pruners.tracing import Batch, like_example
from pruners.untouched import untouched

Criterion = Callable[[Tensors], Mapping[str, torch.Tensor]]
Vectors = Mapping[str, Sequence[torch.Tensor]]
"""Group name to what each of its members says: tensors of shape (n,)."""
Sum = Callable[[torch.Tensor, Member, Group, Removal], torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """What is scored, and what a criterion may look at.

    Attributes:
        base: the traced full model with its axes, and what stays of it.
        groups: groups to score.
        model: the model to score, for criteria that pass over data; the rewritten graph where not all stays.
        batches: of (inputs, targets), or of inputs.
        loss: loss(outputs, targets) of all that the model returns.
        seed: of what is drawn at random.
        moments: what the inputs of layers are like.
        bounds: what a pass over data may take.
        progress: told about passes that report themselves.
        samples: how many of them a pass forward and backward takes at most.
        tell: told if examples are left out.
    """

    base: Removal
    groups: Sequence[Group]
    model: nn.Module | None
    batches: Iterable[Any] | None
    loss: Loss
    seed: int
    moments: Mapping[Node, Moments]
    bounds: Bounds = USUAL
    progress: Progress = silent
    samples: float = math.inf
    tell: Tell = unheard

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by name, of what was repaired those of now."""
        graph = self.base.graph
        current = dict(self.model.named_parameters()) if self.model is not None and self.base.keep else {}
        every = {name: graph.trace.tensor(name) for name in graph.tensors}
        weights = {name: tensor for name, tensor in every.items() if isinstance(tensor, nn.Parameter)}
        return {name: current.get(name, tensor).detach().float() for name, tensor in weights.items()}

    @property
    def runs(self) -> GraphModel:
        """The graph of what stays."""
        return self.model if self.base.keep and isinstance(self.model, GraphModel) else rewrite(self.base)

    def data(self, traced: bool = True) -> Iterable[Batch]:
        """The batches as the traced model takes them, or as the given one does."""
        assert self.batches is not None
        return like_example(self.batches, self.base.graph.trace, traced=traced)


class CriterionEntry(NamedTuple):
    """One criterion.

    Attributes:
        help: what the score of an index is; larger = keep.
        vectors: what the members of groups say; nothing of groups that the criterion does not speak of.
        needs: what it passes over: nothing, "inputs", or "labels" as well.
        within: turns the added scores of a group into those that are compared.
        normalise: what the scores of a group are divided by, if not told.
        moments: it looks at the second moments of layers' inputs.
        of_outputs: scores are changes of the outputs, beside which that of leaving out a block can stand.
    """

    help: str
    vectors: Callable[[Subject], Vectors]
    needs: str = ""
    within: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores
    normalise: str = "mean"
    moments: bool = False
    of_outputs: bool = False


def unit_sums(entries: torch.Tensor, member: Member, group: Group, base: Removal) -> torch.Tensor:
    """Sum the entries of what stays of a member per index of the group: shape (n,), zero for what does not stay."""
    dims, index = base.units(base.graph.tensors[member.tensor], member.dim, group)
    other = [d for d in range(entries.dim()) if d not in dims]
    vector, index = (entries.sum(other) if other else entries).flatten(), index.flatten().to(entries.device)
    sums = vector.new_zeros(math.prod(group.shape)).index_add(0, index[index >= 0], vector[index >= 0])
    return sums.view(group.shape)


def unit_distances(entries: torch.Tensor, member: Member, group: Group, base: Removal) -> torch.Tensor:
    """Distances of what stays of a member between the indices of the group: shape (n,), zero for what does not stay."""
    dims, index = base.units(base.graph.tensors[member.tensor], member.dim, group)
    rows = entries.movedim(dims, tuple(range(len(dims)))).reshape(index.numel(), -1)
    index = index.flatten().to(rows.device)
    there = index[index >= 0]
    vectors = rows[index >= 0][there.argsort(stable=True)]  # all entries of one index side by side
    hosts = [] if group.host is None else [base.size(group.host)]
    found = distances(vectors.view(*hosts, base.size(group.axis), -1)).flatten()
    return rows.new_zeros(math.prod(group.shape)).index_copy(0, there.unique(), found).view(group.shape)


def distances(vectors: torch.Tensor) -> torch.Tensor:
    """Sum of distances of each vector to all others in its row; shape (..., n) for vectors (..., n, entries).

    Reference: He et al., Filter pruning via geometric median, CVPR 2019.
    Differs: the paper's distances are between filters, the rows of one layer. Here each tensor that the group takes part in adds its
    own: all layers that put the index out by their rows, and all that read it by their columns.
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").sum(-1)


def summed(
    score: Callable[[Subject], Mapping[str, torch.Tensor]], add: Sum = unit_sums
) -> Callable[[Subject], Vectors]:
    """A criterion that scores weights: a group's members add up what their own say."""

    def vectors(look: Subject) -> Vectors:
        entries = score(look)
        return {
            group.name: [
                add(entries[member.tensor], member, group, look.base)
                for member in group.members
                if member.tensor in entries
            ]
            for group in look.groups
        }

    return vectors


squares = summed(lambda look: {name: tensor.square() for name, tensor in look.tensors.items()})
"""Squared weights, also of tensors of one dimension."""


def batch_norm_scales(graph: AxisGraph) -> list[str]:
    """Names of the scales of all batch norms."""
    scales = (arguments(node).get("weight") for node in graph.trace.nodes if "batch_norm" in operator(node))
    names = (graph.trace.tensors.get(scale.name) for scale in scales if isinstance(scale, Node))
    return [name for name in names if name]


def _scales(look: Subject) -> dict[str, torch.Tensor]:
    return {name: look.tensors[name].abs() for name in batch_norm_scales(look.base.graph) if name in look.tensors}


def _matrices(look: Subject) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in look.tensors.items() if tensor.dim() > 1}


def _random(look: Subject) -> Vectors:
    generator = torch.Generator().manual_seed(look.seed)
    return {group.name: [torch.rand(group.shape, generator=generator)] for group in look.groups}


def _of_gradients(score: Callable[..., dict[str, torch.Tensor]]) -> Callable[[Subject], Vectors]:
    def entries(look: Subject) -> dict[str, torch.Tensor]:
        assert look.model is not None
        data = look.data(isinstance(look.model, GraphModel))
        with untouched(look.model, look.base.graph.trace.written):
            return score(look.model, data, look.loss, look.tensors)

    return summed(entries)


def _relevance(positive: bool) -> Callable[[Subject], Vectors]:
    return lambda look: relevance(look.base, look.groups, look.runs, look.data(), positive=positive)


def _lost(look: Subject) -> Vectors:
    if unseen := read_too_wide(look.base.graph, look.groups):
        warnings.warn(
            f"`importance='obs'` does not look at layers of more than {WIDEST:,} columns, here those that read {', '.join(unseen)}, "
            "which are scored by their other layers, or by squared weights; 'curvature' looks at them in blocks.",
            stacklevel=2,
        )
    lost = {group.name: lost_by_group(look.base.graph, group, look.moments) for group in look.groups}
    return {name: [scores] for name, scores in lost.items() if scores is not None}


def _curvature(look: Subject) -> Vectors:
    found = readings(look.base, look.groups)
    trace = look.base.graph.trace
    assert look.batches is not None
    parts = pieces(
        look.data(), trace, look.bounds, "curvature", look.progress, look.samples, held_samples(look.batches), look.tell
    )
    measured = curvatures(look.runs, found, (part.inputs for part in parts), Measure(trace), look.seed)
    lost = {}
    for done, group in enumerate(look.groups, 1):
        lost[group.name] = lost_with(look.base, group, measured)
        look.progress("order of removal", done, len(look.groups))
    return {name: [scores] for name, scores in lost.items() if scores is not None}


CRITERIA: dict[str, CriterionEntry] = {
    "l1": CriterionEntry("sum of absolute values", summed(lambda look: l1(look.tensors))),
    "l2": CriterionEntry("sum of squares", summed(lambda look: l2(look.tensors))),
    "lamp": CriterionEntry(
        "squared norm over the sum of all in the group that are not smaller",
        summed(lambda look: l2(look.tensors)), within=lamp, normalise="none",
    ),
    "bn_scale": CriterionEntry("absolute scales of batch norms", summed(_scales)),
    "fpgm": CriterionEntry(
        "distance to the other indices: of rows where a layer puts them out, as in the paper, and of columns where one reads them",
        summed(_matrices, unit_distances),
    ),
    "random": CriterionEntry("nothing: the control", _random),
    "activation": CriterionEntry(
        "weight times the size of the feature it reads", summed(lambda look: activation(look.runs, look.data(), look.tensors)),
        needs="inputs",
    ),
    "obs": CriterionEntry(
        "optimal brain surgeon: the error that is left when the layers that read the index make up for it", _lost,
        needs="inputs", moments=True,
    ),
    "curvature": CriterionEntry(
        "the change of the outputs that is left when what stays makes up for the index, by second moments of what layers read and of "
        "gradients",
        _curvature, needs="inputs", normalise="none", of_outputs=True,
    ),
    "taylor": CriterionEntry("first-order change of the loss", _of_gradients(taylor), needs="labels"),
    "fisher": CriterionEntry(
        "optimal brain damage: weight² x gradient², per sample", _of_gradients(fisher), needs="labels",
    ),
    "lrp": CriterionEntry("relevance for the decision", _relevance(positive=False), needs="labels"),
    "lrp_zplus": CriterionEntry(
        "relevance for the decision, of convolutions by positive parts alone", _relevance(positive=True), needs="labels",
    ),
}  # fmt: skip


AGGREGATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda vectors: vectors.sum(0),
    "mean": lambda vectors: vectors.mean(0),
    "max": lambda vectors: vectors.amax(0),
}
NORMALISATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": torch.mean,
    "max": torch.amax,
    "sum": torch.sum,
    "none": lambda scores: scores.new_ones(()),
}


def criterion_entry(criterion: str | Criterion) -> CriterionEntry:
    """The entry of a name, or one of a function of the parameters."""
    if isinstance(criterion, str):
        return CRITERIA[criterion]
    return CriterionEntry(
        "a function of the parameters", summed(lambda look: _checked(criterion(look.tensors), look.tensors))
    )


def _checked(entries: Mapping[str, torch.Tensor], tensors: Tensors) -> Mapping[str, torch.Tensor]:
    for name, scores in entries.items():
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape is None or tuple(scores.shape) != shape or not scores.isfinite().all():
            raise ValueError(
                f"a function in `importance` must return finite scores in the shapes of the parameters that it gets, got "
                f"{tuple(scores.shape)} for {name!r} of shape {shape}."
            )
    return entries
