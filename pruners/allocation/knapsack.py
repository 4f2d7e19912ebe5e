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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pruners.allocation.greedy import within
from pruners.allocation.program import Counts, Item, Program
from pruners.allocation.targets import COUNTED
from pruners.operators import Axis

CAPACITY = 16_384  # units that a budget is divided into at most
CHOICES = 128  # numbers of removed indices per group in one program at most
ROUNDS = 16
LARGE = 4  # blocks of a model where each is much of it: what groups keep without them is far from what they keep beside them


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


def solve(program: Program, start: Mapping[str, int]) -> Counts:
    """Improve on a solution; the result is within the budgets, and never worse than one that is.

    Args:
        program: with budgets that can be met.
        start: name of an item to how many indices it has lost; none if it is not named.

    Reference: Shen et al., Structural pruning via latency-saliency knapsack (HALP), NeurIPS 2022.
    Differs: any costs that follow from sizes and several budgets at once, latency among them (see `OperatorLatency`), and programs
        around a solution, where a layer's cost is that of what the layers before and after it keep then.
    """
    whole = dict.fromkeys((item.name for item in program.every), 0)
    starts = [whole | dict(start)]
    blocks = [item.name for item in program.every if item.inside]
    if 0 < len(blocks) <= LARGE:
        starts.append(whole | dict.fromkeys(blocks, 1))
    return min((_improved(program, within(program, each)) for each in starts), key=program.damage)


def _improved(program: Program, best: Counts) -> Counts:
    """Solve around a solution within the budgets, and around what is better, until nothing is."""
    mixtures = [[name] for name in program.budgets]
    if len(mixtures) > 1:
        mixtures.append(list(program.budgets))
    reach = max(map(len, program.levels.values()))
    for _ in range(ROUNDS):
        found = [within(program, answer) for mix in mixtures if (answer := _linear(program, best, mix, reach))]
        nearest = min(found, key=program.damage, default=best)
        if program.damage(nearest) < program.damage(best):
            best = nearest
        elif reach == 1:
            break
        else:
            reach = max(1, reach // 2)
    return best


def _linear(program: Program, around: Counts, mix: Sequence[str], reach: int) -> Counts | None:
    """Solve at costs that are exact along each item's axis; several costs weigh by their budgets."""
    around = around | {item.name: 0 for item in program.every if item.inside}  # as if no block were left out
    options = {item.name: _near(program, item, around[item.name], reach) for item in program.every if not item.inside}
    curves = {item.name: _changes(program, around, mix, item, options.get(item.name, [1])) for item in program.every}

    def least(item: Item) -> float:
        own = float(curves[item.name].min())
        return min(own, sum(map(least, item.inside))) if item.inside else own

    kept = program.kept(around)
    room = len(mix) - sum(program.total(kept, name) / program.budgets[name] for name in mix)
    room -= sum(map(least, program.items))
    exact = len(mix) == 1 and mix[0] in COUNTED  # whole numbers, which need no finer units
    scale = program.budgets[mix[0]] if exact else CAPACITY / max(room, 1e-9)
    unit = max(1.0, room * scale / CAPACITY)

    def units(above: Any) -> NDArray[np.int64]:
        return np.ceil((np.maximum(above, 0) * scale / unit).round(6)).astype(np.int64)

    def choice(item: Item) -> Choice:
        costs = units(curves[item.name] - least(item))
        damages = program.damages[item.name][options.get(item.name, [1])]
        if not item.inside:
            return Choice(costs, damages)
        stays = Choice(units(np.array([sum(map(least, item.inside)) - least(item)])), np.zeros(1))
        return Choice(costs, damages, (*map(choice, item.inside), stays))

    picked = multiple_choice(list(map(choice, program.items)), int(np.floor(np.round(room * scale / unit, 6))))
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

    note(program.items, picked)
    return found


def _changes(
    program: Program, around: Mapping[str, int], mix: Sequence[str], item: Item, choices: Sequence[int]
) -> NDArray[np.float64]:
    """How costs over budgets change when one item loses each number of indices instead, all else as it is."""
    kept: dict[Axis, Any] = program.kept(around)
    counts = item.size - np.asarray(choices, dtype=np.int64)
    changes = sum(np.asarray(program.change(kept, name, item, counts)) / program.budgets[name] for name in mix)
    return np.broadcast_to(np.asarray(changes, dtype=np.float64), (len(choices),))


def _near(program: Program, item: Item, count: int, reach: int) -> list[int]:
    """At most `CHOICES` numbers of removed indices around one, which is among them."""
    levels = program.levels[item.name]
    place = program.places[item.name][count]
    window = list(levels[max(0, place - reach) : place + reach + 1])
    if len(window) <= CHOICES:
        return window
    spread = {window[i] for i in np.linspace(0, len(window) - 1, CHOICES - 1).round().astype(int)}
    return sorted(spread | {count})
