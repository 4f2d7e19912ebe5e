"""Figures that a function of the user's own gives each network, in place of data and training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from estimators.zero_cost import ZERO_COST
from nas.objectives import OBJECTIVES, Objective
from nas.runtime import torch_seed
from nas.scoring.costs import Figures
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
            found.append(self._figures(self._ask(arch)))
        return found

    def _ask(self, arch: Architecture) -> Any:
        given: list[Any] = []
        if "model" in self.takes:
            given.append(self.space.build(arch, torch_seed(self.seed, "trial", arch.key)))
        if "arch" in self.takes:
            given.append(arch)
        return self.evaluate(*given)

    def _figures(self, found: Any) -> Figures:
        if not isinstance(found, Mapping):
            if len(self.wanted) != 1:
                raise ValueError(f"`evaluate` must return figures by name, {', '.join(self.wanted)}, got {found!r}")
            found = {self.wanted[0]: found}
        figures = {str(name): _number(str(name), value) for name, value in found.items()}
        return {name: math.nan for name in self.wanted} | figures


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


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real) and not (hasattr(value, "item") and getattr(value, "size", 0) == 1):
        raise ValueError(f"`evaluate` must return numbers by name, got {name}={value!r}")
    return float(value)
