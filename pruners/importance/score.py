"""How much each index of a group matters: a criterion scores every weight, a group adds up what its members say.

Scores of entries that belong to one index are summed inside each member, aggregated over members, and normalised inside the
group, so that groups can be ranked together. Shapes below: n indices of a group; scores of a ragged group have a row of n
per index of its host, (rows, n), wherever (n,) is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from pruners.groups import AxisGraph, Group, curve
from pruners.importance.config import Importance
from pruners.importance.criteria import Loss, cross_entropy
from pruners.importance.named import (
    AGGREGATIONS,
    NORMALISATIONS,
    CriterionEntry,
    Subject,
    criterion_entry,
    squares,
)
from pruners.importance.passes import USUAL, Bounds, Tell, unheard
from pruners.importance.reconstruction import Moments
from pruners.progress import Progress, silent
from pruners.surgery import Keep, Removal


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
    bounds: Bounds | None = None,
    progress: Progress = silent,
    samples: float = math.inf,
    tell: Tell = unheard,
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
        bounds: what a pass over data may take, for "curvature".
        progress: told about passes that report themselves.
        samples: how many a pass forward and backward takes at most, for "curvature".
        tell: told in words if such a pass leaves out examples.

    Returns:
        Group name to scores of shape (n,), float32, on the CPU; minus infinity for what does not stay.

    Raises:
        ValueError: if data are missing, or a score is not finite.
    """
    importance = (importance or Importance()).by_name(batches is not None)
    importance.check_data(batches is not None)
    entry = criterion_entry(importance.criterion)
    base = Removal(graph, keep or {})
    loss = cross_entropy if loss is None else loss
    subject = Subject(base, groups, model, batches, loss, seed, moments or {}, bounds or USUAL, progress, samples, tell)
    vectors = _vectors(subject, entry)
    result = {}
    for group in groups:
        stays = group.kept(base.keep)
        scores = _aggregated(vectors[group.name], group.shape, importance.aggregate).cpu()
        scores = _normalised(entry.within(scores), stays, importance.divided_by)
        if not scores[stays].isfinite().all():
            raise ValueError(
                f"scores of `importance` must be finite, got NaN or infinity from {importance.criterion!r} for group {group.name!r}; "
                "look for them in `batches` and in the loss, and for weights so large that their squares overflow."
            )
        result[group.name] = scores.masked_fill(~stays, -torch.inf)
    return result


def _vectors(look: Subject, entry: CriterionEntry) -> dict[str, Sequence[torch.Tensor]]:
    """For each group, what each of its members says, in shape (n,); where the criterion says nothing of it, squared weights."""
    found = dict(entry.vectors(look))
    silent = [group for group in look.groups if not found.get(group.name)]
    return found | (dict(squares(replace(look, groups=silent))) if silent else {})


def _aggregated(found: Sequence[torch.Tensor], shape: tuple[int, ...], aggregate: str) -> torch.Tensor:
    if not found:
        return torch.ones(shape)
    return AGGREGATIONS[aggregate](torch.stack(list(found)))


def _normalised(scores: torch.Tensor, stays: torch.Tensor, normalise: str) -> torch.Tensor:
    by = NORMALISATIONS[normalise](curve(scores[stays].view(*scores.shape[:-1], -1)))
    return scores / by if by > 0 else scores
