"""Choices that can be switched on or left at a default, for spaces with many of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from search_spaces.core.choices import Categorical, Choice, Condition, Integer, Value
from search_spaces.core.network import Local


class Setting(NamedTuple):
    """Something that a block looks at: the column to read, or None where the one value is fixed; and all the values it can have."""

    column: str | None
    values: tuple[Value, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The values, which are integers."""
        return tuple(value for value in self.values if isinstance(value, int))


def fixed(value: Value) -> Setting:
    """A setting that nobody chooses."""
    return Setting(None, (value,))


class Settings:
    """Collects the choices of a space.

    Args:
        on: the kinds of choices that are switched on.
    """

    def __init__(self, on: Collection[str]) -> None:
        self.on = on
        self.choices: list[Choice] = []

    def add(
        self, kind: str, name: str, values: Sequence[Value], default: Value, when: Condition | None = None
    ) -> Setting:
        """A choice among `values` if its kind is switched on, else the default."""
        if kind not in self.on:
            return fixed(default)
        integers = [value for value in values if isinstance(value, int)]
        make = Integer if integers == list(values) and integers == sorted(integers) else Categorical
        self.choices.append(make(name, tuple(values), when or {}, kind))  # type: ignore[arg-type]
        return Setting(name, tuple(values))


def reading(settings: Sequence[Setting], make: Callable[..., Local]) -> tuple[tuple[str, ...], Callable[..., Local]]:
    """The columns that a block with these settings reads, and `read` of `Block`: `make` of one value per setting."""

    def read(*values: Value) -> Local:
        found = iter(values)
        return make(*(next(found) if setting.column else setting.values[0] for setting in settings))

    return tuple(setting.column for setting in settings if setting.column), read
