"""The best architecture, or the whole front, where figures add up: by integer programming, with a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas.strategies.additive import Additive, Codes
from nas.strategies.program import Program, figures_of, value_of
from search_spaces import Architecture, SearchSpace

NODES = 20_000
TRIES = 100
APART = 1e-5

Limits = Mapping[str, tuple[Additive, float]]
"""Name of a figure to what it adds up from and the most it may be."""


class Optimum(NamedTuple):
    """What was found to be best.

    Attributes:
        arch: the architecture.
        value: of its objective.
        bound: no architecture has less.
    """

    arch: Architecture
    value: float
    bound: float

    @property
    def proved(self) -> bool:
        """Whether nothing is better, up to a millionth of the value, and up to 1e-12."""
        return self.value - self.bound <= 1e-6 * max(abs(self.value), abs(self.bound), 1e-6)


def optimum(
    space: SearchSpace,
    objective: Additive,
    limits: Limits | None = None,
    *,
    nodes: int = NODES,
    excluded: Sequence[Architecture] = (),
) -> Optimum:
    """The architecture with the least objective within limits.

    Choices, conditions between them, objective and limits are one integer program. Constraints of the space and its canonical form
    are functions that a program cannot hold: what breaks them is excluded one by one.

    Args:
        space: what to search.
        objective: what is to be least.
        limits: the most of other figures.
        nodes: of the search tree at most, which bounds the time of a solution; with fewer than it takes, `Optimum.bound` says how far
            the best found may be from the best.
        excluded: architectures that are not to be found.

    Raises:
        ValueError: nothing keeps the limits; the message says which, and what could be reached. Or 100 descriptions in a row break
            constraints of the space, or `nodes` were too few to find any.
    """
    kept = dict(limits or {})
    program = Program(space, figures_of(objective, *(figure for figure, _ in kept.values())), nodes)
    gone = [space.encode([arch])[0] for arch in excluded]
    found = least_within(space, program, objective, list(kept.values()), gone)
    if found is None:
        _refuse(space, program, kept, gone)
        raise ValueError(
            f"no architecture of {space.name!r} was found that is not excluded, by {nodes} nodes; exclude fewer, or allow more `nodes`"
        )
    return found


def front(
    space: SearchSpace,
    first: Additive,
    second: Additive,
    limits: Limits | None = None,
    *,
    most: int | None = None,
    nodes: int = NODES,
) -> list[Optimum]:
    """The front of two objectives, from the least `first` to the least `second`; values are those of `first`.

    It is swept: each point is the least `first` with less of `second` than the point before, by more than a hundred-thousandth of its
    largest entry. So all of the front comes, but for points that are closer.

    Args:
        space, limits, nodes: as of `optimum`.
        first, second: what is to be low.
        most: points at most, by budgets of `second` that are evenly spaced; all of the front by default.

    Raises:
        ValueError: as `optimum`.
    """
    kept = dict(limits or {})
    program = Program(space, figures_of(first, second, *(figure for figure, _ in kept.values())), nodes)
    bounds = list(kept.values())
    apart = APART * max(
        (float(np.abs(table).max()) for table in (*second.singles, *second.pairs.values())), default=0.0
    )
    budget, step, found = np.inf, 0.0, list[Optimum]()
    if most is not None and most > 1:
        ends = [optimum(space, figure, limits, nodes=nodes) for figure in (first, second)]
        codes = space.encode([end.arch for end in ends])
        step = float(second(codes)[0] - second(codes)[1]) / (most - 1)
    while most is None or len(found) < most:
        within = [*bounds, (second, budget)] if budget < np.inf else bounds
        best = least_within(space, program, first, within, [])
        if best is None:
            break
        ties = [*within, (first, best.value + 1e-9 * max(abs(best.value), 1.0))]
        least = least_within(space, program, second, ties, []) or Optimum(best.arch, 0.0, 0.0)
        codes = space.encode([least.arch])[0]
        found.append(Optimum(least.arch, value_of(first, codes), best.bound))
        budget = value_of(second, codes) - max(apart, step)
    if not found:
        _refuse(space, program, kept, [])
    return found


def least_within(
    space: SearchSpace,
    program: Program,
    objective: Additive,
    limits: Sequence[tuple[Additive, float]],
    excluded: Sequence[Codes],
    tries: int = TRIES,
) -> Optimum | None:
    """The least within limits; None where nothing keeps them.

    Raises:
        ValueError: as many descriptions as `tries` break constraints of the space.
    """
    gone = list(excluded)
    for _ in range(tries):
        solved = program.least(objective, limits, gone)
        if solved is None:
            return None
        arch = _architecture(space, solved.codes)
        if arch is not None and all(value_of(figure, solved.codes) <= most for figure, most in limits):
            return Optimum(arch, value_of(objective, solved.codes), solved.bound)
        gone.append(solved.codes)
    rules = "; ".join(constraint.rule for constraint in space.constraints) or "it has a canonical form"
    raise ValueError(
        f"the best {tries} descriptions of {space.name!r} are none of its architectures ({rules}); give such rules as limits, "
        "or search the space by another strategy"
    )


def _architecture(space: SearchSpace, codes: Codes) -> Architecture | None:
    """The architecture of these codes, if the codes are an architecture's."""
    try:
        (arch,) = space.decode(codes[None, :])
    except ValueError:
        return None
    return arch if (space.encode([arch])[0] == codes).all() else None


def _refuse(space: SearchSpace, program: Program, limits: Limits, excluded: list[Codes]) -> None:
    """Say which limit is too low, if one is, and what can be reached with those before it."""
    before: dict[str, tuple[Additive, float]] = {}
    for name, (figure, most) in limits.items():
        least = least_within(space, program, figure, list(before.values()), excluded)
        if least is None:
            return
        if least.value > most:
            with_others = f" with {' and '.join(f'{other} of at most {by:g}' for other, (_, by) in before.items())}"
            raise ValueError(
                f"no architecture of {space.name!r} has {name} of at most {most:g}{with_others * bool(before)}; the least that can be "
                f"reached is {least.value:g}"
            )
        before[name] = (figure, most)
