"""What a search may propose: bounds on costs, kept by every strategy as constraints of the space that it searches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf
from pathlib import Path

from nas.scoring.costs import Figures, Scorer
from pruners.progress import Progress, silent
from search_spaces import Architecture, Constraint, SearchSpace
from search_spaces.core import Value, of_file, parse, parse_json, read_bytes

LISTED = 100_000
REMEMBERED = 2**14
FAR = 1e9


class Remembered:
    """A scorer that asks another about an architecture once, and where there is a file, once in all.

    What is measured differs from time to time, and a search that goes on must propose what it proposed before.

    Args:
        scorer: gives the figures.
        path: a file of JSON lines that keeps them.
    """

    def __init__(self, scorer: Scorer, path: Path | None = None) -> None:
        self.scorer, self.path = scorer, path
        self.known: dict[str, Figures] = {}
        if path is not None and path.exists():
            with of_file(path, "remove it to measure again"):
                for line in read_bytes(path).splitlines():
                    key, figures = parse(tuple[str, dict[str, float]], parse_json(line))
                    self.known[key] = figures

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        new = [arch for arch in archs if arch.key not in self.known]
        for arch, figures in zip(new, self.scorer(new, progress) if new else [], strict=True):
            self.known[arch.key] = figures
            if self.path is not None:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps([arch.key, figures]) + "\n")
        return [self.known[arch.key] for arch in archs]


def check_kept(allowed: SearchSpace, space: SearchSpace, limits: Mapping[str, float], costs: Sequence[Scorer]) -> None:
    """Refuse limits that no architecture is found to keep: none among all of up to 100,000 where that takes no measuring, else none on
    the way down from several.

    Args:
        allowed: the part of the space that keeps the limits, of `within`.
        space: the space without them.
        limits: see `within`.
        costs: see `within`.

    Raises:
        ValueError: none was found; the nearest is named with its figures.
    """
    if not limits or allowed.keeps(nearest := allowed.nearest()):
        return
    if space.raw_size <= LISTED and not allowed.dear and next(allowed.enumerate(), None) is not None:
        return
    found: Figures = {}
    for scorer in costs:
        found |= scorer([nearest], silent)[0]
    reach = " and ".join(f"{name} {found[name]:,.6g}" for name in limits if name in found)
    raise ValueError(
        f"no architecture of {space.name!r} was found to have {_rule(limits)}: the nearest is {space.label(nearest)} with {reach}; "
        "allow more"
    )


def within(
    space: SearchSpace, limits: Mapping[str, float], costs: Sequence[Scorer], *, dear: bool = False
) -> SearchSpace:
    """The part of a space whose costs keep the limits; the space itself without any.

    Args:
        space: what to search.
        limits: the most of each cost, such as `{"macs": 60e6}`.
        costs: give between them what is limited, of an architecture of `space`; the cheapest comes first, and the others are not
            asked where it refuses.
        dear: asking takes long, so it is done as rarely as can be.
    """

    @lru_cache(REMEMBERED)
    def beyond(arch: Architecture) -> float | None:
        """By what shares of them limits are exceeded, in all; what is not asked counts as far beyond. None where a scorer fails."""
        for at, scorer in enumerate(costs, start=1):
            try:
                (found,) = scorer([arch], silent)
            except Exception:
                return None
            over = sum(max(0.0, found[name] / limit - 1) for name, limit in limits.items() if name in found)
            if over:
                return over + FAR * (len(costs) - at)
        return 0.0

    def of(values: Mapping[str, Value]) -> float | None:
        return beyond(space.described(dict(values)))

    def holds(values: Mapping[str, Value]) -> bool:
        return not of(values)  # where a scorer fails, it fails as a trial, which names why

    def distance(values: Mapping[str, Value]) -> float:
        found = of(values)
        return inf if found is None else found

    if not limits:
        return space
    return replace(space, constraints=(*space.constraints, Constraint(_rule(limits), holds, distance, dear)))


def _rule(limits: Mapping[str, float]) -> str:
    return " and ".join(f"{name} of at most {limit:g}" for name, limit in limits.items())
