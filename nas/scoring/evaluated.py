"""Figures that a function of the user's own gives each network, in place of data and training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from estimators.zero_cost import ZERO_COST
from nas.objectives import OBJECTIVES, Objective
from nas.runtime import torch_seed
from nas.scoring.costs import Figures
from nas.scoring.outcome import numbers
from pruners.progress import Progress
from search_spaces import Architecture, SearchSpace

Evaluate = Callable[..., Any]
OURS = {name for name in OBJECTIVES if name != "accuracy" and name not in ZERO_COST}
"""Objectives that are known without a function: exact costs, latency and estimates."""


class EvaluatedScorer:
    """Asks a function about one network after another.

    Args:
        space: the search space.
        evaluate: called as `evaluate(model, arch)`, or with one of these where it takes only `model` or only `arch`. The model is
            untrained, on the CPU in training mode, and is dropped afterwards; it is not built where it is not taken. The function
            returns figures by name, or one number where there is one objective for it. Others than objectives are kept as notes.
        objectives: of the run.
        seed: decides the initial weights.
    """

    def __init__(self, space: SearchSpace, evaluate: Evaluate, objectives: Sequence[Objective], seed: int) -> None:
        self.space, self.evaluate, self.seed = space, evaluate, seed
        self.wanted = [objective.name for objective in objectives if objective.name not in OURS]
        self.takes = taken_by(evaluate)

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        found = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            found.append(numbers(self._ask(arch), self.wanted, "`evaluate`"))
        return found

    def _ask(self, arch: Architecture) -> Any:
        given: list[Any] = []
        if "model" in self.takes:
            given.append(self.space.build(arch, torch_seed(self.seed, "trial", arch.key)))
        if "arch" in self.takes:
            given.append(arch)
        return self.evaluate(*given)


def taken_by(evaluate: Evaluate) -> tuple[str, ...]:
    """Which of `model` and `arch` a function is called with, in this order.

    Raises:
        ValueError: it takes neither one of them nor two arguments.
    """
    try:
        parameters = list(inspect.signature(evaluate).parameters.values())
    except (TypeError, ValueError):  # of C functions nothing is known
        return ("model", "arch")
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) == 2 or (not needed and any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        return ("model", "arch")
    if len(needed) == 1 and needed[0] in ("model", "arch"):
        return (needed[0],)
    raise ValueError(
        f"`evaluate` must be a function of (model, arch), of `model` or of `arch` alone, got one of "
        f"({', '.join(needed)}); rename or wrap it"
    )
