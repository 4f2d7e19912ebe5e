"""What a search is after: objectives with a unit and a direction, and the one place where directions become losses.

Values stand in the direction that people read (accuracy rises, macs fall). Everything inside the package minimises, so values pass
through `losses` before they reach a strategy or a Pareto front.

Shapes: n trials, k objectives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators.zero_cost import ZERO_COST
from search_spaces.core import unknown_name


@dataclass(frozen=True)
class Objective:
    """One measured quantity.

    Args:
        name: what columns and command lines call it.
        unit: what people read it in; empty for plain counts. Accuracy is stored as a fraction and read in %.
        higher_is_better: its direction.
        help: what it is.
        time: what it takes for each architecture.
    """

    name: str
    unit: str
    higher_is_better: bool
    help: str = ""
    time: str = ""


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "%", True, "of the supernets, or trained alone", "what ranking or training takes"),
        Objective("macs", "", False, "exact count for one image", "none"),
        Objective("params", "", False, "exact count", "none"),
        Objective("activations", "", False, "exact count for one image: elements that the layers put out", "none"),
        Objective("weight_bytes", "bytes", False, "exact count", "none"),
        Objective("latency_ms", "ms", False, "median of one image on the run's device, or the sum of a latency table's blocks",
                  "seconds; none by a table"),
        Objective("onnxruntime_ms", "ms", False, "median of one image in ONNX Runtime, on the CPU", "seconds: exported, then measured"),
        Objective("peak_memory_bytes", "bytes", False, "live activations over the best order of operators, one image",
                  "a second or more: the network is traced"),
        Objective("patched_peak_bytes", "bytes", False, "the same where the first blocks may run in up to 4 x 4 patches",
                  "about a second for each new block"),
        Objective("patched_macs", "", False, "exact count with what patches compute twice", "the same"),
        Objective("energy_mj", "mJ", False, "energy of the device in the device file, one image", "about a tenth of a second"),
        Objective("bound_ms", "ms", False, "roofline of the device in the device file, one image", "about a tenth of a second"),
        *(Objective(known.name, known.unit, known.higher_is_better, f"untrained: {known.help}",
                    "a second or less for most") for known in ZERO_COST.values()),
    )
}  # fmt: skip


DIRECTIONS = {"max": True, "min": False}
"""Whether higher is better, by what stands behind the name of an objective of one's own."""
OWN_NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9_]*(?<!_alone)(?<!_alone_std)(?<!_supernet)(?<!_supernet\d)(?<!_supernet\d\d)"
)
TAKEN = ("architecture", "label", "on_front", "reason", "seconds", "seed")
"""Columns of a run's tables that are no objectives."""


def parse_objectives(names: Sequence[str], also: Mapping[str, Objective] | None = None) -> tuple[Objective, ...]:
    """The objectives of these names, in order: known ones, and ones of one's own with a direction, such as `score:max`.

    Args:
        names: what is asked for.
        also: objectives that are known beside `OBJECTIVES`: metrics of a task.

    Raises:
        ValueError: no name, an unknown name (the nearest are offered), a wrong direction, or the same name twice.
    """
    known = {**OBJECTIVES, **(also or {})}
    if not names:
        raise ValueError(f"a search needs at least one objective; choose among {', '.join(known)}")
    found = tuple(_objective(name, known) for name in names)
    for at, objective in enumerate(found):
        if objective.name in [other.name for other in found[:at]]:
            raise ValueError(
                f"each objective may be named once, got {objective.name!r} twice in {', '.join(names)}; drop one"
            )
    return found


def _objective(text: str, known: Mapping[str, Objective]) -> Objective:
    name, colon, direction = text.partition(":")
    if colon and direction not in DIRECTIONS:
        raise ValueError(f"the direction of an objective must be max or min, such as {name}:max, got {text!r}")
    if name in known:
        if colon and known[name].higher_is_better != DIRECTIONS[direction]:
            raise ValueError(
                f"{name} is to be {'max' if known[name].higher_is_better else 'min'}, got {text!r}; drop the direction"
            )
        return known[name]
    if not colon:
        raise ValueError(
            f"{unknown_name('objective', name, known)}; one of your own needs a direction, {name}:max or {name}:min"
        )
    return own_objective(name, DIRECTIONS[direction], "what `evaluate` gives", time="what that takes")


def own_objective(name: str, higher_is_better: bool, help: str, unit: str = "", time: str = "") -> Objective:
    """An objective of the user's own.

    Raises:
        ValueError: a name that no column of a run's tables can have.
    """
    if not OWN_NAME.fullmatch(name) or name in TAKEN:
        raise ValueError(
            f"the name of an objective must be letters, digits and underscores, and none of {', '.join(TAKEN)} or one that ends with "
            f"_alone or _supernet and a number, got {name!r}"
        )
    return Objective(name, unit, higher_is_better, help, time)


def worst_if_nan(value: float, objective: Objective) -> float:
    """A value, or what is worse than any where it is NaN."""
    if not math.isnan(value):
        return value
    return -math.inf if objective.higher_is_better else math.inf


def losses(values: ArrayLike, objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Turn values into losses, of which less is better.

    Args:
        values: shape (n, k), in the objectives' own directions and stored units.
        objectives: the k columns.

    Returns:
        Shape (n, k): the values of objectives that fall, the negated values of those that rise.

    Raises:
        ValueError: another shape, or a value that is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(objectives):
        raise ValueError(
            f"`values` must have shape (n, {len(objectives)}), a column for each of "
            f"{', '.join(objective.name for objective in objectives)}; got {array.shape}"
        )
    for row, column in np.argwhere(~np.isfinite(array)):
        raise ValueError(
            f"objective {objectives[column].name!r} must be finite, got {array[row, column]} in row {row}; "
            "leave out trials that have no result"
        )
    return array * np.where([objective.higher_is_better for objective in objectives], -1.0, 1.0) + 0.0  # no -0.0
