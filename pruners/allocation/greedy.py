"""From any solution of a program to one within the budgets, a step at a time.

What a step is worth is computed anew only for items that the step before touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter

from pruners.allocation.program import Counts, Item, Program

LONGEST_STRIDE = 16  # numbers of removed indices that a step looks ahead


def within(program: Program, removed: Mapping[str, int]) -> Counts:
    """Remove greedily, by least damage per saved cost, until every budget is met; then give back what still fits.

    Args:
        program: with budgets that can be met.
        removed: where to start: name of every item to how many indices it has lost.
    """
    steps = _Steps(program, removed)
    while (over := steps.over()) is not None:
        steps.take(*steps.best(over))
    while (step := steps.returned()) is not None:
        steps.take(*step)
    return steps.removed


class _Steps:
    """A solution, and what each item's next steps are worth there."""

    def __init__(self, program: Program, removed: Mapping[str, int]) -> None:
        self.program, self.removed = program, dict(removed)
        self.kept = program.kept(removed)
        self.further: dict[str, dict[str, tuple[float, int]]] = {name: {} for name in program.budgets}
        self.back: dict[str, dict[str, float]] = {}

    def over(self) -> str | None:
        """A budget that is not met."""
        program = self.program
        return next((b for b in program.budgets if program.total(self.kept, b) > program.budgets[b]), None)

    def take(self, item: Item, count: int) -> None:
        """An item loses so many indices; what goes with a block comes back."""
        for other, lost in ((item, count), *((other, 0) for other in item.under if count)):
            self.removed[other.name], self.kept[other.axis] = lost, other.size - lost
            for touched in self.program.touched[other.name]:
                self.back.pop(touched.name, None)
                for known in self.further.values():
                    known.pop(touched.name, None)

    def best(self, budget: str) -> tuple[Item, int]:
        """The step that saves most for the damage it does."""
        known = self.further[budget]
        for item in self.program.every:
            if item.name not in known:
                rates = [(self._rate(budget, item, count), count) for count in self._strides(item)]
                known[item.name] = max(rates, key=itemgetter(0), default=(-1.0, 0))
        item = max(self.program.every, key=lambda item: known[item.name][0])
        return item, known[item.name][1]

    def returned(self) -> tuple[Item, int] | None:
        """Of the steps back that leave every budget met the one that repairs most; None if there is none."""
        program = self.program
        room = {budget: most - program.total(self.kept, budget) for budget, most in program.budgets.items()}
        steps = [(item, count) for item in program.every if (count := self._before(item)) is not None]
        for item, count in sorted(steps, key=lambda step: self._gain(*step), reverse=True):
            if item.name not in self.back:
                there = item.size - count
                self.back[item.name] = {b: float(program.change(self.kept, b, item, there)) for b in room}
            if all(self.back[item.name][budget] <= room[budget] for budget in room):
                return item, count
        return None

    def _rate(self, budget: str, item: Item, count: int) -> float:
        """What a step saves for the damage it does."""
        program = self.program
        saved = -program.change(self.kept, budget, item, item.size - count)
        added = -self._gain(item, count) - sum(program.damages[o.name][self.removed[o.name]] for o in item.under)
        return float(saved / max(added, 1e-30))

    def _gain(self, item: Item, count: int) -> float:
        damages = self.program.damages[item.name]
        return float(damages[self.removed[item.name]] - damages[count])

    def _before(self, item: Item) -> int | None:
        """The next smaller number of removed indices."""
        place = self.program.places[item.name][self.removed[item.name]]
        return self.program.levels[item.name][place - 1] if place else None

    def _strides(self, item: Item) -> Iterator[int]:
        """Larger numbers of removed indices: the next one, and ones farther away by powers of two."""
        levels = self.program.levels[item.name]
        first = self.program.places[item.name][self.removed[item.name]] + 1
        later = levels[first : first + LONGEST_STRIDE]
        return (later[2**power - 1] for power in range(len(later).bit_length()))
