"""What a search may propose: bounds on costs, kept by every strategy as constraints of the space that it searches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nas.runtime import stream
from nas.samplers import cheap_and_dear
from nas.scoring.costs import CostScorer, Scorer
from pruners.progress import silent
from search_spaces import Constraint, SearchSpace
from search_spaces.core import Value

LISTED = 100_000


def check_kept(space: SearchSpace, limits: Mapping[str, float]) -> None:
    """Look for an architecture that keeps the limits: among all in a space of up to 100,000, else the cheapest and at random.

    Raises:
        ValueError: none was found.
    """
    allowed = within(space, limits, CostScorer(space))
    if space.raw_size <= LISTED:
        if next(allowed.enumerate(), None) is None:
            raise ValueError(f"no architecture of {space.name!r} has {allowed.constraints[-1].rule}; allow more")
    elif not allowed.keeps(cheap_and_dear(space)[0]):
        allowed.sample(stream(0, "limits"))


def within(space: SearchSpace, limits: Mapping[str, float], costs: Scorer) -> SearchSpace:
    """The part of a space whose costs keep the limits; the space itself without any.

    Args:
        space: what to search.
        limits: the most of each cost, such as `{"macs": 60e6}`.
        costs: gives the costs of an architecture of `space`.
    """

    def keeps(values: Mapping[str, Value]) -> bool:
        (found,) = costs([space.architecture(values)], silent)
        return all(found[name] <= limit for name, limit in limits.items())

    if not limits:
        return space
    rule = " and ".join(f"{name} of at most {limit:g}" for name, limit in limits.items())
    return replace(space, constraints=(*space.constraints, Constraint(rule, keeps)))
