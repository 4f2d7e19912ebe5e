"""Kinds of choices that a search space is made of.

A choice has a finite number of values, numbered from 0 by `value`, and writes each value into one or more integer columns, so that
many architectures fit in one array. `when` maps the name of an earlier choice to the values under which this one exists; of several
such conditions one must hold. `kind` says
what the values are to the network, one of `KINDS`, for ways of training that treat depths other than widths; None where it is
something else. A space's fingerprint leaves it out, as it changes no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from search_spaces.core.naming import quoted, unknown_name

Value = int | str | tuple[int | str, ...] | None
Condition = Mapping[str, tuple[Value, ...]]
When = Condition | tuple[Condition, ...]
KINDS = ("kernel", "depth", "width", "expansion", "groups", "resolution", "se", "head")


class Column(NamedTuple):
    """One integer column of an encoded architecture: code `i` means `values[i]`, code -1 a choice that does not exist."""

    name: str
    values: tuple[Value, ...]


class Choice(Protocol):
    """What a search space asks of a choice."""

    @property
    def name(self) -> str: ...
    @property
    def when(self) -> When: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def size(self) -> int: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def allowed(self) -> str: ...
    def value(self, index: int) -> Value: ...
    def normal(self, value: object) -> Value: ...
    def codes(self, value: Value) -> tuple[int, ...]: ...
    def from_codes(self, codes: Sequence[int]) -> Value: ...
    def mutate(self, value: Value, rng: np.random.Generator) -> Value: ...
    def cross(self, a: Value, b: Value, rng: np.random.Generator) -> Value: ...


def conditions(choice: Choice) -> tuple[Condition, ...]:
    """The conditions of a choice, one of which must hold for it to exist."""
    return (choice.when,) if isinstance(choice.when, Mapping) else choice.when


def _shown(values: Sequence[Value], most: int = 12) -> str:
    text = ", ".join(map(repr, values[:most]))
    return text if len(values) <= most else f"{text}, … ({len(values)} in all)"


class _Listed:
    """A choice whose values are listed: one column, whose code is the position in the list."""

    name: str
    values: tuple[Value, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name, self.values),)

    @property
    def allowed(self) -> str:
        return f"one of {_shown(self.values)}"

    def value(self, index: int) -> Value:
        return self.values[index]

    def normal(self, value: object) -> Value:
        for known in self.values:
            if type(known) is type(value) and known == value:
                return known
        raise ValueError(value)

    def codes(self, value: Value) -> tuple[int, ...]:
        return (self.values.index(value),)

    def from_codes(self, codes: Sequence[int]) -> Value:
        return self.values[codes[0]]

    def cross(self, a: Value, b: Value, rng: np.random.Generator) -> Value:
        return a if rng.random() < 0.5 else b


def _check_listed(name: str, values: Sequence[Value], kind: str | None) -> None:
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of choice", kind, KINDS)
    if not values or len(set(values)) != len(values):
        raise ValueError(f"choice {name!r} needs at least one value and no value twice, got {quoted(list(values))}")
    for value in values:
        if not isinstance(value, (int, str)):
            raise ValueError(f"the values of choice {name!r} must be integers or strings, got {quoted(value)}")


@dataclass(frozen=True)
class Categorical(_Listed):
    """One of several unordered values (strings or integers); a mutation takes any other value."""

    name: str
    values: tuple[Value, ...]
    when: When = field(default_factory=dict)
    kind: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_listed(self.name, self.values, self.kind)

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        others = [other for other in self.values if other != value]
        return others[rng.integers(len(others))] if others else value


@dataclass(frozen=True)
class Integer(_Listed):
    """One of several integers in rising order (widths, depths, kernel sizes); a mutation moves to a neighbour."""

    name: str
    values: tuple[int, ...]
    when: When = field(default_factory=dict)
    kind: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_listed(self.name, self.values, self.kind)
        if any(type(value) is not int for value in self.values) or list(self.values) != sorted(self.values):
            raise ValueError(f"choice {self.name!r} needs integers in rising order, got {quoted(list(self.values))}")

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        at = self.values.index(value)
        near = [self.values[i] for i in (at - 1, at + 1) if 0 <= i < len(self.values)]
        return near[rng.integers(len(near))] if near else value


@dataclass(frozen=True)
class Subset:
    """`size` of the `items`, in the items' order; a mutation swaps one taken item for one left out.

    One column per item, named `name[item]`, tells whether the item is taken (1) or not (0).
    """

    name: str
    items: tuple[int | str, ...]
    taken: int
    when: When = field(default_factory=dict)
    kind: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_listed(self.name, self.items, self.kind)
        if not 0 <= self.taken <= len(self.items):
            raise ValueError(f"choice {self.name!r} can take 0 to {len(self.items)} items, got taken={self.taken}")

    @property
    def size(self) -> int:
        return math.comb(len(self.items), self.taken)

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(f"{self.name}[{item}]", (0, 1)) for item in self.items)

    @property
    def allowed(self) -> str:
        return f"{self.taken} different items of {_shown(self.items)}"

    def value(self, index: int) -> Value:
        """The subset at `index` of the lexicographic order, found without listing the others."""
        taken: list[int | str] = []
        for at, item in enumerate(self.items):
            with_item = (
                math.comb(len(self.items) - at - 1, self.taken - len(taken) - 1) if len(taken) < self.taken else 0
            )
            if index < with_item:
                taken.append(item)
            else:
                index -= with_item
        return tuple(taken)

    def normal(self, value: object) -> Value:
        if not isinstance(value, (tuple, list)) or len(value) != self.taken or len(set(value)) != self.taken:
            raise ValueError(value)
        if not set(value) <= set(self.items):
            raise ValueError(value)
        return tuple(item for item in self.items if item in value)

    def codes(self, value: Value) -> tuple[int, ...]:
        assert isinstance(value, tuple)
        codes = tuple(int(item in value) for item in self.items)
        if sum(codes) != self.taken or len(value) != self.taken:
            raise ValueError(value)
        return codes

    def from_codes(self, codes: Sequence[int]) -> Value:
        return tuple(item for item, code in zip(self.items, codes, strict=True) if code == 1)

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        assert isinstance(value, tuple)
        left_out = [item for item in self.items if item not in value]
        if not value or not left_out:
            return value
        gone = value[rng.integers(len(value))]
        new = left_out[rng.integers(len(left_out))]
        return self.normal([item for item in value if item != gone] + [new])

    def cross(self, a: Value, b: Value, rng: np.random.Generator) -> Value:
        """Keep what both parents take, and fill up from what only one of them takes."""
        assert isinstance(a, tuple) and isinstance(b, tuple)
        common = [item for item in a if item in b]
        either = [item for item in self.items if (item in a) != (item in b)]
        filled = rng.permutation(len(either))[: self.taken - len(common)]
        return self.normal(common + [either[i] for i in filled])
