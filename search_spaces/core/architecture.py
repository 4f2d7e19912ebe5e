"""One architecture: a value per choice, immutable and in canonical form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from search_spaces.core.choices import Value


def _plain(value: Value) -> object:
    return list(value) if isinstance(value, tuple) else value


def key_of(choices: Mapping[str, object]) -> str:
    """The key of the architecture of these choices, in their order, with values as JSON has them."""
    return json.dumps(choices, separators=(",", ":"))


@dataclass(frozen=True)
class Architecture(Mapping[str, Value]):
    """Values of the choices that exist, in the order of the space's choices.

    Made by `SearchSpace.architecture`, which checks the values and brings them to canonical form: within one space, equal networks
    are equal architectures with equal `key`.
    """

    space: str
    items_: tuple[tuple[str, Value], ...]

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def __hash__(self) -> int:
        return hash((self.space, self.items_))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and (self.space, self.items_) == (other.space, other.items_)

    @cached_property
    def _values(self) -> dict[str, Value]:
        return dict(self.items_)

    @property
    def key(self) -> str:
        """The choices as one line of JSON: unique within the space, the same in every process."""
        return key_of({name: _plain(value) for name, value in self.items_})

    def to_json(self) -> dict[str, object]:
        """`{"space": name, "choices": {choice: value}}`; `SearchSpace.from_json` reads it back."""
        return {"space": self.space, "choices": {name: _plain(value) for name, value in self.items_}}

    def __repr__(self) -> str:
        return f"Architecture({self.space}, {self.key})"
