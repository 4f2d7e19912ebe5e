"""An architecture as a row of decisions between a few branches each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from search_spaces import Architecture, Integer, SearchSpace, Subset
from search_spaces.core import Choice, Value, Values, exists

Key = tuple[str, int | str, int]
Pick = Callable[[Key, int], int]


class Step(NamedTuple):
    """A decision that was made: which, of how many branches, and the branch taken."""

    key: Key
    branches: int
    branch: int


class Decisions:
    """Makes architectures of a space by decisions, and says which decisions make an architecture.

    Choices are decided in their order, those that exist. An unordered choice is one decision. An ordered one is halved until one value
    is left, so that neighbours have decisions in common; a subset is decided item by item. What is left without an alternative is
    no decision.

    Args:
        space: of the architectures.

    Reference: Negrinho, Gordon, "DeepArchitect: Automatically Designing and Training Deep Architectures", 2017, arXiv:1704.08792, for
    the sequence of decisions and for halving.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._steps: dict[tuple[str, Value], tuple[Step, ...]] = {}

    def made(self, pick: Pick, fixed: Callable[[Choice], Value | None] = lambda choice: None) -> Architecture | None:
        """The architecture that decisions make; None where it breaks a constraint.

        Args:
            pick: gives the branch of a decision between so many.
            fixed: gives the value of a choice that is not to be decided, or None.
        """
        values: Values = {}
        for choice in self.space.choices:
            if exists(choice, values):
                known = fixed(choice)
                values[choice.name] = decide(choice, pick) if known is None else known
        if not self.space.keeps(values):
            return None
        canonical = values if self.space.canonical is None else self.space.canonical(dict(values))
        items = ((choice.name, canonical[choice.name]) for choice in self.space.choices if choice.name in canonical)
        return Architecture(self.space.name, tuple(items))

    def of(self, arch: Architecture) -> list[Step]:
        """The decisions that make an architecture, in order."""
        return [step for item in arch.items_ for step in self._of(*item)]

    def _of(self, name: str, value: Value) -> tuple[Step, ...]:
        if (name, value) not in self._steps:
            (choice,) = (choice for choice in self.space.choices if choice.name == name)
            self._steps[name, value] = tuple(_steps(choice, value))
        return self._steps[name, value]


def decide(choice: Choice, pick: Pick) -> Value:
    """The value of a choice that `pick` comes to."""
    if isinstance(choice, Subset):
        taken: list[int | str] = []
        for at, item in enumerate(choice.items):
            wanted = choice.taken - len(taken)
            if wanted and (wanted == len(choice.items) - at or pick((choice.name, item, 0), 2)):
                taken.append(item)
        return tuple(taken)
    low, high = 0, choice.size
    while high - low > 1:
        branch = pick((choice.name, low, high), 2 if isinstance(choice, Integer) else choice.size)
        middle = (low + high) // 2
        if not isinstance(choice, Integer):
            low, high = branch, branch + 1
        else:
            low, high = (middle, high) if branch else (low, middle)
    return choice.value(low)


def _steps(choice: Choice, value: Value) -> list[Step]:
    steps: list[Step] = []
    codes = choice.codes(value)

    def known(key: Key, branches: int) -> int:
        if isinstance(choice, Subset):
            branch = codes[choice.items.index(key[1])]
        elif isinstance(choice, Integer):
            assert isinstance(key[1], int)
            branch = int(codes[0] >= (key[1] + key[2]) // 2)
        else:
            branch = codes[0]
        steps.append(Step(key, branches, branch))
        return branch

    decide(choice, known)
    return steps
