"""Optimal allocation: how many indices each group loses so that the damage is least and every budget is met.

Damage adds up over groups: group i that loses r of its indices has damage `damages[i][r]`. Costs do not: a convolution costs
the product of what two groups keep. So the program is solved for costs along each group's own axis around a solution, exactly,
as a multiple-choice knapsack; the answer is repaired at exact costs, and the next program is solved around it, within half the
distance whenever it is no better. Where costs do add up the first answer is the optimum. Costs may be staircases, as latency is:
a repair looks beyond the next index, for the next step down.

A block that may be left out whole is an item as a group is, with a choice of 0 or 1; when it goes, so does the damage of the groups
inside it, whose indices come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pruners.allocation.costs import CostModel
from pruners.allocation.targets import COUNTED
from pruners.operators import Axis

Counts = dict[str, int]  # indices removed per group
Damage = NDArray[np.float64]  # of losing 0, 1, ... indices
CAPACITY = 16_384  # units that a budget is divided into at most
CHOICES = 128  # numbers of removed indices per group in one program at most
ROUNDS = 16
LONGEST_STRIDE = 16  # numbers of removed indices that a repair looks ahead


class Item(NamedTuple):
    """What a program decides on: how many indices of an axis go.

    Attributes:
        name: of a group or block.
        axis: what it is in the costs.
        size: number of indices; 1 of a block.
        inside: of a block, the items that go with it.
    """

    name: str
    axis: Axis
    size: int
    inside: tuple[Item, ...] = ()

    @property
    def under(self) -> Iterator[Item]:
        """All items that go with a block, at any depth."""
        for item in self.inside:
            yield item
            yield from item.under


class Choice(NamedTuple):
    """One decision of a knapsack.

    Attributes:
        costs: of its options, whole numbers from 0; of a bundle, what leaving it out costs.
        damages: of its options; of a bundle, that of leaving it out.
        bundle: the decisions that are made if it is not left out; None if it is none.
    """

    costs: NDArray[np.int64]
    damages: NDArray[np.float64]
    bundle: tuple[Choice, ...] | None = None


Picked = int | list[Any] | None
"""The option that was picked; of a bundle what was picked in it, None where it is left out."""


def multiple_choice(choices: Sequence[Choice], capacity: int) -> list[Picked] | None:
    """Decisions of least total damage and a total cost of at most `capacity`; None if there are none.

    Args:
        choices: what is decided.
        capacity: what the costs may add up to.
    """
    if capacity < 0:
        return None
    best, back = _tabled(choices, np.zeros(capacity + 1))
    return None if np.isinf(best[capacity]) else back(capacity)[0]


Table = NDArray[np.float64]  # least damage at each capacity
Back = Callable[[int], tuple[list[Any], int]]  # from a capacity: what was picked, and the capacity before


def _tabled(choices: Sequence[Choice], best: Table) -> tuple[Table, Back]:
    """Add decisions to a table, and how to read them back."""
    steps: list[Back] = []
    for choice in choices:
        best, back = _options(choice, best) if choice.bundle is None else _bundled(choice, best)
        steps.append(back)

    def read(left: int) -> tuple[list[Any], int]:
        picked: list[Any] = []
        for back in reversed(steps):
            (last,), left = back(left)
            picked.append(last)
        return picked[::-1], left

    return best, read


def _options(choice: Choice, best: Table) -> tuple[Table, Back]:
    capacity = len(best) - 1
    table, pick = np.full(capacity + 1, np.inf), np.zeros(capacity + 1, np.int32)
    for option, (c, d) in enumerate(zip(choice.costs.tolist(), choice.damages.tolist(), strict=True)):
        if c <= capacity:
            value = best[: capacity + 1 - c] + d
            better = value < table[c:]
            table[c:][better] = value[better]
            pick[c:][better] = option

    def read(left: int) -> tuple[list[Any], int]:
        option = int(pick[left])
        return [option], left - int(choice.costs[option])

    return table, read


def _bundled(choice: Choice, best: Table) -> tuple[Table, Back]:
    assert choice.bundle is not None
    kept, back = _tabled(choice.bundle, best)
    gone, leave = _options(choice, best)
    leaves_out = gone < kept

    def read(left: int) -> tuple[list[Any], int]:
        if leaves_out[left]:
            return [None], leave(left)[1]
        picked, before = back(left)
        return [picked], before

    return np.where(leaves_out, gone, kept), read


@dataclass(frozen=True)
class Program:
    """Least damage within budgets.

    Attributes:
        items: groups and blocks that may lose indices, those inside a block only there.
        damages: name to the damage of losing 0, 1, ... indices.
        levels: name to the numbers of indices it may lose, ascending.
        cost: exact costs, in which blocks are axes of size 1.
        budgets: name of a cost to what it may be.

    Reference: Shen et al., Structural pruning via latency-saliency knapsack (HALP), NeurIPS 2022.
    Differs: any costs that follow from sizes and several budgets at once, latency among them (see `OperatorLatency`), and programs
        around a solution, where a layer's cost is that of what the layers before and after it keep then.
    """

    items: Sequence[Item]
    damages: Mapping[str, Damage]
    levels: Mapping[str, Sequence[int]]
    cost: CostModel
    budgets: Mapping[str, float]
    _parts: dict[tuple[str, Axis], Callable[[Mapping[Axis, Any]], Any]] = field(default_factory=dict, init=False)

    @cached_property
    def every(self) -> list[Item]:
        """All items, those inside blocks too."""
        return [item for outer in self.items for item in (outer, *outer.under)]

    def solve(self, start: Mapping[str, int]) -> Counts:
        """Improve on a solution; the result is within the budgets, and never worse than one that is."""
        best = self._repaired(dict.fromkeys((item.name for item in self.every), 0) | dict(start))
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

    def _linear(self, around: Counts, mix: Sequence[str], reach: int) -> Counts | None:
        """Solve at costs that are exact along each item's axis; several costs weigh by their budgets."""
        around = around | {item.name: 0 for item in self.every if item.inside}  # as if no block were left out
        options = {item.name: self._near(item, around[item.name], reach) for item in self.every if not item.inside}
        curves = {item.name: self._changes(around, mix, item, options.get(item.name, [1])) for item in self.every}

        def least(item: Item) -> float:
            own = float(curves[item.name].min())
            return min(own, sum(map(least, item.inside))) if item.inside else own

        room = len(mix) - sum(self._total(around, name) / self.budgets[name] for name in mix)
        room -= sum(map(least, self.items))
        exact = len(mix) == 1 and mix[0] in COUNTED  # whole numbers, which need no finer units
        scale = self.budgets[mix[0]] if exact else CAPACITY / max(room, 1e-9)
        unit = max(1.0, room * scale / CAPACITY)

        def units(above: Any) -> NDArray[np.int64]:
            return np.ceil((np.maximum(above, 0) * scale / unit).round(6)).astype(np.int64)

        def choice(item: Item) -> Choice:
            costs = units(curves[item.name] - least(item))
            damages = self.damages[item.name][options.get(item.name, [1])]
            if not item.inside:
                return Choice(costs, damages)
            stays = Choice(units(np.array([sum(map(least, item.inside)) - least(item)])), np.zeros(1))
            return Choice(costs, damages, (*map(choice, item.inside), stays))

        picked = multiple_choice(list(map(choice, self.items)), int(np.floor(np.round(room * scale / unit, 6))))
        if picked is None:
            return None
        found = dict.fromkeys(around, 0)

        def note(items: Sequence[Item], picks: Sequence[Any]) -> None:
            for item, pick in zip(items, picks, strict=True):
                if not item.inside:
                    found[item.name] = options[item.name][pick]
                elif pick is None:
                    found[item.name] = 1
                else:
                    note(item.inside, pick[:-1])  # without that it stays

        note(self.items, picked)
        return found

    def _changes(
        self, around: Mapping[str, int], mix: Sequence[str], item: Item, choices: Sequence[int]
    ) -> NDArray[np.float64]:
        """How costs over budgets change when one item loses each number of indices instead, all else as it is."""
        kept: dict[Axis, Any] = self._kept(around)
        counts = item.size - np.asarray(choices, dtype=np.int64)
        changes = sum(np.asarray(self._change(kept, name, item, counts)) / self.budgets[name] for name in mix)
        return np.broadcast_to(np.asarray(changes, dtype=np.float64), (len(choices),))

    def _near(self, item: Item, count: int, reach: int) -> list[int]:
        """At most `CHOICES` numbers of removed indices around one, which is among them."""
        levels = self.levels[item.name]
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
            item, count = max(self._strides(removed), key=rate)
            removed = _without(removed, item, count)
        return self._filled(removed)

    def _rate(self, removed: Mapping[str, int], kept: dict[Axis, Any], name: str, step: tuple[Item, int]) -> float:
        """What a step saves for the damage it does."""
        item, count = step
        saved = -self._change(kept, name, item, item.size - count)
        added = self.damages[item.name][count] - self.damages[item.name][removed[item.name]]
        added -= sum(self.damages[other.name][removed[other.name]] for other in item.under)
        return float(saved / max(added, 1e-30))

    def _filled(self, removed: Counts) -> Counts:
        """Give back indices while every budget is met, those that repair most first."""

        def gain(step: tuple[Item, int]) -> float:
            item, count = step
            return float(self.damages[item.name][removed[item.name]] - self.damages[item.name][count])

        while True:
            kept = self._kept(removed)
            room = {name: budget - self._total(removed, name) for name, budget in self.budgets.items()}
            for item, count in sorted(self._returns(removed), key=gain, reverse=True):
                if all(self._change(kept, name, item, item.size - count) <= room[name] for name in room):
                    removed = {**removed, item.name: count}
                    break
            else:
                return removed

    def _returns(self, removed: Mapping[str, int]) -> list[tuple[Item, int]]:
        """Items with their next smaller number of removed indices, where there is one."""
        places = [(item, self.levels[item.name].index(removed[item.name])) for item in self.every]
        return [(item, self.levels[item.name][place - 1]) for item, place in places if place]

    def _strides(self, removed: Mapping[str, int]) -> list[tuple[Item, int]]:
        """Items with larger numbers of removed indices: the next one, and ones farther away by powers of two."""
        found = []
        for item in self.every:
            levels = self.levels[item.name]
            later = levels[levels.index(removed[item.name]) + 1 :][:LONGEST_STRIDE]
            found += [(item, later[2**power - 1]) for power in range(len(later).bit_length())]
        return found

    def _kept(self, removed: Mapping[str, int]) -> dict[Axis, Any]:
        return {item.axis: item.size - removed[item.name] for item in self.every}

    def _change(self, kept: dict[Axis, Any], name: str, item: Item, count: Any) -> Any:
        """How a cost changes when one item keeps `count` indices instead, a number or an array."""
        if (name, item.axis) not in self._parts:
            self._parts[name, item.axis] = self.cost.about(name, item.axis)
        part = self._parts[name, item.axis]
        return part({**kept, item.axis: count}) - part(kept)

    def _total(self, removed: Mapping[str, int], name: str) -> float:
        return self.cost.of(name)(self._kept(removed))


def _without(removed: Counts, item: Item, count: int) -> Counts:
    """What is removed once an item loses so many indices; what goes with a block comes back."""
    return removed | {item.name: count} | {other.name: 0 for other in item.under if count}
