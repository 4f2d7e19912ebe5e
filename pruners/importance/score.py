"""How much each index of a group matters: a criterion scores every weight, a group adds up what its members say.

Scores of entries that belong to one index are summed inside each member, aggregated over members, and normalised inside the
group, so that groups can be ranked together. Shapes below: n indices of a group; scores of a ragged group have a row of n
per index of its host, (rows, n), wherever (n,) is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from pruners.groups import AxisGraph, Group, Member, curve
from pruners.importance.config import Criterion, Importance
from pruners.importance.criteria import (
    GRADIENT_CRITERIA,
    WEIGHT_CRITERIA,
    Loss,
    Tensors,
    activation,
    cross_entropy,
    lamp,
)
from pruners.importance.reconstruction import Moments, lost_by_group
from pruners.importance.relevance import relevance
from pruners.operators import arguments, operator
from pruners.surgery import GraphModel, Keep, Removal, rewrite
from pruners.tracing import like_example
from pruners.untouched import untouched


def score_groups(
    graph: AxisGraph,
    groups: Sequence[Group],
    importance: Importance | None = None,
    *,
    model: nn.Module | None = None,
    keep: Keep | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    moments: Mapping[Node, Moments] | None = None,
) -> dict[str, torch.Tensor]:
    """Score every index of every group; larger = keep.

    Args:
        graph: the traced full model with its axes.
        groups: groups to score.
        importance: how they are scored; by the defaults if not given.
        model: the model to score, for criteria that pass over data; with `keep`, the rewritten graph of what stays.
        keep: what stays of each elementary axis; everything if not given.
        batches: iterable of (inputs, targets), or of inputs for "activation"; see `pruners.tracing.batches`.
        loss: loss(outputs, targets) of all that the model returns; if None, cross-entropy of the first tensor of it.
        seed: of the "random" criterion.
        moments: what the inputs of layers are like, for "obs".

    Returns:
        Group name to scores of shape (n,), float32, on the CPU; minus infinity for what does not stay.

    Raises:
        ValueError: if data are missing, or a score is not finite.
    """
    importance = importance or Importance()
    importance.check_data(batches is not None)
    criterion = importance.criterion
    base = Removal(graph, keep or {})
    vectors = _vectors(base, groups, criterion, model, batches, loss, seed, moments or {})
    result = {}
    for group in groups:
        stays = group.kept(base.keep)
        scores = _aggregated(vectors[group.name], group.shape, importance.aggregate).cpu()
        scores = _normalised(lamp(scores) if criterion == "lamp" else scores, stays, importance.divided_by)
        if not scores.isfinite().all():
            raise ValueError(
                f"scores of `importance` must be finite, got NaN or infinity from {criterion!r} for group {group.name!r}; look "
                "for them in `batches` and in the loss, and for weights so large that their squares overflow."
            )
        result[group.name] = scores.masked_fill(~stays, -torch.inf)
    return result


def _vectors(
    base: Removal,
    groups: Sequence[Group],
    criterion: str | Criterion,
    model: nn.Module | None,
    batches: Iterable[Any] | None,
    loss: Loss | None,
    seed: int,
    moments: Mapping[Node, Moments],
) -> dict[str, list[torch.Tensor]]:
    """For each group, what each of its members says: vectors of shape (n,)."""
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return {group.name: [torch.rand(group.shape, generator=generator)] for group in groups}
    graph = base.graph
    current = dict(model.named_parameters()) if model and base.keep else {}
    names = [name for name in graph.tensors if _is_weight(graph, name)]
    tensors = {name: current.get(name, graph.trace.tensor(name)).detach().float() for name in names}
    entries: Mapping[str, torch.Tensor] = {}
    vectors: dict[str, list[torch.Tensor]] = {}
    if not isinstance(criterion, str):
        entries = _checked(criterion(tensors), tensors)
    elif criterion in (*WEIGHT_CRITERIA, "lamp"):
        entries = WEIGHT_CRITERIA["l2" if criterion == "lamp" else criterion](tensors)
    elif criterion == "bn_scale":
        entries = {name: tensors[name].abs() for name in batch_norm_scales(graph) if name in tensors}
    elif criterion == "fpgm":
        entries = {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1}
    elif criterion == "obs":
        lost = {group.name: lost_by_group(graph, group, moments) for group in groups}
        vectors = {name: [scores] for name, scores in lost.items() if scores is not None}
    elif criterion in GRADIENT_CRITERIA:
        assert batches is not None and model is not None
        data = like_example(batches, graph.trace, traced=isinstance(model, GraphModel))
        with untouched(model, graph.trace.written):
            entries = GRADIENT_CRITERIA[criterion](model, data, loss or cross_entropy, tensors)
    else:
        assert batches is not None
        runs = model if base.keep and isinstance(model, GraphModel) else rewrite(base)
        if criterion == "activation":
            entries = activation(runs, like_example(batches, graph.trace), tensors)
        else:
            vectors = relevance(
                base, groups, runs, like_example(batches, graph.trace), positive=criterion == "lrp_zplus"
            )
    for group in groups:
        found = vectors.get(group.name) or [
            _score_member(member, group, entries[member.tensor], criterion, base)
            for member in group.members
            if member.tensor in entries
        ]
        # Where there is nothing that the criterion speaks of (no batch norm, only vectors): squared weights
        vectors[group.name] = found or [
            unit_sums(tensors[member.tensor].square(), member, group, base)
            for member in group.members
            if member.tensor in tensors
        ]
    return vectors


def batch_norm_scales(graph: AxisGraph) -> list[str]:
    """Names of the scales of all batch norms."""
    scales = (arguments(node).get("weight") for node in graph.trace.nodes if "batch_norm" in operator(node))
    names = (graph.trace.tensors.get(scale.name) for scale in scales if isinstance(scale, Node))
    return [name for name in names if name]


def unit_sums(entries: torch.Tensor, member: Member, group: Group, base: Removal) -> torch.Tensor:
    """Sum the entries of what stays of a member per index of the group: shape (n,), zero for what does not stay."""
    dims, index = base.units(base.graph.tensors[member.tensor], member.dim, group)
    other = [d for d in range(entries.dim()) if d not in dims]
    vector, index = (entries.sum(other) if other else entries).flatten(), index.flatten().to(entries.device)
    sums = vector.new_zeros(math.prod(group.shape)).index_add(0, index[index >= 0], vector[index >= 0])
    return sums.view(group.shape)


def _score_member(
    member: Member, group: Group, entries: torch.Tensor, criterion: str | Criterion, base: Removal
) -> torch.Tensor:
    if criterion != "fpgm":
        return unit_sums(entries, member, group, base)
    dims, index = base.units(base.graph.tensors[member.tensor], member.dim, group)
    rows = entries.movedim(dims, tuple(range(len(dims)))).reshape(index.numel(), -1)
    index = index.flatten().to(rows.device)
    there = index[index >= 0]
    vectors = rows[index >= 0][there.argsort(stable=True)]  # all entries of one index side by side
    hosts = [] if group.host is None else [base.size(group.host)]
    distances = _distances(vectors.view(*hosts, base.size(group.axis), -1)).flatten()
    return rows.new_zeros(math.prod(group.shape)).index_copy(0, there.unique(), distances).view(group.shape)


def _checked(entries: Mapping[str, torch.Tensor], tensors: Tensors) -> Mapping[str, torch.Tensor]:
    for name, scores in entries.items():
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape is None or tuple(scores.shape) != shape or not scores.isfinite().all():
            raise ValueError(
                f"a function in `importance` must return finite scores in the shapes of the parameters that it gets, got "
                f"{tuple(scores.shape)} for {name!r} of shape {shape}."
            )
    return entries


def _distances(vectors: torch.Tensor) -> torch.Tensor:
    """Sum of distances of each vector to all others in its row; shape (..., n) for vectors (..., n, entries).

    Reference: He et al., Filter pruning via geometric median, CVPR 2019.
    Differs: the paper's distances are between filters, the rows of one layer. Here each tensor that the group takes part in adds its
    own: all layers that put the index out by their rows, and all that read it by their columns.
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").sum(-1)


def _aggregated(found: list[torch.Tensor], shape: tuple[int, ...], aggregate: str) -> torch.Tensor:
    if not found:
        return torch.ones(shape)
    stacked = torch.stack(found)
    return {"sum": stacked.sum(0), "mean": stacked.mean(0), "max": stacked.amax(0)}[aggregate]


def _normalised(scores: torch.Tensor, stays: torch.Tensor, normalise: str) -> torch.Tensor:
    if normalise == "none":
        return scores
    counted = curve(scores[stays].view(*scores.shape[:-1], -1))
    by = {"mean": counted.mean(), "max": counted.max(), "sum": counted.sum()}[normalise]
    return scores / by if by > 0 else scores


def _is_weight(graph: AxisGraph, name: str) -> bool:
    return isinstance(graph.trace.tensor(name), nn.Parameter)
