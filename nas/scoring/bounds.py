"""What a search may propose: bounds on costs, kept by every strategy as constraints of the space that it searches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from estimators import METRICS
from nas.runtime import stream
from nas.samplers import cheap_and_dear
from nas.scoring.costs import CostScorer, Figures, Scorer
from pruners.progress import Progress, silent
from search_spaces import Architecture, Constraint, SearchSpace
from search_spaces.core import Value, of_file, parse, parse_json, read_bytes

LISTED = 100_000


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


def check_kept(space: SearchSpace, limits: Mapping[str, float]) -> None:
    """Look for an architecture that keeps the limits of exact costs: among all of up to 100,000, else the cheapest and at random.

    Raises:
        ValueError: none was found.
    """
    limits = {name: limit for name, limit in limits.items() if name in METRICS}
    if not limits:
        return
    allowed = within(space, limits, [CostScorer(space)])
    if space.raw_size <= LISTED:
        if next(allowed.enumerate(), None) is None:
            raise ValueError(f"no architecture of {space.name!r} has {allowed.constraints[-1].rule}; allow more")
    elif not allowed.keeps(cheap_and_dear(space)[0]):
        allowed.sample(stream(0, "limits"))


def within(space: SearchSpace, limits: Mapping[str, float], costs: Sequence[Scorer]) -> SearchSpace:
    """The part of a space whose costs keep the limits; the space itself without any.

    Args:
        space: what to search.
        limits: the most of each cost, such as `{"macs": 60e6}`.
        costs: give between them what is limited, of an architecture of `space`; the cheapest comes first, and is asked alone where
            it refuses.
    """

    def keeps(values: Mapping[str, Value]) -> bool:
        arch = space.architecture(values)
        for scorer in costs:
            try:
                (found,) = scorer([arch], silent)
            except Exception:  # it fails as a trial, which names why
                return True
            if not all(found[name] <= limit for name, limit in limits.items() if name in found):
                return False
        return True

    if not limits:
        return space
    rule = " and ".join(f"{name} of at most {limit:g}" for name, limit in limits.items())
    return replace(space, constraints=(*space.constraints, Constraint(rule, keeps)))
