"""A search space as optimisers of other libraries see it: parameters that each take one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from search_spaces import Architecture, Choice, Integer, SearchSpace, Subset
from search_spaces.core import Value, Values, exists

TAKEN, LEFT = 0.75, 0.25
"""The keys of an item of a subset that is taken, and of one that is left out."""


class Parameter(NamedTuple):
    """A parameter.

    Attributes:
        name: in the whole space.
        values: what it takes; none for a key, which is any number from 0 to 1.
        ordered: whether the values are positions from 0 up, neighbours of which are alike.
    """

    name: str
    values: tuple[Value, ...] = ()
    ordered: bool = False


Answer = Callable[[Parameter], object]


class Parameters:
    """The parameters of a space.

    Integers are positions in their values, so that steps of any size are neighbours. A subset is a key for each item: the largest
    keys are taken, and of equal ones the earlier, so that any keys say a subset. Everything else takes its values as they are.

    Args:
        space: the space.
        flat: for optimisers that know no conditions, all parameters are always there, and those of choices that do not exist
            say nothing.
        keyed: for optimisers that know only numbers, a choice without order is a subset of one value.

    Reference: Bean, "Genetic Algorithms and Random Keys for Sequencing and Optimization", ORSA Journal on Computing 6(2), 1994.
    """

    def __init__(self, space: SearchSpace, *, flat: bool = False, keyed: bool = False) -> None:
        self.space, self.flat = space, flat
        self._of = {choice.name: _parameters(choice, keyed) for choice in space.choices}

    @property
    def all(self) -> tuple[Parameter, ...]:
        """In the order of the choices."""
        return tuple(parameter for own in self._of.values() for parameter in own)

    @cached_property
    def names(self) -> frozenset[str]:
        """Of choices and of parameters."""
        return frozenset(self._of) | {parameter.name for parameter in self.all}

    def read(self, answer: Answer) -> Values:
        """A value for each choice that exists, allowed by it, from what is answered for its parameters, which are asked in order.

        Constraints are not checked, nor is the canonical form.
        """
        values: Values = {}
        for choice in self.space.choices:
            there = exists(choice, values)
            if there or self.flat:
                given = [answer(parameter) for parameter in self._of[choice.name]]
                if there:
                    values[choice.name] = self._value(choice, given)
        return values

    def found(self, given: Mapping[str, object]) -> Values | None:
        """What values by name say, where each choice that exists stands by its own name or by its parameters; None where one does not.

        Raises:
            ValueError: a value that its choice does not have.
        """
        values: Values = {}
        for choice in self.space.choices:
            if exists(choice, values):
                own = self._of[choice.name]
                if choice.name in given:
                    values[choice.name] = choice.normal(given[choice.name])
                elif all(parameter.name in given for parameter in own):
                    values[choice.name] = self._value(choice, [given[parameter.name] for parameter in own])
                else:
                    return None
        return values

    def written(self, arch: Architecture) -> dict[str, object]:
        """The parameters by name that say `arch`; where `flat`, choices that do not exist have their first value."""
        return {
            parameter.name: code
            for choice in self.space.choices
            if choice.name in arch or self.flat
            for parameter, code in zip(
                self._of[choice.name],
                self._codes(choice, arch.get(choice.name, choice.value(0))),
                strict=True,
            )
        }

    def _value(self, choice: Choice, given: Sequence[object]) -> Value:
        own = self._of[choice.name]
        if own and own[0].values:
            return choice.value(own[0].values.index(given[0]))
        order = sorted(range(len(own)), key=lambda at: -float(given[at]))  # type: ignore[arg-type]
        if isinstance(choice, Subset):
            return choice.normal([choice.items[at] for at in order[: choice.taken]])
        return choice.value(order[0])

    def _codes(self, choice: Choice, value: Value) -> list[object]:
        own = self._of[choice.name]
        if own and own[0].values:
            return [choice.codes(value)[0] if own[0].ordered else value]
        if isinstance(choice, Subset):
            return [TAKEN if code else LEFT for code in choice.codes(value)]
        return [TAKEN if at == choice.codes(value)[0] else LEFT for at in range(len(own))]


def _parameters(choice: Choice, keyed: bool) -> tuple[Parameter, ...]:
    if isinstance(choice, Integer):
        return (Parameter(f"{choice.name} (position)", tuple(range(choice.size)), ordered=True),)
    if isinstance(choice, Subset):
        return tuple(Parameter(f"{choice.name}[{item!r}]") for item in choice.items)
    values = tuple(choice.value(at) for at in range(choice.size))
    if keyed and len(values) > 1:
        return tuple(Parameter(f"{choice.name}[{value!r}]") for value in values)
    return (Parameter(choice.name, values),)
