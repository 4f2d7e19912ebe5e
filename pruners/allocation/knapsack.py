"""Optimal allocation: how many indices each group loses so that the damage is least and every budget is met.

Damage adds up over groups: group i that loses r of its indices has damage `damages[i][r]`. Costs do not: a convolution costs
the product of what two groups keep. So the program is solved for costs along each group's own axis around a solution, exactly,
as a multiple-choice knapsack; the answer is repaired at exact costs, and the next program is solved around it, within half the
distance whenever it is no better. Where costs do add up the first answer is the optimum. Costs may be staircases, as latency is:
a repair looks beyond the next index, for the next step down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruners.allocation.costs import CostModel
from pruners.allocation.targets import COUNTED
from pruners.groups import Group
from pruners.operators import Axis

Counts = dict[str, int]  # indices removed per group
Damage = NDArray[np.float64]  # of losing 0, 1, ... indices
CAPACITY = 16_384  # units that a budget is divided into at most
CHOICES = 128  # numbers of removed indices per group in one program at most
ROUNDS = 16
LONGEST_STRIDE = 16  # numbers of removed indices that a repair looks ahead


def multiple_choice(
    costs: Sequence[NDArray[np.int64]], damages: Sequence[NDArray[np.float64]], capacity: int
) -> list[int] | None:
    """One choice per item, of least total damage and a total cost of at most `capacity`; None if there is none.

    Args:
        costs: per item, the cost of each of its choices: whole numbers from 0.
        damages: per item, the damage of each choice.
        capacity: what the costs may add up to.
    """
    if capacity < 0:
        return None
    best = np.zeros(capacity + 1)  # least damage of the items so far, at each capacity
    picks = []
    for cost, damage in zip(costs, damages, strict=True):
        table, pick = np.full(capacity + 1, np.inf), np.zeros(capacity + 1, np.int32)
        for choice, (c, d) in enumerate(zip(cost.tolist(), damage.tolist(), strict=True)):
            if c <= capacity:
                value = best[: capacity + 1 - c] + d
                better = value < table[c:]
                table[c:][better] = value[better]
                pick[c:][better] = choice
        best = table
        picks.append(pick)
    if np.isinf(best[capacity]):
        return None
    result = []
    left = capacity
    for pick, cost in zip(reversed(picks), reversed(costs), strict=True):
        result.append(int(pick[left]))
        left -= int(cost[result[-1]])
    return result[::-1]


@dataclass(frozen=True)
class Program:
    """Least damage within budgets.

    Attributes:
        groups: groups that may lose indices.
        damages: group name to the damage of losing 0, 1, ... indices.
        levels: group name to the numbers of indices it may lose, ascending.
        cost: exact costs.
        budgets: name of a cost to what it may be.

    Reference: Shen et al., Structural pruning via latency-saliency knapsack (HALP), NeurIPS 2022.
    Differs: any costs that follow from sizes and several budgets at once, latency among them (see `OperatorLatency`), and programs
        around a solution, where a layer's cost is that of what the layers before and after it keep then.
    """

    groups: Sequence[Group]
    damages: Mapping[str, Damage]
    levels: Mapping[str, Sequence[int]]
    cost: CostModel
    budgets: Mapping[str, float]
    _parts: dict[tuple[str, Axis], Callable[[Mapping[Axis, Any]], Any]] = field(default_factory=dict, init=False)

    def solve(self, start: Mapping[str, int]) -> Counts:
        """Improve on a solution that is within the budgets; the result is never worse."""
        best = self._filled(dict(start))
        mixtures = [[name] for name in self.budgets]
        if len(mixtures) > 1:
            mixtures.append(list(self.budgets))
        reach = max(map(len, self.levels.values()))
        for _ in range(ROUNDS):
            found = [self._repaired(answer) for mix in mixtures if (answer := self._linear(best, mix, reach))]
            nearest = min(found, key=self.damage, default=best)
            if self.damage(nearest) < self.damage(best):
                best = nearest
            elif reach == 1:
                break
            else:
                reach = max(1, reach // 2)
        return best

    def damage(self, removed: Mapping[str, int]) -> float:
        """Total damage."""
        return float(sum(self.damages[name][count] for name, count in removed.items()))

    def _linear(self, around: Mapping[str, int], mix: Sequence[str], reach: int) -> Counts | None:
        """Solve at costs that are exact along each group's axis; several costs weigh by their budgets."""
        choices = [self._near(group, around[group.name], reach) for group in self.groups]
        curves = [
            self._changes(around, mix, group, options) for group, options in zip(self.groups, choices, strict=True)
        ]
        least = [curve.min() for curve in curves]
        room = len(mix) - sum(self._total(around, name) / self.budgets[name] for name in mix) - sum(least)
        exact = len(mix) == 1 and mix[0] in COUNTED  # whole numbers, which need no finer units
        scale = self.budgets[mix[0]] if exact else CAPACITY / max(room, 1e-9)
        unit = max(1.0, room * scale / CAPACITY)
        costs = [
            np.ceil(((curve - low) * scale / unit).round(6)).astype(np.int64)
            for curve, low in zip(curves, least, strict=True)
        ]
        damages = [self.damages[group.name][options] for group, options in zip(self.groups, choices, strict=True)]
        picked = multiple_choice(costs, damages, int(np.floor(np.round(room * scale / unit, 6))))
        if picked is None:
            return None
        return {g.name: options[pick] for g, options, pick in zip(self.groups, choices, picked, strict=True)}

    def _changes(
        self, around: Mapping[str, int], mix: Sequence[str], group: Group, choices: Sequence[int]
    ) -> NDArray[np.float64]:
        """How costs over budgets change when one group loses each number of indices instead, all else as it is."""
        kept: dict[Axis, Any] = self._kept(around)
        counts = group.size - np.asarray(choices, dtype=np.int64)
        changes = sum(np.asarray(self._change(kept, name, group, counts)) / self.budgets[name] for name in mix)
        return np.broadcast_to(np.asarray(changes, dtype=np.float64), (len(choices),))

    def _near(self, group: Group, count: int, reach: int) -> list[int]:
        """At most `CHOICES` numbers of removed indices around one, which is among them."""
        levels = self.levels[group.name]
        place = levels.index(count)
        window = list(levels[max(0, place - reach) : place + reach + 1])
        if len(window) <= CHOICES:
            return window
        spread = {window[i] for i in np.linspace(0, len(window) - 1, CHOICES - 1).round().astype(int)}
        return sorted(spread | {count})

    def _repaired(self, removed: Counts) -> Counts:
        """Remove greedily, by least damage per saved cost, until every budget is met; then give back what still fits."""
        while over := next((name for name in self.budgets if self._total(removed, name) > self.budgets[name]), None):
            rate = partial(self._rate, removed, self._kept(removed), over)
            group, count = max(self._strides(removed), key=rate)
            removed = {**removed, group.name: count}
        return self._filled(removed)

    def _rate(self, removed: Mapping[str, int], kept: dict[Axis, Any], name: str, step: tuple[Group, int]) -> float:
        """What a step saves for the damage it does."""
        group, count = step
        saved = -self._change(kept, name, group, group.size - count)
        return float(
            saved / max(self.damages[group.name][count] - self.damages[group.name][removed[group.name]], 1e-30)
        )

    def _filled(self, removed: Counts) -> Counts:
        """Give back indices while every budget is met, those that repair most first."""

        def gain(step: tuple[Group, int]) -> float:
            group, count = step
            return float(self.damages[group.name][removed[group.name]] - self.damages[group.name][count])

        while True:
            kept = self._kept(removed)
            room = {name: budget - self._total(removed, name) for name, budget in self.budgets.items()}
            for group, count in sorted(self._returns(removed), key=gain, reverse=True):
                if all(self._change(kept, name, group, group.size - count) <= room[name] for name in room):
                    removed = {**removed, group.name: count}
                    break
            else:
                return removed

    def _returns(self, removed: Mapping[str, int]) -> list[tuple[Group, int]]:
        """Groups with their next smaller number of removed indices, where there is one."""
        places = [(group, self.levels[group.name].index(removed[group.name])) for group in self.groups]
        return [(group, self.levels[group.name][place - 1]) for group, place in places if place]

    def _strides(self, removed: Mapping[str, int]) -> list[tuple[Group, int]]:
        """Groups with larger numbers of removed indices: the next one, and ones farther away by powers of two."""
        found = []
        for group in self.groups:
            levels = self.levels[group.name]
            later = levels[levels.index(removed[group.name]) + 1 :][:LONGEST_STRIDE]
            found += [(group, later[2**power - 1]) for power in range(len(later).bit_length())]
        return found

    def _kept(self, removed: Mapping[str, int]) -> dict[Axis, Any]:
        return {group.axis: group.size - removed[group.name] for group in self.groups}

    def _change(self, kept: dict[Axis, Any], name: str, group: Group, count: Any) -> Any:
        """How a cost changes when one group keeps `count` indices instead, a number or an array."""
        if (name, group.axis) not in self._parts:
            self._parts[name, group.axis] = self.cost.about(name, group.axis)
        part = self._parts[name, group.axis]
        return part({**kept, group.axis: count}) - part(kept)

    def _total(self, removed: Mapping[str, int], name: str) -> float:
        return self.cost.of(name)(self._kept(removed))
