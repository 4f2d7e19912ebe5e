"""A sample in which every value of every choice comes about as often as the others."""

from __future__ import annotations

import numpy as np

from nas.strategies.neighbours import drawn
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Choice, Value, composed

LONGEST = 1_000


class Balanced:
    """Deals the values of each choice from a shuffled deck of its own, which is shuffled anew when it is used up.

    So the values of a choice differ by one in how often they come, where conditions and constraints leave it so: a Latin hypercube
    without an end. Choices of more than 1,000 values are drawn.

    Args:
        space: what to sample from.
        rng: the strategy's own generator.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self._decks: dict[str, list[int]] = {}

    def draw(self) -> Architecture | None:
        """The next architecture, which may have come before; None if it breaks a constraint."""
        try:
            return composed(self._space, self._deal)
        except ValueError:
            return None

    def _deal(self, choice: Choice) -> Value:
        if choice.size > LONGEST:
            return drawn(choice, self._rng)
        deck = self._decks.setdefault(choice.name, [])
        if not deck:
            deck += self._rng.permutation(choice.size).tolist()
        return choice.value(deck.pop())
