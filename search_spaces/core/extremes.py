"""The smallest and the largest architecture of a space, and any other by a rule.

Spaces list the values of a choice from the cheapest to the dearest wherever they have such an order: widths, depths, kernels, group
sizes; a placement of pooling is dearer the later it pools.
"""

from __future__ import annotations

from collections.abc import Callable

from search_spaces.core.architecture import Architecture
from search_spaces.core.choices import Choice, Value
from search_spaces.core.numbering import Values, exists
from search_spaces.core.space import SearchSpace


def smallest(space: SearchSpace) -> Architecture:
    """The architecture in which every choice has its first value.

    Raises:
        ValueError: it breaks a constraint of the space.
    """
    return composed(space, lambda choice: choice.value(0))


def largest(space: SearchSpace) -> Architecture:
    """The architecture in which every choice has its last value.

    Raises:
        ValueError: it breaks a constraint of the space.
    """
    return composed(space, lambda choice: choice.value(choice.size - 1))


def composed(space: SearchSpace, pick: Callable[[Choice], Value]) -> Architecture:
    """The architecture in which every choice that exists has the value that `pick` gives it.

    Raises:
        ValueError: it breaks a constraint of the space, or a value is not allowed.
    """
    return space.architecture(described(space, pick))


def described(space: SearchSpace, pick: Callable[[Choice], Value]) -> Values:
    """The value that `pick` gives to every choice that exists."""
    values: Values = {}
    for choice in space.choices:
        if exists(choice, values):
            values[choice.name] = pick(choice)
    return values
