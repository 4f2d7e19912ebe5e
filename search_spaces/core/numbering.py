"""Numbers for the descriptions that keep the conditions between choices, found without listing them.

A state is a position in the row of choices with the values of the earlier choices that conditions from there on look at. How many
descriptions can follow depends on the state alone, so spaces of any size are counted in the number of their states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search_spaces.core.choices import Choice, Value, conditions

Values = dict[str, Value]
State = tuple[int, tuple[Value, ...]]


def exists(choice: Choice, values: Mapping[str, Value]) -> bool:
    """Whether the earlier `values` call for this choice."""
    when = choice.when
    if not when:  # most choices: no condition always holds, no alternative never does
        return when != ()
    for condition in (when,) if isinstance(when, dict) else conditions(choice):
        for parent, allowed in condition.items():
            if parent not in values or values[parent] not in allowed:
                break
        else:
            return True
    return False


def below(limit: int, rng: np.random.Generator) -> int:
    """A uniform integer in [0, limit) for limits of any length."""
    if limit < 2**63:
        return int(rng.integers(limit))
    bits = limit.bit_length()
    while True:
        draw = int.from_bytes(rng.bytes((bits + 7) // 8), "little") & ((1 << bits) - 1)
        if draw < limit:
            return draw


class Numbering:
    """The descriptions of `choices`, numbered from 0 in the order of the choices' values, the first choice turning slowest."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = tuple(choices)
        names = [choice.name for choice in self.choices]
        last_look = {
            parent: at
            for at, choice in enumerate(self.choices)
            for condition in conditions(choice)
            for parent in condition
        }
        # for each position, the choices before it that conditions at or after it look at
        self._parents = [
            tuple(name for name in names[:at] if last_look.get(name, -1) >= at) for at in range(len(names) + 1)
        ]
        self._counts: dict[State, int] = {}

    @property
    def size(self) -> int:
        """How many descriptions there are."""
        return self._completions(0, {})

    @property
    def sizes(self) -> list[int]:
        """How many descriptions there are with each value of the first choice."""
        first = self.choices[0]
        return [self._completions(1, {first.name: first.value(number)}) for number in range(first.size)]

    def description(self, index: int) -> Values:
        """The description of that number, from 0 to `size` - 1."""
        values: Values = {}
        for at, choice in enumerate(self.choices):
            if not exists(choice, values):
                continue
            if not self._decides(at):
                number, index = divmod(index, self._completions(at + 1, values))
                values[choice.name] = choice.value(number)
                continue
            for number in range(choice.size):
                values[choice.name] = choice.value(number)
                below = self._completions(at + 1, values)
                if index < below:
                    break
                index -= below
        return values

    def _completions(self, at: int, values: Mapping[str, Value]) -> int:
        """In how many ways the choices from position `at` on can be made, given the earlier ones; remembered."""
        start = self._state(at, values)
        if start not in self._counts:
            self._count(start)
        return self._counts[start]

    def _count(self, start: State) -> None:
        """Count what follows each state that can be reached from `start`, from the last choice backwards."""
        layers: list[dict[State, None]] = [{start: None}]
        for _ in self.choices[start[0] :]:
            unknown = [state for state in layers[-1] if state not in self._counts]
            layers.append({after: None for state in unknown for after, _ in self._next(state)})
        for layer in reversed(layers):
            for state in layer:
                if state not in self._counts:
                    following = self._next(state)
                    count = sum(ways * self._counts[after] for after, ways in following)
                    self._counts[state] = count if following else 1

    def _next(self, state: State) -> list[tuple[State, int]]:
        """The states after the choice at this one, each with the number of values that lead there; none at the end."""
        at, known = state
        if at == len(self.choices):
            return []
        values = {parent: value for parent, value in zip(self._parents[at], known, strict=True) if value is not None}
        choice = self.choices[at]
        if not exists(choice, values):
            return [(self._state(at + 1, values), 1)]
        if not self._decides(at):
            return [(self._state(at + 1, values), choice.size)]
        taken = (choice.value(number) for number in range(choice.size))
        return [(self._state(at + 1, {**values, choice.name: value}), 1) for value in taken]

    def _decides(self, at: int) -> bool:
        """Whether a later condition looks at the choice at position `at`."""
        return self.choices[at].name in self._parents[at + 1]

    def _state(self, at: int, values: Mapping[str, Value]) -> State:
        return at, tuple(values.get(parent) for parent in self._parents[at])
