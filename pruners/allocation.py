"""How many indices each group loses, so that every target is met and none is overshot by more than a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruners.axes import Axis
from pruners.costs import CostModel
from pruners.groups import Group

TARGETS = ("macs", "params", "weight_bytes")
Schedule = Callable[[int], dict[str, int]]  # step 0..last -> indices removed per group


@dataclass(frozen=True)
class Limits:
    """What may not be crossed, in every group.

    Attributes:
        round_to: kept indices are a multiple of this, in groups of at least that size.
        min_kept: indices that stay.
        max_ratio: largest fraction removed.
    """

    round_to: int = 1
    min_kept: int = 1
    max_ratio: float = 0.9

    def __post_init__(self) -> None:
        if self.round_to < 1:
            raise ValueError(f"`round_to` must be at least 1, got {self.round_to}.")
        if self.min_kept < 1:
            raise ValueError(
                f"`min_kept` must be at least 1, got {self.min_kept}; a layer of no channels cuts the graph."
            )
        if not 0 < self.max_ratio <= 1:
            raise ValueError(f"`max_ratio` must be in (0, 1], got {self.max_ratio}.")

    def removed(self, group: Group, wanted: int) -> int:
        """The largest allowed number of removed indices that is at most `wanted`."""
        step = self.round_to if group.size >= self.round_to else 1
        fewest = max(self.min_kept, group.size - int(self.max_ratio * group.size + 1e-9))
        kept = max(group.size - wanted, min(fewest, group.size))
        kept = -(-kept // step) * step
        return max(group.size - kept, 0)


def uniform(groups: Sequence[Group], scores: Mapping[str, torch.Tensor], limits: Limits) -> tuple[Schedule, int]:
    """The same pruning ratio in every group; step s is the ratio s/last."""
    last = max((group.size for group in groups), default=1) * 4

    def schedule(step: int) -> dict[str, int]:
        return {group.name: limits.removed(group, step * group.size // last) for group in groups}

    return schedule, last


def global_ranking(groups: Sequence[Group], scores: Mapping[str, torch.Tensor], limits: Limits) -> tuple[Schedule, int]:
    """The lowest scores of all groups together; step s removes the s lowest. Ties go by order of groups, then index."""
    flat = torch.cat([scores[group.name].float() for group in groups])
    ids = torch.cat([torch.full((group.size,), i) for i, group in enumerate(groups)])
    order = ids[flat.sort(stable=True).indices]
    # ranks[i] holds, sorted, the steps at which group i loses an index
    ranks = [(order == i).nonzero().flatten() for i in range(len(groups))]

    def schedule(step: int) -> dict[str, int]:
        wanted = (int(torch.searchsorted(rank, step)) for rank in ranks)
        return {group.name: limits.removed(group, n) for group, n in zip(groups, wanted, strict=True)}

    return schedule, len(flat)


def isomorphic(groups: Sequence[Group], scores: Mapping[str, torch.Tensor], limits: Limits) -> tuple[Schedule, int]:
    """The lowest scores among groups of one kind, the same fraction of each kind; step s is the fraction s/last.

    Reference: Fang et al., Isomorphic pruning for vision models, ECCV 2024.
    Differs: groups are of one kind if they have the same parameters along the same dimensions, whatever their order.
    """
    kinds: dict[tuple[tuple[str, int], ...], list[Group]] = {}
    for group in groups:
        kind = tuple(sorted((member.tensor.rsplit(".", 1)[-1], member.dim) for member in group.members))
        kinds.setdefault(kind, []).append(group)
    rankings = [global_ranking(alike, scores, limits) for alike in kinds.values()]
    last = 4 * max(n for _, n in rankings)

    def schedule(step: int) -> dict[str, int]:
        return {name: n for ranking, size in rankings for name, n in ranking(step * size // last).items()}

    return schedule, last


ALLOCATIONS: dict[str, Callable[..., tuple[Schedule, int]]] = {
    "uniform": uniform,
    "global": global_ranking,
    "isomorphic": isomorphic,
}


def allocate(
    groups: Sequence[Group],
    scores: Mapping[str, torch.Tensor],
    cost: CostModel,
    targets: Mapping[str, float],
    allocation: str = "global",
    limits: Limits | None = None,
) -> dict[Axis, torch.Tensor]:
    """Remove as few indices as meet every target.

    Args:
        groups: groups that may lose indices.
        scores: group name to one score per index; the lowest go first.
        cost: cost model of the traced model.
        targets: "macs", "params" or "weight_bytes" to what may remain: a fraction up to 1, or an absolute number.
        allocation: "uniform", "global" or "isomorphic".
        limits: alignment and bounds per group.

    Returns:
        Elementary axis to a boolean vector, True for what stays; groups that lose nothing are left out.

    Raises:
        ValueError: if a target is unknown or cannot be reached; the message says what range can.
    """
    if allocation not in ALLOCATIONS:
        raise ValueError(f"`allocation` must be one of {', '.join(ALLOCATIONS)}, got {allocation!r}.")
    wanted = absolute(targets, cost)
    if not groups:
        raise ValueError("nothing can be removed from this model: every group is protected; see `pruners.groups`.")
    schedule, last = ALLOCATIONS[allocation](groups, scores, limits or Limits())
    axes = {group.name: group.axis for group in groups}

    def costs(step: int) -> dict[str, int]:
        kept = {axes[name]: axes[name].size - n for name, n in schedule(step).items()}
        return {target: cost.of(target)(kept) for target in wanted}

    def met(step: int) -> bool:
        return all(value <= wanted[target] for target, value in costs(step).items())

    if not met(last):
        reachable = ", ".join(f"{t} from {low:,} to {cost.of(t)({}):,}" for t, low in costs(last).items())
        asked = ", ".join(f"{t} {value:,.0f}" for t, value in wanted.items())
        raise ValueError(
            f"`targets` must be reachable, got {asked}; within the limits this model reaches {reachable}. Ask for more, "
            "raise `max_ratio`, or protect fewer groups."
        )
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if met(middle) else (middle + 1, high)
    return {
        group.axis: _keep_highest(scores[group.name], removed)
        for group in groups
        if (removed := schedule(low)[group.name])
    }


def absolute(targets: Mapping[str, float], cost: CostModel) -> dict[str, float]:
    """Targets as numbers of macs, parameters or bytes; fractions are of the whole model."""
    if not targets:
        raise ValueError(f"`targets` must name at least one of {', '.join(TARGETS)}, got none.")
    result: dict[str, Any] = {}
    for name, value in targets.items():
        if name not in TARGETS:
            raise ValueError(f"`targets` must be among {', '.join(TARGETS)}, got {name!r}.")
        if not value > 0:
            raise ValueError(f"`targets[{name!r}]` must be positive, got {value}; give a fraction up to 1 or a number.")
        result[name] = value * cost.of(name)({}) if value <= 1 else value
    return result


def _keep_highest(scores: torch.Tensor, removed: int) -> torch.Tensor:
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[scores.sort(stable=True).indices[:removed]] = False
    return keep
