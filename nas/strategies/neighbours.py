"""The architectures that differ from one in a single choice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search_spaces import Architecture, SearchSpace, Subset
from search_spaces.core import Choice, Value, composed


def neighbours(space: SearchSpace, arch: Architecture, rng: np.random.Generator) -> Iterator[Architecture]:
    """The architectures one change of one choice away, in random order, made one at a time.

    A change gives a choice any other of its values; of a subset, it swaps one item. Choices that a change brings to life are drawn
    at random, so of several such neighbours one is given. Changes that break a constraint are passed over; one architecture may
    come several times, or be `arch` itself, where descriptions have a canonical form.
    """
    changes = [(choice, value) for choice in space.choices if choice.name in arch for value in others(choice, arch)]
    for at in rng.permutation(len(changes)):
        changed, value = changes[at]

        def pick(choice: Choice, changed: Choice = changed, value: Value = value) -> Value:
            if choice is changed:
                return value
            return arch[choice.name] if choice.name in arch else drawn(choice, rng)

        try:
            found = composed(space, pick)
        except ValueError:
            continue
        yield found


def others(choice: Choice, arch: Architecture) -> list[Value]:
    """The values that one change gives a choice of an architecture."""
    now = arch[choice.name]
    if not isinstance(choice, Subset):
        return [value for value in map(choice.value, range(choice.size)) if value != now]
    assert isinstance(now, tuple)
    return [
        choice.normal([item for item in now if item != gone] + [new])
        for gone in now
        for new in choice.items
        if new not in now
    ]


def drawn(choice: Choice, rng: np.random.Generator) -> Value:
    """A value of a choice, every one equally likely."""
    return choice.value(min(int(rng.random() * choice.size), choice.size - 1))
