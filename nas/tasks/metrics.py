"""What outputs are measured by: objects with `update` and `compute`, as those of torchmetrics are, with a name, unit and direction."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.objectives import DIRECTIONS, Objective, own_objective
from nas.tasks.goals import IGNORED, scores_of

Read = Callable[[Any, Any], tuple[Any, Any]]
"""(outputs, target) -> what a metric's `update` takes."""


PERCENT = "%"


class Tally(Protocol):
    """What adds up over batches."""

    def update(self, outputs: Any, target: Any) -> object: ...

    def compute(self) -> Any: ...


@dataclass(frozen=True)
class Metric:
    """A measured quality of a model on the examples of a part.

    Args:
        objective: its name, unit and direction.
        make: a tally that has seen nothing.
    """

    objective: Objective
    make: Callable[[], Tally]


class Right:
    """The fraction of right classes, in [0, 1], exact: the count is of whole numbers, and positions without a class are left out."""

    def __init__(self, axis: int = 1, shift: bool = False) -> None:
        self.axis, self.shift = axis, shift
        self.right: Tensor | int = 0
        self.count: Tensor | int = 0

    def update(self, outputs: Any, target: Tensor) -> None:
        found = scores_of(outputs).argmax(self.axis)
        if self.shift:
            found, target = found[:, :-1], target[:, 1:]
        self.right = self.right + (found == target).sum()
        self.count = self.count + (target.numel() if target.ndim == 1 else (target != IGNORED).sum())

    def compute(self) -> float:
        return int(self.right) / int(self.count) if int(self.count) else math.nan


class Numbers:
    """Whether outputs are numbers, and none of them NaN, of which any metric may make a figure that says nothing."""

    def __init__(self) -> None:
        self._broken: Tensor | bool = False

    def update(self, outputs: Any) -> None:
        for x in tree_leaves(outputs):
            if isinstance(x, Tensor) and x.is_floating_point():
                self._broken = self._broken | x.isnan().any()

    def all(self) -> bool:
        return not self._broken


class Mean:
    """The mean of a function of batches, (outputs, target) -> number, each batch by its examples."""

    def __init__(self, of: Callable[[Any, Any], Any]) -> None:
        self.of = of
        self.total: Any = 0.0
        self.count = 0

    def update(self, outputs: Any, target: Any) -> None:
        size = next((len(x) for x in tree_leaves((target, outputs)) if isinstance(x, Tensor) and x.dim()), 1)
        value = self.of(outputs, target)
        self.total = self.total + (value.detach().double() if isinstance(value, Tensor) else float(value)) * size
        self.count += size

    def compute(self) -> float:
        return float(self.total) / self.count if self.count else math.nan


@dataclass
class Reading:
    """A metric that is given what a function reads out of outputs and target, where outputs are.

    Args:
        metric: of torchmetrics, or with its `update` and `compute`; of a dict that it computes, the entry `name` counts.
        name: of the metric.
        read: what it is given; None for outputs and target themselves.
    """

    metric: Any
    name: str
    read: Read | None = None
    placed: bool = field(default=False, init=False)

    def update(self, outputs: Any, target: Any) -> None:
        given = (outputs, target) if self.read is None else self.read(outputs, target)
        if not self.placed and isinstance(self.metric, nn.Module):
            places = {x.device for x in tree_leaves(given) if isinstance(x, Tensor)}
            self.metric.to(places.pop() if len(places) == 1 else torch.device("cpu"))
            self.placed = True
        self.metric.update(*given)

    def compute(self) -> float:
        value = self.metric.compute()
        return float(value[self.name] if isinstance(value, Mapping) else value)


def torchmetric(
    name: str, make: Callable[[], Any], read: Read, *, rises: bool = True, unit: str = PERCENT, help: str = ""
) -> Metric:
    """A metric that `make` gives when it is asked for, so that torchmetrics is imported only then; `read` says what it is given."""
    return Metric(own_objective(name, rises, help, unit), lambda: Reading(make(), name, read))


def as_metrics(given: Mapping[str, Any], read: Read | None = None) -> dict[str, Metric]:
    """Metrics by name.

    Args:
        given: by name a `Metric`; one of torchmetrics or an object with its `update`, `compute` and `reset`; or a function
            (outputs, target) -> number, which is averaged. Where an object does not say whether higher is better, or for a function, a
            pair with "max" or "min".
        read: what they are given, see `Reading`; functions are given outputs and target.

    Raises:
        ValueError: a name that no objective can have, something that is no metric, or no direction.
    """
    return {str(name): _metric(str(name), metric, read) for name, metric in given.items()}


def _metric(name: str, given: Any, read: Read | None) -> Metric:
    if isinstance(given, Metric):
        return given
    direction = None
    if isinstance(given, (tuple, list)) and len(given) == 2:
        given, direction = given
    rises = getattr(given, "higher_is_better", None) if direction is None else DIRECTIONS.get(direction)
    if rises is None:
        raise ValueError(
            f"metric {name!r} must say whether higher is better, got {direction or type(given).__name__}; give a pair with max or min, "
            f'such as {{"{name}": (metric, "max")}}'
        )
    objective = own_objective(name, bool(rises), "of the task")
    if hasattr(given, "update") and hasattr(given, "compute"):
        return Metric(objective, lambda: Reading(_fresh(given), name, read))
    if callable(given):
        return Metric(objective, lambda: Mean(given))
    raise ValueError(
        f"metric {name!r} must be of torchmetrics, or a function of (outputs, target), got {type(given).__name__}"
    )


def _fresh(metric: Any) -> Any:
    own = copy.deepcopy(metric)
    if hasattr(own, "reset"):
        own.reset()
    return own


def tallied(metrics: Iterable[Metric]) -> dict[str, Tally]:
    """A fresh tally of each metric, by name."""
    return {metric.objective.name: metric.make() for metric in metrics}


def figures(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """What tallies have come to; NaN where one has no value."""
    return {name: float(tally.compute()) for name, tally in tallies.items()}
