"""A search space as an integer program: choices, conditions and additive figures in linear constraints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas.objectives import Floats
from nas.strategies.additive import Additive, Codes, Pair
from search_spaces import SearchSpace, Subset
from search_spaces.core import Choice, Value, conditions

Terms = dict[int, float]  # variable to its factor


class Solved(NamedTuple):
    """The least of a program: the codes of a description, and a value that none is below."""

    codes: Codes
    bound: float


class Program:
    """All descriptions of a space, as whole numbers that keep linear constraints.

    A column has a variable for each of its codes and one for its absence, of which one is 1. Conditions are linear in those; a pair
    of columns has variables that are sums of one to either column's. Constraints of the space and its canonical form are left out:
    who solves excludes what breaks them.

    Args:
        space: to be described.
        pairs: of columns that figures have tables for.
        nodes: of the search tree of a solution at most, which bounds its time whatever the machine.
    """

    def __init__(self, space: SearchSpace, pairs: Iterable[Pair], nodes: int) -> None:
        self.nodes = nodes
        self._sizes = [len(column.values) + 1 for column in space.columns]
        self._starts = np.cumsum([0, *self._sizes]).tolist()
        self.integers = self.variables = self._starts.pop()
        self._upper: dict[int, float] = {}
        self._rows: list[tuple[Terms, float, float]] = []
        for column in range(len(self._sizes)):
            self._row({self._at(column, code): 1.0 for code in range(-1, self._sizes[column] - 1)}, 1.0, 1.0)
        self._columns: dict[str, list[int]] = {}
        self._choices = {choice.name: choice for choice in space.choices}
        for choice in space.choices:
            first = sum(map(len, self._columns.values()))
            self._columns[choice.name] = list(range(first, first + len(choice.columns)))
            self._describe(choice)
        self._tables = {pair: self._together(*pair) for pair in dict.fromkeys(pairs)}

    def least(
        self, objective: Additive, limits: Sequence[tuple[Additive, float]], excluded: Sequence[Codes]
    ) -> Solved | None:
        """The description with the least objective among those that keep limits, up to rounding, and are not excluded.

        Returns:
            None where there is none, or none was found within `nodes`.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp  # a third of what `import nas` takes
        from scipy.sparse import coo_matrix

        rows = list(self._rows)
        for figure, most in limits:
            weights = self._weights(figure)
            scale = max(map(abs, weights.values()), default=0.0) or 1.0
            rows.append(
                ({at: weight / scale for at, weight in weights.items()}, -np.inf, (most - figure.constant) / scale)
            )
        for codes in excluded:
            terms = {self._at(column, code): 1.0 for column, code in enumerate(codes.tolist())}
            rows.append((terms, -np.inf, len(codes) - 1.0))
        if self.variables == 0:
            return None if excluded else Solved(np.empty(0, np.int32), objective.constant)
        entries = [(row, at, weight) for row, (terms, _, _) in enumerate(rows) for at, weight in terms.items()]
        row, at, weight = (np.array(part) for part in zip(*entries, strict=True))
        matrix = coo_matrix((weight, (row, at)), (len(rows), self.variables)).tocsr()
        low, high = (np.array([each[side] for each in rows], dtype=np.float64) for side in (1, 2))
        weights = self._weights(objective)
        scale = max(map(abs, weights.values()), default=0.0) or 1.0
        cost, upper, whole = np.zeros(self.variables), np.ones(self.variables), np.zeros(self.variables)
        cost[list(weights)] = np.array(list(weights.values())) / scale
        upper[list(self._upper)] = list(self._upper.values())
        whole[: self.integers] = 1
        found = milp(
            cost,
            constraints=LinearConstraint(matrix, low, high),
            bounds=Bounds(np.zeros(self.variables), upper),
            integrality=whole,
            options={"mip_rel_gap": 0.0, "node_limit": self.nodes},
        )
        if found.x is None:
            return None
        taken = np.split(found.x[: self.integers], self._starts[1:])
        bound = found.fun if found.mip_dual_bound is None else min(found.mip_dual_bound, found.fun)
        codes = np.array([int(part.argmax()) - 1 for part in taken], dtype=np.int32)
        return Solved(codes, float(bound) * scale + objective.constant)

    def _at(self, column: int, code: int) -> int:
        return int(self._starts[column]) + code + 1

    def _new(self) -> int:
        self.variables += 1
        return self.variables - 1

    def _row(self, terms: Mapping[int, float], low: float, high: float) -> None:
        self._rows.append((dict(terms), low, high))

    def _describe(self, choice: Choice) -> None:
        """The choice exists exactly where a condition holds; a subset has as many items as it takes."""
        exists = self._any([self._all(list(condition.items())) for condition in conditions(choice)])
        for column in self._columns[choice.name]:
            absent = self._at(column, -1)
            if exists is None:
                self._upper[absent] = 0.0
            else:
                self._row({absent: 1.0, **exists}, 1.0, 1.0)
        if isinstance(choice, Subset) and choice.items:
            items = {self._at(column, 1): 1.0 for column in self._columns[choice.name]}
            absent = self._at(self._columns[choice.name][0], -1)
            self._row({**items, absent: float(choice.taken)}, choice.taken, choice.taken)

    def _any(self, terms: Sequence[Terms | None]) -> Terms | None:
        """Whether one of several holds, as a sum; None where that is always so."""
        if any(term is None for term in terms):
            return None
        held = [term for term in terms if term is not None]
        if len(held) == 1:
            return held[0]
        either = self._new()
        for term in held:
            self._row({either: 1.0, **_times(term, -1.0)}, 0.0, np.inf)
        self._row({either: -1.0, **_added(held)}, 0.0, np.inf)
        return {either: 1.0}

    def _all(self, condition: Sequence[tuple[str, tuple[Value, ...]]]) -> Terms | None:
        """Whether all parents have one of their values, as a sum; None where there are none."""
        held = [self._one_of(self._choices[parent], values) for parent, values in condition]
        if len(held) <= 1:
            return held[0] if held else None
        both = self._new()
        for term in held:
            self._row({both: -1.0, **term}, 0.0, np.inf)
        self._row({both: 1.0, **_times(_added(held), -1.0)}, 1.0 - len(held), np.inf)
        return {both: 1.0}

    def _one_of(self, parent: Choice, values: Iterable[Value]) -> Terms:
        """Whether a choice has one of these values, as a sum."""
        columns, found = self._columns[parent.name], Terms()
        for value in values:
            codes = parent.codes(value)
            if len(columns) == 1:
                found[self._at(columns[0], codes[0])] = 1.0
                continue
            same = self._new()
            for column, code in zip(columns, codes, strict=True):
                self._row({same: -1.0, self._at(column, code): 1.0}, 0.0, np.inf)
            every = {self._at(column, code): -1.0 for column, code in zip(columns, codes, strict=True)}
            self._row({same: 1.0, **every}, 1.0 - len(columns), np.inf)
            found[same] = 1.0
        return found

    def _together(self, a: int, b: int) -> dict[tuple[int, int], int]:
        """A variable for each pair of codes of two columns."""
        at = {(i, j): self._new() for i in range(self._sizes[a]) for j in range(self._sizes[b])}
        for i in range(self._sizes[a]):
            self._row({self._at(a, i - 1): -1.0, **{at[i, j]: 1.0 for j in range(self._sizes[b])}}, 0.0, 0.0)
        for j in range(self._sizes[b]):
            self._row({self._at(b, j - 1): -1.0, **{at[i, j]: 1.0 for i in range(self._sizes[a])}}, 0.0, 0.0)
        return at

    def _weights(self, figure: Additive) -> Terms:
        """The factor of each variable."""
        found = {
            self._at(column, code - 1): float(weight)
            for column, table in enumerate(figure.singles)
            for code, weight in enumerate(table)
        }
        for pair, table in figure.pairs.items():
            found |= {at: float(table[place]) for place, at in self._tables[pair].items()}
        return found


def _times(terms: Terms, factor: float) -> Terms:
    return {at: weight * factor for at, weight in terms.items()}


def _added(several: Iterable[Terms]) -> Terms:
    total = Terms()
    for terms in several:
        for at, weight in terms.items():
            total[at] = total.get(at, 0.0) + weight
    return total


def figures_of(*several: Additive) -> list[Pair]:
    """The pairs of columns that some figures have tables for."""
    return list(dict.fromkeys(pair for figure in several for pair in figure.pairs))


def value_of(figure: Additive, codes: Codes) -> float:
    """A figure of one architecture."""
    found: Floats = figure(codes[None, :])
    return float(found[0])
