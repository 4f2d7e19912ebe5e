"""`nas list`: what can be chosen by name, each kind from its one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from estimators.accuracy import PREDICTORS
from estimators.counting import COUNTERS
from estimators.zero_cost import ZERO_COST
from nas.engines import ENGINES
from nas.events import LOGS
from nas.objectives import OBJECTIVES
from nas.pruning import RECOVERIES
from nas.strategies import STRATEGIES
from nas.study import FORMATS, WORTHS
from nas.supernets import SAMPLERS
from nas.tasks import KINDS as TASKS
from pruners.allocation import ALLOCATIONS, SCHEDULES
from pruners.importance import CRITERIA
from search_spaces import SPACES
from search_spaces.core import unknown_name
from search_spaces.pooling import GLOBAL_POOLINGS, POOLINGS, make_pooling

BLOCK = re.compile(r"(<!-- table: nas list ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Kind(NamedTuple):
    """A kind of things with names.

    Attributes:
        help: what is chosen.
        table: name to entry; every entry has one line of `help`.
        about: what the line of help says.
        columns: what else is shown of an entry of a name, by title.
    """

    help: str
    table: Mapping[str, Any]
    about: str
    columns: Mapping[str, Callable[[str, Any], str]] = {}


def _attribute(name: str) -> Callable[[str, Any], str]:
    return lambda _, entry: str(getattr(entry, name))


def _better(_: str, entry: Any) -> str:
    return "higher" if entry.higher_is_better else "lower"


def _weights(name: str, _: Any) -> str:
    """Parameters of a pooling operator on any number of channels; the convolution is the block's own."""
    return "0" if name == "conv" else str(sum(parameter.numel() for parameter in make_pooling(name, 8).parameters()))


def _step(name: str, entry: Any) -> str:
    return str(entry.as_step(name))


NEEDS = {"needs": _attribute("needs")}
KINDS: dict[str, Kind] = {
    "spaces": Kind("search spaces", SPACES, "what varies"),
    "samplers": Kind(
        "which subnets a step of supernet training takes", SAMPLERS, "a step trains",
        {"passes through a subnet": _attribute("passes"), "take it when": _attribute("use"), "goes with": _attribute("goes_with")},
    ),
    "strategies": Kind("how architectures are proposed", STRATEGIES, "what it does", {"use it when": _attribute("use"), **NEEDS}),
    "objectives": Kind(
        "what a front is made of", OBJECTIVES, "what it is",
        {"unit": _attribute("unit"), "better": _better, "time for each architecture": _attribute("time")},
    ),
    "scores": Kind("scores without training", ZERO_COST, "what it is", {"unit": _attribute("unit"), "better": _better}),
    "predictors": Kind(
        "what learns accuracies from a few", PREDICTORS, "what it is", {"fewest examples": _attribute("needs")}
    ),
    "pooling": Kind("operators that shrink an image", POOLINGS, "what it computes", {"weights": _weights}),
    "global-pooling": Kind("operators that pool the whole image", GLOBAL_POOLINGS, "what it computes"),
    "criteria": Kind("what an index is worth that may be pruned", CRITERIA, "score of an index", NEEDS),
    "allocations": Kind("how much of each group is pruned", ALLOCATIONS, "how many go where", NEEDS),
    "schedules": Kind("how a model shrinks over the steps of pruning", SCHEDULES, "what it does"),
    "tasks": Kind("kinds of tasks", TASKS, "what outputs are", {"metrics": _attribute("metrics")}),
    "recoveries": Kind("repair of a pruned model", RECOVERIES, "what it does", {"named as": _step, **NEEDS}),
    "worths": Kind(
        "which weights a smaller model of a trained one is judged with", WORTHS, "weights", {"take it when": _attribute("use")}
    ),
    "engines": Kind("where trials run", ENGINES, "where", NEEDS),
    "counters": Kind("who counts multiply-accumulates", COUNTERS, "what it is"),
    "formats": Kind("files of an exported network", FORMATS, "what it is"),
    "logs": Kind("where progress is written while a run computes", LOGS, "where it goes", {"needs the extra": _attribute("needs")}),
}  # fmt: skip
"""What can be chosen by name."""


def listing(kind: str) -> tuple[list[str], list[list[str]]]:
    """Titles, and a row for each name of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind to list", kind, KINDS)
    found = KINDS[kind]
    rows = [
        [name, entry.help, *(column(name, entry) for column in found.columns.values())]
        for name, entry in found.table.items()
    ]
    return ["name", found.about, *found.columns], rows


def filled(page: str) -> str:
    """A page of Markdown with the table of each kind between `<!-- table: nas list KIND -->` and `<!-- end -->`."""
    return BLOCK.sub(lambda block: block[1] + _markdown(block[2]) + block[3], page)


def _markdown(kind: str) -> str:
    titles, rows = listing(kind)
    lines = [titles, ["---"] * len(titles), *([f"`{name}`", *cells] for name, *cells in rows)]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"
