"""The search space: choices, the conditions between them, constraints and the canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice

import numpy as np
from torch import nn

from search_spaces.core.architecture import Architecture
from search_spaces.core.choices import Choice, Column, Value, conditions
from search_spaces.core.documents import parse_json
from search_spaces.core.naming import quoted, unknown_name
from search_spaces.core.network import Local, Network
from search_spaces.core.numbering import Numbering, Values, below, exists
from search_spaces.core.reach import Constraint, Reach, settled

TRIES = 10_000
TRIES_PER_VALUE = 1_000
NEIGHBOUR_TRIES, NEIGHBOUR_TRIES_DEAR = 100, 16
COUNTABLE = 2_000_000
REMEMBERED = 2**12


@dataclass(frozen=True)
class Labels:
    """Short names for architectures, such as `4-3-3`: `write` gives an architecture's label, `read` the values behind a label."""

    write: Callable[[Mapping[str, Value]], str]
    read: Callable[[str], Mapping[str, Value]]


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A finite set of architectures.

    Args:
        name: what run folders and error messages call it.
        choices: in order; a condition may name earlier choices only.
        constraints: rules that some combinations of values break.
        canonical: brings a valid description to the one description that stands for its network. It must return a valid
            description and leave its own results unchanged.
        labels: short names, where the space has them.
        network: the chain of blocks that an architecture describes; without one the space can be searched but not built.
        options: what the space was made with, as JSON values; part of its fingerprint.
        even_first: sampling draws each value of the first choice equally often, where some of them leave far more architectures
            than others.
    """

    name: str
    choices: tuple[Choice, ...]
    constraints: tuple[Constraint, ...] = ()
    canonical: Callable[[Values], Values] | None = None
    labels: Labels | None = None
    network: Network | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    even_first: bool = False

    def __post_init__(self) -> None:
        seen: dict[str, Choice] = {}
        for choice in self.choices:
            if choice.name in seen:
                raise ValueError(f"space {self.name!r} has two choices named {choice.name!r}; rename one")
            for parent, values in (pair for condition in conditions(choice) for pair in condition.items()):
                if parent not in seen:
                    raise ValueError(
                        f"choice {choice.name!r} depends on {parent!r}, which must be an earlier choice of {self.name!r}"
                    )
                for value in values:
                    if _normal(seen[parent], value) != value:
                        raise ValueError(
                            f"the condition of choice {choice.name!r} must name {_normal(seen[parent], value)!r} "
                            f"as choice {parent!r} writes it, got {value!r}"
                        )
            seen[choice.name] = choice

    # --- size, enumeration, sampling ---

    @property
    def raw_size(self) -> int:
        """Number of descriptions that keep the conditions, before constraints and canonical form."""
        return self._numbering.size

    @cached_property
    def size(self) -> int:
        """Exact number of architectures.

        Raises:
            ValueError: constraints or a canonical form make counting a walk over more than 2,000,000 descriptions.
        """
        if not self.constraints and self.canonical is None:
            return self.raw_size
        if self.raw_size > COUNTABLE:
            raise ValueError(
                f"`size` of {self.name!r} needs a walk over {self.raw_size} descriptions (at most {COUNTABLE}); "
                "use `raw_size`, an upper bound"
            )
        return sum(1 for _ in self.enumerate())

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture once, in the order of the choices' values."""
        for index in range(self.raw_size):
            values = self._numbering.description(index)
            if self._stands_for_itself(values):
                yield self._make(values)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One architecture, every one equally likely; with `even_first`, every one that shares its first value, which is drawn before.

        Where so few keep the limits that drawing until one does takes too long, they are not equally likely; see `Reach`.

        Raises:
            ValueError: none of 10,000 descriptions keeps the constraints, or none was found to keep the limits.
        """
        if self._reach is None or self._reach.often:
            return self._make(self._drawn_one(rng, self._stands_for_itself))
        if (reached := self._reach.sample(rng)) is None:
            raise ValueError(
                f"no architecture of {self.name!r} was found that keeps its limits ({self._rules}); loosen them"
            )
        return self.described(reached)

    @property
    def limited(self) -> bool:
        """Whether it has limits: constraints that say how far an architecture is beyond them."""
        return self._reach is not None

    @property
    def dear(self) -> bool:
        """Whether it takes long to tell whether an architecture keeps the limits."""
        return self._reach is not None and self._reach.dear

    def nearest(self) -> Architecture:
        """An architecture that keeps the constraints; where none was found, the one that was found to be least beyond the limits.

        It is the same one every time. Of a space of n choices it asks about tens of n architectures at most.

        Raises:
            ValueError: none of 10,000 descriptions keeps the constraints that are no limits.
        """
        if self._reach is None:
            return self.sample(np.random.default_rng(0))
        return self.described(self._reach.nearest)

    # --- variation ---

    def mutate(self, arch: Architecture, rng: np.random.Generator, edits: int = 1) -> Architecture:
        """A valid architecture other than `arch`, `edits` choices away from it.

        Choices that an edit brings to life are drawn at random. One that is beyond limits is led back towards `arch`, as far
        as it has to be. Where no such neighbour turns up, `edits` grows, up to a sample of the whole space; in a space of one
        architecture, that architecture comes back.

        Raises:
            ValueError: `arch` is not of this space, or nothing but `arch` was found to keep the constraints.
        """
        self.check(arch)
        active = [choice for choice in self.choices if choice.name in arch and choice.size > 1]
        tries = NEIGHBOUR_TRIES_DEAR if self.dear else NEIGHBOUR_TRIES
        for attempt in range(tries):
            values = dict(arch)
            for at in rng.permutation(len(active))[: edits + attempt * 4 // tries]:
                choice = active[at]
                values[choice.name] = choice.mutate(values[choice.name], rng)
            child = self._settled(values, rng, arch)
            if child is not None and child != arch:
                return child
        others = (self.sample(rng) for _ in range(100))
        return next((other for other in others if other != arch), arch)

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """A valid architecture that takes each choice from one of the parents; `a` itself if no mix keeps the constraints.

        A mix that is beyond limits is led back towards `a`, as far as it has to be.
        """
        self.check(a)
        self.check(b)
        for _ in range(100):
            values = {
                choice.name: choice.cross(a[choice.name], b[choice.name], rng)
                if choice.name in a and choice.name in b
                else (a if choice.name in a else b)[choice.name]
                for choice in self.choices
                if choice.name in a or choice.name in b
            }
            child = self._settled(values, rng, a)
            if child is not None:
                return child
        return a

    # --- one architecture in and out ---

    def architecture(self, values: Mapping[str, object]) -> Architecture:
        """Check `values` (a value per choice that exists) and bring them to canonical form.

        Raises:
            ValueError: an unknown or missing choice, a value that is not allowed, or a broken constraint.
        """
        for name in values:
            if name not in self._choice_names:
                raise unknown_name(f"choice of {self.name!r}", name, self._choice_names)
        checked: Values = {}
        for choice in self.choices:
            if exists(choice, checked):
                if choice.name not in values:
                    raise ValueError(f"choice {choice.name!r} of {self.name!r} is missing; allowed: {choice.allowed}")
                checked[choice.name] = _normal(choice, values[choice.name])
            elif values.get(choice.name) is not None:
                raise ValueError(
                    f"choice {choice.name!r} of {self.name!r} exists only when {_condition(choice)}; leave it out"
                )
        for constraint in self.constraints:
            if not constraint.holds(checked):
                raise ValueError(
                    f"an architecture of {self.name!r} must keep the rule: {constraint.rule}; got {checked}"
                )
        return self.described(checked)

    def described(self, values: Values) -> Architecture:
        """The architecture that a valid description stands for; it is not checked."""
        return self._make(self._canonical(values))

    def check(self, arch: Architecture) -> None:
        """Raise ValueError unless `arch` is an architecture of this space."""
        self._checked(arch)

    @cached_property
    def _checked(self) -> Callable[[Architecture], None]:
        """What remembers that an architecture was checked: parents are, for each child."""
        return lru_cache(REMEMBERED)(self._check)

    def _check(self, arch: Architecture) -> None:
        self._check_name(arch)
        if self.architecture(arch) != arch:
            raise ValueError(f"{arch} is not in canonical form; make it with `SearchSpace.architecture`")

    def keeps(self, values: Mapping[str, Value]) -> bool:
        """Whether a value for each choice that exists breaks no constraint."""
        return all(constraint.holds(values) for constraint in self.constraints)

    def from_json(self, data: object) -> Architecture:
        """Read what `Architecture.to_json` wrote, or a plain `{choice: value}` mapping."""
        if isinstance(data, dict) and set(data) == {"space", "choices"}:
            if data["space"] != self.name:
                raise ValueError(f"expected an architecture of {self.name!r}, got one of {quoted(data['space'])}")
            data = data["choices"]
        if not isinstance(data, dict):
            raise ValueError(
                f"the choices of {self.name!r} must be a JSON object of a value per choice, got {quoted(data)}"
            )
        return self.architecture(data)

    def parse(self, text: str) -> Architecture:
        """Read an architecture as a user types it: a label such as `4-3-3`, or a JSON object."""
        if text.lstrip().startswith("{"):
            try:
                data = parse_json(text)
            except ValueError as error:
                raise ValueError(
                    f"an architecture of {self.name!r} must be valid JSON, got {quoted(text)} ({error})"
                ) from error
            return self.from_json(data)
        if self.labels is None:
            raise ValueError(
                f"an architecture of {self.name!r} must be a JSON object of its choices, got {quoted(text)}"
            )
        return self.architecture(self.labels.read(text))

    def label(self, arch: Architecture) -> str:
        """The architecture's short name where the space has them, else its key; `parse` reads both."""
        return self.labels.write(arch) if self.labels else arch.key

    # --- arrays ---

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of `encode`, in order."""
        return tuple(column for choice in self.choices for column in choice.columns)

    def encode(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Integer codes of shape `(len(archs), len(columns))`; -1 where a choice does not exist."""
        codes = np.full((len(archs), len(self.columns)), -1, dtype=np.int32)
        for row, arch in enumerate(archs):
            codes[row] = self.codes(arch)
        return codes

    def decode(self, codes: np.ndarray) -> list[Architecture]:
        """The architectures behind the rows of `encode`.

        Raises:
            ValueError: another shape, a code that its column does not have, or a row that is no architecture.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != len(self.columns):
            raise ValueError(f"codes of {self.name!r} must have shape (n, {len(self.columns)}), got {codes.shape}")
        sizes = np.array([len(column.values) for column in self.columns])
        for row, at in np.argwhere((codes < -1) | (codes >= sizes)):
            raise ValueError(
                f"codes of column {self.columns[at].name!r} of {self.name!r} run from 0 to {sizes[at] - 1}, or are -1 where the "
                f"choice does not exist; got {codes[row, at]} in row {row}"
            )
        return [self.architecture(self._values(row.tolist())) for row in codes]

    def column_values(self, arch: Architecture) -> dict[str, Value]:
        """What each column of `encode` means for `arch`; None where a choice does not exist."""
        codes = self.codes(arch)
        return {
            column.name: column.values[code] if code >= 0 else None
            for column, code in zip(self.columns, codes, strict=True)
        }

    # --- networks ---

    @property
    def net(self) -> Network:
        """The network behind the space; ValueError if it has none."""
        if self.network is None:
            raise ValueError(f"space {self.name!r} describes no network, so it can be searched but not built")
        return self.network

    def locals(self, arch: Architecture) -> tuple[Local, ...]:
        """What `arch` says to each block of the network, in order; ValueError if it is of another space, or of other options."""
        self._check_name(arch)
        return self.net.locals(self.column_values(arch))

    def build(self, arch: Architecture, seed: int = 0) -> nn.Module:
        """The network of `arch`, initialised from `seed`; ValueError as for `locals`."""
        return self.net.build(self.locals(arch), seed)

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with the name, the choices or the options."""
        described = [
            self.name,
            [repr(choice) for choice in self.choices],
            [c.rule for c in self.constraints],
            dict(self.options),
        ]
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:12]

    # --- the machinery ---

    def _check_name(self, arch: Architecture) -> None:
        if arch.space != self.name:
            raise ValueError(f"expected an architecture of {self.name!r}, got one of {arch.space!r}")

    @cached_property
    def _choice_names(self) -> dict[str, None]:
        return {choice.name: None for choice in self.choices}

    @cached_property
    def _numbering(self) -> Numbering:
        return Numbering(self.choices)

    def _drawn(self, rng: np.random.Generator) -> Iterator[int]:
        """Random descriptions without end; with `even_first`, many of the same first value before those of another."""
        sizes = self._numbering.sizes if self.even_first else [self.raw_size]
        while True:
            first = int(rng.integers(len(sizes))) if self.even_first else 0
            before = sum(sizes[:first])
            for _ in range(TRIES_PER_VALUE):
                yield before + below(sizes[first], rng)

    def _drawn_one(self, rng: np.random.Generator, kept: Callable[[Values], bool]) -> Values:
        """A random description among those that are `kept`, every one equally likely; ValueError if 10,000 are not."""
        for index in islice(self._drawn(rng), TRIES):
            values = self._numbering.description(index)
            if kept(values):
                return values
        raise ValueError(
            f"none of {TRIES} samples of {self.name!r} kept its constraints ({self._rules}); loosen them or narrow the choices"
        )

    @property
    def _rules(self) -> str:
        return "; ".join(constraint.rule for constraint in self.constraints)

    @cached_property
    def _reach(self) -> Reach | None:
        """The way to what keeps the limits; None without any."""
        limits = [constraint for constraint in self.constraints if constraint.beyond is not None]
        others = [constraint for constraint in self.constraints if constraint.beyond is None]
        if not limits:
            return None

        def keeps(values: Values) -> bool:
            return all(constraint.holds(values) for constraint in others)

        def stands(values: Values) -> bool:
            return keeps(values) and self._canonical(values) == values

        def drawn(rng: np.random.Generator) -> Iterator[Values]:
            while True:
                yield self._drawn_one(rng, stands)

        return Reach(self.choices, limits, keeps, drawn)

    def _canonical(self, values: Values) -> Values:
        return self.canonical(dict(values)) if self.canonical else values

    def _stands_for_itself(self, values: Values) -> bool:
        """Only one description of each architecture does, so keeping these alone makes sampling uniform over architectures."""
        return self.keeps(values) and self._canonical(values) == values

    def _settled(self, values: Values, rng: np.random.Generator, near: Architecture) -> Architecture | None:
        """Drop choices that no longer exist, draw those that now do; None if a constraint is broken.

        Where there are limits, what breaks a constraint is led towards `near` instead, which keeps them.
        """
        found = settled(self.choices, values, lambda choice: choice.value(below(choice.size, rng)))
        if not self.keeps(found):
            if self._reach is None:
                return None
            found = self._reach.towards(found, dict(near), rng)
        return self.described(found)

    def _make(self, values: Values) -> Architecture:
        return Architecture(self.name, tuple((c.name, values[c.name]) for c in self.choices if c.name in values))

    def codes(self, arch: Architecture) -> list[int]:
        """The row of `encode` for one architecture.

        Raises:
            ValueError: the space, as its options made it, has other choices or values than `arch`. Constraints are not checked, and
                neither are the conditions of the choices that `arch` has.
        """
        values, met = dict(arch.items_), 0
        codes: list[int] = []
        try:
            for choice in self.choices:
                if choice.name in values:
                    codes += choice.codes(values[choice.name])
                    met += 1
                elif exists(choice, values):
                    raise ValueError(choice.name)
                else:
                    codes += [-1] * len(choice.columns)
            if met < len(values):
                raise ValueError(values)
        except ValueError:
            self.architecture(arch)  # says what is wrong
            raise
        return codes

    def _values(self, codes: list[int]) -> Values:
        values: Values = {}
        for choice in self.choices:
            own, codes = codes[: len(choice.columns)], codes[len(choice.columns) :]
            if -1 not in own:
                values[choice.name] = choice.from_codes(own)
        return values


def _normal(choice: Choice, value: object) -> Value:
    try:
        return choice.normal(value)
    except (ValueError, TypeError):
        raise ValueError(f"choice {choice.name!r} must be {choice.allowed}; got {quoted(value)}") from None


def _condition(choice: Choice) -> str:
    return ", or ".join(
        " and ".join(f"{parent} is {' or '.join(map(repr, values))}" for parent, values in condition.items())
        for condition in conditions(choice)
    )
