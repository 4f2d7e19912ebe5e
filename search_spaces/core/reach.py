"""The way into the part of a space that keeps its limits, where too few descriptions keep them to be drawn.

From what breaks a limit, a walk leads to what keeps it best, one choice after another in random order, and stops where the limits are
kept. Where that is on the walk is found by halving it, so a walk along n choices asks log2(n) times. Random moves that keep the limits
follow, as walks end close to the limits, and more often on some descriptions than on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from search_spaces.core.choices import Choice, Value
from search_spaces.core.numbering import Values, below, exists

T = TypeVar("T")
TRIED = 16
"""Values of a choice that are looked at on the way down, spread evenly."""
DESCENTS = 4
MOST_ASKED, MOST_ASKED_DEAR = 20_000, 64
"""Descriptions that are asked about in all descents."""
DRAWN, DRAWN_DEAR = 256, 8
"""Descriptions that are drawn to see how many keep the limits."""
FEWEST, FEWEST_DEAR = 6, 2
"""Of them that must, so that drawing until one does takes no longer than walking."""
MOVES_DEAR = 2


@dataclass(frozen=True)
class Constraint:
    """A rule that every architecture keeps.

    Attributes:
        rule: the sentence shown to a user who breaks it.
        holds: whether a description keeps it.
        beyond: for a rule that can be broken by little or by much, as a limit of costs is: by how much it is broken, 0 where it is
            kept. Architectures are led down to what keeps such a limit, however few do; of other rules, and where this is None,
            architectures that break them are drawn again.
        dear: whether asking takes long, as a measurement does.
    """

    rule: str
    holds: Callable[[Mapping[str, Value]], bool]
    beyond: Callable[[Mapping[str, Value]], float] | None = None
    dear: bool = False


def first_kept(path: Sequence[T], keeps: Callable[[T], bool]) -> T:
    """Of a path whose last member keeps a rule, the first if that keeps it, else one that does behind one that does not.

    It is found by halving, so about log2 of the members are asked about.
    """
    if keeps(path[0]):
        return path[0]
    breaks, kept = 0, len(path) - 1
    while kept - breaks > 1:
        middle = (breaks + kept) // 2
        if keeps(path[middle]):
            kept = middle
        else:
            breaks = middle
    return path[kept]


class Reach:
    """The part of a space that keeps its limits.

    Args:
        choices: of the space.
        limits: constraints that say how far a description is `beyond` them.
        others: whether a description keeps all other rules.
        drawn: random descriptions that do, without end.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        limits: Sequence[Constraint],
        others: Callable[[Values], bool],
        drawn: Callable[[np.random.Generator], Iterator[Values]],
    ) -> None:
        self.choices, self.limits, self.others, self.drawn = choices, limits, others, drawn
        self.dear = any(limit.dear for limit in limits)

    def keeps(self, values: Values) -> bool:
        """Whether a description keeps all rules."""
        return self.others(values) and all(limit.holds(values) for limit in self.limits)

    @cached_property
    def often(self) -> bool:
        """Whether so many descriptions keep the limits that drawing until one does takes no longer than walking."""
        drawn, fewest = (DRAWN_DEAR, FEWEST_DEAR) if self.dear else (DRAWN, FEWEST)
        some = self.drawn(np.random.default_rng(0))
        return sum(self.keeps(next(some)) for _ in range(drawn)) >= fewest

    @cached_property
    def nearest(self) -> Values:
        """The description that was found to keep the limits best: the first that keeps them, if one was found.

        It is sought by changing one choice at a time as long as that leads nearer, from the first values of all choices, then from
        random descriptions. The same one comes every time.
        """
        left = MOST_ASKED_DEAR if self.dear else MOST_ASKED
        best: tuple[float, Values] | None = None
        for start in self._starts():
            found, left = self._descended(start, left)
            if best is None or found[0] < best[0]:
                best = found
            if best[0] == 0 or left <= 0:
                break
        assert best is not None
        return best[1]

    def sample(self, rng: np.random.Generator) -> Values | None:
        """A random description that keeps all rules; None if none was found.

        All that can be reached by its moves can come, but not equally often.
        """
        if not self.keeps(self.nearest):
            return None
        start = next(self.drawn(rng))
        return start if self.keeps(start) else self._moved(self.towards(start, self.nearest, rng), rng)

    def towards(self, far: Values, near: Values, rng: np.random.Generator) -> Values:
        """What keeps all rules on a random walk from one description to another that keeps them."""
        names = [choice.name for choice in self.choices if far.get(choice.name) != near.get(choice.name)]
        order = [names[at] for at in rng.permutation(len(names))]
        steps = first_kept(range(len(order) + 1), lambda taken: self.keeps(self._mixed(far, near, order[:taken])))
        return self._mixed(far, near, order[:steps])

    def _moved(self, values: Values, rng: np.random.Generator) -> Values:
        """A description behind random moves of one choice each, those that keep all rules."""
        for _ in range(MOVES_DEAR if self.dear else len(self.choices)):
            free = [choice for choice in self.choices if choice.name in values and choice.size > 1]
            if not free:
                break
            choice = free[rng.integers(len(free))]
            moved = settled(
                self.choices,
                {**values, choice.name: choice.value(below(choice.size, rng))},
                lambda new: new.value(below(new.size, rng)),
            )
            if self.keeps(moved):
                values = moved
        return values

    def _mixed(self, far: Values, near: Values, taken: Sequence[str]) -> Values:
        """A description with the `taken` choices of `near` and the others of `far`, where each has them."""
        first = {**near, **{name: value for name, value in far.items() if name not in taken}}
        return settled(self.choices, first, lambda choice: choice.value(0))

    def _starts(self) -> Iterator[Values]:
        first = settled(self.choices, {}, lambda choice: choice.value(0))
        if self.others(first):
            yield first
        drawn = self.drawn(np.random.default_rng(0))
        for _ in range(DESCENTS):
            yield next(drawn)

    def _descended(self, here: Values, left: int) -> tuple[tuple[float, Values], int]:
        """Where changes of one choice lead that bring it nearer, and how far beyond the limits that is; `left` may be asked about."""
        distance, nearer = self._beyond(here), True
        while nearer and distance > 0:
            nearer = False
            for choice in self.choices:
                for values in self._changed(here, choice):
                    if distance == 0 or left <= 0:
                        return (distance, here), left
                    left -= 1
                    if (found := self._beyond(values)) < distance:
                        distance, here, nearer = found, values, True
        return (distance, here), left

    def _changed(self, values: Values, choice: Choice) -> Iterator[Values]:
        """Descriptions with another value of a choice, which keep the other rules; none where it does not exist."""
        if choice.name not in values:
            return
        for at in dict.fromkeys(np.linspace(0, choice.size - 1, min(choice.size, TRIED)).round().astype(int).tolist()):
            if choice.value(at) != values[choice.name]:
                changed = settled(self.choices, {**values, choice.name: choice.value(at)}, lambda new: new.value(0))
                if self.others(changed):
                    yield changed

    def _beyond(self, values: Values) -> float:
        return math.fsum(limit.beyond(values) for limit in self.limits if limit.beyond is not None)


def settled(choices: Sequence[Choice], values: Mapping[str, Value], new: Callable[[Choice], Value]) -> Values:
    """A description with these values: without choices that do not exist, and with those that do and are missing as `new` says."""
    found: Values = {}
    for choice in choices:
        if exists(choice, found):
            found[choice.name] = values[choice.name] if choice.name in values else new(choice)
    return found
