"""How many indices each group loses, so that every target is met and none is overshot by more than a step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BeforeValidator

from pruners.allocation.costs import CostModel
from pruners.allocation.knapsack import solve
from pruners.allocation.program import Damage, Item, Program
from pruners.allocation.targets import LATENCY, Estimator
from pruners.errors import whole_number
from pruners.groups import Group, curve, keep_highest
from pruners.importance import AUTO, check_one_of
from pruners.operators import Axis
from pruners.surgery import Block, around, inside
from pruners.tracing import Trace
from search_spaces.core import Part, setting

Schedule = Callable[[int], dict[str, int]]  # step 0..last -> indices removed per group


def _fraction(ratio: Any) -> Any:
    if not isinstance(ratio, Real) or not 0 < float(ratio) <= 1:
        raise ValueError(f"`max_ratio` must be a fraction in (0, 1], got {ratio!r}.")
    return ratio


def multiple(given: Any) -> Any:
    """A setting: a whole number of at least 1, perhaps as text, or "auto"."""
    if given == "auto":
        return given
    number = int(given) if isinstance(given, str) and given.isdecimal() else given
    return whole_number("round_to", number, "; or auto")


class Limits(Part):
    """What may not be crossed, in every group."""

    round_to: Annotated[int | Literal["auto"], BeforeValidator(multiple)] = setting(
        "auto",
        help="Kept indices are a multiple of this, in groups of at least that size. auto: where milliseconds of this machine are a "
        "target or are shown (`milliseconds`), the multiple that it computes channels in, as it is measured in PyTorch and ONNX "
        "Runtime; less in groups of less than four times that, and for indices that stand for several channels; elsewhere 1.",
    )
    min_kept: Annotated[
        int, BeforeValidator(lambda value: whole_number("min_kept", value, "; a layer of no channels cuts the graph"))
    ] = setting(1, help="Fewest indices that stay in a group.")
    max_ratio: Annotated[float, BeforeValidator(_fraction)] = setting(
        0.9, help="Largest fraction of its indices that a group loses, up to 1."
    )

    def step(self, group: Group) -> int:
        """What kept indices of a group are a multiple of; "auto" is 1 until `pruners.allocation.aligned` has measured it."""
        return self.round_to if self.round_to != "auto" and group.size >= self.round_to else 1

    def levels(self, group: Group, least: int = 0) -> list[int]:
        """The numbers of indices that a group may lose, from `least`, ascending."""
        return sorted({removed for n in range(group.size + 1) if (removed := self.removed(group, n)) >= least})

    def removed(self, group: Group, wanted: int) -> int:
        """The largest allowed number of removed indices that is at most `wanted`."""
        step = self.step(group)
        fewest = max(self.min_kept, group.size - int(self.max_ratio * group.size + 1e-9))
        kept = max(group.size - wanted, min(fewest, group.size))
        kept = -(-kept // step) * step
        return max(group.size - kept, 0)


def uniform(groups: Sequence[Group], scores: Mapping[str, torch.Tensor], limits: Limits) -> tuple[Schedule, int]:
    """The same pruning ratio in every group; step s is the ratio s/last.

    Groups of one size lose an index together, so that equal layers stay equal, as one number in a configuration asks.
    Where many groups have one size, the costs fall in large steps, and a target may be overshot.
    """
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
    Differs: groups are of one kind if the same operators read the same parameters of theirs along the same dimensions, in
    whatever order.
    """
    kinds: dict[tuple[tuple[tuple[str, ...], str, int], ...], list[Group]] = {}
    for group in groups:
        kind = tuple(sorted((m.readers, m.tensor.rsplit(".", 1)[-1], m.dim) for m in group.members))
        kinds.setdefault(kind, []).append(group)
    rankings = [global_ranking(alike, scores, limits) for alike in kinds.values()]
    last = 4 * max(n for _, n in rankings)

    def schedule(step: int) -> dict[str, int]:
        return {name: n for ranking, size in rankings for name, n in ranking(step * size // last).items()}

    return schedule, last


def one_by_one(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups take their turn in their order."""
    return [[group] for group in groups]


def by_size(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups of one size take their turn at once, the largest first."""
    sizes = sorted({group.size for group in groups}, reverse=True)
    return [[group for group in groups if group.size == size] for size in sizes]


class AllocationEntry(NamedTuple):
    """One allocation.

    Attributes:
        help: how many indices go where.
        schedule: from groups, scores and limits: what each step removes, and the last step.
        turns: of the groups in the last step that is taken, of which only as much as is needed.
        knapsack: what the schedule finds is the start of an exact search for the least damage within the budgets.
        measured: that damage is measured on data; else it is the importance that goes.
    """

    help: str
    schedule: Callable[[Sequence[Group], Mapping[str, torch.Tensor], Limits], tuple[Schedule, int]] = global_ranking
    turns: Callable[[Sequence[Group]], list[list[Group]]] = one_by_one
    knapsack: bool = False
    measured: bool = False

    @property
    def needs(self) -> str:
        """The data that it passes over: none, or inputs."""
        return "inputs" if self.measured else ""


ALLOCATIONS: dict[str, AllocationEntry] = {
    "uniform": AllocationEntry(
        "the same ratio in every group; groups of one size lose an index together, so that layers that are alike stay alike",
        uniform, by_size,
    ),
    "global": AllocationEntry("the lowest scores of all groups", global_ranking),
    "isomorphic": AllocationEntry(
        "the lowest scores among groups of one kind (the same parameters of the same operators), the same ratio of each kind, to an "
        "index", isomorphic,
    ),
    "optimal": AllocationEntry(
        "the most importance that can stay within the budget: a knapsack at exact costs", knapsack=True
    ),
    "distortion": AllocationEntry(
        "the least change of the outputs, measured for each group alone, its readers making up for the loss",
        knapsack=True, measured=True,
    ),
}  # fmt: skip


class Priced(NamedTuple):
    """A block that may be left out: its axis in the costs, of size 1, and the damage of that."""

    block: Block
    axis: Axis
    damage: float


class Allocation(NamedTuple):
    """What goes.

    Attributes:
        keep: elementary axis to booleans in the shape of its scores, True for what stays; groups that lose nothing are left out.
        left_out: blocks that go as a whole.
    """

    keep: dict[Axis, torch.Tensor]
    left_out: tuple[Block, ...]


def allocate(
    groups: Sequence[Group],
    scores: Mapping[str, torch.Tensor],
    cost: CostModel,
    budgets: Mapping[str, float],
    allocation: str,
    limits: Limits | None = None,
    damages: Mapping[str, Damage] | None = None,
    gone: Mapping[str, int] | None = None,
    blocks: Sequence[Priced] = (),
) -> Allocation:
    """Remove as few indices as meet every budget.

    Args:
        groups: groups that may lose indices.
        scores: group name to one score per index, of a ragged group to a row of them per index of its host; the lowest go first,
            of each row as many. Indices that have gone before score minus infinity.
        cost: cost model of the traced model.
        budgets: "macs", "params", "weight_bytes" or a cost that is predicted to the number that may remain.
        allocation: "uniform", "global", "isomorphic", "optimal" (the most importance that stays) or "distortion" (the least
            damage, see `pruners.importance.distortion`).
        limits: alignment and bounds per group.
        damages: group name to the damage of losing 0, 1, ... indices; for "distortion".
        gone: group name to how many indices have gone before; none if not given.
        blocks: blocks that may be left out, for allocations that are a knapsack.

    Raises:
        ValueError: if a budget cannot be met; the message says what range can.
    """
    check_one_of("allocation", allocation, ALLOCATIONS)
    limits, gone = limits or Limits(), gone or {}
    cost = cost.with_blocks({priced.axis: priced.block for priced in blocks}) if blocks else cost
    check_reachable(groups, cost, budgets, limits, [priced.axis for priced in blocks])
    curves = {group.name: curve(scores[group.name]) for group in groups}
    entry = ALLOCATIONS[allocation]
    removed = _by_schedule(entry, groups, curves, cost, budgets, limits)
    removed = {name: max(count, gone.get(name, 0)) for name, count in removed.items()}
    if entry.knapsack:
        if damages is None:
            damages = {group.name: importance_lost(curves[group.name]) for group in groups}
        levels = {group.name: limits.levels(group, gone.get(group.name, 0)) for group in groups}
        prices = {priced.block.name: np.array([0.0, priced.damage]) for priced in blocks}
        choices: dict[str, Sequence[int]] = {**levels, **{name: [0, 1] for name in prices}}
        program = Program(_items(groups, blocks), {**damages, **prices}, choices, cost, budgets)
        removed = solve(program, removed)
    return Allocation(
        {group.axis: keep_highest(scores[group.name], removed[group.name]) for group in groups if removed[group.name]},
        tuple(priced.block for priced in blocks if removed[priced.block.name]),
    )


def _items(groups: Sequence[Group], blocks: Sequence[Priced], part_of: Block | None = None) -> tuple[Item, ...]:
    """Groups and blocks, those that go with a block inside it."""
    every = [priced.block for priced in blocks]
    own = [Item(group.name, group.axis, group.size) for group in groups if inside(group, every) is part_of]
    return (
        *own,
        *(
            Item(priced.block.name, priced.axis, 1, _items(groups, blocks, priced.block))
            for priced in blocks
            if around(priced.block, every) is part_of
        ),
    )


def check_data(allocation: str, has_batches: bool) -> None:
    """Refuse an allocation over data where there are none."""
    if allocation != AUTO and ALLOCATIONS[allocation].needs and not has_batches:
        without = ", ".join(name for name, entry in ALLOCATIONS.items() if not entry.needs)
        raise ValueError(
            f"`allocation={allocation!r}` needs `batches`, an iterable of (inputs, targets) or of inputs; without data take one of "
            f"{without}."
        )


def predicts_latency(
    targets: Mapping[str, float | str], estimators: Mapping[str, Estimator], allocation: str, trace: Trace
) -> bool:
    """Whether a budget is one of predicted milliseconds: for latency in PyTorch, where the allocation minds what groups cost.

    Models that choose rows by their values are left to macs: how many rows an operator gets is not known by itself.
    """
    return ALLOCATIONS[allocation].knapsack and LATENCY in targets and LATENCY not in estimators and not trace.choosing


def importance_lost(scores: torch.Tensor) -> Damage:
    """Sum of the lowest 0, 1, ... scores; shape (n + 1,)."""
    lowest = scores.double().sort().values
    lowest[lowest.isneginf()] = 0  # gone before
    return torch.cat([lowest.new_zeros(1), lowest.cumsum(0)]).cpu().numpy()


def _by_schedule(
    entry: AllocationEntry,
    groups: Sequence[Group],
    scores: Mapping[str, torch.Tensor],
    cost: CostModel,
    budgets: Mapping[str, float],
    limits: Limits,
) -> dict[str, int]:
    """The first step of a schedule that meets the budgets, of which only the needed part is taken."""
    schedule, last = entry.schedule(groups, scores, limits)
    step = bisect_left(range(last), True, key=lambda step: meets(groups, cost, budgets, schedule(step)))
    before, after = schedule(max(step - 1, 0)), schedule(step)
    turns = entry.turns(groups)

    def partly(count: int) -> dict[str, int]:
        return before | {group.name: after[group.name] for turn in turns[:count] for group in turn}

    return partly(bisect_left(range(len(turns)), True, key=lambda count: meets(groups, cost, budgets, partly(count))))


def fewest_kept(groups: Sequence[Group], limits: Limits) -> dict[Axis, int]:
    """How many indices stay at least of each group's axis."""
    return {group.axis: group.size - limits.removed(group, group.size) for group in groups}


def check_reachable(
    groups: Sequence[Group],
    cost: CostModel,
    budgets: Mapping[str, float],
    limits: Limits,
    blocks: Collection[Axis] = (),
    spared: Collection[Axis] | None = None,
) -> dict[str, float]:
    """The least that each cost can come to, with blocks left out where there are some, if it is within the budgets.

    Args:
        groups: groups that may lose indices.
        cost: the cost model; it knows the blocks.
        budgets: cost to what may remain.
        limits: how much a group may lose.
        blocks: axes of blocks that may be left out.
        spared: axes of blocks that could be left out with `depth`; None if that is not known.

    Raises:
        ValueError: if a budget is below the least; the message says what range can be reached.
    """
    fewest = {**fewest_kept(groups, limits), **dict.fromkeys(blocks, 0)}
    least = {name: cost.of(name)(fewest) for name in cost.names}
    if any(least[name] > budget for name, budget in budgets.items()):
        reachable = ", ".join(f"{name} from {least[name]:,} to {cost.of(name)({}):,}" for name in budgets)
        asked = ", ".join(f"{name} {budget:,.0f}" for name, budget in budgets.items())
        way_out = "Ask for more, raise `max_ratio`, protect fewer groups"
        if spared:
            without = {name: cost.of(name)({**fewest, **dict.fromkeys(spared, 0)}) for name in budgets}
            reached = ", ".join(f"{name} from {value:,}" for name, value in without.items())
            if all(without[name] <= budget for name, budget in budgets.items()):
                way_out += f", or set `depth=True`, which lets blocks go and reaches {reached}"
            else:
                way_out += f"; `depth=True`, which lets blocks go, reaches {reached}"
        elif spared is None and not blocks:
            way_out += ", or let blocks be left out with `depth`"
        raise ValueError(
            f"`targets` must be reachable, got {asked}; within the limits this model reaches {reachable}. {way_out}."
        )
    return {name: float(value) for name, value in least.items()}


def meets(groups: Sequence[Group], cost: CostModel, budgets: Mapping[str, float], removed: Mapping[str, int]) -> bool:
    """Whether a model that lost so many indices of each group is within every budget."""
    kept = {group.axis: group.size - removed[group.name] for group in groups}
    return all(cost.of(name)(kept) <= budget for name, budget in budgets.items())
